"""Crowds that come at once: everybody is answered once, and the server gets what it has slots for."""

from __future__ import annotations

import asyncio

from crowd import Stage, stress
from loops import until

ROOM = {"concurrency": {"queue_length": 1000}}


@stress(settings=ROOM)
async def test_two_hundred_clients_at_once(stage: Stage) -> None:
    """Each gets its answer, and the server never sees more than it has slots for."""
    await stage.crowd(200)
    assert stage.outcomes.whole == stage.llama.served == 200
    assert stage.llama.most <= 4


@stress(settings=ROOM)
async def test_two_hundred_streams_at_once(stage: Stage) -> None:
    """Streams wait like plain requests do."""
    await stage.crowd(200, stream=True)
    assert stage.outcomes.whole == 200
    assert all(text.rstrip().endswith("[DONE]") for text in stage.outcomes.texts)
    assert stage.llama.most <= 4


@stress(settings=ROOM, slots=2)
async def test_bursts_with_a_pause_between(stage: Stage) -> None:
    """Twenty, nobody, fifteen: the second burst finds everything as the first one did."""
    await stage.crowd(20)
    await asyncio.sleep(0.2)
    assert stage.state.limiter.running == 0
    await stage.crowd(15)
    assert stage.outcomes.whole == 35
    assert stage.llama.most <= 2


@stress(settings=ROOM, slots=1)
async def test_one_slot_is_one_at_a_time(stage: Stage) -> None:
    """Eighty clients of a server with one slot."""
    await stage.crowd(80)
    assert stage.outcomes.whole == 80
    assert stage.llama.most == 1


@stress(settings=ROOM)
async def test_all_dialects_at_once(stage: Stage) -> None:
    """Four dialects, streaming and plain, share the slots."""
    paths = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat")
    await asyncio.gather(
        *(stage.crowd(10, path=path, stream=stream) for path in paths for stream in (False, True))
    )
    assert stage.outcomes.whole == 80, stage.outcomes.codes
    assert stage.llama.most <= 4


@stress(settings=ROOM)
async def test_embeddings_among_chats(stage: Stage) -> None:
    """Requests that are never streams and requests that always are."""
    await asyncio.gather(stage.crowd(40, path="/v1/embeddings"), stage.crowd(40, stream=True))
    assert stage.outcomes.whole == 80


@stress(settings={"concurrency": {"queue_length": 20}}, slots=2, prefill_s=0.02)
async def test_more_than_the_queue_takes(stage: Stage) -> None:
    """Who finds the queue full is told at once and when to come again; all others are answered."""
    await stage.crowd(100)
    assert stage.outcomes.codes == {"queue_full": 100 - stage.outcomes.whole}
    assert stage.outcomes.whole >= 22
    assert stage.outcomes.statuses[429] == stage.outcomes.failed
    assert all(1 <= seconds <= 60 for seconds in stage.outcomes.retry_after)


@stress(settings={"concurrency": {"queue_bytes": 50_000}}, slots=1, prefill_s=0.02)
async def test_more_bytes_than_the_queue_takes(stage: Stage) -> None:
    """Large bodies fill the queue sooner."""
    await asyncio.gather(*(stage.ask("word " * 3000, max_tokens=4) for _ in range(12)))
    assert stage.outcomes.whole + stage.outcomes.codes["queue_full"] == 12
    assert stage.outcomes.codes["queue_full"] >= 6


@stress(settings={"concurrency": {"queue_length": 0}}, slots=2, prefill_s=0.02)
async def test_no_queue_at_all(stage: Stage) -> None:
    """Only who finds a slot is served."""
    await stage.crowd(30)
    assert stage.outcomes.whole >= 2
    assert stage.outcomes.whole + stage.outcomes.codes["queue_full"] == 30
    assert stage.llama.most <= 2


@stress(settings={"concurrency": {"queue_deadline_s": 0.15}}, slots=1, prefill_s=0.05)
async def test_who_waits_too_long_is_told(stage: Stage) -> None:
    """The queue's deadline ends a wait with 503 and a Retry-After; nobody is sent after that."""
    await stage.crowd(20)
    assert stage.outcomes.codes["queue_deadline"] >= 10
    assert stage.outcomes.statuses[503] == stage.outcomes.codes["queue_deadline"]
    assert stage.llama.served == stage.outcomes.whole == 20 - stage.outcomes.failed


@stress(settings=ROOM, slots=2, prefill_s=0.05)
async def test_one_greedy_client_and_a_modest_one(stage: Stage) -> None:
    """Forty requests of one client do not make three of another wait behind them all: these take turns."""
    greedy = asyncio.create_task(stage.crowd(40, client="greedy"))
    await until(lambda: stage.state.limiter.waiting >= 30)
    before = len(stage.llama.order)
    await asyncio.gather(*(stage.ask(f"modest {n}", client="modest") for n in range(3)))
    places = [n for n, text in enumerate(stage.llama.order) if text.startswith("modest")]
    await greedy
    assert stage.outcomes.whole == 43
    assert max(places) < before + 15


@stress(settings=ROOM, slots=1, prefill_s=0.05)
async def test_high_priority_goes_before_low(stage: Stage) -> None:
    """Of those that wait, the urgent ones are sent before the patient ones."""

    async def asked(text: str, priority: str) -> None:
        answer = await stage.here.http.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": text}]},
            headers={"penstock-priority": priority},
        )
        stage.saw(answer)

    low = [asyncio.create_task(asked("low", "low")) for _ in range(20)]
    await until(lambda: stage.state.limiter.waiting >= 15)
    before = len(stage.llama.order)
    high = [asyncio.create_task(asked("high", "high")) for _ in range(5)]
    await asyncio.gather(*low, *high)
    last_high = max(n for n, text in enumerate(stage.llama.order) if text == "high")
    assert last_high < before + 12
    assert stage.outcomes.whole == 25


@stress(settings=ROOM)
async def test_a_thousand_requests_over_eight_connections(stage: Stage) -> None:
    """Connections that are kept serve one request after the other."""

    async def one_after_the_other(number: int) -> None:
        for turn in range(125):
            await stage.ask(f"{number}.{turn}")

    stage.llama.prefill_s = stage.llama.token_s = 0.0
    await asyncio.gather(*(one_after_the_other(n) for n in range(8)))
    assert stage.outcomes.whole == 1000


@stress(settings=ROOM)
async def test_requests_that_weigh_more_than_all_slots(stage: Stage) -> None:
    """A request for many answers runs alone, and small ones around it are served all the same."""
    await asyncio.gather(*(stage.ask(f"n {n}", n=8) for n in range(4)), stage.crowd(40))
    assert stage.outcomes.whole == 44
