"""Errors, named after what the runtime does next. There are four, and no others cross a layer."""

from __future__ import annotations


class FairlaneError(Exception):
    """Base of all errors raised on purpose."""


class Reject(FairlaneError):
    """The caller asked for something that cannot be: tell the caller, carry on."""


class Retry(FairlaneError):
    """A dependency is not available now: try the same again after ``after`` seconds."""

    def __init__(self, message: str, *, after: float = 0.5) -> None:
        super().__init__(message)
        self.after = after


class Poison(FairlaneError):
    """This one record can never be processed: dead-letter it, carry on with the next."""


class Fatal(FairlaneError):
    """This process cannot go on: stop cleanly, let the supervisor start a new one."""
