"""What the gateway shows of itself: its event stream, its history, what can be done to a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from fastapi import Request

from penstock.client import Client
from penstock.domain.profile import ModelReading
from penstock.domain.upstream import Upstream
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.unload import can_unload
from penstock.gateway.views.admin import _events
from penstock.gateway.views.history import History
from penstock.gateway.views.record import Recorder
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings
from scripted import ScriptedLlama


class Staying:
    """A request whose client stays."""

    async def is_disconnected(self) -> bool:
        """It never does."""
        return False


def recorder() -> Recorder:
    """One that logs nothing."""
    return Recorder(Settings.model_validate({"log": {"requests": False}}), lambda: ())


def ended(number: int = 0, **more: Any) -> Exchange:
    """A request that has ended."""
    exchange = Exchange(f"req_{number}", 0.0, 0.0, "POST", "/v1/chat/completions", "chat")
    exchange.ended_s = 1.0
    for name, value in more.items():
        setattr(exchange, name, value)
    return exchange


def names(stream: AsyncIterator[bytes], then: Callable[[], None]) -> list[str]:
    """The names of all events after *then* was done, until the stream ends."""

    async def main() -> list[str]:
        assert (await anext(stream)).startswith(b"event: snapshot\n")
        then()
        rest = b"".join([piece async for piece in stream])
        return [line for line in rest.decode().splitlines() if line.startswith("event: ")]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("quiet", "told"),
    [
        pytest.param(True, ["event: snapshot"], id="quiet"),
        pytest.param(False, ["event: request", "event: act", "event: snapshot"], id="all of it"),
    ],
)
def test_what_waits_is_told_together(quiet: bool, told: list[str]) -> None:
    """One snapshot for all changes that wait; a quiet stream has no requests and no acts."""
    runtime = Runtime(Settings(), (), LocalModelEnvironment())
    stream = _events(runtime, cast(Request, Staying()), 0.0, quiet=quiet)

    def happen() -> None:
        for _ in range(5):
            runtime.recorder.changed()
        runtime.recorder.finish(ended())
        runtime.recorder.acted("box", "paused", "somebody wanted it")
        runtime.recorder.end_streams()

    assert names(stream, happen) == told


def test_many_requests_come_in_few_pieces() -> None:
    """The first at once, those of the next tenth of a second together; none is left out."""

    async def main() -> list[int]:
        runtime = Runtime(Settings(), (), LocalModelEnvironment())
        stream = _events(runtime, cast(Request, Staying()), 0.0, quiet=False)
        await anext(stream)
        runtime.recorder.finish(ended())
        found = [(await anext(stream)).count(b"event: request")]
        for number in range(40):
            runtime.recorder.finish(ended(number))
            await asyncio.sleep(0)
        runtime.recorder.end_streams()
        return [*found, *[piece.count(b"event: request") async for piece in stream]]

    assert asyncio.run(main()) == [1, 40]


def test_a_stream_that_does_not_keep_up_ends_with_the_others() -> None:
    """Its queue is full when all streams end, and it hears of the end nevertheless."""

    async def main() -> None:
        made = recorder()
        queue = made.subscribe()
        for _ in range(queue.maxsize):
            made.changed()
        assert queue.full()
        made.end_streams()
        last: Any = {}
        while not queue.empty():
            last = queue.get_nowait()
        assert last is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        # 10 pieces in the first sample; 60 tokens, so 50 more, over the twelve seconds since the first token.
        pytest.param({"stream": True, "first_token_s": 3.0, "chunks": 10}, [3.67, 4.17], id="a stream"),
        pytest.param({"sent_s": 0.0, "first_token_s": 14.9}, [4.0, 4.0], id="no stream"),
    ],
)  # fmt: skip
def test_tokens_are_the_servers_own_count_where_it_told_one(
    more: dict[str, Any], told: list[float]
) -> None:
    """What it counted beyond its pieces stands in the time that the answer took, and is told again there."""
    made, running = recorder(), ended(1, **more)
    in_flight = {"req_1": running}
    history = History(made, in_flight, lambda: None)
    history.sample((), 1000.0, 5.0, now_s=5.0)
    in_flight.clear()
    running.completion_tokens, running.ended_s = 60, 15.0
    made.finish(running)
    history.sample((), 1010.0, 10.0, now_s=15.0)
    assert [s["pieces_per_s"] for s in history.shown(1000.0)["samples"]] == told
    history.sample((), 1015.0, 5.0, now_s=20.0)
    assert [s["pieces_per_s"] for s in history.shown(1010.0)["samples"]] == [0.0]


def test_a_clock_that_was_set_back_hides_no_sample() -> None:
    """Who asks for what is newer than its last sample gets the next one."""
    history = History(recorder(), {}, lambda: None)
    history.sample((), 5000.0)
    history.sample((), 1400.0)
    last = history.shown(5000.0)["samples"]
    assert len(last) == 1
    history.sample((), 1405.0)
    assert len(history.shown(last[0]["at"])["samples"]) == 1


@pytest.mark.parametrize(
    ("status", "able"),
    [pytest.param("", False, id="one model"), pytest.param("loaded", True, id="a router")],
)
def test_llamacpp_unloads_as_a_router_only(status: str, able: bool) -> None:
    """A plain one has nothing to unload, and is not shown as if it had."""

    async def main() -> None:
        async with ScriptedLlama(slots=1) as llama:
            runtime = Runtime(Settings(), (Upstream("box", llama.url),), LocalModelEnvironment())
            state = runtime.fleet.get("box")
            assert await runtime.keeper.look(state)
            for profile in state.profiles.values():
                object.__setattr__(profile, "reading", ModelReading("m", status=status))
            assert state.profiles
            assert can_unload(state) is able
            await runtime.stop()

    asyncio.run(main())


def test_a_requests_id_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a person typed is asked for as one name."""
    asked: list[str] = []
    client = Client("http://127.0.0.1:9")
    monkeypatch.setattr(client, "_get", lambda path: asked.append(path) or {})
    client.request("../stop?x#y")
    assert asked == ["/penstock/requests/..%2Fstop%3Fx%23y"]
