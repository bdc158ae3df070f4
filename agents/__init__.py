"""Agents: one step of the flow each, over ports and values. No Kafka, Redis, HTTP or Faust here."""
