"""These tests need no service, and prove it."""

from __future__ import annotations

from tests.no_sockets import no_sockets

__all__ = ["no_sockets"]
