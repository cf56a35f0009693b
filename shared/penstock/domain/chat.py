"""
The neutral model: one conversation request, its answer's events, and its errors, in no dialect.

Codecs in `penstock.dialects` translate between this and a wire format. A request that stays in its own
dialect is *not* rebuilt from this (unknown fields must survive); only translation between dialects is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TextPart(NamedTuple):
    """A piece of text. A tuple, like `Message`: a conversation has hundreds, and they are made for each request."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image: either base64 `data` with its `media_type`, or a `url` that we never fetch."""

    data: str | None = None
    media_type: str | None = None
    url: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class OtherPart:
    """A part that has no neutral form (audio, file): kept as the client sent it."""

    raw: Mapping[str, Any]


Part = TextPart | ImagePart | OtherPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """
    A call of a tool by the model.

    Attributes:
        id: links the call to its result; empty when the server gives none.
        name: the tool's name.
        arguments: JSON text, exactly as the model wrote it.
    """

    id: str
    name: str
    arguments: str


class Message(NamedTuple):
    """One message. `parts` is empty for a message without content."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        """All text parts joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool offered to the model; `parameters` is its JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the answer must look like: any text, any JSON object, or JSON by a schema."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    A request for one more assistant message.

    Attributes:
        sampling: by logical name (`penstock.sampling.LOGICAL_NAMES`): temperature, top_p, top_k, min_p,
            typical_p, repeat_penalty, repeat_last_n, presence_penalty, frequency_penalty, seed, ...
        max_output_tokens: ceiling of the answer's length, None when not given.
        reasoning: `True`/`False`, or an effort ("low", "medium", "high"); None when not given.
        tool_choice: "auto", "none", "required", or the name of one tool as `{"name": ...}`.
        include_usage: whether the client asked for usage in its stream.
        extra: fields without a neutral form, as sent.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    response_format: ResponseFormat = ResponseFormat()
    reasoning: bool | str | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    keep_alive: str | int | float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server gave them; `cached_tokens` is part of `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's thinking."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """
    A piece of a tool call. The first piece of a call carries `id` and `name`.

    Attributes:
        call: which call of the answer, counted from 0.
    """

    call: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The model ended choice `index`."""

    reason: FinishReason
    index: int = 0


@dataclass(frozen=True, slots=True)
class UsageReported:
    """The server's own token counts; `timings` in seconds or counts by the server's names."""

    usage: Usage
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How far the server is with the prompt, in tokens. Never relayed to a client that did not ask."""

    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class StreamError:
    """The server reported an error inside its stream: the raw JSON value that it sent."""

    raw: Any


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The server said that the stream is complete (`[DONE]`, `done: true`)."""


Event = (
    TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | Finished
    | UsageReported
    | PrefillProgress
    | StreamError
    | StreamEnd
)
