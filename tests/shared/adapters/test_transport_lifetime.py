"""Connections that are used again, hung up, cancelled, and never left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys

import pytest

from loops import Run, on_both_loops, until
from penstock.adapters.transport import Origin, Transport, TransportError, UpstreamRequest
from penstock.adapters.transport.answer import Answer
from rawserver import (
    CHUNKED_HEAD,
    CLOSE,
    GONE,
    HALF_CLOSE,
    REQUEST,
    RESET,
    Peer,
    RawServer,
    Script,
    answer,
    chunk,
)

GET = UpstreamRequest(b"GET", b"/", [(b"Host", b"test")])
OK = answer(b"ok")


def post(body: bytes) -> UpstreamRequest:
    return UpstreamRequest(b"POST", b"/p?q=1", [(b"Host", b"a"), (b"X-Case", b"1")], body)


async def send(server: RawServer, transport: Transport, request: UpstreamRequest = GET) -> Answer:
    origin = Origin("http", "127.0.0.1", server.port)
    return await transport.send(origin, request, connect_timeout_s=5.0, head_timeout_s=10.0)


async def get(server: RawServer, transport: Transport, request: UpstreamRequest = GET) -> bool:
    """Whether the connection had been used before."""
    response = await send(server, transport, request)
    await response.read(1 << 20)
    return response.reused


@on_both_loops
def test_the_request_goes_out_as_given(run: Run) -> None:
    """Headers keep case and order; a body gets its length, no body gets none."""

    async def main() -> None:
        transport = Transport()
        async with RawServer() as server:
            await get(server, transport, post(b"body"))
            await get(server, transport)
            first, second = server.peers[0].requests
            assert first.raw == (
                b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nX-Case: 1\r\ncontent-length: 4\r\n\r\nbody"
            )
            assert second.raw == b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
            await transport.aclose()

    run(main())


@on_both_loops
def test_a_connection_serves_again(run: Run) -> None:
    """One after the other: one connection. Side by side: as many as needed, all kept."""

    async def main() -> None:
        transport = Transport()
        async with RawServer() as server:
            assert [await get(server, transport) for _ in range(5)] == [False] + [True] * 4
            assert len(server.peers) == 1
            await asyncio.gather(*(get(server, transport) for _ in range(20)))
            assert transport.idle_connections() == transport.open_connections() == 20
            await transport.aclose()
            await until(lambda: transport.open_connections() == 0)
            await until(lambda: all(peer.ended.is_set() for peer in server.peers))

    run(main())


@on_both_loops
def test_no_more_than_so_many_wait(run: Run) -> None:
    """The pool keeps its number of idle connections and closes the others."""

    async def main() -> None:
        transport = Transport(most_idle=3)
        async with RawServer() as server:
            await asyncio.gather(*(get(server, transport) for _ in range(10)))
            await until(lambda: transport.open_connections() == 3)
            assert transport.idle_connections() == 3
            await transport.aclose()

    run(main())


@on_both_loops
def test_each_origin_has_its_own_connections(run: Run) -> None:
    """What was opened for one upstream never serves another."""

    async def main() -> None:
        transport = Transport()
        async with RawServer() as one, RawServer() as other:
            assert [await get(s, transport) for s in (one, other, one, other)] == [
                False,
                False,
                True,
                True,
            ]
            assert [len(one.peers), len(other.peers)] == [1, 1]
            await transport.aclose()

    run(main())


@on_both_loops
def test_an_answer_that_was_read_has_nothing_to_do_with_the_next_one(run: Run) -> None:
    """A reader that is late, or closes late, neither sees nor breaks the next request's answer."""

    async def main() -> None:
        transport = Transport()
        go = asyncio.Event()
        script = [REQUEST, answer(b"first"), REQUEST, CHUNKED_HEAD + chunk(b"sec"), go]
        async with RawServer([*script, chunk(b"ond") + chunk(b"")]) as server:
            first = await send(server, transport)
            assert await first.next_chunk() == b"first"
            second = await send(server, transport)
            assert second.reused
            assert await first.next_chunk() == b""
            first.close()
            assert (first.status, second.status) == (200, 200)
            go.set()
            assert await second.read(100) == b"second"
            assert transport.idle_connections() == 1
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([CLOSE], id="closed while idle"),
        pytest.param([RESET], id="reset while idle"),
        pytest.param([HALF_CLOSE], id="half closed while idle"),
        pytest.param([b"HTTP/1.1 408 Request Timeout\r\n\r\n"], id="said goodbye while idle"),
    ],
)
@on_both_loops
def test_what_ended_while_idle_is_gone_from_the_pool(run: Run, before: Script) -> None:
    """A connection that the server gave up is closed at once, and the next request opens a new one."""

    async def main() -> None:
        transport = Transport()
        end = asyncio.Event()
        async with RawServer([REQUEST, OK, end, *before], [REQUEST, OK]) as server:
            await get(server, transport)
            assert transport.idle_connections() == 1
            end.set()
            # Before the reaper's next round: at once.
            await until(lambda: transport.idle_connections() == 0, within_s=3)
            await until(lambda: transport.open_connections() == 0, within_s=3)
            assert await get(server, transport) is False
            await transport.aclose()

    run(main())


@on_both_loops
def test_idle_connections_are_given_up_in_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody used for its time is closed, without a request that asks for it."""
    monkeypatch.setattr("penstock.adapters.transport.pool.UNANNOUNCED_IDLE_S", 0.05)
    monkeypatch.setattr("penstock.adapters.transport.client._REAP_EVERY_S", 0.02)

    async def main() -> None:
        transport = Transport()
        async with RawServer() as server:
            await asyncio.gather(*(get(server, transport) for _ in range(3)))
            assert transport.open_connections() == 3
            await until(lambda: transport.open_connections() == 0, within_s=3)
            assert transport.idle_connections() == 0
            assert await get(server, transport) is False
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(
    "death", [pytest.param(CLOSE, id="closed"), pytest.param(RESET, id="reset")]
)
@pytest.mark.parametrize(
    "size", [pytest.param(10, id="small body"), pytest.param(3_000_000, id="large body")]
)
@on_both_loops
def test_a_request_into_a_closing_connection_is_repeated_unseen(
    run: Run, death: object, size: int
) -> None:
    """The server closes as the next request arrives: it goes to a fresh connection, once."""

    async def main() -> None:
        transport = Transport()
        request = post(b"x" * size)

        async def head_only(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")

        first = [REQUEST, OK, head_only, death]
        async with RawServer(first, [REQUEST, OK]) as server:
            await get(server, transport)
            assert await get(server, transport, request) is False
            assert [len(peer.requests) for peer in server.peers] == [1, 1]
            assert server.peers[1].requests[0].body == request.body
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        pytest.param([REQUEST, RESET], 1, id="fresh connection"),
        pytest.param([REQUEST, OK, REQUEST, b"HTTP/1.1 2", RESET], 1, id="something had come"),
    ],
)
@on_both_loops
def test_nothing_else_is_repeated(run: Run, first: Script, connections: int) -> None:
    """A request that an upstream may have worked on is not sent twice from here."""

    async def main() -> None:
        transport = Transport()
        async with RawServer(first, [REQUEST, OK]) as server:
            if len(first) > 2:
                await get(server, transport)
            with pytest.raises(TransportError):
                await get(server, transport)
            assert len(server.peers) == connections
            await transport.aclose()

    run(main())


@on_both_loops
def test_a_second_death_is_told(run: Run) -> None:
    """The silent repeat happens once; when the fresh connection dies too, that is an error."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, OK, REQUEST, CLOSE], [REQUEST, CLOSE]) as server:
            await get(server, transport)
            with pytest.raises(TransportError) as caught:
                await get(server, transport)
            assert caught.value.reused is False
            assert len(server.peers) == 2
            await transport.aclose()

    run(main())


@on_both_loops
def test_an_early_answer_ends_the_sending(run: Run) -> None:
    """A server that refuses a large body without reading it is heard, and not used again."""

    async def main() -> None:
        transport = Transport()

        async def refuse(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(answer(b"too large", b"413 Content Too Large"))
            await over.wait()

        over = asyncio.Event()
        async with RawServer([refuse, GONE]) as server:
            response = await send(server, transport, post(b"x" * 30_000_000))
            assert (response.status, await response.read(100)) == (413, b"too large")
            await until(lambda: transport.open_connections() == 0)
            over.set()

    run(main())


@on_both_loops
def test_a_large_body_arrives_whole(run: Run) -> None:
    """Many times what the socket takes at once, through a reader that is slow at first."""
    body = random.Random(3).randbytes(5_000_000)

    async def main() -> None:
        transport = Transport()
        go = asyncio.Event()
        async with RawServer([go, REQUEST, OK]) as server:
            sending = asyncio.ensure_future(send(server, transport, post(body)))
            peer = await server.peer()
            go.set()
            assert await (await sending).read(10) == b"ok"
            assert peer.requests[0].body == body
            assert transport.idle_connections() == 1
            await transport.aclose()

    run(main())


@pytest.mark.parametrize("stage", ["sending", "waiting for the head", "waiting for the body"])
@on_both_loops
def test_cancelling_hangs_up(run: Run, stage: str) -> None:
    """A caller that goes away takes the connection along: the server stops working for nobody."""

    async def main() -> None:
        transport = Transport()
        go = asyncio.Event()
        script: Script = {
            "sending": [go, GONE],
            "waiting for the head": [REQUEST, GONE],
            "waiting for the body": [REQUEST, CHUNKED_HEAD, GONE],
        }[stage]
        answered = asyncio.Event()

        async def caller(server: RawServer) -> None:
            response = await send(server, transport, post(b"x" * 20_000_000))
            answered.set()
            await response.next_chunk()

        async with RawServer(script) as server:
            task = asyncio.ensure_future(caller(server))
            peer = await server.peer()
            if stage != "sending":
                await until(lambda: peer.requests)
            if stage == "waiting for the body":
                await answered.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
            await asyncio.wait_for(peer.ended.wait(), 10)
            await until(lambda: transport.open_connections() == 0)

    run(main())


@pytest.mark.parametrize(
    ("wire", "kept"),
    [
        pytest.param(CHUNKED_HEAD + chunk(b"a"), 0, id="in the middle"),
        pytest.param(answer(b"all of it"), 1, id="when all of it had come"),
        pytest.param(answer(b""), 1, id="an empty body"),
    ],
)
@on_both_loops
def test_closing_an_answer(run: Run, wire: bytes, kept: int) -> None:
    """Closing hangs up, except when the answer is complete: then the connection is of use."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, wire, GONE]) as server:
            response = await send(server, transport)
            await asyncio.sleep(0.01)
            response.close()
            response.close()
            await until(lambda: transport.open_connections() == kept)
            assert transport.idle_connections() == kept
            await transport.aclose()

    run(main())


@on_both_loops
def test_closing_wakes_the_reader(run: Run) -> None:
    """Somebody else hangs up while a task waits for the body: the task is told."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, CHUNKED_HEAD, GONE]) as server:
            response = await send(server, transport)
            task = asyncio.ensure_future(response.next_chunk())
            await asyncio.sleep(0)
            response.close()
            with pytest.raises(TransportError):
                await task
            await transport.aclose()

    run(main())


@on_both_loops
def test_closing_the_transport_ends_what_runs(run: Run) -> None:
    """After `aclose` nothing is open, whatever was going on."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, CHUNKED_HEAD, GONE]) as server:
            response = await send(server, transport)
            await transport.aclose()
            with pytest.raises(TransportError):
                await response.next_chunk()
            await until(lambda: transport.open_connections() == 0)

    run(main())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


ENDINGS: list[Script] = [
    [REQUEST, OK],
    [REQUEST, answer(b"ok", b"200 OK", b"connection: close"), CLOSE],
    [REQUEST, CHUNKED_HEAD + chunk(b"a") + chunk(b"")],
    [REQUEST, CHUNKED_HEAD + chunk(b"a"), CLOSE],
    [REQUEST, CHUNKED_HEAD + chunk(b"a"), RESET],
    [REQUEST, CHUNKED_HEAD, GONE],
    [REQUEST, GONE],
    [REQUEST, RESET],
    [CLOSE],
    [RESET],
    [REQUEST, b"nonsense"],
    [REQUEST, OK + b"surplus"],
    [GONE],
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@on_both_loops
def test_nothing_is_left_after_a_thousand_endings(run: Run) -> None:
    """A thousand requests that end in every way leave no descriptor, task, timer or cycle."""
    chance = random.Random(7)

    async def main() -> None:
        transport = Transport(most_idle=8)
        scripts = [chance.choice(ENDINGS) for _ in range(1200)]
        async with RawServer(*scripts) as server:
            await get_some(server, transport)
            gc.collect()
            tasks = len(asyncio.all_tasks())
            before = descriptors()
            for _ in range(20):
                await asyncio.gather(*(get_some(server, transport) for _ in range(50)))
            assert transport.open_connections() <= 8
            await transport.aclose()
            await until(lambda: transport.open_connections() == 0)
            await until(lambda: all(peer.ended.is_set() for peer in server.peers))
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            await until(lambda: descriptors() <= before)
        gc.collect()
        assert not [o for o in gc.get_objects() if type(o) is Answer and o.error is None]

    async def get_some(server: RawServer, transport: Transport) -> None:
        origin = Origin("http", "127.0.0.1", server.port)
        body = b"x" * chance.choice([10, 100_000])
        try:
            async with asyncio.timeout(chance.choice([0.005, 0.03, 0.1])):
                response = await transport.send(
                    origin, post(body), connect_timeout_s=1.0, head_timeout_s=0.05
                )
                if chance.random() < 0.2:
                    response.close()
                else:
                    await response.read(1000)
        except (TransportError, TimeoutError):
            pass

    run(main())
