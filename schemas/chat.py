"""An OpenAI chat-completions request body: documented parameters typed, others kept aside.

Parameters follow https://platform.openai.com/docs/api-reference/chat/create. Unknown ones land in
``model_extra``; the gate refuses them unless the model's catalog entry lists them in
``extra_params``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from fairlane.schemas.base import WireModel, at_most

Penalty = Annotated[float, Field(ge=-2, le=2)]
JsonObject = dict[str, Any]
JsonObjects = Annotated[list[JsonObject], Field(fail_fast=True)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024), at_most(1024)]
Metadata = Annotated[dict[str, str], Field(max_length=16), at_most(16)]
PART_TYPES = ("text", "image_url", "input_audio", "file", "refusal")


def _shape(value: Any) -> str | None:
    """The tag of the branch of a union that a value is meant for; tags begin with # (see codec)."""
    if isinstance(value, str):
        return "#text"
    if isinstance(value, list):
        return "#list"
    return "#object" if isinstance(value, dict) else None


def _part_type(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"#{kind}" if isinstance(kind, str) and kind in PART_TYPES else None


class _Part(BaseModel):
    """A part of a message; providers add fields to parts, so unknown ones pass through."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


class TextPart(_Part):
    """Plain text."""

    type: Literal["text"]
    text: str


class ImagePart(_Part):
    """An image by address or data URL."""

    type: Literal["image_url"]
    image_url: JsonObject


class AudioPart(_Part):
    """Audio input."""

    type: Literal["input_audio"]
    input_audio: JsonObject


class FilePart(_Part):
    """A file input."""

    type: Literal["file"]
    file: JsonObject


class RefusalPart(_Part):
    """A refusal the assistant gave earlier."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[TextPart, Tag("#text")]
    | Annotated[ImagePart, Tag("#image_url")]
    | Annotated[AudioPart, Tag("#input_audio")]
    | Annotated[FilePart, Tag("#file")]
    | Annotated[RefusalPart, Tag("#refusal")],
    Discriminator(
        _part_type,
        custom_error_type="part",
        custom_error_message=f"must be an object whose type is one of {', '.join(PART_TYPES)}",
    ),
]
TextOrParts = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[Part], Field(min_length=1, fail_fast=True), Tag("#list")],
    Discriminator(_shape, custom_error_type="shape", custom_error_message="must be text or a list of parts"),
]
TextOrTexts = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[str], Field(max_length=4, fail_fast=True), Tag("#list")],
    Discriminator(_shape, custom_error_type="shape", custom_error_message="must be text or a list of texts"),
]
TextOrObject = Annotated[
    Annotated[str, Tag("#text")] | Annotated[JsonObject, Tag("#object")],
    Discriminator(_shape, custom_error_type="shape", custom_error_message="must be text or an object"),
]


class Message(_Part):
    """One message of the conversation; ``content`` may be absent where tools were called."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: TextOrParts | None = None
    name: str | None = None


class StreamOptions(WireModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(BaseModel):
    """The body of a chat completion. ``stream`` here means the same as in the envelope."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: TextOrTexts | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: Seed | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    response_format: JsonObject | None = None
    tools: JsonObjects | None = None
    tool_choice: TextOrObject | None = None
    parallel_tool_calls: bool | None = None
    functions: JsonObjects | None = None
    function_call: TextOrObject | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Field(fail_fast=True)] | None = None
    audio: JsonObject | None = None
    prediction: JsonObject | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    web_search_options: JsonObject | None = None
    stream: bool | None = None
    stream_options: Annotated[StreamOptions, at_most(8)] | None = None

    @model_validator(mode="after")
    def _tool_answers_follow_calls(self) -> ChatBody:
        called = False
        for index, message in enumerate(self.messages):
            if message.role == "tool" and not called:
                raise PydanticCustomError(
                    "message_order",
                    "a tool message must follow an assistant message with tool_calls",
                    {"at": f"messages.{index}"},
                )
            called = message.role == "tool" or "tool_calls" in (message.model_extra or {})
        return self

    @property
    def output_token_limit(self) -> int | None:
        """The limit the caller set, by its current or its older name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def output_limit_name(self) -> str:
        """The parameter :attr:`output_token_limit` comes from."""
        return "max_completion_tokens" if self.max_completion_tokens is not None else "max_tokens"
