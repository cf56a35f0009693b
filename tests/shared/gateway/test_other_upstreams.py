"""An upstream that fails, and others that can do its work: the client sees one good answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loops import until
from penstock.breaker import BreakerOptions
from penstock.domain.upstream import Upstream
from rawserver import RESET, Script
from scripted import Here, ScriptedLlama, delta, event, gateway_here, reply, stream

FAILS: Script = [reply({"error": {"message": "boom", "type": "server_error", "code": 500}}, b"500 Internal Server Error")]  # fmt: skip
ONCE = {"retry": {"local": {"attempts": 1, "first_delay_s": 0.01, "longest_delay_s": 0.05}}}


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


def test_one_that_is_bypassed_takes_no_answer_that_began_with_heartbeats() -> None:
    """Its bytes could not pass unchanged any more: the request is tried again where it is."""

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        go = asyncio.Event()
        async with two([go, RESET], stream("again"), settings=settings) as (one, other, here):
            here.runtime.fleet.get("other").gate.bypassed = True
            asked = asyncio.create_task(here.chat(stream=True))
            await until(lambda: any(e.heartbeats for e in here.runtime.in_flight.values()))
            go.set()
            assert "again" in (await asked).text
            assert (len(one.requests), len(other.requests)) == (2, 0)

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
                assert any("box does not answer" in c["detail"] for c in shown["changes"])
                if local:
                    assert "box does not answer" in answer.headers["penstock-warning"]
                else:
                    assert "penstock-warning" not in answer.headers
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


def test_a_fallback_stands_in_for_one_that_was_never_there() -> None:
    """The gateway came up while its server was down: what is asked of it goes to the other one all the same."""

    async def main() -> None:
        async with ScriptedLlama() as spare:
            spare.model = "m2"
            settings = fallback("spare", spare.url, True)
            upstreams = (Upstream("box", "http://127.0.0.1:1"), Upstream("spare", spare.url))
            async with gateway_here(upstreams, settings=settings) as here:
                answer = await here.chat()
                assert answer.status_code == 200
                assert answer.headers["penstock-upstream"] == "spare"
                # It takes the same model only where another one that could have it is away.
                del settings["upstreams"][0]["fallback"]
            async with gateway_here(upstreams, settings=settings) as here:
                assert (await here.chat()).json()["error"]["code"] == "model_not_found"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "once"),
    [
        pytest.param("/v1/chat/completions", ["data: [DONE]"], id="OpenAI"),
        pytest.param("/v1/messages", ["event: message_start", "event: message_stop"], id="Anthropic"),
    ],
)  # fmt: skip
def test_heartbeats_stay_valid_when_another_server_goes_on(path: str, once: list[str]) -> None:
    """The stream that they began is the one in which the other server's answer comes."""

    async def main() -> None:
        go = asyncio.Event()
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        async with two([go, RESET], settings=settings) as (one, other, here):
            body = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}  # fmt: skip
            call = asyncio.create_task(here.http.post(path, json=body))
            await until(lambda: [e.heartbeats for e in here.runtime.in_flight.values()] > [1])
            go.set()
            answer = await call
            assert answer.status_code == 200
            assert "hello" in answer.text
            assert "error" not in answer.text
            assert [answer.text.count(line) for line in once] == [1] * len(once)
            assert (len(one.requests), len(other.requests)) == (1, 1)

    asyncio.run(main())


def test_no_cloud_once_a_heartbeat_went_out() -> None:
    """Its bytes could not pass unchanged any more: the client gets the error in its stream."""

    async def main() -> None:
        go = asyncio.Event()
        async with ScriptedLlama([go, *FAILS]) as llama, ScriptedLlama() as cloud:
            settings = fallback("spare/big", cloud.url, False)
            settings["upstreams"][0]["url"] = llama.url
            settings["timeouts"] = {"heartbeat_s": 0.05}
            upstreams = (
                Upstream("box", llama.url),
                Upstream("spare", cloud.url, local=False, models=("big",)),
            )
            async with gateway_here(upstreams, settings=settings) as here:
                await until(lambda: here.runtime.fleet.get("box").profiles)
                call = asyncio.create_task(here.chat(stream=True))
                await until(lambda: [e.heartbeats for e in here.runtime.in_flight.values()] > [1])
                go.set()
                answer = await call
                assert "upstream_error" in answer.text
                assert not cloud.requests

    asyncio.run(main())


def test_who_waits_for_a_server_that_is_left_alone_by_then_goes_to_the_other_one() -> None:
    """All of the queue, at once: nobody sees an error, nobody is sent to the one that fails."""

    async def main() -> None:
        go, end = asyncio.Event(), asyncio.Event()
        begun = stream("begun")
        scripts: list[Script] = [[go, *FAILS], [*begun[:2], end, *begun[2:]]]
        settings = {"breaker": {"failures": 1}}
        async with two(*scripts, settings=settings) as (one, _, here):
            busy, box = here.runtime.fleet.get("other"), here.runtime.fleet.get("one")
            box.limiter.resize(2)
            first = asyncio.create_task(here.chat())
            second = asyncio.create_task(here.chat(stream=True))
            await until(lambda: len(one.requests) == 2)
            busy.reachable = False  # so that all others wait for the first one
            rest = [asyncio.create_task(here.chat(n=2)) for _ in range(6)]
            await until(lambda: box.limiter.waiting == 6)
            busy.reachable = True
            go.set()
            answers = await asyncio.gather(first, *rest)
            assert [answer.status_code for answer in answers] == [200] * 7
            assert {answer.headers["penstock-upstream"] for answer in answers} == {"other"}
            assert len(one.requests) == 2
            end.set()
            assert "begun" in (await second).text
            assert (box.limiter.in_use, busy.limiter.in_use) == (0, 0)

    asyncio.run(main())


def test_a_failure_that_no_client_saw_counts_against_its_server() -> None:
    """Attempts, health and limit of each server are its own; what was fitted for one is not announced of the other."""

    async def main() -> None:
        async with two(FAILS) as (_, _, here):
            answer = await here.chat()
            assert answer.headers["penstock-upstream"] == "other"
            one, other = here.runtime.fleet.get("one"), here.runtime.fleet.get("other")
            assert one.vitals.requests(0.0) == (1, 1)
            assert other.vitals.requests(0.0) == (1, 0)
            metrics = (await here.http.get("/metrics")).text
            for name in ("one", "other"):
                assert f'penstock_attempts_total{{upstream="{name}"}} 1.0' in metrics
            assert 'penstock_retries_total{code="upstream_error",upstream="one"} 1.0' in metrics

    asyncio.run(main())


def test_a_server_that_loads_is_nobodys_choice_while_another_one_is_ready() -> None:
    """Its requests would wait for minutes."""

    async def main() -> None:
        async with two() as (one, other, here):
            here.runtime.fleet.get("one").ready = False
            assert (await here.chat()).headers["penstock-upstream"] == "other"
            assert (len(one.requests), len(other.requests)) == (0, 1)

    asyncio.run(main())


def test_failures_are_forgotten_with_time() -> None:
    """One that nobody is sent to for its failures is tried again when these are old."""

    async def main() -> None:
        async with two(FAILS, stream("again")) as (one, other, here):
            await here.chat()
            await here.chat()
            assert (len(one.requests), len(other.requests)) == (1, 2)
            here.runtime.fleet.get("one").breaker.options = BreakerOptions(window_s=1e-9)
            assert "again" in (await here.chat()).text

    asyncio.run(main())
