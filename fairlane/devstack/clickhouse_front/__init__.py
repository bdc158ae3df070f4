"""ClickHouse's HTTP protocol in front of the engine embedded in the ``chdb`` wheel, for one machine.

What a client of a real server gets here too: queries by GET and POST, parameters, settings, any format,
compression both ways, deduplication tokens, error codes. What it does not: users and passwords (all are
accepted, so it listens on loopback), sessions with temporary tables, external data, replication, and the
native TCP protocol. Queries run with the rights of the process, its files included.
"""
