"""A server that fails now and then, under load: the others are answered, each once, within the policy's attempts."""

from __future__ import annotations

import random
from collections.abc import Callable

from crowd import Answer, Stage, breaks, resets, says, stalls, stress
from rawserver import answer as http_answer
from scripted import reply

NEVER_OPENS = {"breaker": {"enabled": False}}
SHORT = {"timeouts": {"stall_s": 0.2}}


def every(number: int, act: Answer) -> Callable[[int], Answer | None]:
    """Each *number*-th request is answered so."""
    return lambda count: act if count % number == 0 else None


def error(status: bytes, message: str, *headers: bytes, **fields: object) -> Answer:
    """An error as llama.cpp says it."""
    return says(reply({"error": {"message": message, **fields}}, status, *headers))


INTERNAL = error(b"500 Internal Server Error", "something went wrong", type="server_error")
BUSY = error(b"503 Service Unavailable", "no slot available", b"retry-after: 0")
LIMITED = error(b"429 Too Many Requests", "slow down", b"retry-after: 0")
MEMORY = error(b"500 Internal Server Error", "CUDA error: out of memory")
HTML = says(http_answer(b"<html>Bad Gateway</html>", b"502 Bad Gateway", b"content-type: text/html"))  # fmt: skip
ERROR_IN_200 = says(reply({"error": {"message": "slot died", "code": 500, "type": "server_error"}}))


def attempts_of(stage: Stage) -> int:
    """The most attempts of any request."""
    return max(len(e.attempts) for e in stage.here.runtime.recorder.recent())


@stress(settings=NEVER_OPENS, answer=every(3, INTERNAL))
async def test_every_third_answer_is_an_internal_error(stage: Stage) -> None:
    """A failure that will not pass is told, and is not repeated."""
    await stage.crowd(60)
    assert stage.outcomes.whole + stage.outcomes.failed == 60
    assert stage.outcomes.whole >= 30
    assert attempts_of(stage) <= 3


@stress(settings=NEVER_OPENS, answer=every(3, resets))
async def test_every_third_connection_is_reset(stage: Stage) -> None:
    """A server that drops a request without a byte gets it once more."""
    await stage.crowd(60, stream=True)
    assert stage.outcomes.whole >= 55
    assert attempts_of(stage) <= 3
    assert len(stage.llama.requests) <= 60 * 2


@stress(settings={**NEVER_OPENS, "resume": {"enabled": False}}, answer=every(3, breaks))
async def test_every_third_stream_breaks(stage: Stage) -> None:
    """Who has had a part gets an error at the end of it, and no second beginning."""
    await stage.crowd(60, stream=True)
    assert stage.outcomes.codes == {"broken_stream": 20}
    assert stage.outcomes.whole == 40
    assert len(stage.llama.requests) == 60


@stress(settings=NEVER_OPENS, answer=every(3, breaks))
async def test_every_third_answer_breaks_before_anything_is_relayed(stage: Stage) -> None:
    """Nobody has seen a part of a plain answer: it is asked for again."""
    await stage.crowd(60)
    assert stage.outcomes.whole >= 55
    assert attempts_of(stage) <= 3


@stress(settings=NEVER_OPENS, answer=every(2, BUSY))
async def test_every_second_request_is_too_much_for_the_server(stage: Stage) -> None:
    """A busy server is asked again by policy."""
    await stage.crowd(60)
    assert stage.outcomes.whole >= 45
    assert set(stage.outcomes.codes) <= {"upstream_overloaded"}
    assert attempts_of(stage) <= 3


@stress(settings=NEVER_OPENS, answer=every(4, LIMITED))
async def test_every_fourth_request_is_rate_limited(stage: Stage) -> None:
    """A server's own limit is respected and waited for."""
    await stage.crowd(60)
    assert stage.outcomes.whole >= 55


@stress(settings=NEVER_OPENS, answer=every(5, MEMORY))
async def test_every_fifth_request_is_out_of_memory(stage: Stage) -> None:
    """It is told at once and never repeated."""
    await stage.crowd(50)
    assert stage.outcomes.codes["out_of_memory"] == 10
    assert stage.outcomes.whole == 40
    assert len(stage.llama.requests) == 50


@stress(settings=NEVER_OPENS, answer=every(4, HTML))
async def test_every_fourth_answer_is_a_page(stage: Stage) -> None:
    """A page of HTML never reaches a client."""
    await stage.crowd(40)
    assert not any("html" in text for text in stage.outcomes.texts)
    assert stage.outcomes.whole + stage.outcomes.failed == 40


@stress(settings=NEVER_OPENS, answer=every(4, ERROR_IN_200))
async def test_every_fourth_200_is_an_error(stage: Stage) -> None:
    """A 200 with an error in it is a fault like any other."""
    await stage.crowd(40)
    assert not any("slot died" in text for text in stage.outcomes.texts)
    assert stage.outcomes.whole + stage.outcomes.failed == 40


@stress(settings={**NEVER_OPENS, **SHORT}, answer=every(5, stalls))
async def test_every_fifth_stream_stalls(stage: Stage) -> None:
    """A stream that says no more ends with an error, and its slot is free."""
    await stage.crowd(40, stream=True)
    assert stage.outcomes.codes == {"stall_timeout": 8}
    assert stage.outcomes.whole == 32


@stress(settings={**NEVER_OPENS, **SHORT})
async def test_everything_by_chance(stage: Stage) -> None:
    """Good and bad answers of every kind by a seeded chance, streaming and plain: each client is told once."""
    chance = random.Random(11)
    kinds: list[Answer | None] = [None] * 8 + [
        INTERNAL, resets, breaks, BUSY, LIMITED, MEMORY, HTML, ERROR_IN_200, stalls,
    ]  # fmt: skip
    stage.llama.answer = lambda _: chance.choice(kinds)
    for stream in (False, True, False, True):
        await stage.crowd(50, stream=stream)
    assert stage.outcomes.whole + stage.outcomes.failed == 200
    assert stage.outcomes.whole >= 80
    assert attempts_of(stage) <= 3
    stage.llama.answer = lambda _: None
    await stage.crowd(20)


@stress(settings=NEVER_OPENS, answer=lambda count: INTERNAL if count <= 40 else None)
async def test_forty_failures_and_then_none(stage: Stage) -> None:
    """Bad times leave nothing that slows good times down."""
    await stage.crowd(20)
    failed = stage.outcomes.failed
    stage.llama.answer = lambda _: None
    await stage.crowd(40)
    assert failed > 0
    assert stage.outcomes.whole >= 40
