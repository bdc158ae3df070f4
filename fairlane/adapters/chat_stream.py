"""Reading a streamed answer: server-sent events, and the chat completion put together from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from fairlane.adapters.chat_answer import Malformed, check_depth

_END = b"[DONE]"


class StreamFailed(Exception):
    """The provider said, inside the stream, that it failed."""


class EventDecoder:
    """The ``data`` of server-sent events, from bytes cut anywhere.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, without its lone CR as a line end,
    which no provider writes. The caller bounds the bytes.
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that is complete now."""
        if b"\n" not in received:
            # Joined only once a line is complete: a long line in small pieces stays linear.
            self._tail.append(received)
            return
        *lines, rest = b"".join([*self._tail, received]).split(b"\n")
        self._tail = [rest]
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line.strip(b"\r") and self._data:
                yield b"\n".join(self._data)
                self._data = []


class Assembly:
    """Takes the events of one stream and gives the ``chat.completion`` they amount to so far."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._ended = False
        self.events = 0
        """Events taken, the end mark not counted."""
        self.usage: object = None
        """The last ``usage`` object of the stream."""

    @property
    def complete(self) -> bool:
        """Whether the end was seen: the end mark, or a finish reason for every choice."""
        if not self._choices:
            return False
        return self._ended or all(choice.finish_reason is not None for choice in self._choices.values())

    @property
    def ended(self) -> bool:
        """Whether the end mark was seen."""
        return self._ended

    @property
    def begun(self) -> bool:
        """Whether anything was said yet."""
        return any(choice.said for choice in self._choices.values())

    def take(self, data: bytes) -> dict[str, Any] | None:
        """Add an event and return it parsed; None for the end mark.

        Raises :class:`~fairlane.adapters.chat_answer.Malformed` or :class:`StreamFailed`.
        """
        if data == _END:
            self._ended = True
            return None
        try:
            event = from_json(data, allow_inf_nan=False)
        except ValueError:
            raise Malformed("an event of the stream is not JSON") from None
        if not isinstance(event, dict):
            raise Malformed("an event of the stream is JSON, but not an object")
        check_depth(event)
        if event.get("error"):
            raise StreamFailed
        self.events += 1
        choices = event.get("choices")
        if choices is None and event.get("usage") is not None:
            choices = []
        if not isinstance(choices, list):
            raise Malformed("an event of the stream has no choices")
        for name, value in event.items():
            if name not in {"object", "choices", "usage", "obfuscation"}:
                self._head.setdefault(name, value)
        self.usage = event.get("usage") or self.usage
        for choice in choices:
            if not isinstance(choice, dict) or type(choice.get("index")) is not int:
                raise Malformed("a choice of the stream has no index")
            self._choices.setdefault(choice["index"], _Choice()).take(choice)
        return event

    def answer(self) -> dict[str, Any]:
        """The ``chat.completion`` object so far."""
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choices[index].whole(index) for index in sorted(self._choices)],
        }
        if self.usage is not None:
            answer["usage"] = self.usage
        return answer


class _Choice:
    """One choice in the making. Texts are kept in pieces, because adding to a long text copies it."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._texts: dict[str, list[str]] = {}
        self._tools: dict[int, _FunctionCall] = {}
        self._function = _FunctionCall()
        self._logprobs: dict[str, list[Any]] = {}
        self.finish_reason: object = None

    @property
    def said(self) -> bool:
        texts = any(piece for pieces in self._texts.values() for piece in pieces)
        return texts or bool(self._tools) or self._function.begun

    def take(self, choice: dict[str, Any]) -> None:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            for name, values in logprobs.items():
                if isinstance(values, list):
                    self._logprobs.setdefault(name, []).extend(values)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name, value in delta.items():
            if name == "tool_calls" and isinstance(value, list):
                for call in value:
                    self._take_tool_call(call)
            elif name == "function_call":
                self._function.take(value)
            elif name != "role" and isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            elif value is not None:
                self._message[name] = value

    def _take_tool_call(self, call: object) -> None:
        if not isinstance(call, dict) or type(call.get("index")) is not int:
            raise Malformed("a tool call of the stream has no index")
        tool = self._tools.setdefault(call["index"], _FunctionCall())
        tool.take(call.get("function"))
        for name, value in call.items():
            # Some providers repeat the id and the type with every piece.
            if name not in {"index", "function"} and value is not None:
                tool.outside.setdefault(name, value)

    def whole(self, index: int) -> dict[str, Any]:
        message = self._message | {name: "".join(pieces) for name, pieces in self._texts.items()}
        if self._tools:
            message["tool_calls"] = [
                tool.outside | {"function": tool.function()} for _, tool in sorted(self._tools.items())
            ]
        if self._function.begun:
            message["function_call"] = self._function.function()
        return {
            "index": index,
            "message": message,
            "logprobs": dict(self._logprobs) or None,
            "finish_reason": self.finish_reason,
        }


class _FunctionCall:
    """A call of a function in the making; ``outside`` is what stands beside it in a tool call."""

    def __init__(self) -> None:
        self.outside: dict[str, Any] = {}
        self._inside: dict[str, Any] = {}
        self._arguments: list[str] = []

    @property
    def begun(self) -> bool:
        return bool(self._inside or self._arguments)

    def take(self, function: object) -> None:
        if not isinstance(function, dict):
            return
        for name, value in function.items():
            if name == "arguments" and isinstance(value, str):
                self._arguments.append(value)
            elif value is not None:
                self._inside.setdefault(name, value)

    def function(self) -> dict[str, Any]:
        return self._inside | {"arguments": "".join(self._arguments)}
