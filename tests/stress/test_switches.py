"""Settings, switches and the end of the gateway, under load."""

from __future__ import annotations

import asyncio

from crowd import Stage, stress
from loops import until
from penstock.settings import Settings

ROOM = {"concurrency": {"queue_length": 1000}}


@stress(settings=ROOM, slots=2)
async def test_settings_that_change_all_the_time(stage: Stage) -> None:
    """A reload touches no request that runs or waits."""
    runtime = stage.here.runtime
    upstreams = tuple(state.upstream for state in runtime.fleet)
    crowd = asyncio.create_task(stage.crowd(80, stream=True))
    for number in range(20):
        tree = {
            "concurrency": {"queue_length": 1000 + number},
            "timeouts": {"stall_s": 60 + number},
        }
        runtime.reload(Settings.model_validate(tree), upstreams)
        await asyncio.sleep(0.01)
    await crowd
    assert stage.outcomes.whole == 80


@stress(settings=ROOM, slots=2)
async def test_an_upstream_that_is_taken_out_and_put_back(stage: Stage) -> None:
    """Requests that run end; later ones are refused until it is back."""
    runtime = stage.here.runtime
    upstreams = tuple(state.upstream for state in runtime.fleet)
    crowd = asyncio.create_task(stage.crowd(30))
    await until(lambda: stage.llama.here == 2)
    state = stage.state
    runtime.reload(runtime.settings, ())
    await stage.ask("nobody is there")
    runtime.reload(runtime.settings, upstreams)
    await crowd
    await until(lambda: state.limiter.running == state.limiter.waiting == 0)
    assert stage.outcomes.codes["model_not_found"] >= 1
    assert stage.outcomes.whole + stage.outcomes.failed == 31
    await stage.crowd(5)


@stress(settings=ROOM, slots=2)
async def test_a_hold_in_the_middle_of_a_crowd(stage: Stage) -> None:
    """Running ones end, all others wait, and all are answered when it is over."""
    crowd = asyncio.create_task(stage.crowd(60))
    await until(lambda: stage.llama.served >= 5)
    stage.state.holding.begin("drained")
    await until(lambda: stage.state.limiter.running == 0)
    served = stage.llama.served
    await stage.llama.leave()
    await stage.llama.come_back()
    assert stage.llama.served == served
    stage.state.holding.end("drained")
    await crowd
    assert stage.outcomes.whole == 60


@stress(settings=ROOM, slots=2)
async def test_holds_that_come_and_go(stage: Stage) -> None:
    """Ten holds in a row lose nobody."""
    crowd = asyncio.create_task(stage.crowd(80, stream=True))
    for _ in range(10):
        stage.state.holding.begin("paused")
        await asyncio.sleep(0.01)
        stage.state.holding.end("paused")
        await asyncio.sleep(0.01)
    await crowd
    assert stage.outcomes.whole == 80


@stress(settings={"timeouts": {"hold_s": 0.2}}, slots=2)
async def test_a_hold_that_does_not_end(stage: Stage) -> None:
    """Everybody is told when the hold has lasted too long."""
    stage.state.holding.begin("drained")
    await stage.crowd(20)
    assert stage.outcomes.codes == {"hold_expired": 20}
    stage.state.holding.end("drained")
    await stage.crowd(5)


@stress(settings=ROOM, slots=2)
async def test_clients_that_leave_a_hold(stage: Stage) -> None:
    """Nobody is sent for them when it ends."""
    stage.state.holding.begin("paused")
    await asyncio.gather(
        *(stage.leave(lambda: stage.state.holding.waiting == 20, text=f"{n}") for n in range(20))
    )
    stage.state.holding.end("paused")
    await stage.ask("next")
    assert len(stage.llama.requests) == 1


@stress(settings=ROOM, slots=4)
async def test_a_limit_that_moves(stage: Stage) -> None:
    """Down to one and up again, fifty times, with a full queue."""
    crowd = asyncio.create_task(stage.crowd(100))
    for number in range(50):
        stage.state.limiter.resize(1 + number % 4)
        await asyncio.sleep(0.004)
    stage.state.limiter.resize(4)
    await crowd
    assert stage.outcomes.whole == 100
    assert stage.llama.most <= 4


@stress(settings=ROOM, slots=2, prefill_s=0.1)
async def test_a_gateway_that_stops(stage: Stage) -> None:
    """New requests are refused with when to come again; those it has taken are answered."""
    crowd = asyncio.create_task(stage.crowd(20))
    await until(lambda: len(stage.here.runtime.in_flight) >= 15)
    taken = len(stage.here.runtime.in_flight) + stage.outcomes.whole
    stage.here.runtime.draining = True
    await stage.ask("too late")
    await crowd
    assert stage.outcomes.codes == {"draining": 21 - taken}
    assert stage.outcomes.retry_after
    assert stage.outcomes.whole == taken
    stage.here.runtime.draining = False
