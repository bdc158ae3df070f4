"""The tenants and the catalog a new stack starts with; ``examples/`` holds commented versions to copy."""

from __future__ import annotations

from importlib.resources import files


def default_tenants() -> str:
    """The text of the packaged tenants.yaml."""
    return _text("tenants.yaml")


def default_catalog(simulator_url: str) -> str:
    """The text of the packaged catalog.yaml, its provider at this base URL (``http://host:port/v1``)."""
    return _text("catalog.yaml").replace("{simulator_url}", simulator_url)


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
