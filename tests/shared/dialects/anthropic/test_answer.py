"""Neutral events, written as a Messages stream and as one body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import pytest

from messages_stream import accumulated, events_of, read_strictly
from penstock.dialects.anthropic import MESSAGES
from penstock.dialects.base import AnswerHead, AnswerWriter, Asked
from penstock.domain.chat import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    StreamEnd,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)

HEAD = AnswerHead("abc", "m", 1_700_000_000)
ASKED = Asked(ChatRequest("m", ()))
HELLO: list[Event] = [
    PrefillProgress(1, 5, 1),
    PrefillProgress(5, 5, 3),
    TextDelta("Hel"),
    TextDelta("lo"),
    Finished("stop"),
    UsageReported(Usage(5, 2, 4)),
    StreamEnd(),
]
COMMENT = b": penstock {}\n"


def writer() -> AnswerWriter:
    """A writer at the beginning of its stream."""
    return MESSAGES.writer(HEAD, ASKED)


def streamed(events: Sequence[Event], comment: bytes = b"") -> bytes:
    """A whole stream."""
    one = writer()
    return b"".join(one.write(event) for event in events) + one.end(comment)


def whole(events: Sequence[Event]) -> dict[str, Any]:
    """The body."""
    return MESSAGES.whole(events, HEAD, ASKED)


def content(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The blocks, which a stream and a body have in common."""
    found: list[dict[str, Any]] = whole(events)["content"]
    assert accumulated(streamed(events))["content"] == found
    return found


def usage(taken: int, cached: int, written: int) -> dict[str, int]:
    """The dialect's usage."""
    return {
        "input_tokens": taken,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": written,
    }


def test_a_stream_byte_by_byte() -> None:
    """The grammar of Anthropic's own streams."""
    assert streamed(HELLO, COMMENT).decode() == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"id":"msg_abc","type":"message","role":"assistant",'
        '"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":2,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":3,"output_tokens":0}}}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":0}\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        '"usage":{"input_tokens":1,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,'
        '"output_tokens":2}}\n\n'
        "event: message_stop\n"
        ": penstock {}\n"
        'data: {"type":"message_stop"}\n\n'
    )


def test_the_body() -> None:
    """The same message in one piece."""
    assert whole(HELLO) == {
        "id": "msg_abc", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": usage(1, 4, 2),
    }  # fmt: skip


START, DELTA, STOP = "content_block_start", "content_block_delta", "content_block_stop"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([TextDelta("a")], [START, DELTA, STOP], id="text"),
        pytest.param([ReasoningDelta("a")], [START, DELTA, DELTA, STOP], id="thinking is signed"),
        pytest.param([ToolCallDelta(0, "c", "f")], [START, STOP], id="a call without arguments"),
        pytest.param([ToolCallDelta(0, "c", "f", "{"), ToolCallDelta(0, arguments="}")], [START, DELTA, DELTA, STOP], id="a call"),
        pytest.param([ToolCallDelta(0, "c", "f", "{}"), ToolCallDelta(1, "d", "f", "{}")], [START, DELTA, STOP, START, DELTA, STOP], id="two calls"),
        pytest.param([ReasoningDelta("a"), TextDelta("b"), ToolCallDelta(0, "c", "f", "{}")], [START, DELTA, DELTA, STOP, START, DELTA, STOP, START, DELTA, STOP], id="thinking, text and a call"),
        pytest.param([TextDelta("a"), ReasoningDelta(""), TextDelta("b")], [START, DELTA, DELTA, STOP], id="nothing thought"),
        pytest.param([TextDelta("")], [], id="nothing said"),
        pytest.param([], [], id="nothing at all"),
    ],
)  # fmt: skip
def test_the_grammar(events: list[Event], expected: list[str]) -> None:
    """Blocks begin, grow and stop one after the other."""
    stream = streamed([*events, Finished("stop")])
    kinds = [value["type"] for value, _ in events_of(stream)]
    assert kinds == ["message_start", *expected, "message_delta", "message_stop"]
    assert read_strictly(stream).is_stopped


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([TextDelta("a"), TextDelta("b")], [{"type": "text", "text": "ab"}], id="text"),
        pytest.param([ReasoningDelta("a"), ReasoningDelta("b")], [{"type": "thinking", "thinking": "ab", "signature": "penstock"}], id="thinking"),
        pytest.param([ToolCallDelta(0, "c", "f", '{"x":'), ToolCallDelta(0, arguments="1}")], [{"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}], id="a call"),
        pytest.param([ToolCallDelta(0, "c", "f")], [{"type": "tool_use", "id": "c", "name": "f", "input": {}}], id="a call without arguments"),
        pytest.param([ToolCallDelta(0, "", "f"), ToolCallDelta(1, "", "g")], [{"type": "tool_use", "id": "toolu_abc_0", "name": "f", "input": {}}, {"type": "tool_use", "id": "toolu_abc_1", "name": "g", "input": {}}], id="calls without ids"),
        pytest.param([ToolCallDelta(0, "c", "f"), ToolCallDelta(1, "c", "g")], [{"type": "tool_use", "id": "c", "name": "f", "input": {}}, {"type": "tool_use", "id": "toolu_abc_1", "name": "g", "input": {}}], id="an id twice"),
        pytest.param([TextDelta("a"), ToolCallDelta(0, "c", "f"), TextDelta("b")], [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}, {"type": "text", "text": "b"}], id="in order of appearance"),
    ],
)  # fmt: skip
def test_content(events: list[Event], expected: list[dict[str, Any]]) -> None:
    """What the official SDK adds up is what the body has."""
    assert content(events) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param('{"file_path":"a","content":"half', id="cut in a text"),
        pytest.param('{"file_path":', id="cut before a value"),
        pytest.param("[1]", id="no object"),
        pytest.param("rm -rf", id="no JSON"),
        pytest.param('{"a":' * 250 + "1" + "}" * 250, id="too deep to be written again"),
    ],
)
def test_arguments_that_are_no_object_are_never_made_one(arguments: str) -> None:
    """In a body they stand as they are in `INVALID_JSON`; a stream says them as they came."""
    events: list[Event] = [ToolCallDelta(0, "c", "f", arguments), Finished("length")]
    assert whole(events)["content"][0]["input"] == {"INVALID_JSON": arguments}
    assert read_strictly(streamed(events)).blocks[0]["json"] == arguments


CALL = ToolCallDelta(0, "c", "f", "{}")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([TextDelta("a"), Finished("stop")], "end_turn", id="stop"),
        pytest.param([TextDelta("a")], "end_turn", id="without a word"),
        pytest.param([CALL, Finished("tool_calls")], "tool_use", id="a call"),
        pytest.param([CALL, Finished("stop")], "tool_use", id="a call, said to be none"),
        pytest.param([TextDelta("a"), Finished("tool_calls")], "end_turn", id="no call, said to be one"),
        pytest.param([TextDelta("a"), Finished("length")], "max_tokens", id="cut off"),
        pytest.param([CALL, Finished("length")], "max_tokens", id="a call, cut off"),
        pytest.param([Finished("content_filter")], "refusal", id="filtered"),
    ],
)  # fmt: skip
def test_stop_reasons(events: list[Event], expected: str) -> None:
    """Clients run tools by `tool_use`, so it stands exactly where there are calls."""
    assert whole(events)["stop_reason"] == expected
    closing = read_strictly(streamed(events)).closing
    assert closing is not None
    assert closing["delta"] == {"stop_reason": expected, "stop_sequence": None}


@pytest.mark.parametrize(
    ("events", "start", "closing"),
    [
        pytest.param([], usage(0, 0, 0), usage(0, 0, 0), id="nothing known"),
        pytest.param([PrefillProgress(2, 9, 4)], usage(5, 4, 0), usage(5, 4, 0), id="progress only"),
        pytest.param([PrefillProgress(2, 9), PrefillProgress(2, 9, 8)], usage(1, 8, 0), usage(1, 8, 0), id="the last progress counts"),
        pytest.param([UsageReported(Usage(7, 3))], usage(0, 0, 0), usage(7, 0, 3), id="no cache"),
        pytest.param([PrefillProgress(2, 9, 4), UsageReported(Usage(9, 3, 9))], usage(5, 4, 0), usage(0, 9, 3), id="all from the cache"),
        pytest.param([UsageReported(Usage(5, 3, 7))], usage(0, 0, 0), usage(0, 7, 3), id="a cache larger than the prompt"),
        pytest.param([UsageReported(Usage(7, 3)), Finished("stop")], usage(0, 0, 0), usage(7, 0, 3), id="usage before the end"),
    ],
)  # fmt: skip
def test_usage(events: list[Event], start: dict[str, int], closing: dict[str, int]) -> None:
    """What came from the cache is no part of `input_tokens`; the last counts are the server's."""
    stream = streamed(events)
    reader = read_strictly(stream)
    assert reader.message is not None
    assert reader.message["usage"] == start
    assert reader.closing is not None
    assert reader.closing["usage"] == closing == whole(events)["usage"]
    assert accumulated(stream)["usage"] == closing


def test_heartbeats() -> None:
    """Pings, before everything and in the middle of a block."""
    one = writer()
    stream = one.heartbeat() + one.write(TextDelta("a")) + one.heartbeat()
    stream += one.write(TextDelta("b")) + one.end(b"")
    reader = read_strictly(stream)
    assert reader.pings == 2
    assert [block["text"] for block in reader.blocks] == ["ab"]


ERROR = {
    "message": "it broke", "type": "upstream_error", "code": "broken_stream", "source": "upstream",
    "request_id": "req_abc",
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    """Anthropic's type by the status, with all that contracts say beside it."""
    one = writer()
    reader = read_strictly(one.write(TextDelta("a")) + one.failed(ERROR, status))
    assert reader.error == {
        "type": "error",
        "error": {**ERROR, "type": kind, "status": status},
        "request_id": "req_abc",
    }
    assert reader.block is not None, "what was cut off is not stopped"


def test_an_error_before_everything() -> None:
    """No message begins."""
    reader = read_strictly(writer().failed({"code": "broken_stream"}, 502))
    assert reader.message is None
    assert reader.error is not None
    assert reader.error["error"]["message"]


def served(stream: bytes) -> anthropic.Anthropic:
    """The official client, in front of one answer."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, content=stream, headers=headers)
    )
    return anthropic.Anthropic(
        api_key="k", base_url="http://x", http_client=httpx2.Client(transport=transport)
    )


ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.mark.parametrize("reason", ["tool_calls", "length"])
def test_the_official_client_reads_it(reason: FinishReason) -> None:
    """Text, thinking, calls and usage, through its own stream helper."""
    events: list[Event] = [ReasoningDelta("hm"), TextDelta("I look."), CALL, Finished(reason)]
    stream = writer().heartbeat() + streamed([*events, UsageReported(Usage(9, 4, 2))], COMMENT)
    with served(stream) as client, client.messages.stream(**ASK) as messages:
        assert "".join(messages.text_stream) == "I look."
        final = messages.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.stop_reason == ("tool_use" if reason == "tool_calls" else "max_tokens")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 4)


def test_the_official_client_raises_on_an_error() -> None:
    """With our sentence in it."""
    one = writer()
    stream = one.write(TextDelta("a")) + one.failed(ERROR, 502)
    with (
        served(stream) as client,
        pytest.raises(anthropic.APIStatusError, match="it broke"),
        client.messages.stream(**ASK) as messages,
    ):
        messages.get_final_message()
