"""Real faults on the real stack: ``python -m tests.chaos``, the command behind ``make chaos``."""
