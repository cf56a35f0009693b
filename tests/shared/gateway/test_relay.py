"""Relays and clocks: what goes on, what is left out, and when time is up."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loops import Run, on_both_loops, until
from penstock.dialects.collect import ChatCollector
from penstock.dialects.surfaces import OLLAMA, OPENAI, Surface, surface_of
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.relays.collecting import CollectingRelay
from penstock.gateway.relays.relay import VerbatimRelay
from penstock.gateway.steps.ghost import expect_ghost
from penstock.gateway.steps.watch import Clock, Watch
from penstock.servers import spec


def chunk(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chat chunk."""
    delta = {"content": text} if text else {}
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def sse(*values: Any) -> bytes:
    """Server-sent events."""
    return b"".join(
        b"data: " + (v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n\n"
        for v in values
    )


USAGE = {
    "id": "c",
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 5},
    },
}
PROGRESS = chunk(prompt_progress={"total": 9, "cache": 0, "processed": 4, "time_ms": 1})
STREAM = sse(
    PROGRESS, chunk("a"), chunk('say "usage" and "error"'), chunk("", "stop"), USAGE, b"[DONE]"
)


def pieces(whole: bytes, at: list[int]) -> list[bytes]:
    """*whole*, cut."""
    places = sorted({min(p, len(whole)) for p in at} | {0, len(whole)})
    return [whole[a:b] for a, b in pairwise(places)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans(), st.booleans())
def test_cut_anywhere_the_client_gets_the_same(
    at: list[int], drop_progress: bool, drop_usage: bool
) -> None:
    """What we asked for is left out whole, all else is verbatim, the facts are read."""
    relay = VerbatimRelay(OPENAI, drop_progress=drop_progress, drop_usage=drop_usage)
    out = b"".join(relay.feed(piece) for piece in pieces(STREAM, at)) + relay.end()
    kept = [] if drop_progress else [PROGRESS]
    kept += [chunk("a"), chunk('say "usage" and "error"'), chunk("", "stop")]
    kept += [] if drop_usage else [USAGE]
    assert out == sse(*kept, b"[DONE]")
    seen = relay.seen
    assert (seen.prompt_tokens, seen.completion_tokens, seen.cached_tokens) == (9, 2, 5)
    assert seen.closed
    assert seen.error is None


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_collected_anywhere_the_body_is_the_same(at: list[int]) -> None:
    """One body from any pieces."""
    collector = ChatCollector()
    relay = CollectingRelay(collector.add, lambda: json.dumps(collector.body()).encode())
    assert b"".join(relay.feed(piece) for piece in pieces(STREAM, at)) == b""
    body = json.loads(relay.end())
    assert body["choices"][0]["message"]["content"] == 'asay "usage" and "error"'
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 9
    assert "prompt_progress" not in body


@pytest.mark.parametrize("indices", [(-5, -4), (10**9, 3), (1, 2), (0, 0)], ids=str)
def test_calls_are_collected_by_whatever_numbers_a_server_gives(indices: tuple[int, int]) -> None:
    """In the order in which they began; a number is a name of a call, no place in a list."""
    collector = ChatCollector()
    for number, index in enumerate(indices):
        for piece in (
            {"id": f"c{number}", "function": {"name": "look", "arguments": "{"}},
            {"function": {"arguments": "}"}},
        ):
            collector.add(
                {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": index, **piece}]}}]}
            )
    calls = collector.body()["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["function"]) for c in calls] == [
        (f"c{number}", {"name": "look", "arguments": "{}"}) for number in (0, 1)
    ]


def test_what_is_announced_late_stands_before_the_closing_event() -> None:
    """As a comment line, without a blank line between."""
    relay = VerbatimRelay(OPENAI, late=lambda: {"cached_tokens": 5})
    out = relay.feed(STREAM)
    assert out.endswith(b': penstock {"cached_tokens":5}\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    ("surface", "stream"),
    [
        pytest.param(OPENAI, sse({"error": {"message": "boom"}}), id="chat"),
        pytest.param(OLLAMA, b'{"error": "boom"}\n', id="NDJSON"),
    ],
)  # fmt: skip
def test_errors_inside_streams_are_seen(surface: Surface, stream: bytes) -> None:
    """And nothing of them goes on by itself."""
    relay = VerbatimRelay(surface)
    assert relay.feed(stream) == b""
    assert relay.seen.error is not None


@pytest.mark.parametrize(
    ("surface", "closing", "other"),
    [
        (OPENAI, sse(b"[DONE]"), sse(chunk("[DONE]"))),
        (OLLAMA, b'{"done": true}\n', b'{"done": false, "message": {"content": "\\"done\\""}}\n'),
    ],
)  # fmt: skip
def test_closing_events_are_known(surface: Surface, closing: bytes, other: bytes) -> None:
    """By what they are, not by a word in them."""
    assert surface.is_closing_event(closing)
    assert not surface.is_closing_event(other)


@pytest.mark.parametrize(
    ("dialect", "operation"),
    [("openai", "chat"), ("openai", "completions"), ("ollama", "generate"), ("llamacpp", "generate")],
)  # fmt: skip
def test_heartbeats_and_errors_are_events_of_the_dialect(dialect: str, operation: str) -> None:
    """Whole, parseable, without an id; an error is no closing event."""
    surface = surface_of(dialect, operation)
    beat = surface.heartbeat("req_1", "m")
    assert surface.split(beat) == [beat]
    assert not beat.startswith(b":")
    assert b"\nid:" not in beat
    assert isinstance(surface.value_of(beat), dict)
    assert not surface.is_closing_event(beat)
    event = surface.error_event(RequestError(ErrorCode.INVALID_REQUEST, "bad"), None)
    assert surface.split(event) == [event]
    assert "bad" in json.dumps(surface.value_of(event))
    assert not surface.is_closing_event(event)


class Time(asyncio.AbstractEventLoop):
    """A loop whose time stands still until it is told otherwise; only timers work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return None

    def run_to(self, now: float) -> None:
        """Let time pass."""
        while due := [t for t in self.timers if not t.cancelled() and t.when() <= now]:
            first = min(due, key=lambda t: t.when())
            self.timers.remove(first)
            self.now = first.when()
            first._run()
        self.now = now


def watched(heartbeat_s: float | None = 15.0) -> tuple[Time, Watch, list[Any]]:
    """A watch, its time, and what it called."""
    time, calls = Time(), []
    limits: dict[Clock, float] = {"load": 600.0, "first_token": 100.0, "stall": 10.0}
    watch = Watch(
        time, limits, heartbeat_s=heartbeat_s,
        on_expired=lambda clock: calls.append((clock, time.now)), on_silence=lambda: calls.append(("beat", time.now)),
    )  # fmt: skip
    return time, watch, calls


def test_heartbeats_come_in_silence_only() -> None:
    """15 s after the last byte, again and again; a byte starts the silence anew."""
    time, watch, calls = watched()
    time.run_to(14.0)
    watch.wrote()
    time.run_to(28.0)
    assert calls == []
    time.run_to(45.0)
    assert [round(at, 3) for _, at in calls] == [29.0, 44.0]


@on_both_loops
def test_a_timer_that_fires_early_is_set_again(run: Run) -> None:
    """What is due within a millisecond, uvloop calls at once, by a handle that knows no time."""

    async def main() -> None:
        beats: list[int] = []
        watch = Watch(
            asyncio.get_running_loop(), {}, heartbeat_s=0.0004,
            on_expired=lambda _: None, on_silence=lambda: beats.append(1),
        )  # fmt: skip
        try:
            await until(lambda: len(beats) > 20)
        finally:
            watch.stop()

    run(main())


def test_a_stall_is_noticed_when_it_is_one() -> None:
    """Also right after a longer clock, and each touch starts it again."""
    time, watch, calls = watched(heartbeat_s=None)
    watch.run("first_token")
    time.run_to(50.0)
    watch.run("stall")
    time.run_to(59.0)
    watch.touch()
    time.run_to(68.9)
    assert calls == []
    time.run_to(70.0)
    assert calls == [("stall", 69.0)]
    assert watch.expired == "stall"


def test_a_standstill_is_nobodys_slowness() -> None:
    """A process that was stopped for longer than the limit lets it run anew; after that it holds."""
    time, watch, calls = watched(heartbeat_s=None)
    watch.run("stall")
    time.now = 100.0  # nothing ran in between; then the timer fires, late
    (timer,) = time.timers
    time.timers.clear()
    timer._run()
    assert calls == []
    time.run_to(109.9)
    assert calls == []
    time.run_to(110.1)
    assert calls == [("stall", 110.0)]


def test_progress_restarts_the_first_token_clock() -> None:
    """A prefill of any length is fine while it goes on."""
    time, watch, calls = watched(heartbeat_s=None)
    watch.run("first_token")
    for now in range(50, 1000, 50):
        time.run_to(float(now))
        watch.touch()
    assert calls == []
    time.run_to(2000.0)
    assert calls == [("first_token", 1050.0)]


def test_a_stopped_watch_says_nothing() -> None:
    """No timer is left."""
    time, watch, calls = watched()
    watch.run("stall")
    watch.stop()
    time.run_to(1000.0)
    assert calls == []
    assert all(timer.cancelled() for timer in time.timers)


@pytest.mark.parametrize(
    ("kind", "streamed", "decoding", "goes_on"),
    [
        ("llamacpp", True, True, False), ("llamacpp", True, False, True), ("llamacpp", False, True, True), ("llamacpp", False, False, True),
        ("ollama", True, True, False), ("ollama", True, False, True), ("vllm", True, False, True), ("vllm", False, True, False),
    ],
)  # fmt: skip
def test_what_goes_on_after_a_hang_up(
    kind: str, streamed: bool, decoding: bool, goes_on: bool
) -> None:
    """By what was measured or is documented of each server; bounded in any case."""
    work = expect_ghost(
        spec(ServerKind(kind)).behaviour, streamed=streamed, decoding=decoding, prompt_tokens=5000,
        output_tokens=None, prefill_tokens_per_s=100.0,
    )  # fmt: skip
    assert (work.expected_s > 0) is goes_on
    assert work.expected_s <= 120


def test_the_announcement_stands_before_the_data_line_also_of_named_events() -> None:
    """`event:` first, then the comment, then `data:`, in one block."""
    relay = VerbatimRelay(OPENAI, late=lambda: {"attempts": 2})
    closing = b"event: end\ndata: [DONE]\n\n"
    expected = closing.replace(b"data:", b': penstock {"attempts":2}\ndata:', 1)
    assert relay.feed(closing) == expected


def test_comments_before_the_first_event_are_no_output() -> None:
    """They stay here; mlx-lm's tell how far its prefill is. Behind it they go on as they came."""
    relay = VerbatimRelay(OPENAI)
    assert relay.feed(b": ping\n\n: keepalive 512/2048\n\n") == b""
    assert not relay.seen.token
    assert relay.seen.progress is not None
    assert (relay.seen.progress.processed, relay.seen.progress.total) == (512, 2048)
    first = b": ping\n" + sse(chunk("a"))
    assert relay.feed(first) == first
    assert relay.seen.token
    assert relay.feed(b": ping\n\n") == b": ping\n\n"


def test_a_byte_order_mark_hides_no_event() -> None:
    """Some servers begin with one."""
    relay = VerbatimRelay(OPENAI)
    whole = b"\xef\xbb\xbf" + sse(chunk("a"))
    assert relay.feed(whole) == whole
