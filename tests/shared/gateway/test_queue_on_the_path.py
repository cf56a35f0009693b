"""The queue on the live path: places, refusals at the door, what is taken over, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from crowd import Stage, stress
from loops import until
from penstock.domain.upstream import Upstream
from penstock.gateway.edge.sessions import session_of
from rawserver import CHUNKED_HEAD, chunk
from scripted import Here, Script, ScriptedLlama, delta, event, gateway_here, reply, stream

ONE = {"slots": 1, "prefill_s": 0.2}
QUEUED = ("penstock_requests_in_flight", "penstock_requests_queued", "penstock_ghost_requests",
          "penstock_requests_held", "penstock_client_requests_queued")  # fmt: skip


def held(go_on: asyncio.Event) -> list[Any]:
    """A stream that ends when told to."""
    return [CHUNKED_HEAD, event(delta("x")), go_on, event(delta("", "stop")), event(b"[DONE]"), chunk(b"")]  # fmt: skip


def text_of(llama: ScriptedLlama) -> list[str]:
    """What the server was asked, in order."""
    return [json.loads(r.body)["messages"][-1]["content"] for r in llama.requests]


def says(text: str, **fields: Any) -> dict[str, Any]:
    """Fields of a request with one message."""
    return {"messages": [{"role": "user", "content": text}], **fields}


class Counting(ScriptedLlama):
    """Keeps what it is asked to count."""

    def __init__(self, *scripts: Script, slots: int) -> None:
        super().__init__(*scripts, slots=slots)
        self.bodies: list[Any] = []

    def _count(self, target: bytes, body: dict[str, Any]) -> bytes:
        self.bodies.append(body)
        return super()._count(target, body)


class Working(ScriptedLlama):
    """Its first slot is busy, by its own word, until it is told to be free."""

    is_free = False

    def _probe(self, target: str) -> bytes:
        if target == "/slots":
            return reply([{"id": 0, "n_ctx": self.window, "is_processing": not self.is_free}])
        return super()._probe(target)


async def hang_up(task: asyncio.Task[Any]) -> None:
    """The client closes its connection."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def waiting(here: Here) -> int:
    """Requests that wait."""
    return here.runtime.fleet.get("box").limiter.waiting


def test_a_full_queue_refuses_before_anything_is_counted() -> None:
    """The server is not asked to count what is not let in; Retry-After is told."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with Counting(held(go_on), stream("ok"), slots=1) as llama:
            settings = {"concurrency": {"queue_length": 1}}
            async with gateway_here(llama.url, settings=settings) as here:
                first = asyncio.create_task(here.chat(**says("one")))
                await until(lambda: len(llama.requests) == 1)
                second = asyncio.create_task(here.chat(**says("two")))
                await until(lambda: waiting(here) == 1)
                refused = await here.chat(**says("three " * 500))
                assert refused.status_code == 429
                assert refused.json()["error"]["code"] == "queue_full"
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                assert not any("three" in json.dumps(body) for body in llama.bodies)
                responses = await here.http.post("/v1/responses", json={"model": "m", "input": "x"})
                assert responses.status_code == 503
                go_on.set()
                assert (await first).status_code == (await second).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "is_told"),
    [
        pytest.param("/v1/chat/completions", True, id="chat"),
        pytest.param("/v1/completions", True, id="completions"),
        pytest.param("/v1/messages", True, id="messages"),
        pytest.param("/v1/responses", True, id="responses"),
        pytest.param("/api/chat", False, id="ndjson"),
    ],
)
def test_heartbeats_tell_the_place_in_the_queue(path: str, is_told: bool) -> None:
    """In a comment line directly before their `data:` line; in NDJSON only the request's own page tells it."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with ScriptedLlama(held(go_on), stream("ok"), slots=1) as llama:
            settings = {"timeouts": {"heartbeat_s": 0.05}}
            async with gateway_here(llama.url, settings=settings) as here:
                first = asyncio.create_task(here.chat(**says("one", stream=True)))
                await until(lambda: len(llama.requests) == 1)
                body = {**says("two", stream=True), "model": "m", "max_tokens": 5}
                if path == "/v1/completions":
                    body["prompt"] = "two"
                if path == "/v1/responses":
                    body = {"model": "m", "input": "two", "stream": True}
                second = asyncio.create_task(here.http.post(path, json=body))
                await until(lambda: waiting(here) == 1)
                (entry,) = [e for e in here.runtime.in_flight.values() if e.stage == "queued"]
                await until(lambda: entry.heartbeats >= 2)
                shown = (await here.http.get(f"/penstock/requests/{entry.id}")).json()
                assert shown["queue"]["position"] == 1
                assert shown["queue"]["expected_wait_s"] >= 0
                go_on.set()
                await first
                lines = (await second).text.split("\n")
                told = [n for n, line in enumerate(lines) if line.startswith(': penstock {"queue"')]
                assert bool(told) == is_told
                for place in told:
                    facts = json.loads(lines[place].removeprefix(": penstock "))
                    assert facts["queue"]["position"] == 1
                    assert lines[place + 1].startswith("data: ")
                shown = (await here.http.get(f"/penstock/requests/{entry.id}")).json()
                assert shown["queue"] is None

    asyncio.run(main())


def test_who_hangs_up_and_asks_again_has_its_old_place() -> None:
    """Before those that came after it; another request of the same client comes behind them."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with ScriptedLlama(held(go_on), stream("ok"), slots=1) as llama:
            async with gateway_here(llama.url) as here:
                tasks = [asyncio.create_task(here.chat(**says("running")))]
                await until(lambda: len(llama.requests) == 1)
                for number, text in enumerate(("a", "b", "c"), 1):
                    tasks.append(asyncio.create_task(here.chat(**says(text))))
                    await until(lambda n=number: waiting(here) == n)
                await hang_up(tasks.pop(1))
                await until(lambda: waiting(here) == 2)
                for text in ("other", "a"):
                    tasks.append(asyncio.create_task(here.chat(**says(text))))
                    await until(lambda: waiting(here) == len(tasks) - 1)
                go_on.set()
                assert {r.status_code for r in await asyncio.gather(*tasks)} == {200}
                assert text_of(llama) == ["running", "a", "b", "c", "other"]
                metrics = here.runtime.recorder.metrics.render().decode()
                assert 'penstock_take_overs_total{upstream="box",what="place"} 1.0' in metrics

    asyncio.run(main())


def test_two_clients_that_both_wait_are_two_requests() -> None:
    """Equal requests share nothing while both clients are there."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with ScriptedLlama(held(go_on), stream("ok"), slots=1) as llama:
            async with gateway_here(llama.url) as here:
                tasks = []
                for number in range(3):
                    tasks.append(asyncio.create_task(here.chat(**says("same"))))
                    await until(lambda n=number: len(llama.requests) == 1 and waiting(here) == n)
                go_on.set()
                assert {r.status_code for r in await asyncio.gather(*tasks)} == {200}
                assert len(llama.requests) == 3

    asyncio.run(main())


def test_who_was_at_work_and_asks_again_goes_next() -> None:
    """Its ghost's permit, once that ends, is its own: before all others that wait."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with ScriptedLlama([go_on], stream("ok"), slots=1) as llama:
            async with gateway_here(llama.url) as here:
                first = asyncio.create_task(here.chat(**says("given up")))
                await until(lambda: len(llama.requests) == 1)
                others = [asyncio.create_task(here.chat(**says(f"other {n}"))) for n in range(3)]
                await until(lambda: waiting(here) == 3)
                await hang_up(first)
                again = asyncio.create_task(here.chat(**says("given up")))
                await until(lambda: waiting(here) == 4 or len(llama.requests) > 1)
                go_on.set()
                assert (await again).status_code == 200
                assert {r.status_code for r in await asyncio.gather(*others)} == {200}
                assert text_of(llama)[:2] == ["given up", "given up"]
                state = here.runtime.fleet.get("box")
                assert (state.limiter.running, state.limiter.waiting, state.ghosts) == (0, 0, 0)

    asyncio.run(main())


def test_who_gives_up_twice_has_it_still() -> None:
    """An heir that hangs up leaves what it waited for to the next one."""

    async def main() -> None:
        go_on = asyncio.Event()
        async with Working([go_on], stream("ok"), slots=1) as llama:
            async with gateway_here(llama.url) as here:
                state = here.runtime.fleet.get("box")
                first = asyncio.create_task(here.chat(**says("x")))
                await until(lambda: len(llama.requests) == 1)
                await hang_up(first)
                await until(lambda: state.ghosts == 1)
                for _ in range(2):
                    again = asyncio.create_task(here.chat(**says("x")))
                    await until(lambda: len(state.limiter.heirs) == 1)
                    await hang_up(again)
                    await until(lambda: len(state.limiter.heirs) == 0)
                last = asyncio.create_task(here.chat(**says("x")))
                await until(lambda: len(state.limiter.heirs) == 1)
                assert waiting(here) == 1
                llama.is_free = True
                go_on.set()
                assert (await last).status_code == 200
                entries = here.runtime.recorder.recent()
                assert [e.took_over for e in entries] == ["ghost", "ghost", "ghost", ""]

    asyncio.run(main())


def test_requests_that_shared_a_cache_do_so_no_more() -> None:
    """Once the server said that its slots share one, permits carry tokens, and the refusal does not come again."""

    async def main() -> None:
        go_on = asyncio.Event()
        full = reply({"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
                     b"500 Internal Server Error")  # fmt: skip
        long = "word " * 2500
        async with ScriptedLlama(held(go_on), [full], stream("ok")) as llama:
            async with gateway_here(llama.url) as here:
                limiter = here.runtime.fleet.get("box").limiter
                first = asyncio.create_task(here.chat(**says("1 " + long)))
                await until(lambda: len(llama.requests) == 1)
                second = asyncio.create_task(here.chat(**says("2 " + long)))
                await until(lambda: limiter.shared_tokens == 4096)
                third = asyncio.create_task(here.chat(**says("3 " + long)))
                await until(lambda: limiter.waiting == 2)
                go_on.set()
                answers = await asyncio.gather(first, second, third)
                assert [a.status_code for a in answers] == [200] * 3
                assert [t[0] for t in text_of(llama)] == ["1", "2", "2", "3"]
                fourth, fifth = (
                    asyncio.create_task(here.chat(**says(f"{n} {long}"))) for n in (4, 5)
                )
                await asyncio.gather(fourth, fifth)
                assert len(llama.requests) == 6
                status = (await here.http.get("/penstock/status")).json()
                assert status["upstreams"][0]["concurrency"]["shared_kv_tokens"] == 4096

    asyncio.run(main())


@stress(slots=2, prefill_s=0.02)
async def test_a_greedy_client_and_a_modest_one(stage: Stage) -> None:
    """Three requests beside a hundred are served after a few of them."""
    greedy = asyncio.create_task(stage.crowd(100, client="greedy"))
    await until(lambda: stage.state.limiter.waiting > 60)
    begun = len(stage.llama.order)
    async with httpx.AsyncClient(base_url=stage.here.url, timeout=30, trust_env=False) as http:

        async def ask(number: int) -> None:
            body = {"model": "m", **says(f"modest {number}")}
            stage.saw(await http.post("/v1/chat/completions", json=body))

        await asyncio.gather(*(ask(n) for n in range(3)))
    places = [n for n, text in enumerate(stage.llama.order) if text.startswith("modest")]
    await greedy
    assert stage.outcomes.whole == 103
    assert max(places) - begun < 30


@stress(keys={"one": "k1", "two": "k2"}, **ONE)
async def test_gauges_are_zero_after_every_kind_of_ending(stage: Stage) -> None:
    """Answered, refused, given up in the queue and at work, taken over, timed out: nothing is left over."""
    runtime = stage.here.runtime
    first = asyncio.create_task(stage.ask("first"))
    await until(lambda: stage.llama.here == 1)
    queued = [asyncio.create_task(stage.ask(f"queued {n}", stream=n % 2 == 0)) for n in range(6)]
    await until(lambda: stage.state.limiter.waiting == 6)
    assert stage.gauge("penstock_client_requests_queued") == 6
    status = (await stage.here.http.get("/penstock/status")).json()
    concurrency = status["upstreams"][0]["concurrency"]
    assert concurrency["queued_by_client"] == {"one": 6}
    assert concurrency["expected_wait_s"] > 0
    for task in queued[:2]:
        await hang_up(task)
    again = asyncio.create_task(stage.ask("queued 0", stream=True))
    await hang_up(first)
    urgent = await stage.here.http.post(
        "/v1/chat/completions",
        json={"model": "m", **says("deadline")},
        headers={"penstock-deadline": "0.05"},
    )
    assert urgent.json()["error"]["code"] == "queue_deadline"
    await asyncio.gather(again, *queued[2:])
    await until(lambda: not runtime.in_flight)
    await until(lambda: all(stage.gauge(name) == 0 for name in QUEUED), 20.0)


def test_sessions_that_clients_name_are_read() -> None:
    """As Claude Code, opencode, Codex and others say them; the header first."""
    assert session_of({"x-claude-code-session-id": "a", "x-session-id": "b"}, {}) == "a"
    assert session_of({"x-session-id": "b"}, {"prompt_cache_key": "c"}) == "b"
    assert session_of({}, {"prompt_cache_key": "c", "user": "d"}) == "c"
    assert session_of({}, {"metadata": {"user_id": "e"}, "user": "d"}) == "e"
    assert session_of({}, {"user": "d"}) == "d"
    assert session_of({}, {"user": 3, "metadata": None, "prompt_cache_key": ""}) == ""
    assert len(session_of({}, {"user": "x" * 10_000})) == 1024


def test_a_session_keeps_its_slot_when_its_beginning_changes() -> None:
    """A nonce at the front does not make it a stranger; what it asks on the side is one."""

    async def main() -> None:
        async with ScriptedLlama(slots=3) as llama:
            async with gateway_here([Upstream("box", llama.url, exclusive=True)]) as here:
                tool = {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object"}},
                }
                for number in range(3):
                    messages = [{"role": "system", "content": f"nonce {number}"},
                                {"role": "user", "content": f"task {number}"}]  # fmt: skip
                    body = {"model": "m", "messages": messages, "tools": [tool]}
                    head = {"x-session-id": "s1"}
                    await here.http.post("/v1/chat/completions", json=body, headers=head)
                    await here.http.post(
                        "/v1/chat/completions", json={"model": "m", **says(f"title {number}")}, headers=head
                    )  # fmt: skip
                named = [json.loads(r.body).get("id_slot") for r in llama.requests]
                assert named[0] == named[2] == named[4]
                assert named[0] not in named[1::2]

    asyncio.run(main())
