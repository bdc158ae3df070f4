"""A provider's key that is not set is told by the name of its variable, once, and never by its value."""

from __future__ import annotations

import structlog

from fairlane.agents.config_view import ConfigView
from fairlane.agents.provider_keys import ProviderKeys, unset_keys
from fairlane.schemas.catalog import Provider

URL = "http://127.0.0.1:9999/v1"


def view(*providers: Provider) -> ConfigView:
    return ConfigView(providers={provider.provider: provider for provider in providers})


def test_only_a_named_key_without_a_value_is_unset() -> None:
    providers = [
        Provider(provider="none", base_url=URL),
        Provider(provider="absent", base_url=URL, key="env:ABSENT"),
        Provider(provider="blank", base_url=URL, key="env:BLANK"),
        Provider(provider="there", base_url=URL, key="env:THERE"),
    ]
    found = unset_keys(providers, {"BLANK": "  ", "THERE": "sesame"}.get)
    assert found == [("absent", "ABSENT"), ("blank", "BLANK")]


def test_each_is_told_once_and_again_when_it_was_set_in_between() -> None:
    environment: dict[str, str] = {}
    keys = ProviderKeys(environment.get)
    one = view(Provider(provider="acme", base_url=URL, key="env:ACME_KEY"))
    with structlog.testing.capture_logs() as logs:
        keys.configured(one)
        keys.configured(one)
    assert [(line["event"], line["provider"], line["setting"]) for line in logs] == [
        ("provider_key_unset", "acme", "ACME_KEY")
    ]
    environment["ACME_KEY"] = "sesame"
    with structlog.testing.capture_logs() as logs:
        keys.configured(one)
        environment.clear()
        keys.configured(one)
    assert len(logs) == 1
    assert "sesame" not in str(logs)
