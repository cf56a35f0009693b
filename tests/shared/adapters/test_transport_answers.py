"""What upstreams send, well-formed or not, and what the gateway makes of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loops import Run, on_both_loops, run_on, until
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
NO_LENGTH = b"HTTP/1.1 200 OK\r\n\r\n"


async def send(
    server: RawServer,
    transport: Transport,
    request: UpstreamRequest = GET,
    head_timeout_s: float | None = 10.0,
) -> Answer:
    origin = Origin("http", "127.0.0.1", server.port)
    return await transport.send(
        origin, request, connect_timeout_s=5.0, head_timeout_s=head_timeout_s
    )


async def fetch(
    script: Script, request: UpstreamRequest = GET
) -> tuple[int, bytes, list[tuple[bytes, bytes]], int]:
    """Status, body, headers, and how many connections stayed usable after it."""
    transport = Transport()
    async with RawServer(script) as server:
        response = await send(server, transport, request)
        body = await response.read(1 << 20)
        await asyncio.sleep(0)
        idle = transport.idle_connections()
        await transport.aclose()
    return response.status, body, response.headers, idle


@pytest.mark.parametrize(
    ("wire", "status", "body", "idle"),
    [
        pytest.param(answer(b"hello"), 200, b"hello", 1, id="content-length"),
        pytest.param(answer(b""), 200, b"", 1, id="content-length 0"),
        pytest.param(
            CHUNKED_HEAD + chunk(b"ab") + chunk(b"c") + chunk(b""), 200, b"abc", 1, id="chunked"
        ),
        pytest.param(
            CHUNKED_HEAD + b"2;name=value\r\nab\r\n0\r\nx-trailer: 1\r\n\r\n",
            200,
            b"ab",
            1,
            id="chunk extensions and trailers are ignored",
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", 1, id="204"),
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", 1, id="304"
        ),
        pytest.param(answer(b"hi", b"200"), 200, b"hi", 1, id="no reason phrase"),
        pytest.param(b"\r\n" + answer(b"hi"), 200, b"hi", 1, id="an empty line first"),
        pytest.param(answer(b"hi") + b"\r\n", 200, b"hi", 1, id="an empty line after it"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
            + answer(b"hi", b"201 Created"),
            201,
            b"hi",
            1,
            id="interim answers are skipped",
        ),
        pytest.param(
            answer(b"hi", b"200 OK", b"upgrade: h2c", b"connection: upgrade"),
            200,
            b"hi",
            1,
            id="an offer to upgrade",
        ),
        pytest.param(
            answer(b"hi", b"200 OK", b"connection: close"), 200, b"hi", 0, id="connection: close"
        ),
        pytest.param(
            answer(b"hi", b"200 OK", b"keep-alive: timeout=1"), 200, b"hi", 0, id="keeps it for 1 s"
        ),
        pytest.param(
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", 0, id="HTTP/1.0"
        ),
        pytest.param(answer(b"hi") + b"more", 200, b"hi", 0, id="surplus"),
        pytest.param(
            answer(b"hi") + answer(b"injected", b"500 Oops", b"x-evil: 1"),
            200,
            b"hi",
            0,
            id="a second answer that nobody asked for",
        ),
    ],
)
@on_both_loops
def test_an_answer_is_read_to_its_own_end(
    run: Run, wire: bytes, status: int, body: bytes, idle: int
) -> None:
    """However an answer is framed: its body, its status, and whether the connection is of use."""
    got_status, got_body, headers, got_idle = run(fetch([REQUEST, wire]))
    assert (got_status, got_body, got_idle) == (status, body, idle)
    assert not {b"x-trailer", b"x-evil", b"link"} & {name.lower() for name, _ in headers}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(NO_LENGTH, id="no framing"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", id="not chunked"),
    ],
)
@on_both_loops
def test_a_body_without_a_length_ends_with_the_connection(run: Run, head: bytes) -> None:
    """End of connection is end of body where nothing else marks it."""
    assert run(fetch([REQUEST, head + b"to the end", CLOSE]))[1] == b"to the end"
    assert run(fetch([REQUEST, head, HALF_CLOSE]))[1] == b""


@on_both_loops
def test_head_has_no_body(run: Run) -> None:
    """An answer to HEAD announces a length and sends nothing; the connection serves on."""
    head = UpstreamRequest(b"HEAD", b"/", [(b"Host", b"test")])
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"
    assert run(fetch([REQUEST, wire], head))[1::2] == (b"", 1)


@on_both_loops
def test_headers_keep_case_and_order(run: Run) -> None:
    """What the upstream called its headers is what is handed on."""
    wire = b"HTTP/1.1 200 OK\r\nX-B: 1\r\nSet-Cookie: a\r\nx-a: 2\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    assert run(fetch([REQUEST, wire]))[2] == [
        (b"X-B", b"1"),
        (b"Set-Cookie", b"a"),
        (b"x-a", b"2"),
        (b"set-cookie", b"b"),
        (b"Content-Length", b"0"),
    ]


@pytest.mark.parametrize(
    ("script", "kind", "phase", "received"),
    [
        pytest.param([CLOSE], "closed", "head", False, id="closed at once"),
        pytest.param([REQUEST, CLOSE], "closed", "head", False, id="closed without an answer"),
        pytest.param([REQUEST, RESET], "reset", "head", False, id="reset without an answer"),
        pytest.param([REQUEST, b"HTTP/1.1 2", CLOSE], "closed", "head", True, id="half a line"),
        pytest.param(
            [REQUEST, b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE],
            "closed",
            "head",
            True,
            id="closed after an interim answer",
        ),
        pytest.param([REQUEST, b"<html>"], "protocol", "head", True, id="not HTTP"),
        pytest.param([REQUEST, b"\x16\x03\x01\x00"], "protocol", "head", True, id="TLS"),
        pytest.param([REQUEST, b"HTTP/2 200\r\n\r\n"], "protocol", "head", True, id="HTTP/2"),
        pytest.param(
            [REQUEST, b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"],
            "protocol",
            "head",
            True,
            id="a length that is no number",
        ),
        pytest.param(
            [REQUEST, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"],
            "protocol",
            "head",
            True,
            id="two lengths",
        ),
        pytest.param(
            [
                REQUEST,
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            ],
            "protocol",
            "head",
            True,
            id="two framings",
        ),
        pytest.param(
            [REQUEST, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
            "protocol",
            "head",
            True,
            id="101",
        ),
        pytest.param(
            [REQUEST, b"HTTP/1.1 101 OK\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
            "protocol",
            "head",
            True,
            id="101 as it should be",
        ),
        pytest.param(
            [REQUEST, b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n"],
            "protocol",
            "head",
            True,
            id="a head above 64 KiB",
        ),
        pytest.param(
            [REQUEST, *[b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 100],
            "protocol",
            "head",
            True,
            id="interim answers for ever",
        ),
        pytest.param(
            [REQUEST, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", CLOSE],
            "closed",
            "body",
            True,
            id="shorter than announced",
        ),
        pytest.param(
            [REQUEST, CHUNKED_HEAD + chunk(b"half"), CLOSE],
            "closed",
            "body",
            True,
            id="chunks without an end",
        ),
        pytest.param(
            [REQUEST, CHUNKED_HEAD + b"zz\r\n"], "protocol", "body", True, id="a size like no size"
        ),
        pytest.param(
            [REQUEST, CHUNKED_HEAD + b"0\r\n", *[b"x-trailer: 1\r\n" * 1000] * 10],
            "protocol",
            "body",
            True,
            id="trailers for ever",
        ),
    ],
)
@on_both_loops
def test_what_breaks_says_how(
    run: Run, script: Script, kind: str, phase: str, received: bool
) -> None:
    """Each way to break an answer is an error with kind, phase, words and what had come."""

    async def main() -> TransportError:
        with pytest.raises(TransportError) as caught:
            await fetch(script)
        return caught.value

    error = run(main())
    # Whether a close or a reset is seen depends on what the kernel still held.
    same = {"closed", "reset"} if kind in ("closed", "reset") else {kind}
    assert error.kind in same
    assert (error.phase, error.reused, error.received_bytes > 0) == (phase, False, received)
    assert str(error)


@on_both_loops
def test_what_came_before_the_break_is_not_lost(run: Run) -> None:
    """A stream that breaks hands out its last bytes before it says that it broke."""

    async def main() -> None:
        transport = Transport()
        script = [REQUEST, CHUNKED_HEAD + chunk(b"last words"), CLOSE]
        async with RawServer(script) as server:
            response = await send(server, transport)
            assert await response.next_chunk() == b"last words"
            for _ in range(2):  # and it goes on saying so
                with pytest.raises(TransportError):
                    await response.next_chunk()

    run(main())


@on_both_loops
def test_a_broken_answer_never_ends_properly_whatever_arrives_with_it(run: Run) -> None:
    """`read` does not return half a body."""

    async def main() -> None:
        with pytest.raises(TransportError):
            await fetch([REQUEST, CHUNKED_HEAD + chunk(b"half") + b"XX\r\n0\r\n\r\n"])

    run(main())


@on_both_loops
def test_all_that_is_there_comes_at_once(run: Run) -> None:
    """Chunks that arrived together are handed out together, so relaying costs once."""

    async def main() -> None:
        transport = Transport()
        go = asyncio.Event()
        many = b"".join(chunk(b"%04d" % i) for i in range(500))
        async with RawServer([REQUEST, CHUNKED_HEAD, go, many + chunk(b"")]) as server:
            response = await send(server, transport)
            go.set()
            pieces = []
            while data := await response.next_chunk():
                pieces.append(data)
            assert b"".join(pieces) == b"".join(b"%04d" % i for i in range(500))
            assert len(pieces) < 10
            await transport.aclose()

    run(main())


@on_both_loops
def test_each_piece_is_handed_out_when_it_comes(run: Run) -> None:
    """Nothing is held back until more comes: a token is worth having now."""

    async def main() -> None:
        transport = Transport()
        go = asyncio.Event()
        script = [REQUEST, CHUNKED_HEAD + chunk(b"one"), go, chunk(b"two") + chunk(b"")]
        async with RawServer(script) as server:
            response = await send(server, transport)
            assert await response.next_chunk() == b"one"
            go.set()
            assert await response.next_chunk() == b"two"
            assert await response.next_chunk() == b""
            assert await response.next_chunk() == b""
            await transport.aclose()

    run(main())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_where_the_network_cuts_does_not_matter(bodies: list[bytes], data: st.DataObject) -> None:
    """Whole, byte by byte, or cut anywhere: the same answer."""
    wire = CHUNKED_HEAD + b"".join(map(chunk, bodies)) + chunk(b"")
    size = data.draw(st.integers(1, len(wire)))

    class Still:
        """A connection without a socket."""

        loop = None
        sending = is_sending = False
        is_open = True
        pause_above_bytes = 1 << 20
        rested = 0

        def rest(self, limit_s: float) -> None:
            self.rested += 1

    async def main() -> None:
        still = Still()
        parsed = Answer(still, reused=False, bodiless=False)  # type: ignore[arg-type]
        for start in range(0, len(wire), size):
            parsed.feed(wire[start : start + size])
        assert parsed.status == 200
        assert await parsed.read(1 << 20) == b"".join(bodies)
        assert still.rested == 1

    run_on(asyncio.new_event_loop)(main())


@on_both_loops
def test_a_slow_reader_slows_the_upstream(run: Run) -> None:
    """What is not taken is not read: the buffer stays bounded, and nothing is lost."""
    total = 24 * 1024 * 1024

    async def main() -> None:
        transport = Transport(pause_above_bytes=64 * 1024)
        sent = 0

        async def flood(peer: Peer) -> None:
            nonlocal sent
            peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
            while sent < total:
                await peer.send(b"x" * 65536)
                sent += 65536

        async with RawServer([REQUEST, flood]) as server:
            response = await send(server, transport)
            seen = -1
            while seen != sent:  # until the server is stuck
                seen = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < total
            assert len(await response.read(total)) == total
            await until(lambda: transport.idle_connections() == 1)
            await transport.aclose()

    run(main())


@on_both_loops
def test_an_answer_that_is_too_large_is_not_read_on(run: Run) -> None:
    """`read` takes at most what it was allowed, then hangs up."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, answer(b"x" * 1000), GONE]) as server:
            response = await send(server, transport)
            with pytest.raises(TransportError) as caught:
                await response.read(999)
            assert (caught.value.kind, caught.value.phase) == ("protocol", "body")
            await transport.aclose()
            await (await server.peer()).ended.wait()

    run(main())


@on_both_loops
def test_the_head_has_a_time_limit(run: Run) -> None:
    """A server that accepts and says nothing is given up, and hung up on."""

    async def main() -> None:
        transport = Transport()
        async with RawServer([REQUEST, GONE]) as server:
            with pytest.raises(TransportError) as caught:
                await send(server, transport, head_timeout_s=0.05)
            assert (caught.value.kind, caught.value.phase) == ("timeout", "head")
            await (await server.peer()).ended.wait()
            assert transport.open_connections() == 0

    run(main())
