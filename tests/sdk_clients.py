"""
The official SDKs behind one face, so that a scenario is written once and told in every dialect.

Each driver speaks as its SDK's documentation teaches: what came back is put into the history by the SDK's own
objects, errors are its own exceptions. The SDKs build their objects without looking, so every answer and every
event is validated here by the SDK's own types, and a stream by the grammar of its dialect.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol

import anthropic
import anthropic.types as anthropic_types
import httpx
import ollama
import openai
import openai.types.chat as chat_types
import openai.types.responses as responses_types
from pydantic import TypeAdapter

History = list[Any]
WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call, as the client would carry it out."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """
    An answer.

    Attributes:
        stop: why it ended, in the dialect's own word.
        read, written: tokens by the answer's own usage, cached ones included.
        order: kinds of what it holds (`thinking`, `text`, `call`), in their order.
        pieces: how many pieces of text and thinking came; 1 for a plain answer.
        again: what goes into the history.
        headers: of the HTTP answer.
    """

    model: str
    text: str
    thinking: str
    calls: tuple[Call, ...]
    stop: str
    read: int
    written: int
    order: tuple[str, ...]
    pieces: int
    again: History
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked; `headers` go along with the request."""

    model: str
    history: History
    stream: bool = False
    system: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    limit: int = 200
    thinking: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the SDK tells it; `code` is "" where its exception has no place for one."""

    kind: type[Exception]
    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stops:
    """The dialect's words for an answer's end."""

    end: str
    limit: str
    calls: str


class BrokenOff(Exception):
    """A stream said that its answer is not whole, and the SDK leaves it to the application to see that."""


class Sdk(Protocol):
    """One SDK in one dialect."""

    name: str
    stops: Stops
    errors: tuple[type[Exception], ...]

    def user(self, text: str) -> History:
        """A message of the user."""

    def picture(self, text: str, png: bytes) -> History:
        """A message with an image."""

    def assistant(self, text: str) -> History:
        """A message of the model, as an application keeps it in its database."""

    def results(self, results: Iterable[tuple[Call, str]]) -> History:
        """What the calls of one answer gave."""

    def ask(self, ask: Ask) -> Reply:
        """One answer, read to its end."""

    def helped(self, ask: Ask) -> Reply | None:
        """The same by the SDK's helper for streams; None where it has none."""

    def pieces(self, ask: Ask) -> Iterator[str]:
        """
        Pieces of text and thinking as they come.

        Raises:
            BrokenOff: the dialect says by an event that the answer is not whole; else one of `errors`.
        """

    async def wait(self, ask: Ask) -> None:
        """The same by the asynchronous client, which hangs up when it is cancelled."""

    def kind_of(self, status: int) -> type[Exception]:
        """The exception that the SDK raises for a status."""

    def told(self, error: Exception) -> Refusal:
        """What an exception of the SDK says."""

    def models(self) -> list[str]:
        """The models that it lists."""

    def embed(self, model: str, texts: list[str]) -> list[list[float]] | None:
        """Vectors; None where the dialect has none."""

    def close(self) -> None:
        """Let go of its connections."""


def alike(events: Iterable[str]) -> tuple[str, ...]:
    """Neighbours of one kind are one."""
    found: list[str] = []
    for kind in events:
        if not found or found[-1] != kind or kind == "call":
            found.append(kind)
    return tuple(found)


@cache
def _events_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


# Anthropic


class Messages:
    """The `anthropic` package."""

    name = "anthropic"
    stops = Stops("end_turn", "max_tokens", "tool_use")
    errors = (anthropic.APIError,)

    def __init__(self, url: str, key: str) -> None:
        self._given: dict[str, Any] = {
            "base_url": url, "api_key": key, "max_retries": 0, "timeout": WITHIN_S,
        }  # fmt: skip
        self.client = anthropic.Anthropic(**self._given)

    def user(self, text: str) -> History:
        return [{"role": "user", "content": text}]

    def picture(self, text: str, png: bytes) -> History:
        data = base64.b64encode(png).decode()
        source = {"type": "base64", "media_type": "image/png", "data": data}
        content = [{"type": "image", "source": source}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    def assistant(self, text: str) -> History:
        return [{"role": "assistant", "content": text}]

    def results(self, results: Iterable[tuple[Call, str]]) -> History:
        blocks = [
            {"type": "tool_result", "tool_use_id": call.id, "content": text}
            for call, text in results
        ]
        return [{"role": "user", "content": blocks}]

    def body(self, ask: Ask) -> dict[str, Any]:
        """The arguments of `create`."""
        body: dict[str, Any] = {
            "model": ask.model,
            "messages": ask.history,
            "max_tokens": ask.limit,
            "extra_headers": dict(ask.headers),
            "extra_body": {"temperature": 0},
        }
        if ask.system:
            body["system"] = ask.system
        if ask.tools:
            body["tools"] = [
                {
                    "name": tool["name"],
                    "description": tool["description"],
                    "input_schema": tool["parameters"],
                }
                for tool in ask.tools
            ]
        if ask.thinking:
            body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
            body["max_tokens"] = 1024 + ask.limit
        return body

    def ask(self, ask: Ask) -> Reply:
        if not ask.stream:
            raw = self.client.messages.with_raw_response.create(**self.body(ask))
            anthropic_types.Message.model_validate_json(raw.http_response.text)
            return self._reply(raw.parse(), 1, raw.headers)
        with self.client.messages.create(**self.body(ask), stream=True) as stream:
            return self._streamed(list(stream), stream.response.headers)

    def _streamed(self, events: list[Any], headers: Mapping[str, str]) -> Reply:
        """By the grammar of docs.anthropic.com/en/api/messages-streaming, held to the letter."""
        validator = _events_of(anthropic_types.RawMessageStreamEvent)
        for event in events:
            validator.validate_python(event.to_dict(), strict=False)
        assert [events[0].type, *(e.type for e in events[-2:])] == [
            "message_start", "message_delta", "message_stop",
        ]  # fmt: skip
        begun = events[0].message
        assert (begun.content, begun.stop_reason, begun.role) == ([], None, "assistant")
        blocks: list[dict[str, Any]] = []
        is_open = False
        pieces = 0
        for event in events[1:-2]:
            if event.type == "content_block_start":
                assert not is_open
                assert event.index == len(blocks)
                is_open = True
                block = event.content_block.to_dict()
                assert not any(block.get(name) for name in ("text", "thinking", "input"))
                blocks.append(block)
                partial = ""
                continue
            assert is_open
            assert event.index == len(blocks) - 1
            block = blocks[-1]
            if event.type == "content_block_stop":
                is_open = False
                if block["type"] == "tool_use":
                    block["input"] = json.loads(partial or "{}")
                continue
            assert event.type == "content_block_delta"
            delta = event.delta
            if delta.type == "text_delta":
                block["text"] += delta.text
                pieces += 1
            elif delta.type == "thinking_delta":
                block["thinking"] += delta.thinking
                pieces += 1
            elif delta.type == "signature_delta":
                block["signature"] = delta.signature
            else:
                assert delta.type == "input_json_delta"
                partial += delta.partial_json
        assert not is_open
        last = events[-2]
        whole = {
            **begun.to_dict(),
            "content": blocks,
            "stop_reason": last.delta.stop_reason,
            "stop_sequence": last.delta.stop_sequence,
            "usage": {**begun.usage.to_dict(), **last.usage.to_dict()},
        }
        return self._reply(anthropic_types.Message.model_validate(whole), pieces, headers)

    def _reply(self, message: Any, pieces: int, headers: Mapping[str, str]) -> Reply:
        assert (message.type, message.role) == ("message", "assistant")
        assert message.id.startswith("msg_")
        blocks = message.content
        for block in blocks:
            if block.type == "thinking":
                assert isinstance(block.signature, str)
            if block.type == "tool_use":
                assert re.fullmatch(r"[a-zA-Z0-9_-]+", block.id)  # what Anthropic's API takes back
        usage = message.usage
        read = (
            usage.input_tokens
            + (usage.cache_read_input_tokens or 0)
            + (usage.cache_creation_input_tokens or 0)
        )
        names = {"tool_use": "call"}
        return Reply(
            message.model,
            "".join(b.text for b in blocks if b.type == "text"),
            "".join(b.thinking for b in blocks if b.type == "thinking"),
            tuple(Call(b.id, b.name, b.input) for b in blocks if b.type == "tool_use"),
            message.stop_reason,
            read,
            usage.output_tokens,
            alike(names.get(b.type, b.type) for b in blocks),
            pieces,
            [{"role": "assistant", "content": blocks}],
            headers,
        )

    def helped(self, ask: Ask) -> Reply | None:
        with self.client.messages.stream(**self.body(ask)) as stream:
            return self._reply(stream.get_final_message(), 1, stream.response.headers)

    def pieces(self, ask: Ask) -> Iterator[str]:
        with self.client.messages.create(**self.body(ask), stream=True) as stream:
            for event in stream:
                if event.type == "content_block_delta":
                    yield getattr(event.delta, "text", "") or getattr(event.delta, "thinking", "")

    async def wait(self, ask: Ask) -> None:
        async with anthropic.AsyncAnthropic(**self._given) as client:
            answer = await client.messages.create(**self.body(ask), stream=ask.stream)
            if ask.stream:
                async for _ in answer:
                    pass

    def kind_of(self, status: int) -> type[Exception]:
        kinds: dict[int, type[Exception]] = {
            400: anthropic.BadRequestError,
            401: anthropic.AuthenticationError,
            404: anthropic.NotFoundError,
            429: anthropic.RateLimitError,
            503: anthropic.ServiceUnavailableError,
        }
        return kinds.get(status, anthropic.InternalServerError)

    def told(self, error: Exception) -> Refusal:
        assert isinstance(error, anthropic.APIStatusError)
        body: Any = error.body
        assert body["type"] == "error"
        assert error.type == body["error"]["type"]
        said = body["error"]
        return Refusal(type(error), error.status_code, said["code"], said["message"])

    def models(self) -> list[str]:
        found = list(self.client.models.list())
        for model in found:
            anthropic_types.ModelInfo.model_validate(model.to_dict())
            assert model.type == "model"
        return [model.id for model in found]

    def embed(self, model: str, texts: list[str]) -> list[list[float]] | None:
        return None

    def close(self) -> None:
        self.client.close()


# OpenAI


class _OpenAI:
    """What both dialects of the `openai` package share."""

    errors = (openai.APIError,)

    def __init__(self, url: str, key: str) -> None:
        self._given: dict[str, Any] = {
            "base_url": f"{url}/v1", "api_key": key, "max_retries": 0, "timeout": WITHIN_S,
        }  # fmt: skip
        self.client = openai.OpenAI(**self._given)

    def user(self, text: str) -> History:
        return [{"role": "user", "content": text}]

    def assistant(self, text: str) -> History:
        return [{"role": "assistant", "content": text}]

    def kind_of(self, status: int) -> type[Exception]:
        kinds: dict[int, type[Exception]] = {
            400: openai.BadRequestError,
            401: openai.AuthenticationError,
            404: openai.NotFoundError,
            429: openai.RateLimitError,
        }
        return kinds.get(status, openai.InternalServerError)

    def told(self, error: Exception) -> Refusal:
        assert isinstance(error, openai.APIStatusError)
        body: Any = error.body
        return Refusal(type(error), error.status_code, error.code or "", body["message"])

    def models(self) -> list[str]:
        return [model.id for model in self.client.models.list()]

    def embed(self, model: str, texts: list[str]) -> list[list[float]] | None:
        made = self.client.embeddings.create(
            model=model, input=texts
        )  # base64, as it asks by itself
        assert [one.index for one in made.data] == list(range(len(texts)))
        assert made.usage.total_tokens > 0
        return [one.embedding for one in made.data]

    def close(self) -> None:
        self.client.close()


class Chat(_OpenAI):
    """Chat completions."""

    name = "chat"
    stops = Stops("stop", "length", "tool_calls")

    def picture(self, text: str, png: bytes) -> History:
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        image = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]

    def results(self, results: Iterable[tuple[Call, str]]) -> History:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": text} for call, text in results
        ]

    def body(self, ask: Ask) -> dict[str, Any]:
        """The arguments of `create`."""
        system = [{"role": "system", "content": ask.system}] if ask.system else []
        body: dict[str, Any] = {
            "model": ask.model,
            "messages": [*system, *ask.history],
            "max_completion_tokens": ask.limit,
            "temperature": 0,
            "extra_headers": dict(ask.headers),
        }
        if ask.tools:
            body["tools"] = [{"type": "function", "function": {**tool}} for tool in ask.tools]
        if ask.thinking:
            body["reasoning_effort"] = "low"
        if ask.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def ask(self, ask: Ask) -> Reply:
        if not ask.stream:
            raw = self.client.chat.completions.with_raw_response.create(**self.body(ask))
            chat_types.ChatCompletion.model_validate_json(raw.http_response.text)
            whole = raw.parse()
            (choice,) = whole.choices
            return self._reply(whole, choice.message, choice.finish_reason, whole.usage, 1, raw.headers)  # fmt: skip
        with self.client.chat.completions.create(**self.body(ask)) as stream:
            return self._streamed(list(stream), stream.response.headers)

    def _streamed(self, chunks: list[Any], headers: Mapping[str, str]) -> Reply:
        for chunk in chunks:
            chat_types.ChatCompletionChunk.model_validate(chunk.to_dict())
        # Heartbeats are ours, of no time; the rest is one answer's.
        assert len({chunk.id for chunk in chunks if chunk.created}) == 1
        last = chunks[-1]
        assert last.choices == []
        assert not any(chunk.usage for chunk in chunks[:-1])
        choices = [chunk.choices[0] for chunk in chunks[:-1]]
        assert [c.finish_reason for c in choices if c.finish_reason] == [choices[-1].finish_reason]
        assert [c.delta.role for c in choices if c.delta.role] == ["assistant"]
        said: dict[str, str] = {"content": "", "reasoning_content": ""}
        calls: list[dict[str, Any]] = []
        order: list[str] = []
        pieces = 0
        for choice in choices:
            for name in said:
                if piece := getattr(choice.delta, name, None):
                    said[name] += piece
                    order.append("text" if name == "content" else "thinking")
                    pieces += 1
            for call in choice.delta.tool_calls or ():
                if call.index == len(calls):
                    assert call.id
                    calls.append({"id": call.id, "type": "function",
                                  "function": {"name": call.function.name, "arguments": ""}})  # fmt: skip
                else:
                    assert call.index == len(calls) - 1
                    assert call.id in (None, calls[-1]["id"])
                calls[-1]["function"]["arguments"] += call.function.arguments or ""
        message = chat_types.ChatCompletionMessage.model_validate(
            {"role": "assistant", **said, **({"tool_calls": calls} if calls else {})}
        )
        return self._reply(last, message, choices[-1].finish_reason, last.usage, pieces, headers)

    def _reply(
        self, whole: Any, message: Any, stop: str, usage: Any, pieces: int, headers: Mapping[str, str]
    ) -> Reply:  # fmt: skip
        thinking = getattr(message, "reasoning_content", None) or ""
        calls = message.tool_calls or ()
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        order = [*(["thinking"] if thinking else []), *(["text"] if message.content else [])]
        return Reply(
            whole.model,
            message.content or "",
            thinking,
            tuple(Call(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls),
            stop,
            usage.prompt_tokens,
            usage.completion_tokens,
            (*order, *["call"] * len(calls)),
            pieces,
            [message],
            headers,
        )

    def helped(self, ask: Ask) -> Reply | None:
        body = self.body(replace(ask, stream=False))
        body["stream_options"] = {"include_usage": True}
        for tool in body.get("tools", ()):
            tool["function"]["strict"] = True  # the helper insists on it
        with self.client.chat.completions.stream(**body) as stream:
            stream.until_done()
            whole: Any = stream.get_final_completion()
        (choice,) = whole.choices
        return self._reply(whole, choice.message, choice.finish_reason, whole.usage, 1, {})

    def pieces(self, ask: Ask) -> Iterator[str]:
        with self.client.chat.completions.create(**self.body(ask)) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    yield choice.delta.content or ""

    async def wait(self, ask: Ask) -> None:
        async with openai.AsyncOpenAI(**self._given) as client:
            answer = await client.chat.completions.create(**self.body(ask))
            if ask.stream:
                async for _ in answer:
                    pass


class Responses(_OpenAI):
    """Responses."""

    name = "responses"
    stops = Stops("completed", "incomplete: max_output_tokens", "completed")

    def picture(self, text: str, png: bytes) -> History:
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        image = {"type": "input_image", "image_url": url, "detail": "auto"}
        return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]

    def results(self, results: Iterable[tuple[Call, str]]) -> History:
        return [
            {"type": "function_call_output", "call_id": call.id, "output": text}
            for call, text in results
        ]

    def body(self, ask: Ask) -> dict[str, Any]:
        """The arguments of `create`."""
        body: dict[str, Any] = {
            "model": ask.model,
            "input": ask.history,
            "max_output_tokens": ask.limit,
            "temperature": 0,
            "store": False,
            "stream": ask.stream,
            "extra_headers": dict(ask.headers),
        }
        if ask.system:
            body["instructions"] = ask.system
        if ask.tools:
            body["tools"] = [{"type": "function", "strict": False, **tool} for tool in ask.tools]
        if ask.thinking:
            body["reasoning"] = {"effort": "low"}
        return body

    def ask(self, ask: Ask) -> Reply:
        if not ask.stream:
            raw = self.client.responses.with_raw_response.create(**self.body(ask))
            responses_types.Response.model_validate_json(raw.http_response.text)
            return self._reply(raw.parse(), 1, raw.headers)
        with self.client.responses.create(**self.body(ask)) as stream:
            return self._streamed(list(stream), stream.response.headers)

    def _streamed(self, events: list[Any], headers: Mapping[str, str]) -> Reply:
        """Numbered without a gap; what the deltas said is what the closing event holds."""
        validator = _events_of(responses_types.ResponseStreamEvent)
        for event in events:
            validator.validate_python(event.to_dict())
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
        last = events[-1].response
        assert events[-1].type == f"response.{last.status}"
        assert len({e.response.id for e in events if hasattr(e, "response")}) == 1
        pieces = 0
        said = {"output_text": "", "reasoning_text": ""}
        for event in events:
            for name in said:
                if event.type == f"response.{name}.delta":
                    said[name] += event.delta
                    pieces += 1
        done = [e.item for e in events if e.type == "response.output_item.done"]
        assert [i.to_dict() for i in done] == [i.to_dict() for i in last.output]
        reply = self._reply(last, pieces, headers)
        assert (said["output_text"], said["reasoning_text"]) == (reply.text, reply.thinking)
        return reply

    def _reply(self, response: Any, pieces: int, headers: Mapping[str, str]) -> Reply:
        assert response.object == "response"
        assert response.id.startswith("resp_")
        details = response.incomplete_details
        usage = response.usage
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        names = {"function_call": "call", "reasoning": "thinking", "message": "text"}
        return Reply(
            response.model,
            response.output_text,
            "".join(
                part.text
                for item in response.output
                if item.type == "reasoning"
                for part in item.content or ()
            ),
            tuple(
                Call(item.call_id, item.name, json.loads(item.arguments))
                for item in response.output
                if item.type == "function_call"
            ),
            response.status + (f": {details.reason}" if details else ""),
            usage.input_tokens,
            usage.output_tokens,
            alike(names[item.type] for item in response.output),
            pieces,
            list(response.output),
            headers,
        )

    def helped(self, ask: Ask) -> Reply | None:
        body = self.body(ask)
        del body["stream"]
        for tool in body.get("tools", ()):
            tool["strict"] = True
        with self.client.responses.stream(**body) as stream:
            stream.until_done()
            return self._reply(stream.get_final_response(), 1, {})

    def pieces(self, ask: Ask) -> Iterator[str]:
        with self.client.responses.create(**self.body(ask)) as stream:
            for event in stream:
                if event.type == "response.failed":
                    raise BrokenOff(event.response.error.message)
                if event.type == "response.output_text.delta":
                    yield event.delta

    async def wait(self, ask: Ask) -> None:
        async with openai.AsyncOpenAI(**self._given) as client:
            answer = await client.responses.create(**self.body(ask))
            if ask.stream:
                async for _ in answer:
                    pass


# Ollama


class Native:
    """The `ollama` package."""

    name = "ollama"
    stops = Stops("stop", "length", "stop")
    errors = (ollama.ResponseError,)

    def __init__(self, url: str, key: str) -> None:
        self._given: dict[str, Any] = {
            "host": url, "headers": {"authorization": f"Bearer {key}"}, "timeout": WITHIN_S,
        }  # fmt: skip
        self._sent: dict[str, str] = {}
        self._headers: Mapping[str, str] = {}
        hooks = {"request": [self._send], "response": [self._receive]}
        self.client = ollama.Client(**self._given, event_hooks=hooks)

    def _send(self, request: httpx.Request) -> None:
        request.headers.update(self._sent)

    def _receive(self, response: httpx.Response) -> None:
        self._headers = response.headers

    def user(self, text: str) -> History:
        return [{"role": "user", "content": text}]

    def picture(self, text: str, png: bytes) -> History:
        return [{"role": "user", "content": text, "images": [png]}]

    def assistant(self, text: str) -> History:
        return [{"role": "assistant", "content": text}]

    def results(self, results: Iterable[tuple[Call, str]]) -> History:
        return [{"role": "tool", "tool_name": call.name, "content": text} for call, text in results]

    def body(self, ask: Ask) -> dict[str, Any]:
        """The arguments of `chat`."""
        system = [{"role": "system", "content": ask.system}] if ask.system else []
        body: dict[str, Any] = {
            "model": ask.model,
            "messages": [*system, *ask.history],
            "stream": ask.stream,
            "options": {"temperature": 0, "num_predict": ask.limit},
        }
        if ask.tools:
            body["tools"] = [{"type": "function", "function": {**tool}} for tool in ask.tools]
        if ask.thinking:
            body["think"] = True
        return body

    def ask(self, ask: Ask) -> Reply:
        self._sent = dict(ask.headers)
        given = self.client.chat(**self.body(ask))
        parts = list(given) if ask.stream else [given]
        assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]
        assert {part.message.role for part in parts} == {"assistant"}
        last = parts[-1]
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        text = "".join(part.message.content or "" for part in parts)
        thinking = "".join(part.message.thinking or "" for part in parts)
        order = [
            kind
            for part in parts
            for kind, there in (
                ("thinking", part.message.thinking),
                ("text", part.message.content),
                *[("call", True)] * len(part.message.tool_calls or ()),
            )
            if there
        ]
        said: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            said["thinking"] = thinking
        if calls:
            said["tool_calls"] = calls
        assert last.total_duration is not None
        assert last.prompt_eval_duration is not None
        return Reply(
            last.model or "",
            text,
            thinking,
            tuple(
                Call(str(n), call.function.name, call.function.arguments)
                for n, call in enumerate(calls)
            ),
            last.done_reason or "",
            last.prompt_eval_count or 0,
            last.eval_count or 0,
            alike(order),
            sum(1 for part in parts if part.message.content or part.message.thinking),
            [ollama.Message(**said)],
            self._headers,
        )

    def helped(self, ask: Ask) -> Reply | None:
        return None

    def pieces(self, ask: Ask) -> Iterator[str]:
        for part in self.client.chat(**self.body(ask)):
            yield part.message.content or ""

    async def wait(self, ask: Ask) -> None:
        client = ollama.AsyncClient(**self._given)
        async with client:
            answer: Any = await client.chat(**self.body(ask))
            if ask.stream:
                async for _ in answer:
                    pass

    def kind_of(self, status: int) -> type[Exception]:
        return ollama.ResponseError

    def told(self, error: Exception) -> Refusal:
        assert isinstance(error, ollama.ResponseError)
        return Refusal(type(error), error.status_code, "", error.error)

    def models(self) -> list[str]:
        return [model.model or "" for model in self.client.list().models]

    def embed(self, model: str, texts: list[str]) -> list[list[float]] | None:
        made = self.client.embed(model, texts)
        return [list(one) for one in made.embeddings]

    def close(self) -> None:
        self.client.close()


SDKS: dict[str, type[Messages | Chat | Responses | Native]] = {
    sdk.name: sdk for sdk in (Messages, Chat, Responses, Native)
}
