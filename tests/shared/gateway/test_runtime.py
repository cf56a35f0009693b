"""What the gateway knows of its upstreams while it runs, and what a reload changes in it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from loops import until
from penstock.adapters.machine import Machine
from penstock.concurrency import Ask
from penstock.domain.pressure import Pressure
from penstock.domain.upstream import Upstream
from penstock.gateway.runtime import Runtime
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings
from scripted import ScriptedLlama, gateway_here

GIB = 1024**3
URL = "http://127.0.0.1:9"
SPACIOUS = Machine(64 * GIB, 60 * GIB, None, 0.06, 8, (), False, False)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_users_number_of_permits_holds_whatever_the_server_says() -> None:
    """Also the one in `LOCAL_MODEL_MAX_CONCURRENCY`, also after the server told its slots."""

    async def main() -> None:
        async with ScriptedLlama(slots=4) as llama:
            env = LocalModelEnvironment(max_concurrency=1)
            runtime = Runtime(Settings(), (Upstream("box", llama.url),), env)
            state = runtime.fleet.get("box")
            assert await runtime.keeper.look(state)
            assert (state.slots, state.limiter.limit) == (4, 1)
            runtime.env = LocalModelEnvironment()
            runtime.reload(Settings(), (state.upstream,))
            assert state.limiter.limit == 4
            await runtime.stop()

    asyncio.run(main())


def test_a_reload_changes_the_queue_and_lets_nobody_slip_through() -> None:
    """The bounds are the new ones at once; a server with one slot has one request all the while."""

    async def main() -> None:
        async with ScriptedLlama(slots=1) as llama:
            runtime = Runtime(Settings(), (Upstream("box", llama.url),), LocalModelEnvironment())
            state = runtime.fleet.get("box")
            await runtime.keeper.look(state)
            permit = await state.limiter.acquire(Ask(), deadline_s=5.0)
            others = [
                asyncio.create_task(state.limiter.acquire(Ask(), deadline_s=5.0)) for _ in range(3)
            ]
            await until(lambda: state.limiter.waiting == 3)
            changed = Settings.model_validate({"concurrency": {"queue_length": 3}})
            runtime.reload(changed, (state.upstream,))
            assert (state.limiter.running, state.limiter.waiting) == (1, 3)
            with pytest.raises(Exception, match="queue is full"):
                await state.limiter.acquire(Ask(), deadline_s=5.0)
            permit.release()
            for other in others:
                (await other).release()
            await runtime.stop()

    asyncio.run(main())


def test_an_upstream_that_is_declared_anew_is_looked_at() -> None:
    """Local, cloud, local again: it is kept up to date as before."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            runtime = gateway.runtime
            await until(lambda: runtime.fleet.get("box").reachable is True)
            for declared in (False, True):
                upstream = Upstream("box", llama.url, local=declared)
                runtime.reload(runtime.settings, (upstream,))
                await asyncio.sleep(0.01)
            await until(lambda: runtime.fleet.get("box").reachable is True)

    asyncio.run(main())


def test_what_is_configured_comes_before_what_was_found() -> None:
    """A reload that names an upstream like a discovered one gets its own."""

    async def main() -> None:
        found = Upstream("ollama", "http://127.0.0.1:9", found_by="discovered")
        runtime = Runtime(Settings(), (found,), LocalModelEnvironment())
        named = Upstream("ollama", "http://127.0.0.1:7")
        runtime.reload(Settings(), (named, found))
        assert runtime.fleet.get("ollama").upstream is named
        await runtime.stop()

    asyncio.run(main())


def test_a_server_that_does_not_answer_costs_listings_a_moment(deaf: str) -> None:
    """Its first contact is waited for; after that what is known is told."""

    async def main() -> None:
        settings = {"profiles": {"probe_timeout_s": 0.8}}
        async with ScriptedLlama() as llama:
            upstreams = [Upstream("box", llama.url), Upstream("deaf", deaf)]
            async with gateway_here(upstreams, settings=settings) as gateway:
                await gateway.runtime.fleet.get("deaf").first_look.wait()
                started = time.monotonic()
                listing = (await gateway.http.get("/v1/models")).json()
                assert time.monotonic() - started < 0.7
                assert [model["id"] for model in listing["data"]] == ["m"]

    asyncio.run(main())


@pytest.mark.parametrize("rounds", range(4))
def test_the_keeper_ends_whatever_it_was_just_told(rounds: int) -> None:
    """A stop in the very moment in which a profile is contradicted is not lost."""

    async def main() -> None:
        runtime = Runtime(Settings(), (Upstream("box", URL, local=True),), LocalModelEnvironment())
        state, keeper = runtime.fleet.get("box"), runtime.keeper

        async def look(_: object) -> bool:
            state.reachable = True
            return True

        keeper.look = look  # type: ignore[method-assign]
        keeper.start()
        for _ in range(5):
            await asyncio.sleep(0)
        keeper.contradicted(state, "test")
        for _ in range(rounds):
            await asyncio.sleep(0)
        stopping = asyncio.create_task(keeper.stop())
        done, _pending = await asyncio.wait({stopping}, timeout=5.0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert done

    asyncio.run(main())


def test_whose_memory_ran_out() -> None:
    """What happens on another machine says nothing of this one's memory, and all of its own."""

    async def main() -> None:
        upstreams = (Upstream("here", "http://127.0.0.1:9"), Upstream("far", "http://10.1.2.3:9"))
        runtime = Runtime(Settings(), upstreams, LocalModelEnvironment())
        runtime.memory.machine = SPACIOUS
        here, far = runtime.fleet.get("here"), runtime.fleet.get("far")
        far.last_out_of_memory_s = asyncio.get_running_loop().time()
        runtime.memory.look(asyncio.get_running_loop().time())
        assert runtime.memory.pressure is Pressure.CALM
        assert (runtime.memory.short(here), runtime.memory.short(far)) == (False, True)
        here.last_out_of_memory_s = far.last_out_of_memory_s
        runtime.memory.look(asyncio.get_running_loop().time())
        assert runtime.memory.pressure is Pressure.HEAVY
        assert runtime.memory.short(here)
        await runtime.stop()

    asyncio.run(main())


def test_background_work_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """At once, by its name; what was cancelled has not failed."""

    async def main() -> None:
        runtime = Runtime(Settings(), (), LocalModelEnvironment())

        async def fail() -> None:
            raise KeyError("odd")

        failing = runtime._spawn(fail(), "counting sheep")
        endless = runtime._spawn(asyncio.sleep(3600), "endless")
        await asyncio.wait({failing})
        endless.cancel()
        await asyncio.wait({endless})
        await runtime.stop()

    asyncio.run(main())
    told = [record for record in caplog.records if record.name == "penstock.gateway"]
    assert [record.getMessage() for record in told] == ["background work failed: counting sheep"]
    assert told[0].exc_info is not None
