"""Tool calls towards writers of other dialects: one after the other, whatever the server does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.chat import (
    Event,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    StreamEnd,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from penstock.gateway.relays.call_order import CallOrder


def ordered(events: Sequence[Event]) -> list[Event]:
    """All of an answer, fed one by one."""
    order = CallOrder()
    out = [event for one in events for event in order.take([one])]
    return out + order.rest()


def head(call: int, arguments: str = "") -> ToolCallDelta:
    """A call's first piece."""
    return ToolCallDelta(call, f"id{call}", f"tool{call}", arguments)


def more(call: int, arguments: str) -> ToolCallDelta:
    """A later piece."""
    return ToolCallDelta(call, arguments=arguments)


END = [Finished("tool_calls"), StreamEnd()]
ROWS: dict[str, tuple[list[Event], list[Event]]] = {
    "the first call's rest comes after the second began": (
        [head(0), head(1), more(0, '{"a":1}'), more(1, '{"b":2}'), *END],
        [head(0), more(0, '{"a":1}'), head(1), more(1, '{"b":2}'), *END],
    ),
    "pieces in turns": (
        [head(0, '{"a":'), head(1, '{"b":'), more(0, "1}"), more(1, "2}"), *END],
        [head(0, '{"a":'), more(0, "1}"), head(1, '{"b":'), more(1, "2}"), *END],
    ),
    "text between a call and its rest": (
        [head(0, "{"), TextDelta("so"), more(0, "}"), ReasoningDelta("hm"), *END],
        [head(0, "{"), more(0, "}"), TextDelta("so"), ReasoningDelta("hm"), *END],
    ),
    "a call that is cut off lets the next one go at the end": (
        [head(0, '{"a":'), head(1, "{"), more(1, "}"), *END],
        [head(0, '{"a":'), head(1, "{"), more(1, "}"), *END],
    ),
    "three calls": (
        [head(0, "{"), head(1), head(2, "{}"), more(1, "{}"), more(0, "}"), *END],
        [head(0, "{"), more(0, "}"), head(1), more(1, "{}"), head(2, "{}"), *END],
    ),
    "counts and progress wait for nothing": (
        [head(0, "{"), head(1, "{}"), UsageReported(Usage(1, 2)), PrefillProgress(1, 2), *END],
        [head(0, "{"), UsageReported(Usage(1, 2)), PrefillProgress(1, 2), head(1, "{}"), *END],
    ),
    "a call that was whole stays what it was": (
        [head(0, "{}"), head(1, "{}"), more(0, "\n"), *END],
        [head(0, "{}"), head(1, "{}"), *END],
    ),
    "a server that keeps to it": (
        [TextDelta("so"), head(0, "{"), more(0, "}"), head(1, "{}"), *END],
        [TextDelta("so"), head(0, "{"), more(0, "}"), head(1, "{}"), *END],
    ),
    "a stream that only breaks off": ([head(0, "{"), head(1, "{")], [head(0, "{"), head(1, "{")]),
}


@pytest.mark.parametrize(("events", "expected"), ROWS.values(), ids=list(ROWS))
def test_calls_come_one_after_the_other(events: list[Event], expected: list[Event]) -> None:
    """The pieces of one call stand together, in the order in which they came."""
    assert ordered(events) == expected


@given(st.data())
def test_any_order_of_pieces_gives_whole_calls(data: st.DataObject) -> None:
    """However the pieces of whole calls are mixed, each call comes out once, whole and in one piece."""
    texts = data.draw(
        st.lists(st.sampled_from(["{}", '{"a": {"b": "}"}}', '{"c": 1}']), min_size=1, max_size=4)
    )
    waiting: list[list[Event]] = []
    for call, text in enumerate(texts):
        cut = data.draw(st.integers(0, len(text)))
        waiting.append([head(call), more(call, text[:cut]), more(call, text[cut:])])
    events: list[Event] = []
    while any(waiting):
        place = data.draw(st.sampled_from([n for n, left in enumerate(waiting) if left]))
        events.append(waiting[place].pop(0))
        if data.draw(st.booleans()):
            events.append(TextDelta("x"))
    out = ordered([*events, *END])
    runs: list[int] = []
    said = dict.fromkeys(range(len(texts)), "")
    for before, event in zip([None, *out], out, strict=False):
        if isinstance(event, ToolCallDelta):
            if event.name:
                runs.append(event.call)
            else:
                assert isinstance(before, ToolCallDelta)
            assert runs[-1] == event.call
            said[event.call] += event.arguments
    assert sorted(runs) == sorted(said)
    assert list(said.values()) == texts
    assert out.count(TextDelta("x")) == events.count(TextDelta("x"))
