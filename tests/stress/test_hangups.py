"""Clients that leave, at every point of a request's life: their slots are free again, and others are served."""

from __future__ import annotations

import asyncio
import random

from crowd import BODY, HEAD, BusyLlama, Stage, good, stress
from loops import until
from rawserver import Peer, Received

SLOW = {"slots": 1, "prefill_s": 0.3}


async def occupied(stage: Stage) -> asyncio.Task[int]:
    """A request that has the only slot."""
    task = asyncio.create_task(stage.ask("first"))
    await until(lambda: stage.llama.here == 1)
    return task


@stress(**SLOW)
async def test_after_the_head(stage: Stage) -> None:
    """Nothing is sent for a body that never came."""
    for _ in range(20):
        _, writer = await stage.opened(HEAD)
        await asyncio.sleep(0)
        writer.transport.abort()
    assert stage.llama.requests == []


@stress(**SLOW)
async def test_in_the_middle_of_the_body(stage: Stage) -> None:
    """Half a body is no request."""
    for size in range(0, len(BODY), 3):
        _, writer = await stage.opened(HEAD + BODY[:size])
        await writer.drain()
        writer.close()
    await stage.ask()
    assert len(stage.llama.requests) == 1


@stress(**SLOW)
async def test_first_in_the_queue(stage: Stage) -> None:
    """The one behind moves up."""
    first = await occupied(stage)
    leaving = asyncio.create_task(stage.leave(lambda: stage.state.limiter.waiting == 2, text="x"))
    await until(lambda: stage.state.limiter.waiting == 1)
    second = asyncio.create_task(stage.ask("second"))
    await asyncio.gather(first, leaving, second)
    assert stage.outcomes.whole == 2
    assert len(stage.llama.requests) == 2


@stress(**SLOW)
async def test_last_in_the_queue(stage: Stage) -> None:
    """Nobody notices."""
    first = await occupied(stage)
    second = asyncio.create_task(stage.ask("second"))
    await until(lambda: stage.state.limiter.waiting == 1)
    await stage.leave(lambda: stage.state.limiter.waiting == 2, text="x")
    await asyncio.gather(first, second)
    assert len(stage.llama.requests) == 2


@stress(slots=1)
async def test_all_that_wait(stage: Stage) -> None:
    """A queue of fifty that empties at once."""
    all_left = asyncio.Event()

    async def held(llama: BusyLlama, peer: Peer, request: Received) -> None:
        await all_left.wait()
        await good(llama, peer, request)

    stage.llama.answer = lambda _: held
    first = await occupied(stage)
    await asyncio.gather(
        *(stage.leave(lambda: stage.state.limiter.waiting == 50, text=f"{n}") for n in range(50))
    )
    await until(lambda: stage.state.limiter.waiting == 0)
    all_left.set()
    await first
    assert len(stage.llama.requests) == 1
    await stage.ask("again")
    assert stage.outcomes.whole == 2


@stress(slots=1, prefill_s=0.01)
async def test_in_the_moment_of_the_permit(stage: Stage) -> None:
    """Whether it had its permit already or not: nobody else loses one."""
    for number in range(15):
        first = asyncio.create_task(stage.ask(f"first {number}"))
        await until(lambda: stage.llama.here == 1)
        leaving = asyncio.create_task(stage.leave(lambda f=first: f.done(), text=f"x {number}"))
        await first
        await leaving
    await stage.crowd(5)
    assert stage.outcomes.whole >= 20


@stress(**SLOW)
async def test_in_prefill(stage: Stage) -> None:
    """The server's slot is not given away before the server has stopped."""
    await asyncio.gather(
        *(stage.leave(lambda: stage.llama.here >= 1, text=f"{n}", stream=True) for n in range(3))
    )
    await stage.ask("next")
    assert stage.llama.most <= 2
    assert stage.outcomes.whole == 1


@stress(slots=2, tokens=200, token_s=0.005)
async def test_after_the_first_token(stage: Stage) -> None:
    """Ten streams are left in the middle; the server stops working on them."""
    await asyncio.gather(
        *(
            stage.leave(lambda n=n: stage.llama.here >= 1 + n % 2, text=f"{n}", stream=True)
            for n in range(10)
        )
    )
    await until(lambda: stage.llama.here == 0)
    assert stage.llama.served == 0


@stress(slots=2, tokens=200, token_s=0.005)
async def test_plain_requests_in_the_middle(stage: Stage) -> None:
    """A client that asked for no stream frees its slot as well."""
    await asyncio.gather(
        *(stage.leave(lambda: stage.llama.here == 2, text=f"{n}") for n in range(2))
    )
    await until(lambda: stage.llama.here == 0)
    assert stage.llama.served == 0


@stress(settings={"retry": {"local": {"first_delay_s": 5, "longest_delay_s": 5}}})
async def test_while_it_waits_for_the_next_attempt(stage: Stage) -> None:
    """A delay ends with its client."""
    await stage.llama.leave()

    def four_were_tried() -> bool:
        return sum(bool(e.attempts) for e in stage.here.runtime.in_flight.values()) >= 4

    await asyncio.gather(*(stage.leave(four_were_tried, text=f"{n}") for n in range(4)))
    await stage.llama.come_back()
    await stage.ask("next")
    assert stage.outcomes.whole == 1


@stress()
async def test_while_the_model_loads(stage: Stage) -> None:
    """Nobody is sent for them when the load is over."""
    stage.llama.ready = False
    stage.llama.answer = loading
    await asyncio.gather(
        *(
            stage.leave(
                lambda: sum(e.stage == "loading" for e in stage.here.runtime.in_flight.values()) >= 4,
                text=f"{n}",
            )
            for n in range(4)
        )
    )  # fmt: skip
    sent = len(stage.llama.requests)
    stage.llama.ready, stage.llama.answer = True, lambda _: None
    await stage.ask("next")
    assert len(stage.llama.requests) == sent + 1


def loading(_: int):  # type: ignore[no-untyped-def]
    """Refuses as a llama.cpp does that loads its model."""
    from crowd import says
    from scripted import reply

    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    return says(reply({"error": error}, b"503 Service Unavailable"))


@stress()
async def test_after_the_answer(stage: Stage) -> None:
    """A connection that is closed after each answer."""
    for _ in range(30):
        reader, writer = await stage.opened(HEAD + BODY)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        writer.transport.abort()


@stress(slots=2, prefill_s=0.005, token_s=0.002, tokens=8)
async def test_at_any_time(stage: Stage) -> None:
    """A hundred clients, every second of which leaves after a while that is drawn by a seeded chance."""
    chance = random.Random(7)

    async def one(number: int) -> None:
        if number % 2:
            await stage.leave(chance.uniform(0.0, 0.6), text=f"{number}", stream=number % 4 == 1)
        else:
            await stage.ask(f"{number}", stream=number % 4 == 0)

    await asyncio.gather(*(one(n) for n in range(100)))
    assert stage.outcomes.whole >= 50
    assert stage.outcomes.failed == 0


@stress(slots=4, prefill_s=0.0, tokens=20, token_s=0.001, settings={"concurrency": {"queue_length": 500}})  # fmt: skip
async def test_two_thousand_hangups(stage: Stage) -> None:
    """Hang-ups by the thousand leave nothing behind."""
    begun = 0

    async def one() -> None:
        nonlocal begun
        _, writer = await stage.opened(HEAD + BODY)
        begun += 1
        await asyncio.sleep(0.001 * (begun % 20))
        writer.transport.abort()

    for _ in range(40):
        await asyncio.gather(*(one() for _ in range(50)))
    assert begun == 2000
    await stage.crowd(10)
    assert stage.outcomes.whole == 10


@stress(**SLOW)
async def test_with_a_half_closed_connection(stage: Stage) -> None:
    """A client that says that it will send no more still gets its answer, or frees its slot: never neither."""
    for _ in range(5):
        reader, writer = await stage.opened(HEAD + BODY)
        writer.write_eof()
        async with asyncio.timeout(5):
            await reader.read(-1)
        writer.close()
    await stage.ask("next")
    assert stage.outcomes.whole == 1


@stress(slots=1, prefill_s=0.05)
async def test_while_others_of_the_same_body_wait(stage: Stage) -> None:
    """Who sends the same again after hanging up is served once, and so is everybody else."""
    first = await occupied(stage)
    for _ in range(5):
        await stage.leave(0.01, text="again and again")
    await asyncio.gather(first, stage.ask("again and again"), stage.ask("another"))
    assert stage.outcomes.whole == 3
