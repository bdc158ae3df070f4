"""Wire contracts: frozen, strict pydantic models, the topic registry and the error table. No I/O."""
