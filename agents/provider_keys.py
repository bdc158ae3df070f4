"""Keys of providers that are not set: told when a stage starts and when a file is applied, never their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fairlane.agents.config_view import ConfigView
from fairlane.schemas.catalog import Provider
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

Environment = Callable[[str], str | None]
"""The value of a variable, None where it is not set."""


def unset_keys(providers: Iterable[Provider], environment: Environment) -> list[tuple[str, str]]:
    """(provider, name of the variable) where the variable has no value; blanks are none."""
    named = ((each.provider, each.key.removeprefix("env:")) for each in providers if each.key is not None)
    return [(provider, name) for provider, name in named if not (environment(name) or "").strip()]


class ProviderKeys:
    """Tells, once each, of the providers whose key this process does not have."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._told: set[tuple[str, str]] = set()

    def configured(self, view: ConfigView) -> None:
        """Look at a new configuration. Calls go out without a key: some providers, as a local one, take none."""
        unset = set(unset_keys(view.providers.values(), self._environment))
        for provider, variable in sorted(unset - self._told):
            _log.warning(
                "provider_key_unset",
                provider=provider,
                setting=variable,
                hint=f"Set {variable} in the environment of the workers and restart them; calls go without a key.",
            )
        self._told = unset
