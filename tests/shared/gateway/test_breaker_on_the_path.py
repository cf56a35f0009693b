"""An upstream that fails, in front of clients: left alone, replaced by another, tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from loops import until
from penstock.breaker import BreakerState
from penstock.concurrency import Ask
from penstock.domain.upstream import ServerKind, Upstream
from penstock.gateway.upstreams.fleet import UpstreamState
from rawserver import RESET, Peer, Script
from scripted import Here, ScriptedLlama, gateway_here, reply, stream

FAILS: Script = [reply({"error": {"message": "boom", "type": "server_error", "code": 500}}, b"500 Internal Server Error")]  # fmt: skip
ONCE = {"retry": {"local": {"attempts": 1, "first_delay_s": 0.01, "longest_delay_s": 0.05}}}


def breaker(here: Here, name: str = "box") -> Any:
    """The breaker of an upstream."""
    return here.runtime.fleet.get(name).breaker


def acts(here: Here) -> list[str]:
    """What was done so far."""
    return [act.act for act in here.runtime.recorder.acts]


def test_three_failures_and_then_nobody_is_sent() -> None:
    """The fourth client is told at once, why, and when to come again; metrics and status say it too."""

    async def main() -> None:
        async with ScriptedLlama(FAILS) as llama, gateway_here(llama.url, settings=ONCE) as here:
            assert [(await here.chat()).status_code for _ in range(3)] == [502] * 3
            refused = await here.chat()
            assert len(llama.requests) == 3
            assert refused.status_code == 503
            error = refused.json()["error"]
            assert error["code"] == "breaker_open"
            assert error["source"] == "penstock"
            assert "3 requests in a row failed" in error["message"]
            assert 1 <= int(refused.headers["retry-after"]) <= 5
            assert refused.headers["x-should-retry"] == "true"
            assert acts(here) == ["breaker_opened"]
            status = (await here.http.get("/penstock/status")).json()
            assert status["upstreams"][0]["breaker"]["state"] == "open"
            metrics = (await here.http.get("/metrics")).text
            assert 'penstock_breaker_open{upstream="box"} 1.0' in metrics

    asyncio.run(main())


def test_one_probe_and_all_is_well_again() -> None:
    """Of many that come when the delay is over, one is sent; the others follow its success."""

    async def main() -> None:
        go = asyncio.Event()
        good = stream("hello")
        scripts = [FAILS, FAILS, FAILS, [good[0], go, *good[1:]], good]
        async with ScriptedLlama(*scripts) as llama, gateway_here(llama.url, settings=ONCE) as here:
            for _ in range(3):
                await here.chat()
            breaker(here).try_soon(0.0)
            probe = asyncio.create_task(here.chat())
            await until(lambda: len(llama.requests) == 4)
            others = await asyncio.gather(*(here.chat() for _ in range(5)))
            assert {answer.status_code for answer in others} == {503}
            assert len(llama.requests) == 4
            go.set()
            assert (await probe).status_code == 200
            assert breaker(here).state is BreakerState.CLOSED
            assert (await here.chat()).status_code == 200
            assert acts(here) == ["breaker_opened", "breaker_closed"]

    asyncio.run(main())


def test_a_probe_whose_client_hangs_up_gives_its_place_away() -> None:
    """The next client is the probe: it never stays shut for want of an outcome."""

    async def main() -> None:
        scripts = [FAILS, FAILS, FAILS, [asyncio.Event()], stream("hello")]
        async with ScriptedLlama(*scripts) as llama, gateway_here(llama.url, settings=ONCE) as here:
            for _ in range(3):
                await here.chat()
            breaker(here).try_soon(0.0)
            async with httpx.AsyncClient(base_url=here.url, trust_env=False) as leaving:
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                with pytest.raises(httpx.ReadTimeout):
                    await leaving.post("/v1/chat/completions", json=body, timeout=0.3)
            await until(lambda: not here.runtime.in_flight)
            assert (await here.chat()).status_code == 200
            assert breaker(here).state is BreakerState.CLOSED
            assert len(llama.requests) == 5

    asyncio.run(main())


def test_what_the_client_is_at_fault_for_opens_nothing() -> None:
    """Bad requests do not speak against the server."""
    refusal: Script = [reply({"error": {"message": "no", "type": "invalid_request_error", "code": 400}}, b"400 Bad Request")]  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama(refusal) as llama, gateway_here(llama.url, settings=ONCE) as here:
            for _ in range(10):
                assert (await here.chat()).status_code == 400
            assert breaker(here).state is BreakerState.CLOSED

    asyncio.run(main())


def test_a_server_that_loads_opens_nothing() -> None:
    """Loading is apart from dead."""

    async def main() -> None:
        async with ScriptedLlama(FAILS) as llama, gateway_here(llama.url, settings=ONCE) as here:
            await here.chat()
            here.runtime.fleet.get("box").ready = False
            for _ in range(5):
                await here.chat()
            assert breaker(here).state is BreakerState.CLOSED
            assert llama.requests

    asyncio.run(main())


def test_those_in_the_queue_are_told_when_it_opens() -> None:
    """Nobody who waits is sent to a server of which is known by now that it fails."""

    async def main() -> None:
        go = asyncio.Event()
        scripts = [[go, *FAILS]]
        async with ScriptedLlama(*scripts, slots=1) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                clients = [asyncio.create_task(here.chat()) for _ in range(12)]
                await until(lambda: here.runtime.fleet.get("box").limiter.waiting == 11)
                go.set()
                answers = await asyncio.gather(*clients)
                codes = [answer.json()["error"]["code"] for answer in answers]
                assert codes.count("upstream_error") == 3
                assert codes.count("breaker_open") == 9
                assert len(llama.requests) == 3

    asyncio.run(main())


def by_hand(here: Here) -> None:
    """Open the breaker of `box`."""
    box = here.runtime.fleet.get("box")
    for _ in range(3):
        passed = box.breaker.ask(0.0)
        assert passed is not None
        opened = box.breaker.failed(passed, "it broke", asyncio.get_running_loop().time(), 0.0)
    assert opened is not None
    here.runtime.breaker_opened(box, opened)


def test_a_refusal_or_a_hang_up_does_not_close_it() -> None:
    """A server that fails at its work still refuses bad requests, and begins answers: these teach nothing."""
    refusal: Script = [reply({"error": {"message": "no", "type": "invalid_request_error", "code": 400}}, b"400 Bad Request")]  # fmt: skip

    async def main() -> None:
        begun: Script = [stream("x")[0], asyncio.Event()]
        async with ScriptedLlama(refusal, begun, stream("hello")) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                await until(lambda: here.runtime.fleet.get("box").profiles)
                by_hand(here)
                breaker(here).try_soon(0.0)
                assert (await here.chat()).status_code == 400
                assert breaker(here).state is BreakerState.HALF_OPEN
                async with httpx.AsyncClient(base_url=here.url, trust_env=False) as leaving:
                    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                    with pytest.raises(httpx.ReadTimeout):
                        await leaving.post("/v1/chat/completions", json=body, timeout=0.3)
                await until(lambda: not here.runtime.in_flight)
                assert breaker(here).state is BreakerState.HALF_OPEN
                assert (await here.chat()).status_code == 200
                assert breaker(here).state is BreakerState.CLOSED

    asyncio.run(main())


def test_nobody_stays_in_the_queue_when_it_opens() -> None:
    """Also where the one whose turn it is has to wait for a request that hangs."""

    async def main() -> None:
        go, hang = asyncio.Event(), asyncio.Event()
        good = stream("late")
        scripts: list[Script] = [FAILS, FAILS, [hang, *good], [go, *FAILS]]
        async with ScriptedLlama(*scripts) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                for _ in range(2):
                    await here.chat()
                limiter = here.runtime.fleet.get("box").limiter
                hanging = asyncio.create_task(here.chat())
                await until(lambda: len(llama.requests) == 3)
                failing = asyncio.create_task(here.chat())
                await until(lambda: len(llama.requests) == 4)
                wide = [asyncio.create_task(here.chat(n=2)) for _ in range(4)]
                await until(lambda: limiter.waiting == 4)
                go.set()
                codes = [(await one).json()["error"]["code"] for one in (failing, *wide)]
                assert codes == ["upstream_error", *["breaker_open"] * 4]
                assert (limiter.waiting, limiter.in_use) == (0, 1)
                hang.set()
                assert (await hanging).status_code == 200
                assert limiter.in_use == 0
                assert len(llama.requests) == 4

    asyncio.run(main())


def test_who_is_between_two_attempts_makes_no_more_of_them() -> None:
    """The pause before the next one ends with the error of the last one."""

    async def main() -> None:
        policy = {"attempts": 5, "first_delay_s": 0.3, "longest_delay_s": 0.3}
        async with ScriptedLlama(FAILS) as llama:
            async with gateway_here(llama.url, settings={"retry": {"local": policy}}) as here:
                call = asyncio.create_task(here.chat())
                await until(
                    lambda: (
                        [a.delay_s for e in here.runtime.in_flight.values() for a in e.attempts]
                        > [0.0]
                    )
                )
                by_hand(here)
                answer = await call
                assert answer.json()["error"]["code"] == "upstream_error"
                assert answer.headers["penstock-attempts"] == "1"
                assert len(llama.requests) == 1

    asyncio.run(main())


def test_nothing_is_asked_of_a_server_that_is_left_alone() -> None:
    """Who is refused is refused before anything is counted for it there."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=ONCE) as here:
            await here.chat()
            by_hand(here)
            counted = llama.counted
            long = [{"role": "user", "content": f"{n} " + "word " * 1500} for n in range(2)]
            assert (await here.chat(messages=long)).json()["error"]["code"] == "breaker_open"
            assert llama.counted == counted
            breaker(here).try_soon(0.0)
            assert (await here.chat(messages=long)).status_code == 200
            assert llama.counted > counted

    asyncio.run(main())


def test_a_server_that_is_seen_loading_is_not_dead() -> None:
    """It came back and loads: who comes waits for it, and is answered."""
    loads: Script = [reply({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, b"503 Service Unavailable")]  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama(loads, stream("hello")) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                box = here.runtime.fleet.get("box")
                await until(lambda: box.profiles)
                by_hand(here)
                llama.ready = False
                await here.runtime.keeper.look_anew(box)
                assert breaker(here).state is BreakerState.CLOSED
                assert acts(here) == ["breaker_opened", "breaker_closed"]
                calls = [asyncio.create_task(here.chat()) for _ in range(2)]
                await until(lambda: len(llama.requests) >= 1)
                llama.ready = True
                assert {(await call).status_code for call in calls} == {200}

    asyncio.run(main())


def test_a_server_that_died_of_its_load_is_dead() -> None:
    """The last thing that it said is that it loads; that excuses nothing any more."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=ONCE) as here:
            box = here.runtime.fleet.get("box")
            await until(lambda: box.profiles)
            llama.ready = False
            await here.runtime.keeper.look_anew(box)
            assert box.comes_back
            await llama.leave()
            await here.runtime.keeper.look_anew(box)
            assert not box.comes_back
            stood_s = box.absence.total_s()
            await asyncio.sleep(0.01)
            assert (
                box.absence.total_s() == stood_s
            )  # nor does it excuse that the queue stands still
            for _ in range(3):
                assert (await here.chat()).json()["error"]["code"] == "upstream_unreachable"
            assert (await here.chat()).json()["error"]["code"] == "breaker_open"

    asyncio.run(main())


def test_one_that_does_not_listen_is_loading_for_as_long_as_a_load_may_take() -> None:
    """vLLM listens only when it is ready; after the load limit it is dead, and requests wait no more."""

    async def main() -> None:
        gone = Upstream("box", "http://127.0.0.1:1", kind=ServerKind.VLLM, models=("m",))
        async with gateway_here([gone]) as here:
            box = here.runtime.fleet.get("box")
            await until(lambda: box.away_since_s is not None)
            call = asyncio.create_task(here.chat())
            await until(lambda: [e.stage for e in here.runtime.in_flight.values()] == ["loading"])
            assert not box.breaker.error_share(0.0)
            box.away_since_s = -1e6
            answer = await call
            assert answer.json()["error"]["code"] == "upstream_unreachable"
            assert int(answer.headers["penstock-attempts"]) == 3
            for _ in range(2):
                await here.chat()
            assert (await here.chat()).json()["error"]["code"] == "breaker_open"

    asyncio.run(main())


class Crowded(ScriptedLlama):
    """
    Attributes:
        now, most: generating requests at a time.
    """

    now = most = 0

    async def _play(self, peer: Peer, script: Script) -> bool:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._play(peer, [_a_while, *script])
        finally:
            self.now -= 1


async def _a_while(_: Peer) -> None:
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("away", ["held", "loading", "dead"])
def test_a_server_that_comes_back_is_not_run_over(away: str) -> None:
    """Twenty requests waited for it, or come again: never more at a time than it has slots, and all are answered."""

    async def main() -> None:
        async with Crowded(slots=2) as llama, gateway_here(llama.url) as here:
            box = here.runtime.fleet.get("box")
            await here.chat()
            llama.most = 0
            if away == "held":
                box.holding.begin("restarting")
            elif away == "loading":
                loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}  # fmt: skip
                llama.ready = False
                llama.play([[reply(loading, b"503 Service Unavailable")]])
            else:
                await llama.leave()
                assert [(await here.chat()).status_code for _ in range(4)] == [502] * 3 + [503]
            calls = [asyncio.create_task(_until_answered(here, away == "dead")) for _ in range(20)]
            await until(lambda: len(here.runtime.in_flight) == 20 or away == "dead")
            if away == "held":
                box.holding.end("restarting")
            elif away == "loading":
                await until(lambda: [e.stage for e in here.runtime.in_flight.values()].count("loading") == 2)  # fmt: skip
                llama.play([])
                llama.ready = True
            else:
                await llama.come_back()
            assert await asyncio.gather(*calls) == [200] * 20
            assert llama.most <= 2
            assert (box.limiter.in_use, box.limiter.waiting) == (0, 0)

    asyncio.run(main())


async def _until_answered(here: Here, comes_again: bool) -> int:
    """The status of a request; of one that comes again as long as it is refused."""
    while True:
        answer = await here.chat()
        if not comes_again or answer.status_code == 200:
            return answer.status_code
        await asyncio.sleep(0.02)


def test_a_probe_that_is_being_answered_lets_the_others_go() -> None:
    """An answer may take minutes: its first token shows that the server works, nobody waits for its last."""

    async def main() -> None:
        go = asyncio.Event()
        good = stream("hello", "world")
        slow: Script = [*good[:2], go, *good[2:]]
        async with ScriptedLlama(FAILS, FAILS, FAILS, slow, good) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                for _ in range(3):
                    await here.chat()
                breaker(here).try_soon(0.0)
                probe = asyncio.create_task(here.chat(stream=True))
                await until(lambda: breaker(here).state is BreakerState.CLOSED)
                assert (await here.chat()).status_code == 200
                assert not probe.done()
                go.set()
                assert "world" in (await probe).text
                assert acts(here) == ["breaker_opened", "breaker_closed"]

    asyncio.run(main())


def test_a_probe_that_breaks_off_counts_like_any_other() -> None:
    """It closed the breaker by its first token; its end is the first failure since."""

    async def main() -> None:
        broken: Script = [*stream("hello")[:2], RESET]
        async with ScriptedLlama(FAILS, FAILS, FAILS, broken) as llama:
            async with gateway_here(llama.url, settings=ONCE) as here:
                for _ in range(3):
                    await here.chat()
                breaker(here).try_soon(0.0)
                for _ in range(3):
                    assert breaker(here).state is not BreakerState.OPEN or len(llama.requests) == 3
                    await here.chat(stream=True)
                await until(lambda: not here.runtime.in_flight)
                assert breaker(here).state is BreakerState.OPEN
                assert len(llama.requests) == 6

    asyncio.run(main())


@pytest.mark.parametrize("dies", [False, True], ids=["it lives on", "it has died"])
def test_a_server_of_ours_that_is_only_suspected_is_judged_when_it_is_known(dies: bool) -> None:
    """Connections that break hold requests for a moment; a server that lives on has failed all the same."""

    class Suspected:
        is_given_up = False

        def __init__(self, state: UpstreamState) -> None:
            self.state = state
            self.known = asyncio.Event()
            self.known.set()

        @property
        def is_suspected(self) -> bool:
            return not self.known.is_set()

        def suspect(self) -> None:
            self.known.clear()
            self.state.holding.begin("restarting")

        async def settled(self) -> None:
            await self.known.wait()

        def settle(self) -> None:
            if not dies:
                self.state.holding.end("restarting")
            self.known.set()

        def refuse_if_given_up(self) -> None:
            return None

        def try_again(self) -> None:
            return None

        def shown(self, _: float) -> dict[str, Any]:
            return {}

    async def main() -> None:
        broken: Script = [*stream("hello")[:2], RESET]
        async with ScriptedLlama(broken) as llama, gateway_here(llama.url, settings=ONCE) as here:
            state = here.runtime.fleet.get("box")
            await until(lambda: state.profiles)
            ours = state.supervised = Suspected(state)
            for _ in range(3):
                asked = asyncio.create_task(here.chat(stream=True))
                await until(lambda: ours.is_suspected and not here.runtime.in_flight)
                assert breaker(here).state is BreakerState.CLOSED
                await asked
                ours.settle()
                if dies:
                    await until(lambda: not any(t.get_name() == "breaker lesson" for t in asyncio.all_tasks()))  # fmt: skip
                    state.holding.end("restarting")
            await until(lambda: dies or breaker(here).state is BreakerState.OPEN)
            assert dies is (breaker(here).state is BreakerState.CLOSED)

    asyncio.run(main())


def test_who_queues_keeps_the_place_when_it_closes_again() -> None:
    """A breaker that opened and closed while requests stood in the queue sends nobody to its end."""

    async def main() -> None:
        async with ScriptedLlama(stream("hello"), slots=1) as llama:
            async with gateway_here(llama.url) as here:
                await here.chat()
                state = here.runtime.fleet.get("box")
                permit = await state.limiter.acquire(Ask(), deadline_s=5)
                tasks = []
                for number in range(3):
                    if number == 2:
                        for _ in range(3):
                            state.breaker.failed(state.breaker.ask(0.0), "boom", 0.0, 0.0)
                        state.breaker.start_afresh()
                    said = [{"role": "user", "content": f"number {number}"}]
                    tasks.append(asyncio.create_task(here.chat(messages=said)))
                    await until(lambda: state.limiter.waiting == len(tasks))
                permit.release()
                assert {(await task).status_code for task in tasks} == {200}
                told = [request.body.partition(b"number ")[2][:1] for request in llama.requests]
                assert told == [b"", b"0", b"1", b"2"]

    asyncio.run(main())
