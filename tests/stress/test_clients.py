"""Clients that do as no client should, among those that behave: they get no more than is theirs."""

from __future__ import annotations

import asyncio

from crowd import BODY, HEAD, Answer, BusyLlama, Stage, stress
from loops import until
from rawserver import CHUNKED_HEAD, Peer, Received, chunk
from scripted import delta, event

STREAM = BODY.replace(b"}]}", b'}],"stream":true}')
STREAM_HEAD = HEAD.replace(b"%d" % len(BODY), b"%d" % len(STREAM))


def much(pieces: int) -> Answer:
    """A stream of many megabytes, as quickly as it is taken."""

    async def step(llama: BusyLlama, peer: Peer, _: Received) -> None:
        await peer.send(CHUNKED_HEAD)
        for number in range(pieces):
            if peer.reader.at_eof() or peer.writer.is_closing():
                llama.left += 1
                raise ConnectionResetError
            # Nothing that repeats itself: that would be ended as a loop.
            await peer.send(
                event(delta(" ".join(map(str, range(number * 3000, number * 3000 + 2500)))))
            )
        await peer.send(event(delta("", "stop")) + event(b"[DONE]") + chunk(b""))
        llama.served += 1

    return step


@stress(settings={"timeouts": {"stall_s": 0.3}}, slots=2)
async def test_a_client_that_never_reads(stage: Stage) -> None:
    """It is let go after the stall limit, its slot is free, and no memory was filled for it."""
    stage.llama.answer = lambda number: much(4000) if number == 1 else None
    _, writer = await stage.opened(STREAM_HEAD + STREAM)
    await until(lambda: stage.llama.here == 1)
    await stage.crowd(20)
    await until(lambda: stage.llama.here == 0)
    assert stage.outcomes.whole == stage.llama.served == 20
    recorder = stage.here.runtime.recorder
    await until(lambda: any(e.client_gone for e in recorder.recent()))
    (entry,) = [e for e in recorder.recent() if e.client_gone]
    assert entry.answer_bytes < 32_000_000
    writer.transport.abort()


@stress(slots=2)
async def test_a_client_that_reads_slowly(stage: Stage) -> None:
    """It gets all of its answer, at its own pace, and nobody waits for it but its slot."""
    stage.llama.answer = lambda number: much(200) if number == 1 else None
    reader, writer = await stage.opened(STREAM_HEAD + STREAM)
    await until(lambda: stage.llama.requests)
    crowd = asyncio.create_task(stage.crowd(20))
    got = b""
    async with asyncio.timeout(20):
        while b"[DONE]" not in got[-100:]:
            got += await reader.read(200_000)
            await asyncio.sleep(0.001)
    await crowd
    assert len(got) > 200 * 16_000
    assert stage.outcomes.whole == 20
    writer.close()


@stress(slots=2)
async def test_clients_that_send_a_byte_at_a_time(stage: Stage) -> None:
    """Slow senders hold no slot while they send."""
    whole = HEAD + BODY

    async def slowly() -> bytes:
        reader, writer = await stage.opened()
        for place in range(len(whole)):
            writer.write(whole[place : place + 1])
            await asyncio.sleep(0)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer

    slow = asyncio.gather(*(slowly() for _ in range(10)))
    await stage.crowd(20)
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in await slow)
    assert stage.outcomes.whole == 20


@stress()
async def test_a_hundred_connections_that_say_nothing(stage: Stage) -> None:
    """They cost a descriptor each and nothing else."""
    silent = [await stage.opened() for _ in range(100)]
    await stage.crowd(40)
    assert stage.outcomes.whole == 40
    for _, writer in silent:
        writer.close()


@stress()
async def test_garbage_among_requests(stage: Stage) -> None:
    """Bytes that are no request are refused on their connection only."""
    garbage = (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\x00" * 100, b"POST / HTTP/9.9\r\n\r\n")

    async def send(data: bytes) -> None:
        reader, writer = await stage.opened(data)
        writer.write_eof()
        async with asyncio.timeout(5):
            await reader.read(-1)
        writer.close()

    await asyncio.gather(*(send(data) for data in garbage for _ in range(5)), stage.crowd(20))
    assert stage.outcomes.whole == 20


@stress(slots=2)
async def test_twenty_requests_in_one_write(stage: Stage) -> None:
    """Requests that come one behind the other on a connection are answered in their order."""
    reader, writer = await stage.opened((HEAD + BODY) * 20)
    got = b""
    async with asyncio.timeout(20):
        while got.count(b"HTTP/1.1 200") < 20:
            data = await reader.read(65536)
            assert data
            got += data
    await until(lambda: stage.llama.served == 20)
    writer.close()


@stress(settings={"listen": {"max_body_bytes": 10_000}}, slots=2)
async def test_large_bodies_among_small_ones(stage: Stage) -> None:
    """What is too large is refused without a slot."""
    await asyncio.gather(stage.crowd(20), *(stage.ask("x" * 20_000) for _ in range(10)))
    assert stage.outcomes.statuses[413] == 10
    assert stage.outcomes.whole == 20


@stress(slots=2)
async def test_requests_that_cannot_work_among_good_ones(stage: Stage) -> None:
    """They never wait in the queue."""

    async def bad(body: bytes) -> int:
        answer = await stage.here.http.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        return answer.status_code

    bodies = (b"{", b"[]", b"null", b'{"messages":[]}', b'{"model":3}', b"\xff", b'{"model":"m"}')
    crowd = asyncio.create_task(stage.crowd(30))
    statuses = await asyncio.gather(*(bad(body) for body in bodies for _ in range(3)))
    await crowd
    assert set(statuses) == {400}
    assert stage.outcomes.whole == 30
    assert len(stage.llama.requests) == 30


@stress(keys={"one": "k1", "two": "k2"}, slots=2)
async def test_strangers_among_clients_with_keys(stage: Stage) -> None:
    """Who has no key takes nobody's place."""

    async def stranger() -> int:
        answer = await stage.fresh(
            "POST",
            "/v1/chat/completions",
            json={"model": "m", "messages": []},
            headers={"authorization": "Bearer wrong"},
        )
        return answer.status_code

    statuses = await asyncio.gather(*(stranger() for _ in range(20)), stage.crowd(20))
    assert set(statuses[:20]) == {401}
    assert stage.outcomes.whole == 20


@stress(slots=2)
async def test_watchers_that_do_not_read(stage: Stage) -> None:
    """Subscribers of the event stream that take nothing are let go; others go on."""
    head = b"GET /penstock/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    watchers = [await stage.opened(head) for _ in range(10)]
    await stage.crowd(60)
    assert stage.outcomes.whole == 60
    for _, writer in watchers:
        writer.transport.abort()


@stress(slots=2)
async def test_status_and_metrics_asked_all_the_time(stage: Stage) -> None:
    """Looking changes nothing."""
    seen = 0

    async def look(path: str) -> None:
        nonlocal seen
        while not done.is_set():
            answer = await stage.here.http.get(path)
            assert answer.status_code == 200
            seen += 1

    done = asyncio.Event()
    lookers = [asyncio.create_task(look(p)) for p in ("/penstock/status", "/metrics", "/v1/models")]
    await stage.crowd(40)
    done.set()
    await asyncio.gather(*lookers)
    assert seen >= 3
    assert stage.outcomes.whole == 40
