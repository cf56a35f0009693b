"""Ghost work: a slot counts as busy for as long as the server works on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.breaker import Breaker
from penstock.domain.upstream import Upstream
from penstock.gateway.steps import ghost
from penstock.gateway.steps.ghost import GhostWork, let_load, outlast
from penstock.gateway.steps.limiter import Limiter
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings


class Slots:
    """A server that says so many times that one slot is busy (None: it does not say), then none."""

    def __init__(self, busy_looks: int, busy: int | None = 1) -> None:
        self.looks = 0
        self._busy_looks = busy_looks
        self._busy = busy

    async def busy_slots(self, state: UpstreamState) -> int | None:
        self.looks += 1
        return self._busy if self.looks <= self._busy_looks else 0


def state() -> UpstreamState:
    """Of any server."""
    return UpstreamState(
        Upstream("box", "http://127.0.0.1:1"),
        Limiter(1, Settings().concurrency),
        Breaker(Settings().breaker),
    )


@pytest.mark.parametrize(
    ("work", "slots", "looks"),
    [
        pytest.param(GhostWork(0.02, ask=True), Slots(30), 31, id="busy for longer than expected"),
        pytest.param(GhostWork(60.0, ask=True), Slots(2), 3, id="free before it was expected"),
        pytest.param(GhostWork(0.0, ask=True), Slots(10**9), 41, id="busy for ever"),
        pytest.param(GhostWork(0.0, ask=True), Slots(10**9, None), 1, id="it does not say"),
        pytest.param(GhostWork(0.0, ask=False), Slots(10**9), 0, id="it cannot be asked"),
    ],
)
def test_the_servers_word_counts(
    work: GhostWork, slots: Slots, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expectations end only those that say nothing; a server that is always busy is left after a bound."""

    class Time:
        now = 0.0

        def time(self) -> float:
            return self.now

    time = Time()

    async def sleep(seconds: float) -> None:
        time.now += seconds

    monkeypatch.setattr(ghost, "_POLL_S", 0.001)
    monkeypatch.setattr(ghost, "_LONGEST_BUSY_S", 40.5)
    monkeypatch.setattr(ghost.asyncio, "get_running_loop", lambda: time)
    monkeypatch.setattr(ghost.asyncio, "sleep", sleep)
    upstream = state()
    coroutine = outlast(work, upstream, slots, lambda: 0)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert upstream.ghosts == 0
    assert slots.looks == looks


@pytest.mark.parametrize("loaded", [True, False], ids=["it works on the prompt", "it loads"])
def test_a_hang_up_before_the_first_byte_is_a_load_or_a_prompt(loaded: bool) -> None:
    """Closing ends a load; a server that has loaded goes on with the prompt, and its slot counts as busy."""
    told: list[str] = []

    async def main() -> None:
        async def never() -> Any:
            await asyncio.get_running_loop().create_future()

        async def is_loaded() -> bool:
            told.append("asked")
            return loaded

        async def goes_on() -> None:
            told.append("outlasted")

        sending = asyncio.ensure_future(never())
        await let_load(sending, 0.0, lambda: False, is_loaded, goes_on)
        assert sending.cancelled()

    asyncio.run(main())
    assert told == (["asked", "outlasted"] if loaded else ["asked"])
