"""Laws of the Messages dialect, over requests and answers that nobody wrote down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages_stream import StrictReader, accumulated, read_strictly
from penstock.dialects.anthropic import MESSAGES, read_for_count
from penstock.dialects.base import AnswerHead, Asked
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
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from penstock.errors import RequestError

HEAD = AnswerHead("abc", "m", 1_700_000_000)
ASKED = Asked(ChatRequest("m", ()))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
pieces = st.lists(texts, max_size=4)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | texts
objects = st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=3)


@st.composite
def arguments(draw: st.DrawFn, spoiled: bool) -> list[str]:
    """A call's arguments in pieces: an object, cut off somewhere or no JSON at all if *spoiled*."""
    text = draw(objects.map(json.dumps) | st.just(""))
    if spoiled:
        text = draw(texts) if draw(st.booleans()) else text[: draw(st.integers(0, len(text)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


usages = st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9))
reasons = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
endings = st.lists(
    st.one_of(reasons.map(Finished), usages.map(UsageReported)), max_size=2, unique_by=type
)


@st.composite
def answers(draw: st.DrawFn, spoiled: bool = True) -> list[Event]:
    """Events in the order that `AnswerWriter` promises."""
    events: list[Event] = []
    number = 0
    for _ in range(draw(st.integers(0, 2))):
        events.append(PrefillProgress(1, draw(st.integers(0, 9)), draw(st.integers(0, 9))))
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call"]), max_size=6)):
        if kind == "text":
            events += [TextDelta(one) for one in draw(pieces)]
        elif kind == "thinking":
            events += [ReasoningDelta(one) for one in draw(pieces)]
        else:
            call_id = draw(st.sampled_from(["", "c1", "c2"]))
            name = draw(st.sampled_from(["f", "g"]))
            first, *more = draw(arguments(spoiled))
            events.append(ToolCallDelta(number, call_id, name, first))
            events += [ToolCallDelta(number, arguments=one) for one in more]
            number += 1
    return events + draw(endings)


def streamed(events: Sequence[Event], beats: Sequence[bool] = ()) -> bytes:
    """A whole stream, with heartbeats before the events where *beats* say so."""
    writer = MESSAGES.writer(HEAD, ASKED)
    stream = b""
    for number, event in enumerate(events):
        if number < len(beats) and beats[number]:
            stream += writer.heartbeat()
        stream += writer.write(event)
    return stream + writer.end(b": penstock {}\n")


@given(answers(spoiled=False), st.lists(st.booleans(), max_size=12))
def test_the_official_client_adds_a_stream_up_to_the_body(
    events: list[Event], beats: list[bool]
) -> None:
    """Same blocks, same reason, same usage: streaming or not is the same answer."""
    stream = streamed(events, beats)
    assert read_strictly(stream).comments == [": penstock {}"]
    assert accumulated(stream) == MESSAGES.whole(events, HEAD, ASKED)


@given(answers(spoiled=False))
def test_an_answer_comes_back_as_the_server_said_it(events: list[Event]) -> None:
    """Blocks cut it at thinking and calls; sent back, it is one text again, so that the prefix stays cached."""
    answer = MESSAGES.whole(events, HEAD, ASKED)
    turn = {"role": "assistant", "content": answer["content"]}
    [message] = read_for_count({"messages": [turn]}).chat.messages
    assert len(message.parts) <= 1
    assert message.text == "".join(one.text for one in events if isinstance(one, TextDelta))
    thoughts = "".join(one.text for one in events if isinstance(one, ReasoningDelta))
    assert (message.reasoning or "") == thoughts


@given(answers(), st.lists(st.booleans(), max_size=12))
def test_nothing_of_an_answer_is_lost(events: list[Event], beats: list[bool]) -> None:
    """Texts, thinking, names and arguments arrive as the model wrote them, broken ones too."""
    reader = read_strictly(streamed(events, beats))
    assert reader.is_stopped
    body = MESSAGES.whole(events, HEAD, ASKED)
    for kind, name in ((TextDelta, "text"), (ReasoningDelta, "thinking")):
        said = "".join(one.text for one in events if isinstance(one, kind))
        for blocks in (reader.blocks, body["content"]):
            assert said == "".join(block[name] for block in blocks if block["type"] == name)
    begun = [one for one in events if isinstance(one, ToolCallDelta) and one.name]
    spoken = [block for block in reader.blocks if block["type"] == "tool_use"]
    whole = [block for block in body["content"] if block["type"] == "tool_use"]
    assert len({block["id"] for block in spoken}) == len(begun)
    for first, block, same in zip(begun, spoken, whole, strict=True):
        assert block["name"] == same["name"] == first.name
        assert block["id"] == same["id"]
        written = "".join(
            one.arguments
            for one in events
            if isinstance(one, ToolCallDelta) and one.call == first.call
        )
        assert block["json"] == written
        assert same["input"] == as_object(written)


def as_object(written: str) -> dict[str, Any]:
    """The rule for arguments, said another way."""
    try:
        value = json.loads(written or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": written}


@given(
    answers(),
    st.integers(0, 40),
    st.sampled_from([("context_length_exceeded", 400), ("stall_timeout", 504), (None, 429)]),
    st.booleans(),
)
def test_an_answer_cut_after_any_event_ends_well(
    events: list[Event], place: int, error: tuple[str | None, int], beat: bool
) -> None:
    """The error is the last event, and no block that was not complete stops."""
    writer = MESSAGES.writer(HEAD, ASKED)
    reader = StrictReader()
    if beat:
        reader.feed(writer.heartbeat())
    for event in events[:place]:
        reader.feed(writer.write(event))
    before = len(reader.blocks)
    code, status = error
    reader.feed(writer.failed({"message": "it broke", "code": code, "type": "t"}, status))
    assert reader.error is not None
    assert (reader.error["error"]["message"], reader.error["error"]["code"]) == ("it broke", code)
    assert reader.error["error"]["status"] == status
    assert len(reader.blocks) == before
    assert not reader.is_stopped


@given(answers(), st.integers(0, 40), answers())
def test_a_fork_goes_its_own_way(events: list[Event], place: int, other: list[Event]) -> None:
    """What the fork writes changes nothing in the writer, and both end well."""
    writer = MESSAGES.writer(HEAD, ASKED)
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
    assert before + rest + writer.end(b": penstock {}\n") == streamed(events)
    assert read_strictly(forked).is_stopped


# Bodies that nobody would send, near to those that somebody does.
FIELDS = (
    "model", "max_tokens", "system", "tools", "tool_choice", "thinking", "output_config", "output_format",
    "metadata", "stream", "stop_sequences", "temperature", "top_p", "top_k", "service_tier",
    "context_management", "mcp_servers", "penstock", "odd",
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "user", "assistant", "system", "text", "image", "document", "search_result", "tool_use", "tool_result",
        "thinking", "redacted_thinking", "tool_reference", "server_tool_use", "base64", "url", "file", "content",
        "auto", "any", "tool", "none", "enabled", "disabled", "adaptive", "json_schema", "custom",
        "web_search_20250305", "omitted", "high", "f", "",
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "type", "role", "content", "text", "name", "id", "input", "tool_use_id", "is_error", "source", "data",
        "media_type", "url", "thinking", "signature", "title", "context", "citations", "enabled", "tool_name",
        "input_schema", "strict", "description", "disable_parallel_tool_use", "effort", "format", "schema",
        "budget_tokens", "display", "user_id", "cache_control",
    ]
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | WORDS | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
things = st.dictionaries(KEYS, json_values, max_size=6)
blocks = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "tool_reference"]
            )
        },
        optional={
            "text": texts, "id": texts, "name": texts, "input": things, "tool_use_id": texts,
            "content": json_values, "is_error": st.booleans() | json_values, "thinking": texts,
            "source": things, "title": texts, "citations": json_values, "tool_name": texts,
        },
    ),
    max_size=3,
)  # fmt: skip
near = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": blocks | texts},
    optional={"odd": json_values},
)
bodies = st.fixed_dictionaries(
    {
        "messages": st.lists(near, max_size=3) | st.lists(things, max_size=3) | json_values,
        "max_tokens": st.just(5) | json_values,
    },
    optional={
        **{name: json_values for name in FIELDS if name not in ("max_tokens", "tools")},
        "tools": st.lists(things, max_size=3) | json_values,
    },
)


@given(bodies)
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    """Whatever JSON it is: a request, or an error that names a field."""
    for read in (MESSAGES.read, read_for_count):
        refusal = None
        try:
            request = read(body)
        except RequestError as error:
            refusal = error
        if refusal is not None:
            assert refusal.param
            assert refusal.message.endswith(".")
            continue
        assert request.chat.messages


def nested(depth: int) -> Any:
    """Objects in objects."""
    value: Any = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


def test_depth_is_refused() -> None:
    """Arguments that are nested too deeply to be written again are refused by their place, not by a crash."""
    use = {"type": "tool_use", "id": "c", "name": "f", "input": nested(900)}
    with pytest.raises(
        RequestError, match=r"messages\[0\]\.content\[0\]\.input: nested too deeply"
    ):
        read_for_count({"messages": [{"role": "assistant", "content": [use]}]})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"system": nested(900)}, id="system"),
        pytest.param({"tools": [{"name": "f", "input_schema": nested(900)}]}, id="a schema"),
        pytest.param({"metadata": {"x": nested(900)}}, id="metadata"),
        pytest.param({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "x", "y": nested(900)}]}]}]}, id="a result"),
    ],
)  # fmt: skip
def test_depth_is_no_matter_elsewhere(body: dict[str, Any]) -> None:
    """What is only carried is not walked through."""
    refusal = None
    try:
        read_for_count({"messages": [{"role": "user", "content": "hi"}], **body})
    except RequestError as error:
        refusal = error
    assert refusal is None or refusal.param == "system"


# A neutral request, said as a Messages body.
ids = st.sampled_from(["c1", "c2", "c3"])
functions = st.builds(
    Tool,
    name=st.sampled_from(["f", "g", "h"]),
    description=texts,
    parameters=st.just({"type": "object"}),
    strict=st.none() | st.booleans(),
)
images = st.builds(ImagePart, data=st.just("AAAA"), media_type=st.just("image/png")) | st.builds(
    ImagePart, url=st.just("https://example.com/x.png")
)
text_parts = st.lists(st.builds(TextPart, texts), max_size=2).map(tuple)
messages = st.one_of(
    st.builds(
        Message,
        st.just("user"),
        st.lists(st.builds(TextPart, texts) | images, max_size=3).map(tuple),
    ),
    st.builds(Message, st.just("system"), st.tuples(st.builds(TextPart, texts.filter(bool)))),
    st.builds(Message, st.just("tool"), text_parts, tool_call_id=ids),
    st.builds(
        Message,
        st.just("assistant"),
        text_parts.map(lambda parts: parts[:1]),  # several are one text, see below
        st.lists(
            st.builds(
                ToolCall,
                ids,
                st.sampled_from(["f", "z"]),
                objects.map(
                    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
                ),
            ),
            max_size=2,
        ).map(tuple),
        reasoning=st.none() | texts.filter(bool),
    ),
)
formats = st.just(ResponseFormat()) | st.just(ResponseFormat("json_schema", {"type": "object"}))


@st.composite
def chats(draw: st.DrawFn) -> ChatRequest:
    """Requests that the dialect can say."""
    tools = tuple(draw(st.lists(functions, max_size=3, unique_by=lambda tool: tool.name)))
    choices = ["auto", "none", "required", {"name": tools[0].name}] if tools else []
    choice = draw(st.sampled_from([None, *choices]))
    extra: dict[str, Any] = {}
    if choice not in (None, "none") and draw(st.booleans()):
        extra["parallel_tool_calls"] = False
    if draw(st.booleans()):
        extra["user"] = draw(texts)
    sampling = st.fixed_dictionaries(
        {}, optional={"temperature": st.floats(0, 1), "top_p": st.floats(0, 1), "top_k": st.integers(1, 99)}
    )  # fmt: skip
    stream = draw(st.booleans())
    return ChatRequest(
        model=draw(texts),
        messages=tuple(draw(st.lists(messages, min_size=1, max_size=6))),
        tools=tools,
        tool_choice=choice,
        sampling=draw(sampling),
        max_output_tokens=draw(st.integers(1, 99)),
        stop=tuple(draw(st.lists(texts, max_size=2))),
        stream=stream,
        include_usage=stream,
        response_format=draw(formats),
        reasoning=draw(st.sampled_from([None, True, False, "low", "medium", "high"])),
        extra=extra,
    )


def said(chat: ChatRequest, joined: bool) -> dict[str, Any]:
    """A Messages body with the same meaning; *joined*: results and what follows them in one message."""
    spoken: list[dict[str, Any]] = []
    body: dict[str, Any] = {"model": chat.model, "messages": spoken, **chat.sampling}
    for place, message in enumerate(chat.messages):
        parts = [part_of(part) for part in message.parts]
        if message.role == "system" and place == 0 and len(chat.messages) > 1:
            body["system"] = parts
        elif message.role == "system":
            spoken.append({"role": "system", "content": message.text})
        elif message.role == "tool":
            result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": parts}
            if joined and spoken and spoken[-1].get("open"):
                spoken[-1]["content"].append(result)
            else:
                spoken.append({"role": "user", "content": [result], "open": True})
        elif message.role == "user":
            if joined and parts and spoken and spoken[-1].pop("open", False):
                spoken[-1]["content"] += parts
            else:
                spoken.append({"role": "user", "content": parts})
        else:
            thinking = {"type": "thinking", "thinking": message.reasoning, "signature": "s"}
            calls = [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
                for call in message.tool_calls
            ]  # fmt: skip
            before = [] if message.reasoning is None else [thinking]
            spoken.append({"role": "assistant", "content": [*before, *parts, *calls]})
    for one in spoken:
        one.pop("open", None)
    choice = chat.tool_choice
    words: dict[Any, str] = {"auto": "auto", "none": "none", "required": "any"}
    if isinstance(choice, str):
        body["tool_choice"] = {"type": words[choice]}
    elif choice is not None:
        body["tool_choice"] = {"type": "tool", **choice}
    if "parallel_tool_calls" in chat.extra:
        body["tool_choice"]["disable_parallel_tool_use"] = True
    config: dict[str, Any] = {}
    if chat.response_format.schema is not None:
        config["format"] = {"type": "json_schema", "schema": chat.response_format.schema}
    if isinstance(chat.reasoning, str):
        config["effort"] = chat.reasoning
    kinds = {True: "enabled", False: "disabled"}
    known = kinds.get(chat.reasoning) if isinstance(chat.reasoning, bool) else "adaptive"
    return {
        **body,
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters,
             "strict": tool.strict}
            for tool in chat.tools
        ],
        "max_tokens": chat.max_output_tokens,
        "stop_sequences": list(chat.stop),
        "stream": chat.stream,
        "thinking": {"type": known},
        "output_config": config,
        "metadata": {"user_id": chat.extra.get("user")},
    }  # fmt: skip


def part_of(part: Part) -> dict[str, Any]:
    """One block."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    assert isinstance(part, ImagePart)
    source = (
        {"type": "url", "url": part.url}
        if part.data is None
        else {"type": "base64", "media_type": part.media_type, "data": part.data}
    )
    return {"type": "image", "source": source}


@given(chats(), st.booleans())
def test_a_request_keeps_its_meaning(chat: ChatRequest, joined: bool) -> None:
    """Said in the dialect and read back, it is the same request, and nothing had to be announced."""
    request = MESSAGES.read(said(chat, joined))
    assert request.chat == chat
    assert request.changes == ()
