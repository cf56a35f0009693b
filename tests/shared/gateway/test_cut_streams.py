"""
A server's stream that ends at any byte, in pieces of any size: what the client has then is well-formed in its
dialect, and says that it is an error unless the answer was complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import messages_stream
import responses_stream
from penstock.dialects.anthropic import MESSAGES
from penstock.dialects.base import AnswerHead, AnswerWriter, Asked, ClientDialect
from penstock.dialects.ollama.chat import CHAT as OLLAMA_CHAT
from penstock.dialects.ollama.generate import GENERATE
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.openai.answer import CHAT as OPENAI_CHAT
from penstock.dialects.openai.chunks import ChunkReader
from penstock.dialects.responses import RESPONSES
from penstock.dialects.sse import parse_event, split_events
from penstock.gateway.relays.mending import EventMender
from penstock.gateway.relays.relay import Seen
from penstock.gateway.relays.translating import Source, TranslatingRelay
from penstock.toolcalls.schema import ToolSet
from penstock.toolcalls.stream import Rules

HEAD = AnswerHead("abc", "m", 1_700_000_000)
ASKED: dict[str, tuple[ClientDialect, dict[str, Any]]] = {
    "openai": (OPENAI_CHAT, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    "messages": (
        MESSAGES,
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    ),
    "responses": (RESPONSES, {"model": "m", "input": "hi"}),
    "ollama-chat": (OLLAMA_CHAT, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    "ollama-generate": (GENERATE, {"model": "m", "prompt": "hi"}),
}
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"deep": {"type": "boolean"}}}}}
]  # fmt: skip


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    """One of a llama.cpp."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def call(arguments: str, **more: Any) -> dict[str, Any]:
    """A piece of a tool call."""
    function = {"arguments": arguments, **({"name": "look"} if more else {})}
    return chunk({"tool_calls": [{"index": 0, **more, "function": function}]})


CHUNKS = [
    {"choices": [], "prompt_progress": {"total": 9, "cache": 2, "processed": 9}},
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "häm"}),
    chunk({"content": "Grüße "}),
    chunk({"content": "\U0001f600\n\n"}),
    call("", id="c1"),
    call('{"deep": '),
    call('"True"}'),
    chunk({}, "tool_calls", timings={"prompt_n": 7, "cache_n": 2, "predicted_n": 5}),
]
LLAMACPP = (
    b"".join(b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in CHUNKS)
    + b"data: [DONE]\n\n"
)
LINES: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "thinking": "häm"}, "done": False},
    {"message": {"role": "assistant", "content": "Grüße \U0001f600"}, "done": False},
    {"message": {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"deep": "True"}}}]}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 5},
]  # fmt: skip
OLLAMA = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in LINES)
ERROR = {"message": "it broke off", "type": "upstream_error", "code": "broken_stream"}


def is_complete_openai(stream: bytes) -> bool:
    """Whether a chat stream ends as one should."""
    datas = [parse_event(raw).data for raw in split_events(stream)]
    values = [json.loads(data) for data in datas if data != b"[DONE]"]
    assert all("choices" in value for value in values[:-1])
    is_done = datas[-1] == b"[DONE]"
    assert is_done or values[-1]["error"]["code"] == "broken_stream"
    return is_done


def is_complete_messages(stream: bytes) -> bool:
    """The same for Messages."""
    reader = messages_stream.read_strictly(stream)
    return reader.error is None


def is_complete_responses(stream: bytes) -> bool:
    """The same for Responses."""
    reader = responses_stream.read_strictly(stream)
    assert reader.closing is not None
    return bool(reader.closing["status"] == "completed")


def is_complete_ollama(stream: bytes) -> bool:
    """The same for Ollama's lines."""
    assert stream.endswith(b"\n")
    lines = [json.loads(line) for line in stream.splitlines()]
    assert all(line["done"] is False for line in lines[:-1])
    is_done = lines[-1].get("done") is True
    assert is_done or lines[-1]["error"] == "it broke off"
    return is_done


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "openai": is_complete_openai,
    "messages": is_complete_messages,
    "responses": is_complete_responses,
    "ollama-chat": is_complete_ollama,
    "ollama-generate": is_complete_ollama,
}


@pytest.mark.parametrize("mends", [True, False], ids=["with tools", "without tools"])
@pytest.mark.parametrize("server", ["llamacpp", "ollama"])
@pytest.mark.parametrize("dialect", list(ASKED))
@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_leaves_a_well_formed_stream(
    dialect: str, server: str, mends: bool, data: st.DataObject
) -> None:
    """And says that it was one, except behind the server's own end."""
    whole = LLAMACPP if server == "llamacpp" else OLLAMA
    at = data.draw(st.integers(0, len(whole)), label="cut at")
    step = data.draw(st.integers(1, 200), label="bytes a read")
    beats = data.draw(st.booleans(), label="heartbeat first")
    codec, body = ASKED[dialect]
    asked: Asked = codec.read({**body, "stream": True})
    root: AnswerWriter = codec.writer(HEAD, asked)
    out = root.heartbeat() if beats else b""
    current = [root]

    def begin() -> AnswerWriter:
        current[0] = root.fork()
        return current[0]

    seen = Seen()
    rules = Rules(
        tools=lambda: ToolSet.of(TOOLS),
        repair=True,
        recover=True,
        earlier=lambda: iter(()),
        seed="s",
    )
    source = Source(
        ChunkReader("seed") if server == "llamacpp" else ChatReader("seed"),
        seen,
        ndjson=server == "ollama",
        mender=EventMender(rules, seen.mended) if mends else None,
    )
    relay = TranslatingRelay(source, begin, lambda: {"attempts": 1})
    for start in range(0, at, step):
        out += relay.feed(whole[start : min(start + step, at)])
    # As the pipeline does: a connection that ended properly is asked for the rest, one that broke is not.
    ended_properly = data.draw(st.booleans(), label="ended properly")
    try:
        if ended_properly:
            out += relay.end()
    except ValueError:
        pass  # half an event: a broken stream
    if not seen.closed:
        out += current[0].failed(ERROR, 502)
    assert CHECKS[dialect](out) is seen.closed
    # Complete is what holds the server's own reason to end; its blank line may be missing.
    reason_ends = len(whole) - len(b"data: [DONE]\n\n") if server == "llamacpp" else len(whole)
    if at < reason_ends - 2:
        assert not seen.closed
    if at == len(whole) or (ended_properly and at >= reason_ends):
        assert seen.closed
