"""Cutting streams into events without changing a byte."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from penstock.dialects.ndjson import NdjsonFramer
from penstock.dialects.sse import (
    LARGEST_EVENT_BYTES,
    EventTooLarge,
    SseFramer,
    last_boundary,
    parse_event,
    split_events,
)

EVENT = st.sampled_from(
    [
        b"data: {}",
        b": comment",
        b"event: x\ndata: a\ndata: b",
        b"data:no space",
        b"id: 7\ndata: y",
        "data: é😀".encode(),
    ]
)
NEWLINE = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int]:
    """A stream in one style of line ends, and how many events it has."""
    events = draw(st.lists(EVENT, min_size=1, max_size=6))
    newline = draw(NEWLINE)
    whole = b"".join(event.replace(b"\n", newline) + newline * 2 for event in events)
    return whole, len(events)


def cut(whole: bytes, at: list[int]) -> list[bytes]:
    """*whole* cut at these places."""
    places = sorted({min(place, len(whole)) for place in at} | {0, len(whole)})
    return [whole[a:b] for a, b in pairwise(places)]


@given(streams(), st.lists(st.integers(0, 200), max_size=10))
def test_wherever_the_network_cuts(stream: tuple[bytes, int], places: list[int]) -> None:
    """Whole, byte by byte or in any pieces: the same events, and no byte is lost."""
    whole, count = stream
    for pieces in ([whole], cut(whole, places), [whole[i : i + 1] for i in range(len(whole))]):
        framer = SseFramer()
        events = [event for piece in pieces for event in framer.feed(piece)]
        rest = framer.end()
        assert b"".join(events) + rest == whole
        assert len([e for e in [*events, rest] if e.strip()]) == count


@given(streams())
def test_events_mean_what_the_official_client_reads(stream: tuple[bytes, int]) -> None:
    """Name and data are those of the openai package's own decoder."""
    whole, _ = stream
    theirs = [(e.event or "", e.data) for e in SSEDecoder().iter_bytes(iter([whole])) if e.data]
    ours = [parse_event(raw) for raw in split_events(whole)]
    assert [(e.name, e.data.decode()) for e in ours if e.data] == theirs


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_no_bytes_are_lost_or_invented(whole: bytes, places: list[int]) -> None:
    """Whatever a server sends."""
    framer = SseFramer()
    out = b"".join(event for piece in cut(whole, places) for event in framer.feed(piece))
    assert whole.startswith(out)
    assert (out + framer.end()).strip() == whole.strip() or not whole[len(out) :].strip()


@pytest.mark.parametrize(
    ("buffer", "at"),
    [
        (b"", -1), (b"data: a", -1), (b"data: a\n", -1), (b"data: a\n\n", 9), (b"data: a\n\ndata: b", 9),
        (b"data: a\r\n\r\n", 11), (b"data: a\r\n\r", -1), (b"data: a\n\nb\n\nc", 12), (b"data: a\r\rb", 9),
    ],
)  # fmt: skip
def test_the_last_boundary(buffer: bytes, at: int) -> None:
    """A CR at the end may be half of a CRLF."""
    assert last_boundary(buffer) == at


def test_a_bom_several_data_lines_and_ids() -> None:
    """Fields by the standard."""
    event = parse_event(b"\xef\xbb\xbfevent: x\nid: 7\ndata: a\ndata:b\n: comment\nretry: 5\n\n")
    assert (event.name, event.data, event.id) == ("x", b"a\nb", b"7")


def test_an_event_without_end_is_refused() -> None:
    """The buffer is bounded."""
    framer = SseFramer()
    framer.feed(b"data: ")
    with pytest.raises(EventTooLarge):
        framer.feed(b"x" * (LARGEST_EVENT_BYTES + 1))


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20)), max_size=5),
    st.lists(st.integers(0, 200)),
)
def test_lines_wherever_the_network_cuts(values: list[dict[str, str]], places: list[int]) -> None:
    """NDJSON, with and without a last line end."""
    whole = "\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode()
    framer = NdjsonFramer()
    lines = [line for piece in cut(whole, places) for line in framer.feed(piece)]
    rest = framer.end()
    assert [json.loads(line) for line in [*lines, rest] if line.strip()] == values
