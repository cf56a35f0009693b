"""
Ollama's native `/api/chat`: neutral request -> body, its lines -> neutral events.

Why native and not its `/v1`: there a missing temperature and top_p become 1.0, and top_k, min_p,
repeat_penalty and num_ctx are ignored (`openai/openai.go`). `truncate: false` makes it refuse a prompt
that does not fit instead of cutting its beginning silently (`api/types.go`, ChatRequest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock.dialects.shapes import object_of
from penstock.domain.change import Change
from penstock.domain.chat import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    ImagePart,
    Message,
    OtherPart,
    ReasoningDelta,
    StreamEnd,
    StreamError,
    TextDelta,
    TextPart,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from penstock.errors import ErrorCode, RequestError

# Fields of OpenAI's that the native API has no word for.
_UNSAYABLE = (
    "logit_bias", "user", "store", "metadata", "service_tier", "parallel_tool_calls", "prediction",
    "modalities", "audio", "web_search_options", "safety_identifier", "prompt_cache_key", "verbosity",
)  # fmt: skip
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A native body, and what of the request could not be said in it."""

    body: dict[str, Any]
    changes: tuple[Change, ...]


def render_chat(
    chat: ChatRequest,
    *,
    model: str,
    options: Mapping[str, Any],
    max_output_tokens: int | None,
    num_ctx: int | None = None,
    keep_alive: str | float | None = None,
) -> RenderedChat:
    """
    The native body of a request; it always streams.

    Args:
        model: its id at the server.
        options: sampling by Ollama's names.
        max_output_tokens: the output budget, None for none.
        num_ctx: the window to load it with, None to leave that to the server. The client's own is a
            wish that was considered in this.
        keep_alive: how long the model stays, None to leave that to the server.

    Raises:
        RequestError: an image that Ollama cannot take (it fetches no URLs).
    """
    changes: list[Change] = []
    native: dict[str, Any] = {
        "model": model,
        "messages": _messages(chat, changes),
        "stream": True,
        "truncate": False,
    }
    values: dict[str, Any] = dict(options)
    extra = chat.extra.get("options")
    if isinstance(extra, Mapping):
        values = {**extra, **values}
        values.pop("num_ctx", None)
    if max_output_tokens is not None:
        values["num_predict"] = max_output_tokens
    if chat.stop:
        values["stop"] = list(chat.stop)
    if isinstance(chat.extra.get("num_keep"), int):
        values["num_keep"] = chat.extra["num_keep"]
    if num_ctx is not None:
        values["num_ctx"] = num_ctx
    if values:
        native["options"] = values
    if chat.tools and chat.tool_choice != "none":
        native["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters or {"type": "object", "properties": {}}),
                },
            }
            for tool in chat.tools
        ]
    if chat.tool_choice not in (None, "auto", "none"):
        changes.append(_unsayable("tool_choice"))
    if chat.response_format.kind == "json_object":
        native["format"] = "json"
    elif chat.response_format.kind == "json_schema":
        native["format"] = dict(chat.response_format.schema or {})
    if chat.reasoning is not None:
        native["think"] = chat.reasoning
    if keep_alive is not None:
        native["keep_alive"] = keep_alive
    if chat.logprobs:
        native["logprobs"] = True
        if chat.top_logprobs is not None:
            native["top_logprobs"] = chat.top_logprobs
    if chat.n > 1:
        changes.append(Change("sampling", "n", "dropped", "Ollama answers once a request"))
    changes.extend(_unsayable(name) for name in _UNSAYABLE if chat.extra.get(name) is not None)
    return RenderedChat(native, tuple(changes))


_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
_TAKE_EFFORTS = frozenset({"gptoss", "gpt-oss"})


def think_value(
    wish: bool | str | None, thinks: bool | None, family: str
) -> tuple[bool | str | None, tuple[Change, ...]]:
    """
    What a model takes as `think`, and what of the wish that is not. Efforts are for gpt-oss alone, in three words;
    Ollama refuses them for other models, and thinking for those that cannot (`server/routes.go`, `api/types.go`).

    Args:
        thinks: whether the model can, None when that is not known.
        family: as `/api/tags` tells it.
    """
    if not wish:
        return wish, ()
    if thinks is False:
        return None, (Change("sampling", "reasoning", "dropped", "the model does not think"),)
    if isinstance(wish, bool):
        return wish, ()
    if family not in _TAKE_EFFORTS:
        detail = "the model knows no efforts: it thinks or does not"
        return True, (Change("sampling", "reasoning", "rewritten", detail),)
    sent = _EFFORTS.get(wish, wish)
    if sent == wish:
        return wish, ()
    return sent, (Change("sampling", "reasoning", "rewritten", f"Ollama's word is {sent}"),)


def _unsayable(name: str) -> Change:
    return Change("sampling", name, "dropped", f"Ollama has no {name}")


def _messages(chat: ChatRequest, changes: list[Change]) -> list[dict[str, Any]]:
    names = {call.id: call.name for m in chat.messages for call in m.tool_calls if call.id}
    return [_message(message, place, names, changes) for place, message in enumerate(chat.messages)]


def _message(
    message: Message, place: int, names: Mapping[str, str], changes: list[Change]
) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    native: dict[str, Any] = {"role": role}
    texts: list[str] = []
    images: list[str] = []
    for number, part in enumerate(message.parts):
        where = f"messages[{place}].content[{number}]"
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, ImagePart):
            if part.data is None:
                raise RequestError(
                    ErrorCode.UNSUPPORTED_INPUT,
                    f"{where}: Ollama takes images as base64 data only and fetches no URL.",
                    hint="Send the image as a data: URL.",
                    param=where,
                )
            images.append(part.data)
        elif isinstance(part, OtherPart):
            changes.append(Change("template", where, "dropped", "Ollama has no such content part"))
    native["content"] = "".join(texts)
    if images:
        native["images"] = images
    if message.reasoning:
        native["thinking"] = message.reasoning
    if message.tool_calls:
        native["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _arguments(call.arguments)}}
            for call in message.tool_calls
        ]
    if role == "tool":
        name = message.name or names.get(message.tool_call_id or "")
        if name:
            native["tool_name"] = name
        if message.tool_call_id:
            native["tool_call_id"] = message.tool_call_id
    return native


def _arguments(text: str) -> Any:
    """Ollama wants an object; text that is none stays readable instead of failing the request."""
    value = object_of(text)
    return {"arguments": text} if value is None else value


class ChatReader:
    """
    Lines of a native chat answer -> neutral events.

    Args:
        seed: makes the ids of tool calls, which Ollama has none of, the same on every try.
    """

    __slots__ = ("_calls", "_seed")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._calls = 0

    def read(self, line: Any) -> list[Event]:
        """The events of one line."""
        if not isinstance(line, Mapping):
            return [StreamError("a line that is no object")]
        if line.get("error"):
            return [StreamError(line["error"])]
        events: list[Event] = []
        message = line.get("message")
        if isinstance(message, Mapping):
            if isinstance(message.get("thinking"), str) and message["thinking"]:
                events.append(ReasoningDelta(message["thinking"]))
            if isinstance(message.get("content"), str) and message["content"]:
                events.append(TextDelta(message["content"]))
            calls = message.get("tool_calls")
            events += [self._call(call) for call in (calls if isinstance(calls, list) else ())]
        if line.get("done") is True:
            events.append(Finished(self._reason(line.get("done_reason"))))
            events.append(_usage(line))
            events.append(StreamEnd())
        return events

    def whole(self, value: Any) -> list[Event]:
        """The events of an answer that came as one body: it looks like the last line of a stream."""
        return self.read(value)

    def _call(self, call: Any) -> Event:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            return StreamError("a tool call without a function")
        arguments = function.get("arguments")
        try:
            text = (
                arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            )
        except orjson.JSONEncodeError:
            return StreamError("a tool call's arguments are nested too deeply")
        number = self._calls
        self._calls += 1
        given = call.get("id")
        identifier = (
            given if isinstance(given, str) and given else f"call_{self._seed[-16:]}_{number}"
        )
        return ToolCallDelta(number, identifier, str(function.get("name") or ""), text)

    def _reason(self, done_reason: Any) -> FinishReason:
        if done_reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"


def _usage(line: Mapping[str, Any]) -> UsageReported:
    prompt, output = line.get("prompt_eval_count"), line.get("eval_count")
    return UsageReported(
        Usage(
            prompt if isinstance(prompt, int) else 0,
            output if isinstance(output, int) else 0,
        ),
        {
            name: line[name] / 1e9
            for name in _DURATIONS
            if isinstance(line.get(name), int | float) and not isinstance(line[name], bool)
        },
    )
