"""Neutral events, written as a Responses stream and as one body."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.responses import RESPONSES, client_code
from penstock.domain.chat import (
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
from penstock.errors import ERROR_TABLE, ErrorCode
from responses_stream import events_of, read_strictly

HEAD = AnswerHead("abc", "m", 1_700_000_000)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "patch"}
GROUP = {"type": "namespace", "name": "crm", "description": "C.", "tools": [FUNCTION]}
HELLO: list[Event] = [
    PrefillProgress(1, 5),
    TextDelta("Hel"),
    TextDelta("lo"),
    Finished("stop"),
    UsageReported(Usage(5, 2, 4)),
    StreamEnd(),
]


def asked(**more: Any) -> Asked:
    """A request, read."""
    body = {"model": "m", "input": "hi", "stream": True, "tools": [FUNCTION, PATCH, GROUP], **more}
    return RESPONSES.read(body)


def streamed(events: list[Event], request: Asked | None = None, comment: bytes = b"") -> bytes:
    """A whole stream."""
    writer = RESPONSES.writer(HEAD, request or asked())
    return b"".join(writer.write(event) for event in events) + writer.end(comment)


def kinds(stream: bytes) -> list[str]:
    """The types of its events, without the common head."""
    return [value["type"].removeprefix("response.") for value, _ in events_of(stream)]


def output(events: list[Event], request: Asked | None = None) -> list[dict[str, Any]]:
    """The items of a whole answer."""
    items: list[dict[str, Any]] = RESPONSES.whole(events, HEAD, request or asked())["output"]
    return items


MESSAGE = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"]  # fmt: skip
OPENING = ["created", "in_progress"]


@pytest.mark.parametrize(
    ("events", "request_more", "expected"),
    [
        pytest.param([TextDelta("a")], {}, MESSAGE, id="text"),
        pytest.param(
            [ReasoningDelta("a")],
            {},
            ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"],
            id="thinking",
        ),
        pytest.param(
            [ReasoningDelta("a")],
            {"reasoning": {"summary": "auto"}},
            ["output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"],
            id="thinking, asked for as a summary",
        ),
        pytest.param(
            [ToolCallDelta(0, "c", "f", "{"), ToolCallDelta(0, arguments="}")],
            {},
            ["output_item.added", "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"],
            id="a call",
        ),
        pytest.param(
            [ToolCallDelta(0, "c", "f", "{"), ToolCallDelta(0, "c", "f", "}")],
            {},
            ["output_item.added", "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"],
            id="a call whose every piece names it",
        ),
        pytest.param(
            [ToolCallDelta(0, "c", "f")],
            {},
            ["output_item.added", "function_call_arguments.done", "output_item.done"],
            id="a call without arguments",
        ),
        pytest.param(
            [ToolCallDelta(0, "c", "patch", '{"in'), ToolCallDelta(0, arguments='put":"x"}')],
            {},
            ["output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"],
            id="free text waits until it is known",
        ),
        pytest.param([TextDelta("a"), ReasoningDelta("")], {}, MESSAGE, id="nothing thought"),
        pytest.param([TextDelta("")], {}, [], id="nothing said"),
        pytest.param([], {}, [], id="nothing at all"),
    ],
)  # fmt: skip
def test_the_grammar(
    events: list[Event], request_more: dict[str, Any], expected: list[str]
) -> None:
    """Added, deltas, done: in the order of OpenAI's own streams."""
    stream = streamed(events, asked(**request_more))
    assert kinds(stream) == [*OPENING, *expected, "completed"]


def test_a_stream_byte_by_byte() -> None:
    """The hot event, exactly."""
    writer = RESPONSES.writer(HEAD, asked())
    writer.write(TextDelta("a"))
    assert writer.write(TextDelta('"\n')) == (
        b"event: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","item_id":"msg_abc0","output_index":0,'
        b'"content_index":0,"delta":"\\"\\n","logprobs":[],"sequence_number":5}\n\n'
    )


def test_the_closing_event() -> None:
    """It holds the whole response with the usage that came last, and the comment before its data."""
    stream = streamed(HELLO, comment=b": penstock {}\n")
    value, comments = events_of(stream)[-1]
    assert comments == [": penstock {}"]
    response = value["response"]
    assert response["id"] == "resp_abc"
    assert response["created_at"] == 1_700_000_000
    assert response["status"] == "completed"
    assert response["output"] == [
        {
            "id": "msg_abc0", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        }
    ]  # fmt: skip
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_the_request_is_repeated() -> None:
    """As OpenAI repeats it; what was not kept is not claimed."""
    request = asked(
        instructions="s", temperature=0.5, top_p=0.9, max_output_tokens=7, metadata={"a": "b"}, store=True,
        tool_choice="required", parallel_tool_calls=False, truncation="auto", prompt_cache_key="k",
        reasoning={"effort": "low", "summary": "auto"}, text={"verbosity": "low"},
    )  # fmt: skip
    body = RESPONSES.whole(HELLO, HEAD, request)
    assert body["store"] is False
    assert body["previous_response_id"] is None
    assert body["error"] is None
    assert body["incomplete_details"] is None
    assert body["instructions"] == "s"
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.9, 7)
    assert body["metadata"] == {"a": "b"}
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert body["truncation"] == "auto"
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert [tool["type"] for tool in body["tools"]] == ["function", "custom", "namespace"]
    openai.types.responses.Response.model_validate(body, strict=False)


@pytest.mark.parametrize(
    ("reason", "status", "why", "item_status"),
    [
        ("stop", "completed", None, "completed"),
        ("tool_calls", "completed", None, "completed"),
        ("length", "incomplete", "max_output_tokens", "incomplete"),
        ("content_filter", "incomplete", "content_filter", "incomplete"),
    ],
)
def test_ends(reason: FinishReason, status: str, why: str | None, item_status: str) -> None:
    """An answer that was cut off says so, in the response and in the item that was cut."""
    events: list[Event] = [ReasoningDelta("hm"), TextDelta("a"), Finished(reason)]
    stream = streamed(events)
    assert kinds(stream)[-1] == status
    response = read_strictly(stream).closing
    assert response is not None
    assert (response["incomplete_details"] or {}).get("reason") == why
    assert [item["status"] for item in response["output"]] == ["completed", item_status]


def test_arguments_that_were_cut_off_stay_cut_off() -> None:
    """They are never completed, neither of functions nor of free text."""
    for name, field in (("f", "arguments"), ("patch", "input")):
        (item,) = output([ToolCallDelta(0, "c", name, '{"input":"*** Beg'), Finished("length")])
        assert item[field] == '{"input":"*** Beg'
        assert item["status"] == "incomplete"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param('{"input":"a\\nb"}', "a\nb", id="as asked for"),
        pytest.param('"a\\nb"', "a\nb", id="a text without an object"),
        pytest.param("*** Begin Patch", "*** Begin Patch", id="no JSON at all"),
        pytest.param('{"patch":"x"}', '{"patch":"x"}', id="another field"),
        pytest.param('{"input":1}', '{"input":1}', id="no text"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_free_text(arguments: str, text: str) -> None:
    """What the model meant as the tool's text; anything else is the tool's to refuse."""
    (item,) = output([ToolCallDelta(0, "c", "patch", arguments)])
    assert item["type"] == "custom_tool_call"
    assert item["input"] == text


def test_calls_have_ids_of_their_own() -> None:
    """A server that gives none or the same twice does not break the official client."""
    items = output([ToolCallDelta(n, call_id, "f") for n, call_id in enumerate(["", "c", "c", ""])])
    assert [item["call_id"] for item in items] == ["call_abc0", "c", "call_abc2", "call_abc3"]
    assert [item["id"] for item in items] == ["fc_abc0", "fc_abc1", "fc_abc2", "fc_abc3"]


def test_a_call_in_a_namespace() -> None:
    """It goes back by the names that the client knows."""
    (item,) = output([ToolCallDelta(0, "c", "crm__f", "{}")])
    assert (item["namespace"], item["name"]) == ("crm", "f")


def test_heartbeats_before_during_and_between() -> None:
    """The first one is our own response.created, which does not come again; all are numbered."""
    writer = RESPONSES.writer(HEAD, asked())
    stream = writer.heartbeat() + writer.heartbeat() + writer.write(PrefillProgress(1, 2))
    stream += writer.write(TextDelta("a")) + writer.heartbeat() + writer.write(TextDelta("b"))
    stream += writer.write(Finished("stop")) + writer.heartbeat() + writer.end(b"")
    assert kinds(stream)[:3] == ["created", "in_progress", "output_item.added"]
    assert kinds(stream).count("created") == 1
    assert kinds(stream).count("in_progress") == 3
    assert len(read_strictly(stream).done) == 1


def test_one_heartbeat_before_the_first_word() -> None:
    """The opening is completed, not repeated."""
    writer = RESPONSES.writer(HEAD, asked())
    stream = writer.heartbeat() + writer.write(TextDelta("a")) + writer.end(b"")
    assert kinds(stream) == [*OPENING, *MESSAGE, "completed"]


@pytest.mark.parametrize("code", list(ErrorCode))
def test_errors_make_clients_do_the_right_thing(code: ErrorCode) -> None:
    """Codex compacts, ends its turn, waits, or tries again, each where it helps; ours stands beside it."""
    row = ERROR_TABLE[code]
    error = {"message": "It broke.", "code": code.value, "type": row.type, "source": "penstock"}
    stream = RESPONSES.writer(HEAD, asked()).failed(error, row.status)
    assert kinds(stream) == ["created", "failed"]
    failed = read_strictly(stream).closing
    assert failed is not None
    assert failed["error"]["message"] == "It broke."
    assert failed["error"]["penstock"] == {**error, "status": row.status}
    said = failed["error"]["code"]
    if code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        assert said == "context_length_exceeded"
    elif code in (ErrorCode.LOOP_DETECTED, ErrorCode.UPSTREAM_AUTH):
        assert said == "invalid_prompt"
    elif row.status == 429:
        assert said == "rate_limit_exceeded"
    elif row.status >= 500 or code is ErrorCode.REQUEST_TIMEOUT:
        assert said == "server_error"
    else:
        assert said == "invalid_prompt"


@pytest.mark.parametrize("status", [400, 408, 429, 500, 503])
def test_errors_without_a_code(status: int) -> None:
    """The status decides."""
    expected = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(status, "server_error")
    assert client_code(None, status) == expected


def test_a_failure_leaves_the_open_call_open() -> None:
    """Clients run a tool when its item is done, so it is not; what was done stays in the response."""
    writer = RESPONSES.writer(HEAD, asked())
    stream = writer.write(TextDelta("a")) + writer.write(ToolCallDelta(0, "c", "f", '{"a"'))
    stream += writer.failed({"message": "It broke.", "code": "stall_timeout"}, 504)
    failed = read_strictly(stream).closing
    assert failed is not None
    assert [item["type"] for item in failed["output"]] == ["message"]


def client_for(answer: bytes, kind: str) -> openai.OpenAI:
    """The official client in front of an answer."""
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, content=answer, headers={"content-type": kind})
    )
    return openai.OpenAI(
        api_key="k", base_url="http://x/v1", http_client=httpx.Client(transport=transport)
    )


def test_the_official_client_streams_it() -> None:
    """Its own accumulation ends with text, thinking and calls; heartbeats and the comment do no harm."""
    events: list[Event] = [
        ReasoningDelta("hm"),
        TextDelta("Hel"),
        TextDelta("lo"),
        ToolCallDelta(0, "c1", "f", '{"a":'),
        ToolCallDelta(0, arguments="1}"),
        ToolCallDelta(1, "c2", "patch", '{"input":"x"}'),
        Finished("tool_calls"),
        UsageReported(Usage(5, 2)),
    ]
    writer = RESPONSES.writer(HEAD, asked())
    answer = writer.heartbeat() + writer.heartbeat()
    answer += b"".join(writer.write(event) for event in events) + writer.end(b": penstock {}\n")
    with client_for(answer, "text/event-stream") as client:
        with client.responses.stream(model="m", input="hi") as stream:
            deltas = [one.delta for one in stream if one.type == "response.output_text.delta"]
            final = stream.get_final_response()
    assert deltas == ["Hel", "lo"]
    assert final.output_text == "Hello"
    assert [item.type for item in final.output] == [
        "reasoning", "message", "function_call", "custom_tool_call",
    ]  # fmt: skip
    assert final.usage is not None
    assert final.usage.total_tokens == 7


def test_the_official_client_reads_it_whole() -> None:
    """The plain body."""
    body = RESPONSES.whole(HELLO, HEAD, asked())
    with client_for(httpx.Response(200, json=body).content, "application/json") as client:
        response = client.responses.create(model="m", input="hi")
    assert response.output_text == "Hello"
    assert response.status == "completed"


def test_the_official_client_sees_the_failure() -> None:
    """As an event, after `response.created`."""
    answer = RESPONSES.writer(HEAD, asked()).failed({"message": "m", "code": "queue_deadline"}, 503)
    with client_for(answer, "text/event-stream") as client:
        with client.responses.stream(model="m", input="hi") as stream:
            seen = [one.type for one in stream]
    assert seen == ["response.created", "response.failed"]
