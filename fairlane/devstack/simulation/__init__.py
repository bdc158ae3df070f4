"""The whole chain in one process on virtual time: a seed decides everything that happens, faults included.

The stages, engines and policies are those that run in production; only the log, the admission store,
the tables and the provider are twins in memory. :func:`~fairlane.devstack.simulation.run.simulate`
runs one seed and returns what was violated.
"""
