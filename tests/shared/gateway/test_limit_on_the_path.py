"""What a gateway's requests teach the limit of their upstream, and what the limit is based on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from loops import until
from penstock.concurrency import ConcurrencyOptions, Sample
from penstock.domain.fault import Fault, Outcome
from penstock.domain.profile import ModelProfile, ModelReading
from penstock.domain.upstream import ServerKind, Upstream
from penstock.errors import ErrorCode
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.limiter import Limiter
from penstock.gateway.upstreams.limiting import UpstreamLimit, _sample
from penstock.limits import LocalModelEnvironment, decide_window
from penstock.settings import Settings
from rawserver import CLOSE
from scripted import ScriptedLlama, gateway_here, reply, stream

GIB = 1024**3
REFUSED = Fault(ErrorCode.UPSTREAM_UNREACHABLE, "refused", phase="connect")
RESET = Fault(ErrorCode.UPSTREAM_UNREACHABLE, "reset", phase="stream")
FULL = Fault(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "Context size has been exceeded.", shared_kv=True)
TOO_LONG = Fault(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "too long", window=4096)
BUSY = Fault(ErrorCode.UPSTREAM_OVERLOADED, "busy", status=503)


def exchange(
    outcome: Outcome, *faults: Fault | None, in_flight: int = 4, **fields: Any
) -> Exchange:
    """One that has ended: its last attempt was sent at 10, and answered from 11 on."""
    made = Exchange("req_1", 0.0, 0.0, "POST", "/v1/chat/completions", upstream="box")
    made.outcome, made.in_flight = outcome, in_flight
    made.attempts = [Attempt("box", 10.0, 14.0, fault=fault) for fault in faults]
    made.sent_s, made.first_token_s, made.ended_s = 10.0, 11.0, 14.0
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("outcome", "faults", "lesson"),
    [
        pytest.param(Outcome.SUCCESS, (None,), "success", id="an answer"),
        pytest.param(Outcome.SUCCESS, (RESET, None), "ignored", id="an answer at the second try"),
        pytest.param(Outcome.SUCCESS, (FULL, None), "too_much", id="the shared KV was full"),
        pytest.param(Outcome.IGNORED, (TOO_LONG,), "ignored", id="too long by itself"),
        pytest.param(Outcome.IGNORED, (None,), "ignored", id="hung up"),
        pytest.param(Outcome.IGNORED, (BUSY,), "too_much", id="overloaded, by its own word"),
        pytest.param(Outcome.DROPPED, (RESET,), "dropped", id="a broken answer"),
        pytest.param(Outcome.DROPPED, (REFUSED,), "ignored", id="nobody listens"),
        pytest.param(
            Outcome.DROPPED, (Fault(ErrorCode.OUT_OF_MEMORY, "oom"),), "too_much", id="out of memory"
        ),
    ],
)  # fmt: skip
def test_lessons(outcome: Outcome, faults: tuple[Fault | None, ...], lesson: str) -> None:
    """What an ended request says about how many are too many."""
    assert _sample(exchange(outcome, *faults), 14.0, 3).lesson == lesson


def test_what_another_upstream_did_teaches_nothing_of_this_one() -> None:
    """A request that came from an upstream that was overloaded is a success where it was answered."""
    moved = exchange(Outcome.SUCCESS, BUSY, None)
    moved.attempts[0].upstream = "other"
    assert _sample(moved, 14.0, 3).lesson == "success"


def test_a_sample_is_what_the_server_had_to_do() -> None:
    """Cached tokens cost nothing; a server that counts nothing is believed to have had what we planned."""
    counted = exchange(
        Outcome.SUCCESS, None, prompt_tokens=900, cached_tokens=800, completion_tokens=31
    )
    assert _sample(counted, 14.0, 3) == Sample("success", 10.0, 14.0, 4, 4, 1.0, 100, 31, 3.0)
    planned = exchange(Outcome.SUCCESS, None, prompt_tokens_planned=500, chunks=12)
    assert _sample(planned, 14.0, 3)[6:8] == (500, 12)
    assert _sample(exchange(Outcome.SUCCESS, None, sent_s=None), 14.0, 3).lesson == "ignored"


@pytest.mark.parametrize(("loaded", "cold"), [(True, False), (False, True), (None, False)])
def test_a_load_is_told(loaded: bool | None, cold: bool) -> None:
    """A model that was not there when the request was made was loaded for it."""
    window = decide_window(model="m", explicit=None, env=None, last=None, running=4096,
                           running_origin="", learned=None, refused=None, fallback=4096)  # fmt: skip
    profile = ModelProfile(
        upstream="box", kind=ServerKind.OLLAMA, reading=ModelReading("m", loaded=loaded),
        window=window, learned_at=0.0,
    )  # fmt: skip
    assert _sample(exchange(Outcome.SUCCESS, None, profile=profile), 14.0, 3).cold is cold


@pytest.mark.parametrize(
    ("settings", "env", "expected"),
    [
        pytest.param({}, {}, (4, "slots", True), id="the server's slots"),
        pytest.param({"max_concurrency": 3}, {}, (3, "setting", False), id="the user's number stays"),
        pytest.param({}, {"max_concurrency": 2}, (2, "setting", False), id="that of the environment"),
        pytest.param(
            {"max_concurrency": 3, "adaptive": True}, {}, (3, "setting", True), id="a ceiling if asked"
        ),
        pytest.param({"adaptive": False}, {}, (4, "slots", False), id="slots as they are, if asked"),
    ],
)  # fmt: skip
def test_what_the_limit_is_based_on(
    settings: dict[str, Any], env: dict[str, Any], expected: tuple[int, str, bool]
) -> None:
    """Setting, slots or memory; and who may change it is said by `concurrency.adaptive`."""

    async def main() -> None:
        async with ScriptedLlama(slots=4) as llama:
            made = Settings.model_validate({"concurrency": settings})
            runtime = Runtime(made, (Upstream("box", llama.url),), LocalModelEnvironment(**env))
            state = runtime.fleet.get("box")
            await runtime.keeper.look(state)
            assert (state.limiter.limit, state.limit.source) == expected[:2]
            state.limit.learn(exchange(Outcome.IGNORED, BUSY), 14.0, may_grow=True)
            assert (state.limiter.limit < expected[0]) is expected[2]
            await runtime.stop()

    asyncio.run(main())


def limit(options: ConcurrencyOptions, left_gib: int | None) -> tuple[UpstreamLimit, Limiter]:
    """The limit of a server that tells no slots."""
    limiter = Limiter(1, options)
    made = UpstreamLimit(limiter)
    left = None if left_gib is None else left_gib * GIB
    made.set_base(options, given=None, slots=None, left_bytes=lambda: left)
    return made, limiter


@pytest.mark.parametrize(("left_gib", "start"), [(None, 1), (3, 1), (6, 2), (30, 4)])
def test_without_slots_memory_decides_where_it_begins(left_gib: int | None, start: int) -> None:
    """And a setting how far it may grow."""
    made, limiter = limit(ConcurrencyOptions(adaptive_ceiling=9), left_gib)
    assert (limiter.limit, made.source, made.ceiling) == (start, "memory", 9)
    made, limiter = limit(ConcurrencyOptions(adaptive=False), left_gib)
    assert (limiter.limit, made.source, made.ceiling) == (start, "memory", start)


def test_what_was_learned_survives_a_reload() -> None:
    """Also when less memory is left by then; other settings are other facts."""
    made, limiter = limit(ConcurrencyOptions(), 30)
    made.learn(exchange(Outcome.IGNORED, BUSY), 14.0, may_grow=True)
    assert (limiter.limit, made.source) == (2, "adapted")
    made.set_base(ConcurrencyOptions(queue_length=3), given=None, slots=None, left_bytes=lambda: 1)
    assert (limiter.limit, made.source) == (2, "adapted")
    made.set_base(ConcurrencyOptions(max_concurrency=7), given=7, slots=None, left_bytes=lambda: 1)
    assert (limiter.limit, made.source) == (7, "setting")
    made.slots_told(2)
    assert limiter.limit == 7
    made.set_base(ConcurrencyOptions(), given=None, slots=2, left_bytes=lambda: 1)
    assert (limiter.limit, made.source) == (2, "slots")


def test_only_a_real_fall_is_told() -> None:
    """Not each step, and not the same again and again."""
    made, limiter = limit(ConcurrencyOptions(), None)
    made.slots_told(16)
    told = []
    for at in (14.0, 100.0, 200.0, 300.0):
        gone = exchange(
            Outcome.IGNORED, BUSY, in_flight=limiter.limit, sent_s=at - 1.0, first_token_s=None
        )
        move = made.learn(gone, at, may_grow=True)
        told.append(None if move is None else limiter.limit)
    assert told == [11, 7, 4, 2]
    made.slots_told(8)
    assert made.learn(exchange(Outcome.SUCCESS, None), 400.0, may_grow=True) is None


def test_a_server_that_says_it_is_busy_gets_less(caplog: pytest.LogCaptureFixture) -> None:
    """Through a gateway: the limit falls once, the act is remembered, the status and the metric tell it."""
    busy = reply({"error": {"message": "busy", "type": "unavailable_error", "code": 503}},
                 b"503 Service Unavailable", b"retry-after: 1")  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama([busy], slots=4) as llama:
            tree = {"retry": {"local": {"attempts": 1}}}
            async with gateway_here(llama.url, settings=tree) as gateway:
                state = gateway.runtime.fleet.get("box")
                await until(lambda: state.limiter.limit == 4)
                answers = await asyncio.gather(*(gateway.chat() for _ in range(4)))
                assert {answer.status_code for answer in answers} == {503}
                assert state.limiter.limit == 2
                status = (await gateway.http.get("/penstock/status")).json()
                concurrency = status["upstreams"][0]["concurrency"]
                assert (concurrency["limit"], concurrency["source"]) == (2, "adapted")
                assert concurrency["ceiling"] == 4
                assert concurrency["moved"]["why"] == "requests failed with 4 at a time"
                assert [act["act"] for act in status["acts"]] == ["limit_lowered"]
                metrics = (await gateway.http.get("/metrics")).text
                assert 'penstock_concurrency_limit{upstream="box"} 2.0' in metrics

    asyncio.run(main())


def test_a_dead_server_is_not_throttled() -> None:
    """When nobody listens that is not for having too much to do: after a restart all slots are used."""

    async def main() -> None:
        async with ScriptedLlama([CLOSE], stream("hello"), slots=3) as llama:
            async with gateway_here(
                llama.url, settings={"retry": {"local": {"attempts": 1}}}
            ) as gateway:
                state = gateway.runtime.fleet.get("box")
                await until(lambda: state.limiter.limit == 3)
                await llama.leave()
                answers = await asyncio.gather(*(gateway.chat() for _ in range(3)))
                assert all(answer.status_code >= 500 for answer in answers)
                assert state.limiter.limit == 3

    asyncio.run(main())


def test_in_flight_counts_the_request_itself() -> None:
    """The first of a quiet upstream is one; slots that a request takes more of count as more."""

    async def main() -> None:
        async with ScriptedLlama(stream("hello"), slots=4) as llama:
            async with gateway_here(llama.url) as gateway:
                await gateway.chat()
                await gateway.chat(n=2)
                first, second = reversed(gateway.runtime.recorder.recent())
                assert (first.in_flight, second.in_flight) == (1, 2)

    asyncio.run(main())
