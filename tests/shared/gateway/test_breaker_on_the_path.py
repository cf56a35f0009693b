"""An upstream that fails, in front of clients: left alone, replaced by another, tried again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from loops import until
from penstock.breaker import BreakerState
from penstock.concurrency import Ask
from penstock.domain.upstream import Upstream
from rawserver import RESET, Script
from scripted import Here, ScriptedLlama, delta, event, gateway_here, reply, stream

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
    """Neither bad requests nor those who hang up speak against the server."""
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


@contextlib.asynccontextmanager
async def two(
    *first: Script, settings: dict[str, Any] | None = None
) -> AsyncIterator[tuple[ScriptedLlama, ScriptedLlama, Here]]:
    """Two servers with the same model; the first one does as it is told."""
    async with ScriptedLlama(*first) as one, ScriptedLlama() as other:
        upstreams = (Upstream("one", one.url), Upstream("other", other.url))
        async with gateway_here(upstreams, settings=settings) as here:
            await until(lambda: all(state.profiles for state in here.runtime.fleet))
            yield one, other, here


@pytest.mark.parametrize(
    "script",
    [pytest.param(FAILS, id="an internal error"), pytest.param([RESET], id="a dead connection")],
)
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_a_failed_request_goes_to_the_other_server(script: Script, streams: bool) -> None:
    """The client sees one good answer, of the other server, after two attempts."""

    async def main() -> None:
        async with two(script) as (one, other, here):
            answer = await here.chat(stream=streams)
            assert answer.status_code == 200
            assert "hello" in answer.text
            assert answer.headers["penstock-upstream"] == "other"
            assert answer.headers["penstock-attempts"] == "2"
            assert (len(one.requests), len(other.requests)) == (1, 1)
            request = (await here.http.get(f"/penstock/requests/{answer.headers['penstock-request-id']}")).json()  # fmt: skip
            assert [a["upstream"] for a in request["attempts"]] == ["one", "other"]
            metrics = (await here.http.get("/metrics")).text
            assert 'penstock_failovers_total{other="other",upstream="one"} 1.0' in metrics

    asyncio.run(main())


def test_each_server_learns_of_itself() -> None:
    """A request that moved on lowers the limit and the health of the server that had too much, not of the other."""
    oom: Script = [reply({"error": {"message": "CUDA error: out of memory", "code": 500}}, b"500 Internal Server Error")]  # fmt: skip

    async def main() -> None:
        async with two(oom) as (_, _, here):
            states = here.runtime.fleet.states
            before = states["other"].limiter.limit
            taught: list[tuple[str, str]] = []
            for state in states.values():
                learn = state.limit.learn

                def noted(exchange: Any, *given: Any, learn: Any = learn, **named: Any) -> Any:
                    taught.append((exchange.upstream, exchange.outcome.value))
                    return learn(exchange, *given, **named)

                state.limit.learn = noted  # type: ignore[method-assign]
            assert (await here.chat()).status_code == 200
            assert taught == [("one", "dropped"), ("other", "success")]
            assert states["other"].limiter.limit == before
            assert states["one"].vitals.requests(0.0) == (1, 1)
            assert states["other"].vitals.requests(0.0) == (1, 0)
            assert list(states["one"].vitals.ran_out) == ["m"]

    asyncio.run(main())


def test_no_other_server_once_a_part_was_relayed() -> None:
    """A stream that breaks ends with an error: nothing is begun twice."""
    begun: Script = [stream("x")[0], event(delta("half ")), RESET]

    async def main() -> None:
        async with two(begun) as (_, other, here):
            answer = await here.chat(stream=True)
            assert "half " in answer.text
            assert "hello" not in answer.text
            assert not other.requests

    asyncio.run(main())


def test_all_attempts_together_are_the_policys() -> None:
    """Two servers that fail get no more attempts than one."""

    async def main() -> None:
        async with ScriptedLlama([RESET]) as one, ScriptedLlama([RESET]) as other:
            upstreams = (Upstream("one", one.url), Upstream("other", other.url))
            async with gateway_here(upstreams) as here:
                await until(lambda: all(state.profiles for state in here.runtime.fleet))
                answer = await here.chat()
                assert answer.status_code in (502, 503)
                assert len(one.requests) + len(other.requests) <= 3
                assert int(answer.headers["penstock-attempts"]) <= 3

    asyncio.run(main())


def test_a_server_that_fails_quickly_attracts_nobody() -> None:
    """It looks free all the time; its failures count as waits."""

    async def main() -> None:
        async with two(FAILS) as (one, other, here):
            answers = [await here.chat() for _ in range(12)]
            assert {answer.status_code for answer in answers} == {200}
            assert len(one.requests) <= 2
            assert len(other.requests) == 12

    asyncio.run(main())


def test_a_path_that_names_its_server_is_not_sent_elsewhere() -> None:
    """`/upstream/NAME/...` means that one."""

    async def main() -> None:
        async with two(FAILS) as (_, other, here):
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            answer = await here.http.post("/upstream/one/v1/chat/completions", json=body)
            assert answer.status_code == 502
            assert not other.requests

    asyncio.run(main())


def fallback(target: str, url: str, local: bool) -> dict[str, Any]:
    """Settings by which requests for `box` go to `spare` when it does not answer."""
    return {
        **ONCE,
        "retry": {"local": {"attempts": 2, "first_delay_s": 0.01, "longest_delay_s": 0.05}},
        "upstreams": [
            {"name": "box", "url": "http://127.0.0.1:1", "fallback": target},
            {"name": "spare", "url": url, "local": local, "models": ["big"]},
        ],
    }


@pytest.mark.parametrize("local", [True, False], ids=["local", "cloud"])
def test_the_named_fallback_takes_over(local: bool) -> None:
    """With the model that is named for it, announced; a cloud only because it is named."""
    whole: Script = [reply({"id": "x", "object": "chat.completion", "model": "big", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "from the spare"}}]})]  # fmt: skip

    async def main() -> None:
        async with (
            ScriptedLlama(FAILS) as llama,
            ScriptedLlama(*([] if local else [whole])) as spare,
        ):
            settings = fallback("spare/m" if local else "spare/big", spare.url, local)
            settings["upstreams"][0]["url"] = llama.url
            upstreams = (
                Upstream("box", llama.url),
                Upstream("spare", spare.url, local=local, models=() if local else ("big",)),
            )
            spare.model = "m2"
            async with gateway_here(upstreams, settings=settings) as here:
                await until(lambda: here.runtime.fleet.get("box").profiles)
                answer = await here.chat()
                assert answer.status_code == 200
                assert len(spare.requests) == 1
                shown = (await here.http.get("/penstock/status")).json()["requests"]["recent"][0]
                assert shown["upstream"] == "spare"
                assert shown["locality"] == ("local" if local else "cloud")
                if local:
                    assert any("box does not answer" in c["detail"] for c in shown["changes"])
                else:
                    assert answer.json()["choices"][0]["message"]["content"] == "from the spare"

    asyncio.run(main())


def test_never_to_a_cloud_that_is_not_named() -> None:
    """A cloud that lists the very same model gets nothing."""

    async def main() -> None:
        async with ScriptedLlama(FAILS) as llama, ScriptedLlama() as cloud:
            upstreams = (
                Upstream("box", llama.url),
                Upstream("cloud", cloud.url, local=False, models=("m",)),
            )
            async with gateway_here(upstreams, settings=ONCE) as here:
                await until(lambda: here.runtime.fleet.get("box").profiles)
                for _ in range(6):
                    assert (await here.chat()).status_code in (502, 503)
                assert not cloud.requests

    asyncio.run(main())
