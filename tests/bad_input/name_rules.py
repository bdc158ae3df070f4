"""Which names of the sender's choice an error may show: the rules of ``docs/design/bad-input.md`` a second time.

Nothing here comes from the product. What it decides with patterns is decided letter by letter here.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

CONTRACT_NAMES = frozenset(
    ["schema", "request_id", "tenant_id", "idempotency_key", "priority", "deadline", "timeout_ms", "labels",
     "stream", "body", "command", "model", "messages", "max_tokens", "max_completion_tokens", "temperature",
     "top_p", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs",
     "seed", "user", "safety_identifier", "prompt_cache_key", "response_format", "tools", "tool_choice",
     "parallel_tool_calls", "functions", "function_call", "reasoning_effort", "verbosity", "modalities", "audio",
     "prediction", "service_tier", "store", "metadata", "web_search_options", "stream_options", "include_usage",
     "include_obfuscation", "role", "content", "name", "type", "text", "image_url", "input_audio", "file",
     "refusal",]
)  # fmt: skip
SMALL, CAPITAL, DIGIT = map(frozenset, ("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"))
VOWELS = frozenset("aeiouy")
CREDENTIALS = (
    *(f"{first}k_" for first in "spr"), *(f"gh{kind}_" for kind in "opsur"), "github_pat_",
    *(f"xox{kind}_" for kind in SMALL), "glpat_", "whsec_", "hf_", "npm_", "akia_", "asia_",
)  # fmt: skip


def shown(name: str) -> str:
    """The name, or ``?``."""
    return _shown(name) if len(name) <= 32 else "?"


@lru_cache(200_000)
def _shown(name: str) -> str:
    if name in CONTRACT_NAMES:
        return name
    if not name or name[0] in DIGIT or not set(name) <= SMALL | CAPITAL | DIGIT | {"_"}:
        return "?"
    return name if near_the_contract(name) or reads_like_words(name) else "?"


def near_the_contract(name: str) -> bool:
    """One edit from a name of four letters, two from one of eight."""
    small = name.lower()
    for other in CONTRACT_NAMES:
        allowed = (len(other) >= 4) + (len(other) >= 8)
        if abs(len(other) - len(small)) <= allowed and edits(small, other) <= allowed:
            return True
    return False


def edits(one: str, other: str) -> int:
    """Letters to put in, take out or change; 3 stands for all larger distances."""
    if abs(len(one) - len(other)) > 2:
        return 3
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    if not one or not other:
        return min(3, len(one) + len(other))
    reached, steps = {(one, other)}, 0
    while steps < 3:
        steps += 1
        following = {
            pair for left, right in reached for pair in ((left[1:], right), (left, right[1:]), (left[1:], right[1:]))
        }
        reached = {_without_common_start(left, right) for left, right in following}
        if ("", "") in reached:
            return steps
    return 3


def _without_common_start(left: str, right: str) -> tuple[str, str]:
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return left[same:], right[same:]


def reads_like_words(name: str) -> bool:
    """snake_case or camelCase of few digits, and nothing that begins like a credential."""
    bare = name.strip("_")
    if sum(c in DIGIT for c in name) > 2 or name.lstrip("_").lower().startswith(CREDENTIALS):
        return False
    parts = bare.split("_")
    return len(parts) <= 6 and all(_part(part) for part in parts)


def _part(part: str) -> bool:
    letters = part.rstrip("0123456789")
    hexadecimal = len(part) >= 8 and all(c in DIGIT or c.lower() in "abcdef" for c in part)
    if not letters or hexadecimal or any(c in DIGIT for c in letters):
        return False
    stem = letters.rstrip("".join(CAPITAL))
    if not stem or len(letters) - len(stem) > 3 or any(a in CAPITAL and b in CAPITAL for a, b in pairwise(stem)):
        return False
    words = [""]
    for letter in stem:
        words = (
            [*words, letter.lower()] if letter in CAPITAL and words[-1] else [*words[:-1], words[-1] + letter.lower()]
        )
    if len(stem) > 9 and len(stem) / len(words) < 3.5:
        return False
    return all(_word(word) for word in words)


def _word(word: str) -> bool:
    if len(word) <= 4:
        return True
    if len(word) > 15 or sum(c in VOWELS for c in word) / len(word) < 1 / 6:
        return False
    run = rare = 0
    for letter, after in zip(word, [*word[1:], ""], strict=True):
        run = 0 if letter in VOWELS else run + 1
        rare = rare + 1 if letter in "bdfgjkmpqvwxz" else 0
        if run == 5 or rare == 3 or (letter == "q" and after not in ("u", "")):
            return False
        if letter in "jv" and after and after not in VOWELS:
            return False
    return True
