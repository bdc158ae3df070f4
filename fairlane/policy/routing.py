"""Which model a request goes to: the first candidate that the tenant may use and that fits.

Standard library only. Patterns are shell-style (``fnmatch``), case-sensitive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model in the order of preference, with its limits in tokens."""

    model: str
    context_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to call, the output tokens it may produce, and why it was chosen."""

    model: str
    output_limit: int
    reason: str


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why no candidate will do; ``code`` is one of the public error codes."""

    code: str
    message: str
    field: str


def allowed(model: str, patterns: Sequence[str]) -> bool:
    """Whether any of a tenant's patterns matches the model."""
    # Nearly every tenant has just this one, and matching it costs more than the rest of routing.
    return "*" in patterns or any(fnmatchcase(model, pattern) for pattern in patterns)


def choose(
    requested: str,
    candidates: Sequence[Candidate],
    patterns: Sequence[str],
    *,
    input_tokens: int,
    output_limit: int | None,
    is_route: bool,
) -> Choice | NoRoute:
    """Pick the first candidate that is allowed and fits; a single model is a list of one.

    Whoever may name a route may use what stands in it; by any other route, only models that are allowed themselves.
    ``input_tokens`` is an estimate, so a prompt near the limit is left for the provider to judge.
    """
    refused: list[NoRoute] = []
    if is_route and allowed(requested, patterns):
        patterns = ("*",)
    for candidate in candidates:
        verdict = _fit(candidate, patterns, input_tokens, output_limit)
        if isinstance(verdict, NoRoute):
            refused.append(verdict)
            continue
        if is_route:
            place = f"choice {len(refused) + 1}, those before it did not fit" if refused else "first choice"
            return Choice(candidate.model, verdict, f"route {requested}: {place}")
        return Choice(candidate.model, verdict, "model named by the request")
    if not refused:
        return NoRoute("unknown_model", "no model of the route can be called", "body.model")
    codes = {verdict.code for verdict in refused}
    if len(refused) == 1 or codes == {"model_not_allowed"}:
        return refused[0]
    return next(verdict for verdict in refused if verdict.code != "model_not_allowed")


def _fit(candidate: Candidate, patterns: Sequence[str], input_tokens: int, output_limit: int | None) -> int | NoRoute:
    if not allowed(candidate.model, patterns):
        return NoRoute("model_not_allowed", f"the tenant's models do not include {candidate.model}", "body.model")
    if output_limit is not None and output_limit > candidate.max_output_tokens:
        return NoRoute(
            "schema_violation",
            f"{candidate.model} produces at most {candidate.max_output_tokens} tokens",
            "body.max_tokens",
        )
    room = candidate.context_tokens - input_tokens
    wanted = output_limit if output_limit is not None else 1
    if wanted > room:
        return NoRoute(
            "context_too_long",
            f"about {input_tokens} prompt tokens and {wanted} of output exceed the "
            f"{candidate.context_tokens} of {candidate.model}",
            "body.messages",
        )
    return output_limit if output_limit is not None else min(candidate.max_output_tokens, room)
