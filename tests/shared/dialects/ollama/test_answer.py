"""Neutral events -> Ollama's lines and bodies, judged by the official client's own models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.ollama.answer import LineWriter
from penstock.dialects.ollama.chat import CHAT
from penstock.dialects.ollama.generate import GENERATE, CompletionReader
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.surfaces import OLLAMA
from penstock.domain.chat import (
    Event,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    StreamEnd,
    StreamError,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)

HEAD = AnswerHead("abc", "m:7b", 1_790_000_000)
ASKED = CHAT.read({"model": "m:7b", "messages": [{"role": "user", "content": "hi"}]})
PROMPTED = GENERATE.read({"model": "m:7b", "prompt": "hi"})
ERROR = {
    "message": "It broke off.", "type": "api_error", "param": None, "code": "broken_stream", "source": "upstream",
    "upstream": "box", "attempts": 2,
}  # fmt: skip
Dialect = Any


def lines_of(data: bytes) -> list[dict[str, Any]]:
    """The values of whole lines."""
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def streamed(events: Sequence[Event], dialect: Dialect = CHAT, asked: Asked = ASKED) -> list[Any]:
    """A complete answer as a stream."""
    writer = dialect.writer(HEAD, asked)
    return lines_of(
        b"".join(writer.write(event) for event in events) + writer.end(b": no comment\n")
    )


def test_a_stream_of_text() -> None:
    """Thinking, text, and a last line with the counts."""
    events = [
        PrefillProgress(1, 9),
        ReasoningDelta("hm"),
        TextDelta("hel"),
        TextDelta("lo"),
        Finished("stop"),
        UsageReported(Usage(9, 2)),
        StreamEnd(),
    ]
    top = {"model": "m:7b", "created_at": "2026-09-21T14:13:20Z"}
    assert streamed(events) == [
        {**top, "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {**top, "message": {"role": "assistant", "content": "hel"}, "done": False},
        {**top, "message": {"role": "assistant", "content": "lo"}, "done": False},
        {
            **top, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "total_duration": 0,
            "load_duration": 0, "prompt_eval_count": 9, "prompt_eval_duration": 0, "eval_count": 2, "eval_duration": 0,
        },
    ]  # fmt: skip
    prompted = streamed(events, GENERATE, PROMPTED)
    assert prompted[0] == {**top, "response": "", "thinking": "hm", "done": False}
    assert prompted[1] == {**top, "response": "hel", "done": False}
    assert (prompted[3]["response"], prompted[3]["done_reason"]) == ("", "stop")
    assert "context" not in prompted[3]


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        pytest.param(['{"a"', ": 1}"], {"a": 1}, id="an object in pieces"),
        pytest.param([""], {}, id="none"),
        pytest.param(['{"path": "x", "text": "half a fi'], {"arguments": '{"path": "x", "text": "half a fi'}, id="cut off"),
        pytest.param(["[1]"], {"arguments": "[1]"}, id="a list"),
        pytest.param(['"x"'], {"arguments": '"x"'}, id="a text"),
        pytest.param(['{"a":' + "[" * 260 + "]" * 260 + "}"], {"arguments": '{"a":' + "[" * 260 + "]" * 260 + "}"}, id="nested too deep to write"),
        pytest.param(['{"a": NaN}'], {"arguments": '{"a": NaN}'}, id="no JSON"),
    ],
)  # fmt: skip
def test_arguments_are_an_object_and_never_lost(pieces: list[str], arguments: Any) -> None:
    """A call is one line with whole arguments; what is no object stays readable and is not completed."""
    calls = [
        ToolCallDelta(0, "x1", "f", pieces[0]),
        *(ToolCallDelta(0, arguments=p) for p in pieces[1:]),
    ]
    events: list[Event] = [*calls, Finished("length")]
    line, last = streamed(events)
    call = {"id": "x1", "function": {"index": 0, "name": "f", "arguments": arguments}}
    assert line["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert last["done_reason"] == "length"
    assert CHAT.whole(events, HEAD, ASKED)["message"]["tool_calls"] == [call]


def test_a_call_is_said_when_it_is_complete() -> None:
    """With the next call, the next word, or the end; a heartbeat and progress do not hurry it."""
    writer = CHAT.writer(HEAD, ASKED)
    assert writer.write(ToolCallDelta(0, "a", "f", "{")) == b""
    assert lines_of(writer.heartbeat())[0]["message"] == {"role": "assistant", "content": ""}
    assert writer.write(PrefillProgress(1, 2)) == b""
    assert writer.write(UsageReported(Usage(1, 1))) == b""
    assert writer.write(ToolCallDelta(0, arguments="}")) == b""
    first = lines_of(writer.write(ToolCallDelta(1, "", "g", "{}")))
    assert [c["function"]["name"] for c in first[0]["message"]["tool_calls"]] == ["f"]
    second, text = lines_of(writer.write(TextDelta("x")))
    assert second["message"]["tool_calls"] == [
        {"function": {"index": 1, "name": "g", "arguments": {}}}
    ]
    assert text["message"]["content"] == "x"
    writer.write(ToolCallDelta(2, "c", "h", "{}"))
    third, last = lines_of(writer.end(b""))
    assert third["message"]["tool_calls"][0]["function"]["index"] == 2
    assert last["done"]


@pytest.mark.parametrize(
    ("timings", "said"),
    [
        pytest.param({"total_duration": 2.5, "load_duration": 0.5, "prompt_eval_duration": 1.25, "eval_duration": 0.75}, (2_500_000_000, 500_000_000, 1_250_000_000, 750_000_000), id="Ollama's own"),
        pytest.param({"prompt_ms": 12.5, "predicted_ms": 100.0, "cache_n": 7}, (112_500_000, 0, 12_500_000, 100_000_000), id="llama.cpp's"),
        pytest.param({}, (0, 0, 0, 0), id="unknown"),
        pytest.param({"prompt_ms": float("inf"), "predicted_ms": 1e300}, (2**62, 0, 0, 2**62), id="nonsense"),
    ],
)  # fmt: skip
def test_durations_are_in_nanoseconds(timings: dict[str, float], said: tuple[int, ...]) -> None:
    """As Ollama says them, whoever measured."""
    last = streamed([UsageReported(Usage(1, 1), timings)])[-1]
    names = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    assert tuple(last[name] for name in names) == said


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_why_it_ended(reason: Any) -> None:
    """Ollama has two words for it, and clients ask for one of them only."""
    said = "length" if reason == "length" else "stop"
    assert streamed([Finished(reason)])[-1]["done_reason"] == said
    assert CHAT.whole([Finished(reason)], HEAD, ASKED)["done_reason"] == said


def test_a_failure_is_what_the_official_client_raises() -> None:
    """The message as a text, our own fields beside it; no last line."""
    writer = CHAT.writer(HEAD, ASKED)
    writer.write(ToolCallDelta(0, "a", "f", '{"path": "/etc'))
    assert lines_of(writer.failed(ERROR, 502)) == [
        {"error": "It broke off.", "code": "broken_stream", "source": "upstream", "upstream": "box", "attempts": 2, "status": 502}
    ]  # fmt: skip
    assert lines_of(CHAT.writer(HEAD, ASKED).failed({}, 500))[0]["error"]


def test_loading_is_answered() -> None:
    """As Ollama answers: complete, with a reason of its own."""
    asked = CHAT.read({"model": "m:7b", "messages": []})
    loaded = ollama.ChatResponse.model_validate(CHAT.loaded(HEAD, asked))
    assert (loaded.done, loaded.done_reason, loaded.message.content) == (True, "load", "")
    asked = GENERATE.read({"model": "m:7b", "keep_alive": 0})
    gone = ollama.GenerateResponse.model_validate(GENERATE.loaded(HEAD, asked))
    assert (gone.done, gone.done_reason, gone.response) == (True, "unload", "")


def test_a_completion_of_another_server_is_read() -> None:
    """Text, the reason, and the counts with llama.cpp's timings; oddities are passed over."""
    reader = CompletionReader()
    chunks: list[Any] = [
        {"choices": [{"text": "a b", "index": 0, "finish_reason": None}]},
        {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "timings": {"prompt_ms": 1.5, "x": "y"}},
        {"choices": [1], "usage": {"prompt_tokens": None}}, {"choices": 1},
    ]  # fmt: skip
    events = [event for chunk in chunks for event in reader.read(chunk)]
    assert events == [
        TextDelta("a b"),
        Finished("length"),
        UsageReported(Usage(3, 2), {"prompt_ms": 1.5}),
    ]
    assert reader.whole({"choices": [{"text": "x"}]}) == [TextDelta("x"), StreamEnd()]
    for broken in ([], None, {"error": "x"}):
        assert isinstance(reader.read(broken)[0], StreamError)


# --- Laws ---

TEXTS = st.text(max_size=9)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Events in the order that `AnswerWriter` promises."""
    events: list[Event] = [PrefillProgress(n, 9) for n in range(draw(st.integers(0, 2)))]
    calls = 0
    for kind in draw(st.lists(st.sampled_from("trc"), max_size=6)):
        if kind == "t":
            events.append(TextDelta(draw(TEXTS)))
        elif kind == "r":
            events.append(ReasoningDelta(draw(TEXTS)))
        else:
            text = draw(st.sampled_from(['{"a": [1, "x"]}', "{}", '{"cut', "", "[]"]))
            at = draw(st.integers(0, len(text)))
            events.append(ToolCallDelta(calls, draw(st.sampled_from(["", "id1"])), "f", text[:at]))
            events.append(ToolCallDelta(calls, arguments=text[at:]))
            calls += 1
    tail: list[Event] = []
    if draw(st.booleans()):
        tail.append(Finished(draw(st.sampled_from(["stop", "length", "tool_calls"]))))
    if draw(st.booleans()):
        usage = UsageReported(Usage(draw(st.integers(0, 99)), 3), {"prompt_ms": 1.5})
        tail.insert(draw(st.integers(0, len(tail))), usage)
    return events + tail


def added_up(lines: list[Any], dialect: Dialect) -> dict[str, Any]:
    """What a client has in the end that keeps adding lines up."""
    text, thinking, calls = "", "", []
    for line in lines:
        said = line["message"] if dialect is CHAT else line
        text += said["content"] if dialect is CHAT else said["response"]
        thinking += said.get("thinking", "")
        calls += said.get("tool_calls", [])
    whole = dict(lines[-1])
    message: dict[str, Any] = {"content": text} if dialect is CHAT else {"response": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    whole.update({"message": {"role": "assistant", **message}} if dialect is CHAT else message)
    return whole


@given(answers(), st.sampled_from([CHAT, GENERATE]), st.data())
def test_a_stream_adds_up_to_the_whole(
    events: list[Event], dialect: Dialect, data: st.DataObject
) -> None:
    """The official client reads every line, and their sum is the plain answer; heartbeats add nothing."""
    asked = ASKED if dialect is CHAT else PROMPTED
    writer = dialect.writer(HEAD, asked)
    sent = b""
    for event in events:
        sent += writer.write(event)
        if data.draw(st.booleans()):
            sent += writer.heartbeat()
    lines = lines_of(sent + writer.end(b""))
    model = ollama.ChatResponse if dialect is CHAT else ollama.GenerateResponse
    for line in lines:
        model.model_validate(line)
    whole = dialect.whole(events, HEAD, asked)
    model.model_validate(whole)
    assert added_up(lines, dialect) == whole
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


@given(answers(), st.sampled_from([CHAT, GENERATE]), st.data())
def test_a_stream_cut_anywhere_ends_well(
    events: list[Event], dialect: Dialect, data: st.DataObject
) -> None:
    """After any event: whole lines, one error as the last, nothing that looks like a complete answer."""
    writer = dialect.writer(HEAD, ASKED)
    sent = b"".join(
        writer.write(event) for event in events[: data.draw(st.integers(0, len(events)))]
    )
    lines = lines_of(sent + writer.failed(ERROR, 502))
    assert lines[-1]["error"] == "It broke off."
    assert not any(line.get("done") for line in lines)
    assert not any(OLLAMA.is_closing_event(json.dumps(line).encode()) for line in lines)


@given(answers(), st.data())
def test_a_fork_goes_its_own_way(events: list[Event], data: st.DataObject) -> None:
    """What a fork writes is what the writer would have written, and changes nothing of it."""
    at = data.draw(st.integers(0, len(events)))
    alone, forked = CHAT.writer(HEAD, ASKED), CHAT.writer(HEAD, ASKED)
    for event in events[:at]:
        assert alone.write(event) == forked.write(event)
    fork = forked.fork()
    assert isinstance(fork, LineWriter)
    calls = [event.call for event in events[:at] if isinstance(event, ToolCallDelta)]
    if calls:
        fork.write(ToolCallDelta(calls[-1], arguments="more"))
    fork.write(ToolCallDelta(7, "other", "g", "{}"))
    fork.write(ReasoningDelta("elsewhere"))
    fork.end(b"")
    rest = b"".join(forked.write(event) for event in events[at:]) + forked.end(b"")
    assert rest == b"".join(alone.write(event) for event in events[at:]) + alone.end(b"")


@given(answers())
def test_our_own_reader_understands_it(events: list[Event]) -> None:
    """Read back by the codec that reads real Ollama, an answer has the same text, thinking and calls."""
    reader = ChatReader("seed")
    back = [event for line in streamed(events) for event in reader.read(line)]
    whole, again = CHAT.whole(events, HEAD, ASKED), CHAT.whole(back, HEAD, ASKED)
    for message in (whole["message"], again["message"]):
        for call in message.get("tool_calls", ()):
            call.pop("id", None)
    assert again["message"] == whole["message"]
    assert again["eval_count"] == whole["eval_count"]
