"""The bound of a prompt's tokens is never below its bytes, and the estimate never above the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.tokens import count_prompt

MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}), min_size=1, max_size=5)


@given(MESSAGES)
def test_the_upper_bound_covers_every_byte_of_content(messages: list[dict[str, str]]) -> None:
    tokens = count_prompt({"messages": messages})
    assert tokens.upper >= sum(len(message["content"].encode()) for message in messages)
    assert 0 < tokens.estimate <= tokens.upper


@given(MESSAGES, st.text(max_size=50))
def test_tools_and_formats_count(messages: list[dict[str, str]], name: str) -> None:
    plain = count_prompt({"messages": messages})
    tools = count_prompt({"messages": messages, "tools": [{"type": "function", "function": {"name": name}}]})
    assert tools.upper >= plain.upper + len(name.encode())


def test_media_given_by_reference_is_bounded_by_an_allowance() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}
    assert count_prompt({"messages": [{"role": "user", "content": [part]}]}).upper > 4096
