"""What the requests at one server have in common: learned from its words, and forgotten with its process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from loops import until
from penstock.concurrency import Ask, ConcurrencyOptions
from penstock.domain.profile import ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode, Refused
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit
from penstock.gateway.upstreams.room import Room
from penstock.servers import spec

OLLAMA = spec(ServerKind.OLLAMA).behaviour
LLAMACPP = spec(ServerKind.LLAMACPP).behaviour


def models(*loaded: str, others: tuple[str, ...] = ()) -> ServerReading:
    """A reading of these models."""
    found = [ModelReading(name, loaded=True) for name in loaded]
    return ServerReading((*found, *(ModelReading(name, loaded=False) for name in others)))


def room(limit: int = 4) -> tuple[Room, Limiter]:
    """One of a server that nothing is known of."""
    limiter = Limiter(limit, ConcurrencyOptions())
    return Room(limiter), limiter


def test_models_that_were_seen_side_by_side_are_not_grouped() -> None:
    """One at a time until two were seen; then both at once; another process is not trusted with it."""

    async def main() -> None:
        one, limiter = room()
        one.learn(models("a", others=("b",)), OLLAMA, ConcurrencyOptions())
        first = await limiter.acquire(Ask(model="a"), deadline_s=5.0)
        second = asyncio.create_task(limiter.acquire(Ask(model="b"), deadline_s=5.0))
        await until(lambda: limiter.waiting == 1)
        assert limiter.free == 3
        one.learn(models("a", "b"), OLLAMA, ConcurrencyOptions())
        (await second).release()
        first.release()
        assert one.models_at_once == 2
        one.forget()
        assert one.models_at_once == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("loaded", "beside"),
    [
        pytest.param(("chat", "embed"), True, id="loaded beside a chat model"),
        pytest.param(("embed",), False, id="loaded alone"),
        pytest.param(("chat", "other"), False, id="not loaded"),
    ],
)
def test_embeddings_have_a_budget_of_their_own_where_they_have_a_runner(
    loaded: tuple[str, ...], beside: bool
) -> None:
    """By what the server says is loaded now, and by what its kind does."""
    one, _ = room()
    one.learn(models(*loaded, others=("x",)), OLLAMA, ConcurrencyOptions())
    assert one.runs_beside("embed") is beside
    assert "embeddings" in OLLAMA.own_budgets
    assert not LLAMACPP.own_budgets


def test_a_budget_apart_waits_for_nobody_and_is_counted() -> None:
    """A full chat budget does not hold up embeddings; both are in the numbers; a new limit is for both."""

    async def main() -> None:
        _, limiter = room(1)
        chat = await limiter.acquire(Ask(), deadline_s=5.0)
        apart = await limiter.apart().acquire(Ask(client="e"), deadline_s=5.0)
        waits = asyncio.create_task(limiter.apart().acquire(Ask(client="e"), deadline_s=5.0))
        await until(lambda: limiter.waiting == 1)
        assert (limiter.running, limiter.queued_by_client()) == (2, {"e": 1})
        limiter.resize(2)
        (await waits).release()
        for permit in (chat, apart):
            permit.release()
        assert (limiter.running, limiter.waiting, limiter.apart().limit) == (0, 0, 2)

    asyncio.run(main())


def test_a_shared_cache_is_forgotten_with_another_window() -> None:
    """What one process said of its KV holds for no other."""
    one, limiter = room()
    reading = ServerReading((ModelReading("m", running_window=4096, slots=2),))
    one.shared_kv_was_full(4096, 4096)
    one.learn(reading, LLAMACPP, ConcurrencyOptions())
    assert limiter.shared_tokens == 4096
    other = ServerReading((ModelReading("m", running_window=8192, slots=2),))
    one.learn(other, LLAMACPP, ConcurrencyOptions())
    assert limiter.shared_tokens is None
    told = ServerReading((ModelReading("m", running_window=8192, slots=2, kv_total=9000),))
    one.learn(told, LLAMACPP, ConcurrencyOptions())
    assert limiter.shared_tokens == 9000


@pytest.mark.parametrize("moment", ["waits", "in the moment", "too late", "long before"])
def test_a_ghosts_permit_is_never_lost(moment: str) -> None:
    """It goes to the heir or back, whenever the heir leaves and the ghost ends."""

    async def main() -> None:
        _, limiter = room(1)
        haunted = Haunted(await limiter.acquire(Ask(), deadline_s=5.0), limiter, "ghost")
        deadline_s = 0.01 if moment == "too late" else 5.0
        heir: asyncio.Task[Permit] = asyncio.create_task(haunted.inherit(deadline_s))
        await until(lambda: len(limiter.heirs) == 1)
        result: Any = None
        if moment == "waits":
            haunted.release()
            (await heir).release()
        elif moment == "in the moment":
            haunted.release()
            heir.cancel()
            await asyncio.gather(heir, return_exceptions=True)
        elif moment == "too late":
            (result,) = await asyncio.gather(heir, return_exceptions=True)
            assert isinstance(result, Refused)
            assert result.code is ErrorCode.QUEUE_DEADLINE
            haunted.release()
        else:
            heir.cancel()
            await asyncio.gather(heir, return_exceptions=True)
            assert not haunted.is_over
            haunted.release()
        assert haunted.is_over
        assert (limiter.running, limiter.waiting, limiter.free) == (0, 0, 1)

    asyncio.run(main())
