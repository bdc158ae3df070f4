"""Fairlane: multi-tenant LLM requests over Kafka, scheduled fairly and billed once."""

__version__ = "0.1.0"
