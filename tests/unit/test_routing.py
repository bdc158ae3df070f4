"""The first candidate that is allowed and fits; if none does, the most telling reason."""

from __future__ import annotations

from fairlane.policy.routing import Candidate, Choice, NoRoute, allowed, choose

SMALL, LARGE = Candidate("small", 1000, 100), Candidate("large", 8000, 4000)


def pick(
    candidates: list[Candidate], *, patterns: tuple[str, ...] = ("*",), tokens: int = 10, limit: int | None = None
) -> Choice | NoRoute:
    return choose("auto", candidates, patterns, input_tokens=tokens, output_limit=limit, is_route=True)


def test_the_first_that_fits_is_chosen_and_the_reason_says_which() -> None:
    assert pick([SMALL, LARGE]) == Choice("small", 100, "route auto: first choice")
    assert pick([SMALL, LARGE], tokens=2000) == Choice(
        "large", 4000, "route auto: choice 2, those before it did not fit"
    )


def test_without_a_limit_the_output_is_what_the_context_leaves() -> None:
    assert pick([SMALL], tokens=950) == Choice("small", 50, "route auto: first choice")


def test_a_reason_about_the_request_beats_one_about_permission() -> None:
    verdict = pick([SMALL, LARGE], patterns=("small",), tokens=2000)
    assert isinstance(verdict, NoRoute)
    assert verdict.code == "context_too_long"


def test_nothing_allowed_is_said_as_such() -> None:
    verdict = pick([SMALL, LARGE], patterns=("gpt-*",))
    assert isinstance(verdict, NoRoute)
    assert verdict.code == "model_not_allowed"


def test_whoever_may_name_a_route_may_use_what_stands_in_it() -> None:
    assert pick([SMALL, LARGE], patterns=("au*",)) == Choice("small", 100, "route auto: first choice")
    assert pick([SMALL, LARGE], patterns=("large",)) == Choice(
        "large", 4000, "route auto: choice 2, those before it did not fit"
    )


def test_the_name_of_a_route_allows_no_model_named_by_the_request() -> None:
    verdict = choose("small", [SMALL], ("auto",), input_tokens=10, output_limit=None, is_route=False)
    assert isinstance(verdict, NoRoute)
    assert verdict.code == "model_not_allowed"


def test_an_empty_route_cannot_be_called() -> None:
    verdict = pick([])
    assert isinstance(verdict, NoRoute)
    assert verdict.code == "unknown_model"


def test_patterns_are_shell_style_and_mind_case() -> None:
    assert allowed("sim-small", ("sim-*",))
    assert not allowed("Sim-small", ("sim-*",))
