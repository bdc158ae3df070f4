"""The outside world behind the ports: Kafka, Redis, HTTP providers, the model simulator."""
