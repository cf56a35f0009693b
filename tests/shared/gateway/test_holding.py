"""Requests in front of an upstream that is away on purpose: they wait, by a clock of their own."""

from __future__ import annotations

import asyncio

import pytest

from loops import until
from penstock.concurrency import Ask
from penstock.errors import ErrorCode, Refused
from penstock.gateway.upstreams.holding import Holding
from scripted import ScriptedLlama, gateway_here


def test_requests_go_on_with_the_last_reason() -> None:
    """A pause that ends while the server restarts lets nobody go."""

    async def scene() -> None:
        holding = Holding()
        assert holding.begin("paused")
        assert not holding.begin("paused")
        holding.begin("restarting")
        waiting = asyncio.create_task(holding.wait("box", 10.0))
        await asyncio.sleep(0)
        assert holding.waiting == 1
        assert holding.end("paused")
        await asyncio.sleep(0)
        assert not waiting.done()
        holding.end("restarting")
        await waiting
        assert holding.waiting == 0
        assert not holding.end("restarting")

    asyncio.run(scene())


def test_a_hold_that_lasts_too_long_says_why() -> None:
    """With its own code, and when to try again."""

    async def scene() -> None:
        holding = Holding()
        holding.begin("drained")
        with pytest.raises(Refused) as raised:
            await holding.wait("box", 0.01)
        assert raised.value.code is ErrorCode.HOLD_EXPIRED
        assert "drained" in raised.value.message
        assert raised.value.retry_after_s
        assert holding.waiting == 0

    asyncio.run(scene())


def test_held_requests_are_answered_once_and_queued_ones_stay_out() -> None:
    """A hold that begins while requests stand in the queue holds these too."""

    async def scene() -> None:
        async with ScriptedLlama(slots=1) as llama, gateway_here(llama.url) as here:
            await here.chat()
            state = here.runtime.fleet.get("box")
            permit = await state.limiter.acquire(Ask(), deadline_s=5)
            queued = asyncio.create_task(here.chat())
            await until(lambda: state.limiter.waiting)
            state.holding.begin("drained")
            permit.release()
            held = asyncio.create_task(here.chat())
            await until(lambda: state.holding.waiting == 2 or state.limiter.waiting == 0)
            assert len(llama.requests) == 1
            state.holding.end("drained")
            assert [(await task).status_code for task in (queued, held)] == [200, 200]
            assert len(llama.requests) == 3
            assert (state.limiter.running, state.limiter.waiting) == (0, 0)

    asyncio.run(scene())


@pytest.mark.parametrize("away", ["held", "loading", "loading for a request"])
def test_who_queues_does_not_wait_behind_others_while_the_server_is_away(away: str) -> None:
    """A load or a restart that takes longer than the queue's deadline refuses nobody."""

    async def scene() -> None:
        settings = {"concurrency": {"queue_deadline_s": 0.1}}
        async with (
            ScriptedLlama(slots=1) as llama,
            gateway_here(llama.url, settings=settings) as here,
        ):
            await here.chat()
            state = here.runtime.fleet.get("box")
            permit = await state.limiter.acquire(Ask(), deadline_s=5)
            llama.ready = state.ready = away != "loading"
            queued = asyncio.create_task(here.chat())
            await until(lambda: state.limiter.waiting)
            if away == "held":
                state.holding.begin("drained")
            if away == "loading for a request":  # and says that it is ready, as Ollama does
                state.note_load(1)
            loop = asyncio.get_running_loop()
            over_s = loop.time() + 0.3
            await until(lambda: loop.time() > over_s or queued.done())
            assert state.limiter.waiting == 1
            llama.ready = state.ready = True
            state.holding.end("drained")
            if away == "loading for a request":
                state.note_load(-1)
            permit.release()
            assert (await queued).status_code == 200
            refused = await state.limiter.acquire(Ask(), deadline_s=5)
            assert (await here.chat()).json()["error"]["code"] == "queue_deadline"
            refused.release()

    asyncio.run(scene())
