"""Engines: each feeds one stage from its topics and commits what it has done."""
