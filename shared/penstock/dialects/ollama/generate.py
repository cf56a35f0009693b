"""
Ollama's `/api/generate` in front of any server: a prompt with its system text is a chat of two messages.

What cannot be said as a chat is a prompt that no template is put around (`raw`), one with a gap in its
middle (`suffix`), and one in a template that the client brings (`template`). `needs_completion` tells
these apart. A raw prompt has a form at every server that has `/v1/completions`; the other two go to a real
Ollama only: what servers make of `suffix` there reaches from an error to silence, and the answer would be
the wrong half of a line of code.

`context` (tokens of the conversation so far) means something to the runner that gave it alone, so none is
sent and none is taken.

Source: `server/routes.go`, GenerateHandler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.dialects.base import AnswerHead, Asked, ClientDialect
from penstock.dialects.ollama import fields
from penstock.dialects.ollama.answer import LineWriter, load_answer, whole_answer
from penstock.dialects.ollama.request import LOAD, asked_of
from penstock.dialects.openai.chunks import read_usage
from penstock.domain.change import Change
from penstock.domain.chat import (
    Event,
    Finished,
    Message,
    Part,
    StreamEnd,
    StreamError,
    TextDelta,
    TextPart,
)
from penstock.errors import ErrorCode, RequestError

_KNOWN = frozenset(
    {
        "model", "prompt", "system", "images", "stream", "format", "options", "think", "keep_alive",
        "logprobs", "top_logprobs", "raw", "suffix", "template",
    }
)  # fmt: skip
_REASONS = {
    "suffix": "a prompt with a suffix asks for what belongs between the two, and a chat has no such thing",
    "template": "the template is the server's, and only Ollama takes one from a request",
    "raw": "a raw prompt is not put into a template, and a chat always is",
}


def needs_completion(body: Mapping[str, Any]) -> str:
    """Why a body cannot be said as a chat, in half a sentence; "" when it can."""
    if not fields.text_of(body, "prompt"):
        return ""  # it loads the model, whatever else it says
    for name in ("suffix", "template"):
        if fields.text_of(body, name):
            return _REASONS[name]
    return _REASONS["raw"] if fields.flag_of(body, "raw", False) else ""


def completion_body(body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """
    A raw prompt as the body of `/v1/completions`, sampling by logical names, and what is announced.

    Raises:
        RequestError: a suffix, a template or an image, which go to a real Ollama only; or a wrong field.
    """
    for name in ("suffix", "template"):
        if fields.text_of(body, name):
            raise _only_ollama(name, _REASONS[name])
    if fields.images_of(body):
        raise _only_ollama("images", "a raw prompt has no place for an image elsewhere")
    changes = fields.left_out(body, _KNOWN)
    if fields.flag_of(body, "logprobs", False):
        changes.append(fields.unsaid_logprobs())
    if fields.text_of(body, "system"):
        changes.append(Change("template", "system", "dropped", "a raw prompt has no system text"))
    options = fields.options_of(body)
    stream = fields.flag_of(body, "stream", True)
    completion: dict[str, Any] = {
        "model": fields.text_of(body, "model"),
        "prompt": fields.text_of(body, "prompt"),
        "stream": stream,
        **fields.sampling_of(options),
    }
    if stream:
        completion["stream_options"] = {"include_usage": True}
    limit = fields.output_limit_of(options)
    if limit is not None:
        completion["max_tokens"] = limit
    stop = fields.stop_of(options)
    if stop:
        completion["stop"] = list(stop)
    form = fields.format_of(body)
    if form.kind == "json_object":
        completion["response_format"] = {"type": "json_object"}
    elif form.kind == "json_schema":
        schema = {"name": "answer", "schema": dict(form.schema or {})}
        completion["response_format"] = {"type": "json_schema", "json_schema": schema}
    changes += [
        Change("sampling", f"options.{name}", "dropped", f"only Ollama has the option {name[:60]}")
        for name in sorted(fields.server_options(options))
    ]
    return completion, tuple(changes)


def _only_ollama(param: str, reason: str) -> RequestError:
    return RequestError(
        ErrorCode.INVALID_REQUEST,
        f"{param}: this request can be answered by an Ollama server only: {reason}.",
        hint="Send a prompt alone, or use a model that an Ollama server has.",
        param=param,
    )


class CompletionReader:
    """Chunks of a `text_completion` stream -> neutral events; feed it the values of the events."""

    __slots__ = ()

    def read(self, value: Any) -> list[Event]:
        """The events of one chunk."""
        events: list[Event] = []
        if not isinstance(value, Mapping):
            return [StreamError("a chunk that is no object")]
        if value.get("error"):
            return [StreamError(value["error"])]
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, Mapping):
                continue
            if isinstance(choice.get("text"), str) and choice["text"]:
                events.append(TextDelta(choice["text"]))
            reason = choice.get("finish_reason")
            if reason is not None:
                events.append(Finished("length" if reason == "length" else "stop"))
        reported = read_usage(value)
        return events if reported is None else [*events, reported]

    def whole(self, value: Any) -> list[Event]:
        """The events of an answer that came as one body."""
        return [*self.read(value), StreamEnd()]


class OllamaGenerate:
    """`/api/generate`."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """
        See `ClientDialect`.

        Raises:
            RequestError: a wrong field, or what `needs_completion` tells of.
        """
        why = needs_completion(body)
        if why:
            name = next((n for n in ("suffix", "template") if body.get(n)), "raw")
            raise _only_ollama(name, why)
        return asked_of(body, _KNOWN, lambda _: _messages(body))

    def writer(self, head: AnswerHead, asked: Asked) -> LineWriter:
        """See `ClientDialect`."""
        return LineWriter(head, "response")

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """See `ClientDialect`."""
        return whole_answer(events, head, "response")

    def loaded(self, head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """The answer to an empty prompt; see `OllamaChat.loaded`."""
        return load_answer(head, asked.echo[LOAD], "response")


def _messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    """The chat; nothing for an empty prompt, which only loads the model."""
    prompt = fields.text_of(body, "prompt")
    system = fields.text_of(body, "system")
    images = fields.images_of(body)
    if not prompt:
        return ()
    parts: tuple[Part, ...] = (TextPart(prompt), *images)
    user = Message("user", parts)
    return (Message("system", (TextPart(system),)), user) if system else (user,)


GENERATE = OllamaGenerate()
_is_one: ClientDialect = GENERATE
