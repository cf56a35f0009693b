"""A server that comes and goes, or changes what it is, under load."""

from __future__ import annotations

import asyncio

from crowd import Stage, good, says, stress
from loops import until
from scripted import reply

QUICK = {"breaker": {"enabled": False}, "profiles": {"refresh_s": 1}}
PATIENT = {
    **QUICK,
    "retry": {"local": {"attempts": 8, "first_delay_s": 0.02, "longest_delay_s": 0.2}},
}


@stress(settings=PATIENT, slots=2, token_s=0.01)
async def test_a_server_that_restarts_all_the_time(stage: Stage) -> None:
    """Every client is told once: an answer, or an error; afterwards all is as before."""
    crowd = asyncio.create_task(stage.crowd(60, stream=True))
    for _ in range(6):
        await asyncio.sleep(0.08)
        await stage.llama.leave()
        await asyncio.sleep(0.02)
        await stage.llama.come_back()
    await crowd
    assert stage.outcomes.whole + stage.outcomes.failed == 60
    before = stage.outcomes.whole
    await stage.crowd(20)
    assert stage.outcomes.whole == before + 20


@stress(settings=PATIENT, slots=2)
async def test_a_server_that_is_away_for_a_while(stage: Stage) -> None:
    """Who came while it was away is answered when it is back, within the policy's attempts."""
    await stage.llama.leave()
    crowd = asyncio.create_task(stage.crowd(20))
    await until(lambda: len(stage.here.runtime.in_flight) == 20)
    await asyncio.sleep(0.1)
    await stage.llama.come_back()
    await crowd
    assert stage.outcomes.whole == 20


@stress(settings=PATIENT, slots=2)
async def test_nobody_rushes_at_a_server_that_has_come_back(stage: Stage) -> None:
    """Those who waited are sent no more at a time than before."""
    await stage.llama.leave()
    crowd = asyncio.create_task(stage.crowd(50))
    await until(lambda: stage.state.limiter.waiting >= 40)
    stage.llama.most = 0
    await stage.llama.come_back()
    await crowd
    assert stage.llama.most <= 2
    assert stage.outcomes.whole == 50


@stress(settings=QUICK)
async def test_a_server_that_closes_after_each_answer(stage: Stage) -> None:
    """Connections that are not kept are no failures."""
    stage.llama.closes = True
    await stage.crowd(40)
    assert stage.outcomes.whole == 40
    assert max(len(e.attempts) for e in stage.here.runtime.recorder.recent()) == 1


@stress(settings=QUICK)
async def test_idle_connections_that_are_cut(stage: Stage) -> None:
    """A request on a connection that was closed meanwhile goes over another, and is one attempt."""
    for _ in range(5):
        await stage.crowd(8)
        await stage.llama.leave()
        await stage.llama.come_back()
    assert stage.outcomes.whole == 40
    assert len(stage.llama.requests) == 40


@stress(settings=QUICK, slots=2)
async def test_a_load_with_fifty_waiting(stage: Stage) -> None:
    """All are answered after the load, and nobody counted an attempt for it."""
    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    refusal = says(reply({"error": error}, b"503 Service Unavailable"))
    stage.llama.ready = False
    stage.llama.answer = lambda _: good if stage.llama.ready else refusal
    crowd = asyncio.create_task(stage.crowd(50))
    await until(lambda: any(e.stage == "loading" for e in stage.here.runtime.in_flight.values()))
    await asyncio.sleep(0.2)
    stage.llama.ready = True
    await crowd
    assert stage.outcomes.whole == 50
    assert stage.llama.most <= 2


@stress(settings=QUICK, slots=4)
async def test_a_server_that_comes_back_with_fewer_slots(stage: Stage) -> None:
    """The limit follows what the server tells."""
    await stage.crowd(20)
    stage.llama.slots = 1
    stage.here.runtime.keeper.contradicted(stage.state, "another process")
    await until(lambda: stage.state.limiter.limit == 1)
    stage.llama.most = 0
    await stage.crowd(20)
    assert stage.llama.most == 1
    assert stage.outcomes.whole == 40


@stress(settings=QUICK, slots=1)
async def test_a_server_that_comes_back_with_more_slots(stage: Stage) -> None:
    """Those in the queue get the new ones at once."""
    stage.llama.prefill_s = 0.05
    crowd = asyncio.create_task(stage.crowd(30))
    await until(lambda: stage.state.limiter.waiting >= 20)
    stage.llama.slots = 8
    stage.llama._slots = asyncio.Semaphore(8)
    stage.here.runtime.keeper.contradicted(stage.state, "another process")
    await crowd
    assert stage.outcomes.whole == 30
    assert stage.llama.most > 1


@stress(settings=QUICK, slots=2)
async def test_another_window_under_load(stage: Stage) -> None:
    """The window may change between any two requests."""
    crowd = asyncio.create_task(stage.crowd(60, stream=True))
    for window in (2048, 8192, 4096, 1024):
        stage.llama.window = window
        stage.here.runtime.keeper.contradicted(stage.state, "another window")
        await asyncio.sleep(0.05)
    await crowd
    assert stage.outcomes.whole == 60
    profile = stage.state.profile("m")
    await until(lambda: stage.state.profile("m").window.tokens == 1024)
    assert profile is not None


@stress(settings=QUICK, slots=2)
async def test_probes_that_fail_while_requests_work(stage: Stage) -> None:
    """A server whose probes answer nothing useful goes on being used as it was."""
    stage.llama.ready = False
    stage.here.runtime.keeper.contradicted(stage.state, "test")
    await stage.crowd(30)
    assert stage.outcomes.whole == 30
    stage.llama.ready = True


@stress(settings=QUICK, slots=2)
async def test_a_server_that_takes_another_model(stage: Stage) -> None:
    """Requests for the only model follow it to its new name."""
    await stage.crowd(10)
    stage.llama.model = "another"
    stage.here.runtime.keeper.contradicted(stage.state, "another model")
    await until(lambda: stage.state.profile("another"))
    await stage.crowd(10)
    assert stage.outcomes.whole == 20
