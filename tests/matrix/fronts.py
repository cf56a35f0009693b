"""
The clients of the matrix: what each dialect asks, and what it makes of the answer. Streams are read strictly: an
event that the dialect does not allow at its place fails the cell.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

import messages_stream
import responses_stream
from penstock.dialects.sse import parse_event, split_events

PROMPT = "hi"


@dataclass
class Got:
    """
    What a client got.

    Attributes:
        status: 0 when the connection broke before there was one.
        text: what the answer says, as far as it came.
        is_complete: the dialect's own proper end was there.
        is_event: the error came as an event.
        error: what we say of it, by our own names; None for none.
        broke: why the transfer did not end properly, "" when it did.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    is_complete: bool = False
    is_event: bool = False
    error: dict[str, Any] | None = None
    broke: str = ""


class Front(NamedTuple):
    """
    A client's dialect.

    Attributes:
        operation: the metrics' label.
        body: of a request, without `model` and `stream`.
        plain: value of a whole answer -> its text.
        stream: bytes of a stream -> what was got.
        error: value of an answer that is an error -> our own fields.
    """

    path: str
    operation: str
    body: dict[str, Any]
    plain: Callable[[Any], str]
    stream: Callable[[bytes], Got]
    error: Callable[[Any], dict[str, Any]]


def _openai(text_of: Callable[[Any], str]) -> Callable[[bytes], Got]:
    def read(data: bytes) -> Got:
        got = Got()
        assert not data or data.endswith(b"\n\n"), "half an event"
        for raw in split_events(data):
            said = parse_event(raw).data
            assert not got.is_complete, "an event after [DONE]"
            assert got.error is None, "an event after the error"
            if not said:
                continue  # a comment of the server's own
            if said == b"[DONE]":
                got.is_complete = True
                continue
            value = json.loads(said)
            if "error" in value:
                got.error, got.is_event = value["error"], True
                continue
            for choice in value["choices"]:
                got.text += text_of(choice)
        return got

    return read


def _messages(data: bytes) -> Got:
    reader = messages_stream.read_strictly(data)
    blocks = [*reader.blocks, *([reader.block] if reader.block else [])]
    text = "".join(block.get("text", "") for block in blocks)
    error = None if reader.error is None else reader.error["error"]
    return Got(text=text, is_complete=reader.is_stopped, is_event=error is not None, error=error)


def _responses(data: bytes) -> Got:
    reader = responses_stream.read_strictly(data)
    closing = reader.closing or {}
    failed = closing.get("error")
    text = "".join(responses_stream.text_of(item) for item in reader.done)
    if reader.item is not None:
        text += reader.text
    return Got(
        text=text,
        is_complete=_is_whole(closing),
        is_event=failed is not None,
        error=None if failed is None else failed["penstock"],
    )


def _ollama(text_of: Callable[[Any], str]) -> Callable[[bytes], Got]:
    def read(data: bytes) -> Got:
        got = Got()
        assert not data or data.endswith(b"\n"), "half a line"
        for line in data.splitlines():
            if not line:
                continue
            value = json.loads(line)
            assert not got.is_complete, "a line after the last"
            assert got.error is None, "a line after the error"
            if "error" in value:
                assert isinstance(value["error"], str)
                got.error, got.is_event = value, True
                continue
            got.text += text_of(value)
            got.is_complete = value["done"] is True
        return got

    return read


def _nested(value: Any) -> dict[str, Any]:
    return dict(value["error"])


def _anthropics(value: Any) -> dict[str, Any]:
    assert value["type"] == "error"
    return dict(value["error"])


def _flat(value: Any) -> dict[str, Any]:
    assert isinstance(value["error"], str)
    return dict(value)


def _is_whole(response: Any) -> bool:
    """An answer that is as long as it may be is whole as well."""
    ended = response.get("incomplete_details") or {}
    return response.get("status") == "completed" or ended.get("reason") == "max_output_tokens"


def _responses_text(value: Any) -> str:
    assert _is_whole(value)
    return "".join(responses_stream.text_of(item) for item in value["output"])


def _ollama_text(value: Any) -> str:
    assert value["done"] is True
    return str(value["message"]["content"])


_USER = {"messages": [{"role": "user", "content": PROMPT}]}
FRONTS: dict[str, Front] = {
    "chat": Front(
        "/v1/chat/completions",
        "chat",
        _USER,
        lambda value: str(value["choices"][0]["message"]["content"]),
        _openai(lambda choice: choice["delta"].get("content") or ""),
        _nested,
    ),
    "completions": Front(
        "/v1/completions",
        "completions",
        {"prompt": PROMPT},
        lambda value: str(value["choices"][0]["text"]),
        _openai(lambda choice: choice["text"]),
        _nested,
    ),
    "messages": Front(
        "/v1/messages",
        "messages",
        {**_USER, "max_tokens": 64},
        lambda value: "".join(block["text"] for block in value["content"]),
        _messages,
        _anthropics,
    ),
    "responses": Front(
        "/v1/responses", "responses", {"input": PROMPT}, _responses_text, _responses, _nested
    ),
    "ollama-chat": Front(
        "/api/chat",
        "generate",
        _USER,
        _ollama_text,
        _ollama(lambda value: value["message"]["content"]),
        _flat,
    ),
    "ollama-generate": Front(
        "/api/generate",
        "generate",
        {"prompt": PROMPT},
        lambda value: str(value["response"]),
        _ollama(lambda value: value["response"]),
        _flat,
    ),
}


async def ask(
    http: httpx.AsyncClient,
    front: Front,
    model: str,
    streams: bool,
    begun: asyncio.Event,
    junk: bytes = b"",
) -> Got:
    """
    Send one request and read its answer to the end.

    Args:
        junk: of the server's own, which is passed over.
        begun: is set when something of the answer's body has come.
    """
    body = {"model": model, **front.body, "stream": streams}
    data = b""
    got = Got()
    try:
        async with http.stream("POST", front.path, json=body) as response:
            got.status = response.status_code
            got.headers = dict(response.headers)
            async for piece in response.aiter_raw():
                data += piece
                begun.set()
    except httpx.HTTPError as exc:
        got.broke = f"{type(exc).__name__}: {exc}"
        return got
    if got.status == 200 and streams:
        read = front.stream(data.replace(junk, b"") if junk else data)
        read.status, read.headers = got.status, got.headers
        return read
    value = json.loads(data)
    if got.status == 200:
        got.text, got.is_complete = front.plain(value), True
    else:
        got.error = front.error(value)
    return got
