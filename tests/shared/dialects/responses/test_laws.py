"""Laws of the Responses dialect, over requests and answers that nobody wrote down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.responses import RESPONSES
from penstock.domain.chat import (
    ChatRequest,
    Event,
    Finished,
    ImagePart,
    Message,
    Part,
    PrefillProgress,
    ReasoningDelta,
    ResponseFormat,
    Role,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from penstock.errors import RequestError
from responses_stream import StrictReader, read_strictly, text_of

HEAD = AnswerHead("abc", "m", 1_700_000_000)
TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}},
    {"type": "custom", "name": "apply_patch"},
    {"type": "namespace", "name": "mcp__d", "description": "", "tools": [
        {"type": "function", "name": "look"}, {"type": "custom", "name": "run"}]},
]  # fmt: skip
NAMES = ("f", "apply_patch", "mcp__d__look", "mcp__d__run", "unknown")


def asked(**more: Any) -> Asked:
    """A request with each kind of tool."""
    return RESPONSES.read({"model": "m", "input": "hi", "tools": TOOLS, "stream": True, **more})


REQUESTS = [asked(), asked(reasoning={"summary": "auto"}), asked(tools=[], instructions="s")]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
pieces = st.lists(texts, max_size=4)
arguments = st.one_of(
    pieces,
    texts.map(lambda text: [json.dumps({"input": text})]),
    texts.map(lambda text: ['{"input', '":', json.dumps(text), "}"]),
    texts.map(lambda text: [json.dumps(text)]),
)
calls = st.tuples(st.sampled_from(["", "c1", "c2", "c3"]), st.sampled_from(NAMES), arguments)
segments = st.one_of(
    st.tuples(st.just("text"), pieces),
    st.tuples(st.just("thinking"), pieces),
    st.tuples(st.just("call"), calls),
    st.tuples(st.just("progress"), st.none()),
)
endings = st.lists(
    st.one_of(
        st.sampled_from(["stop", "length", "tool_calls", "content_filter"]).map(Finished),
        st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9)).map(
            UsageReported
        ),
    ),
    max_size=2,
    unique_by=type,
)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Events in the order that `AnswerWriter` promises."""
    events: list[Event] = []
    number = 0
    for kind, what in draw(st.lists(segments, max_size=6)):
        if kind == "text":
            events += [TextDelta(one) for one in what]
        elif kind == "thinking":
            events += [ReasoningDelta(one) for one in what]
        elif kind == "progress":
            events.append(PrefillProgress(1, 2))
        else:
            call_id, name, given_arguments = what
            events.append(ToolCallDelta(number, call_id, name))
            events += [ToolCallDelta(number, arguments=one) for one in given_arguments]
            number += 1
    return events + draw(endings)


def streamed(events: Sequence[Event], request: Asked, beats: Sequence[bool] = ()) -> bytes:
    """A whole stream, with heartbeats before the events where *beats* say so."""
    writer = RESPONSES.writer(HEAD, request)
    stream = b""
    for number, event in enumerate(events):
        if number < len(beats) and beats[number]:
            stream += writer.heartbeat()
        stream += writer.write(event)
    return stream + writer.end(b": penstock {}\n")


@given(answers(), st.sampled_from(REQUESTS), st.lists(st.booleans(), max_size=12))
def test_any_answer_is_a_stream_that_a_strict_client_reads(
    events: list[Event], request: Asked, beats: list[bool]
) -> None:
    """Valid by the SDK's types and the grammar, and it adds up to the body of a plain answer."""
    reader = read_strictly(streamed(events, request, beats))
    assert reader.closing == RESPONSES.whole(events, HEAD, request)


@given(answers(), st.sampled_from(REQUESTS))
def test_nothing_of_an_answer_is_lost(events: list[Event], request: Asked) -> None:
    """Texts, thinking, names and arguments arrive as the model wrote them."""
    output = RESPONSES.whole(events, HEAD, request)["output"]
    for kind, item_kind in ((TextDelta, "message"), (ReasoningDelta, "reasoning")):
        said = "".join(one.text for one in events if isinstance(one, kind))
        assert said == "".join(text_of(item) for item in output if item["type"] == item_kind)
    begun = [one for one in events if isinstance(one, ToolCallDelta) and one.name]
    items = [item for item in output if "call_id" in item]
    assert len(items) == len(begun)
    assert len({item["call_id"] for item in items}) == len(items)
    for first, item in zip(begun, items, strict=True):
        tool = request.echo["names"].get(first.name)
        assert item["name"] == (tool.name if tool else first.name)
        assert item.get("namespace") == (tool.namespace if tool else None)
        written = "".join(
            one.arguments
            for one in events
            if isinstance(one, ToolCallDelta) and one.call == first.call
        )
        if item["type"] == "function_call":
            assert item["arguments"] == written
        else:
            assert item["input"] == free(written)


def free(written: str) -> str:
    """The rule for free text, said another way."""
    try:
        value = json.loads(written)
    except ValueError:
        return written
    inner = value.get("input") if isinstance(value, dict) else value
    return inner if isinstance(inner, str) else written


@given(
    answers(),
    st.sampled_from(REQUESTS),
    st.integers(0, 40),
    st.sampled_from([("context_length_exceeded", 400), ("stall_timeout", 504), (None, 429)]),
    st.booleans(),
)
def test_an_answer_cut_after_any_event_ends_well(
    events: list[Event], request: Asked, place: int, error: tuple[str | None, int], beat: bool
) -> None:
    """The error is the last event, and no tool that was not complete is done."""
    writer = RESPONSES.writer(HEAD, request)
    reader = StrictReader()
    if beat:
        reader.feed(writer.heartbeat())
    for event in events[:place]:
        reader.feed(writer.write(event))
    before = len(reader.done)
    code, status = error
    reader.feed(writer.failed({"message": "it broke", "code": code, "type": "t"}, status))
    assert reader.closing is not None
    assert reader.closing["status"] == "failed"
    assert reader.closing["error"]["penstock"]["status"] == status
    assert len(reader.done) == before


@given(answers(), st.sampled_from(REQUESTS), st.integers(0, 40), answers())
def test_a_fork_goes_its_own_way(
    events: list[Event], request: Asked, place: int, other: list[Event]
) -> None:
    """What the fork writes changes nothing in the writer, and both end well."""
    writer = RESPONSES.writer(HEAD, request)
    before = b"".join(writer.write(event) for event in events[:place])
    fork = writer.fork()
    calls_so_far = sum(isinstance(event, ToolCallDelta) for event in events)
    moved = [
        ToolCallDelta(one.call + calls_so_far, one.id, one.name, one.arguments)
        if isinstance(one, ToolCallDelta)
        else one
        for one in other
    ]
    forked = before + b"".join(fork.write(event) for event in moved) + fork.end(b"")
    rest = b"".join(writer.write(event) for event in events[place:])
    assert before + rest + writer.end(b": penstock {}\n") == streamed(events, request)
    assert read_strictly(forked).closing is not None


# Bodies that nobody would send, near to those that somebody does.
FIELDS = (
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning",
    "store", "stream", "include", "prompt_cache_key", "text", "metadata", "max_output_tokens",
    "temperature", "truncation", "user", "stream_options", "background", "prompt", "stop", "odd",
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "message", "function_call", "function_call_output", "custom_tool_call", "reasoning", "user",
        "assistant", "input_text", "input_image", "input_file", "function", "custom", "namespace",
        "allowed_tools", "auto", "required", "json_schema", "local_shell_call", "item_reference",
        "additional_tools", "data:image/png;base64,AA", "data:x", "f", "",
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "type", "role", "content", "text", "name", "call_id", "arguments", "output", "input", "id",
        "summary", "encrypted_content", "action", "tools", "parameters", "format", "schema", "mode",
        "image_url", "namespace", "effort", "definition", "syntax", "description", "file_data",
    ]
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | WORDS | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
items = st.dictionaries(KEYS, json_values, max_size=6)
bodies = st.fixed_dictionaries(
    {"input": st.lists(items, max_size=3) | json_values},
    optional={
        **{name: json_values for name in FIELDS if name not in ("input", "tools")},
        "tools": st.lists(items, max_size=3) | json_values,
    },
)


@given(bodies)
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    """Whatever JSON it is: a request, or an error that names a field; and an answer can be written."""
    refusal = None
    try:
        request = RESPONSES.read(body)
    except RequestError as error:
        refusal = error
    if refusal is not None:
        assert refusal.param
        assert refusal.message.endswith(".")
        return
    assert request.chat.messages
    writer = RESPONSES.writer(HEAD, request)
    assert writer.write(TextDelta("x")) + writer.end(b"")


def nested(depth: int) -> Any:
    """Objects in objects."""
    value: Any = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"tools": [{"type": "function", "name": "f", "parameters": nested(900)}]}, id="a schema"),
        pytest.param({"metadata": nested(900)}, id="metadata"),
        pytest.param({"text": {"format": nested(900)}}, id="a format"),
        pytest.param({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": nested(900)}]}, id="arguments"),
        pytest.param({"input": [{"type": "function_call_output", "call_id": "c", "output": nested(900)}]}, id="an output"),
        pytest.param({"input": [{"type": "local_shell_call", "call_id": "c", "action": nested(900)}]}, id="a shell call"),
    ],
)  # fmt: skip
def test_depth_is_refused(body: dict[str, Any]) -> None:
    """What is nested too deeply to be written again is refused by its field, not by a crash."""
    with pytest.raises(RequestError):
        RESPONSES.read({"input": "hi", **body})


def message(role: Role, *rest: Any, **more: Any) -> Message:
    """What is not given stays empty: hypothesis would fill in each field of a tuple."""
    return Message(role, *rest, **more)


# A neutral request, said as a Responses body.
ids = st.sampled_from(["c1", "c2", "c3"])
functions = st.builds(
    Tool,
    name=st.sampled_from(["f", "g", "h"]),
    description=texts.map(str.strip),
    parameters=st.none() | st.just({"type": "object"}),
    strict=st.none() | st.booleans(),
)
images = st.builds(ImagePart, data=st.just("AAAA"), media_type=st.just("image/png")) | st.builds(
    ImagePart, url=st.just("https://example.com/x.png"), detail=st.none() | st.just("low")
)
user_parts = st.lists(st.builds(TextPart, texts) | images, max_size=3).map(tuple)
text_parts = st.lists(st.builds(TextPart, texts), max_size=2).map(tuple)
others = st.one_of(
    st.builds(message, st.sampled_from(["user", "developer", "system"]), user_parts),
    st.builds(message, st.just("tool"), text_parts, tool_call_id=ids),
)
turns = st.builds(
    message,
    st.just("assistant"),
    text_parts,
    st.lists(st.builds(ToolCall, ids, st.sampled_from(["f", "z"]), texts), max_size=2).map(tuple),
    reasoning=st.none() | texts.filter(bool),
).filter(lambda turn: bool(turn.parts or turn.tool_calls or turn.reasoning))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Messages in which no turn of the assistant follows another."""
    messages: list[Message] = []
    for message in draw(st.lists(others | turns, min_size=1, max_size=6)):
        if messages and messages[-1].role == message.role == "assistant":
            continue
        messages.append(message)
    return tuple(messages)


formats = (
    st.just(ResponseFormat())
    | st.just(ResponseFormat("json_object"))
    | st.builds(ResponseFormat, st.just("json_schema"), st.just({"type": "object"}), st.just("n"))
)
chats = st.builds(
    ChatRequest,
    model=texts,
    messages=conversations(),
    tools=st.lists(functions, max_size=3, unique_by=lambda tool: tool.name).map(tuple),
    sampling=st.dictionaries(
        st.sampled_from(["temperature", "top_p"]), st.floats(0, 1), max_size=2
    ),
    max_output_tokens=st.none() | st.integers(1, 99),
    response_format=formats,
    reasoning=st.sampled_from([None, False, "low", "high"]),
)


def said(chat: ChatRequest) -> dict[str, Any]:
    """A Responses body with the same meaning."""
    spoken: list[dict[str, Any]] = []
    for message in chat.messages:
        parts = [part_of(part, message.role) for part in message.parts]
        if message.role == "tool":
            kind = "function_call_output"
            spoken.append({"type": kind, "call_id": message.tool_call_id, "output": parts})
            continue
        if message.reasoning is not None:
            summary = [{"type": "summary_text", "text": message.reasoning}]
            spoken.append({"type": "reasoning", "id": "rs", "summary": summary})
        if parts or message.role != "assistant":
            spoken.append({"role": message.role, "content": parts})
        spoken += [
            {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]  # fmt: skip
    form = chat.response_format
    text: dict[str, Any] = {"format": {"type": form.kind}}
    if form.schema is not None:
        text["format"].update(schema=form.schema, name=form.name)
    return {
        "model": chat.model,
        "input": spoken,
        "tools": [
            {"type": "function", "name": tool.name, "description": tool.description,
             "parameters": tool.parameters, "strict": tool.strict}
            for tool in chat.tools
        ],
        **chat.sampling,
        "max_output_tokens": chat.max_output_tokens,
        "text": text,
        "reasoning": {"effort": "none" if chat.reasoning is False else chat.reasoning},
    }  # fmt: skip


def part_of(part: Part, role: str) -> dict[str, Any]:
    """One content part."""
    if isinstance(part, TextPart):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}
    assert isinstance(part, ImagePart)
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "input_image", "image_url": url, "detail": part.detail}


@given(chats)
def test_a_request_keeps_its_meaning(chat: ChatRequest) -> None:
    """Said in the dialect and read back, it is the same request, and nothing had to be announced."""
    request = RESPONSES.read(said(chat))
    assert request.chat == chat
    assert request.changes == ()
