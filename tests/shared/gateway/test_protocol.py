"""The client's end of the wire: what is refused there, and what an app can know of its client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from loops import Run, on_both_loops, until
from penstock.gateway.edge.cycle import Connection
from penstock.gateway.edge.protocol import WireLimits, with_limits
from scripted import ScriptedLlama, gateway_here

App = Callable[[Any, Any, Any], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return body


async def reply(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, path and body."""
    body = await read_body(receive)
    await reply(send, b"%s %s %b" % (scope["method"].encode(), scope["path"].encode(), body))


class Client:
    """A client that says on the wire what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def refusal(self) -> tuple[int, dict[str, Any]]:
        """Status and error of an answer after which the connection is closed."""
        status, body = await self.answer()
        assert await self.reader.read() == b""
        return status, json.loads(body)["error"]

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(1) == b""
        return True


@contextlib.asynccontextmanager
async def serving(
    app: App = echo, limits: WireLimits | None = None
) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """A server with our protocol; gives a function that connects to it."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none", access_log=False)
    config.load()
    state = ServerState()
    protocol = with_limits(limits or WireLimits())
    server = await loop.create_server(lambda: protocol(config, state, {}, loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writers = []

    async def connect() -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return Client(reader, writer)

    try:
        yield connect
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await until(lambda: not state.connections)


@on_both_loops
def test_a_server_that_leaves_ends_each_connection_with_its_answer(run: Run) -> None:
    """A kept connection would lead a client to a gateway that goes away; nothing is lost, it comes back by a new one."""

    async def main() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            if scope["path"] == "/slow":
                await go.wait()
            await reply(send, b"done")

        loop, state = asyncio.get_running_loop(), ServerState()
        config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none", access_log=False)
        config.load()
        protocol = with_limits(WireLimits())
        server = await loop.create_server(lambda: protocol(config, state, {}, loop), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        running, rested, silent = [
            Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(3)
        ]
        for client in (rested, silent):
            client.say(GET)
            assert await client.answer() == (200, b"done")
        running.say(GET.replace(b"/ ", b"/slow "))
        await until(lambda: len(state.tasks) == 1)
        protocol.leaving = True
        rested.say(GET)
        head = await rested.reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert await rested.reader.read() == b"done"
        for connection in list(state.connections):
            connection.rest_no_more()
        assert await silent.is_closed()
        go.set()
        assert await running.answer() == (200, b"done")
        assert await running.is_closed()
        server.close()
        await until(lambda: not state.connections)
        for client in (running, rested, silent):
            client.writer.close()

    run(main())


@on_both_loops
def test_plain_requests_one_after_the_other(run: Run) -> None:
    """A connection serves on, with bodies of every framing."""

    async def main() -> None:
        async with serving() as connect:
            client = await connect()
            for _ in range(3):
                client.say(GET)
                assert await client.answer() == (200, b"GET / ")
            client.say(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            assert await client.answer() == (200, b"POST /a abc")
            client.say(
                b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nab\r\n0\r\nX-Trailer: 1\r\n\r\n"
            )
            assert await client.answer() == (200, b"POST /b ab")

    run(main())


@on_both_loops
def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    """Several requests in one packet: several answers, in their order."""

    async def main() -> None:
        async with serving() as connect:
            client = await connect()
            client.say(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(20)))
            for i in range(20):
                assert await client.answer() == (200, b"GET /%d " % i)

    run(main())


@on_both_loops
def test_byte_by_byte(run: Run) -> None:
    """Where the network cuts does not matter."""

    async def main() -> None:
        async with serving() as connect:
            client = await connect()
            for byte in b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi":
                client.say(bytes([byte]))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert await client.answer() == (200, b"POST /x hi")

    run(main())


SMALL = WireLimits(header_bytes=1000, header_count=10, header_timeout_s=5.0)


@pytest.mark.parametrize(
    ("wire", "status", "code"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 2000 + b"\r\n\r\n",
            431,
            "headers_too_large",
            id="one large header",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10 + b"\r\n",
            431,
            "headers_too_large",
            id="many headers",
        ),
        pytest.param(
            b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            431,
            "headers_too_large",
            id="a long request line",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 9\r\nX: " + b"a" * 2000 + b"\r\n\r\nsomething",
            431,
            "headers_too_large",
            id="with a body behind it",
        ),
        pytest.param(b"nonsense\r\n\r\n", 400, "invalid_request", id="not HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, "invalid_request", id="TLS"),
        pytest.param(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request", id="HTTP/2 preface"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", 400, "invalid_request", id="header name"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "invalid_request", id="length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "invalid_request",
            id="two framings (request smuggling)",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            400,
            "invalid_request",
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
            "invalid_request",
            id="a chunk size that is none",
        ),
        pytest.param(
            b"CONNECT example:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_request", id="CONNECT"
        ),
        pytest.param(
            b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "invalid_request",
            id="an absolute URL",
        ),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_request", id="star"),
        pytest.param(b"GET /\xff HTTP/1.1\r\n\r\n", 400, "invalid_request", id="raw bytes in path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400, "invalid_request", id="no Host"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400, "invalid_request", id="two Hosts"
        ),
    ],
)
@on_both_loops
def test_what_never_reaches_the_app(run: Run, wire: bytes, status: int, code: str) -> None:
    """Refused in our error shape, whatever it was, and the connection is closed."""

    async def main() -> None:
        async with serving(limits=SMALL) as connect:
            client = await connect()
            client.say(wire)
            got, error = await client.refusal()
            assert (got, error["code"], error["source"]) == (status, code, "penstock")
            assert error["message"]
            assert error["type"] == "invalid_request_error"

    run(main())


@on_both_loops
def test_headers_without_an_end(run: Run) -> None:
    """A client that goes on with headers for ever is stopped at the limit, not at the memory's."""

    async def main() -> None:
        async with serving(limits=SMALL) as connect:
            client = await connect()
            client.say(b"GET / HTTP/1.1\r\nX: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    client.say(b"a" * 100)
                    await client.writer.drain()
            got, error = await client.refusal()
            assert (got, error["code"]) == (431, "headers_too_large")

    run(main())


@on_both_loops
def test_limits_are_of_each_request(run: Run) -> None:
    """Ten small requests and large bodies are not one large head."""

    async def main() -> None:
        async with serving(limits=SMALL) as connect:
            client = await connect()
            head = (
                b"POST / HTTP/1.1\r\nHost: a\r\nX: "
                + b"a" * 600
                + b"\r\nContent-Length: 5000\r\n\r\n"
            )
            request = head + b"b" * 5000
            client.say(request * 10)
            for _ in range(10):
                assert (await client.answer())[0] == 200
            for start in range(0, len(request), 700):
                client.say(request[start : start + 700])
                await asyncio.sleep(0.001)
            assert (await client.answer())[0] == 200

    run(main())


QUICK = WireLimits(header_timeout_s=0.1)


@on_both_loops
def test_a_slow_head_is_refused(run: Run) -> None:
    """Headers that do not end in time get 408, on a fresh connection and on a used one."""

    async def main() -> None:
        async with serving(limits=QUICK) as connect:
            fresh, used = await connect(), await connect()
            fresh.say(b"GET / HTTP/1.1\r\nX-Slow: ")
            used.say(GET)
            assert (await used.answer())[0] == 200
            used.say(b"GET / HT")
            for client in (fresh, used):
                status, error = await client.refusal()
                assert (status, error["code"]) == (408, "request_timeout")

    run(main())


@on_both_loops
def test_a_connection_that_says_nothing_is_closed(run: Run) -> None:
    """Silence, or empty lines, hold no connection for ever; nobody waits, so nothing is said."""

    async def main() -> None:
        async with serving(limits=QUICK) as connect:
            silent, lines, used = await connect(), await connect(), await connect()
            lines.say(b"\r\n\r\n")
            used.say(GET)
            assert (await used.answer())[0] == 200
            used.say(b"\r\n")
            for client in (silent, lines, used):
                assert await client.is_closed()

    run(main())


@on_both_loops
def test_a_slow_answer_is_not_a_slow_client(run: Run) -> None:
    """The clock for headers does not run while an app thinks or a body is on its way."""

    async def main() -> None:
        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            await asyncio.sleep(0.3)
            await reply(send, b"at last")

        async with serving(slow, QUICK) as connect:
            client = await connect()
            client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
            await asyncio.sleep(0.2)
            client.say(b"b")
            assert await client.answer() == (200, b"at last")

    run(main())


@pytest.mark.parametrize(
    ("next_request", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", 400, id="broken"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431, id="too large"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", 408, id="too slow"),
    ],
)
@on_both_loops
def test_a_refusal_waits_for_its_turn(run: Run, next_request: bytes, status: int) -> None:
    """A bad request behind a good one does not damage the answer to the good one."""

    async def main() -> None:
        go = asyncio.Event()

        async def streaming(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            headers = [(b"content-length", b"8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await go.wait()
            await send({"type": "http.response.body", "body": b"half"})

        limits = WireLimits(header_bytes=1000, header_timeout_s=0.1)
        async with serving(streaming, limits) as connect:
            client = await connect()
            client.say(GET + next_request)
            assert (await client.reader.readuntil(b"half")).endswith(b"\r\n\r\nhalf")
            await asyncio.sleep(0.2)
            go.set()
            assert await client.reader.readexactly(4) == b"half"
            assert (await client.refusal())[0] == status

    run(main())


@on_both_loops
def test_a_body_that_breaks_while_it_is_answered(run: Run) -> None:
    """Nothing is written into an answer that has begun: it is cut off."""

    async def main() -> None:
        gone = asyncio.Event()

        async def early(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"]["penstock"].on_disconnect(gone.set)
            headers = [(b"content-length", b"8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await gone.wait()

        async with serving(early) as connect:
            client = await connect()
            client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert (await client.reader.readuntil(b"half")).endswith(b"half")
            client.say(b"zz\r\n")
            assert await client.is_closed()
            await gone.wait()

    run(main())


@pytest.mark.parametrize(
    "upgrade",
    [
        pytest.param(
            b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
            id="websocket",
        ),
        pytest.param(b"Upgrade: h2c\r\nHTTP2-Settings: x\r\n", id="h2c, as Java's client does"),
    ],
)
@pytest.mark.parametrize(
    "cut", [pytest.param(1, id="byte by byte"), pytest.param(9999, id="whole")]
)
@on_both_loops
def test_an_upgrade_is_a_plain_request(run: Run, cut: int, upgrade: bytes) -> None:
    """Nothing to upgrade to: answered as if it had not been asked, body and next request included."""
    head = b"Host: a\r\nConnection: Upgrade\r\n" + upgrade
    rows = [
        (b"GET /w HTTP/1.1\r\n" + head + b"\r\n", b"GET /w "),
        (b"POST /e HTTP/1.1\r\n" + head + b"Content-Length: 0\r\n\r\n", b"POST /e "),
        (b"POST /p HTTP/1.1\r\n" + head + b"Content-Length: 2\r\n\r\nhi", b"POST /p hi"),
        (
            b"POST /c HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhi\r\n0\r\n\r\n",
            b"POST /c hi",
        ),
        (GET, b"GET / "),
    ]
    wire = b"".join(request for request, _ in rows)

    async def main() -> None:
        async with serving() as connect:
            client = await connect()
            for start in range(0, len(wire), cut):
                client.say(wire[start : start + cut])
                await asyncio.sleep(0)
            for _, expected in rows:
                assert await client.answer() == (200, expected)

    run(main())


@on_both_loops
def test_headers_as_they_came(run: Run) -> None:
    """The app can see case and order; the scope's own headers stay lower case, as ASGI wants."""

    async def main() -> None:
        seen: list[Any] = []

        async def look(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["extensions"]["penstock"].raw_headers, scope["headers"]))
            await reply(send, b"")

        async with serving(look) as connect:
            client = await connect()
            client.say(b"GET / HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-A: 2\r\nX-B: 3\r\n\r\n")
            await client.answer()
            client.say(GET)
            await client.answer()
        raw = [(b"Host", b"a"), (b"X-B", b"1"), (b"x-A", b"2"), (b"X-B", b"3")]
        assert seen[0] == (raw, [(name.lower(), value) for name, value in raw])
        assert seen[1][0] == [(b"Host", b"test")]

    run(main())


def reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


@pytest.mark.parametrize(
    "hang_up",
    [
        pytest.param(lambda client: client.writer.close(), id="closes"),
        pytest.param(reset, id="resets"),
    ],
)
@on_both_loops
def test_a_hang_up_is_heard(run: Run, hang_up: Callable[[Client], None]) -> None:
    """Without a task that waits for it: a callback in the loop, and at once for who asks later."""

    async def main() -> None:
        heard = asyncio.Event()
        handles: list[Connection] = []

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            handle = scope["extensions"]["penstock"]
            handles.append(handle)
            handle.on_disconnect(heard.set)
            await heard.wait()

        async with serving(waiting) as connect:
            client = await connect()
            client.say(GET)
            await until(lambda: handles)
            assert not handles[0].disconnected
            hang_up(client)
            await heard.wait()
            assert handles[0].disconnected
            late: list[int] = []
            handles[0].on_disconnect(lambda: late.append(1))
            assert late == [1]
            assert handles[0].write_buffer_size() >= 0
            handles[0].abort()  # harmless

    run(main())


@on_both_loops
def test_what_is_over_is_forgotten(run: Run) -> None:
    """A hang-up after the answer concerns no earlier request, and nothing of them is kept."""

    async def main() -> None:
        handles: list[Connection] = []
        heard: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            handle = scope["extensions"]["penstock"]
            number = len(handles)
            handles.append(handle)
            handle.on_disconnect(lambda: heard.append(number))
            if number == 3:
                await asyncio.get_running_loop().create_future()
            await reply(send, b"")

        async with serving(app) as connect:
            client = await connect()
            for _ in range(3):
                client.say(GET)
                await client.answer()
            client.say(GET + GET)
            await until(lambda: len(handles) == 4)
            client.writer.close()
            await until(lambda: heard)
        assert heard == [3]
        assert [handle.disconnected for handle in handles] == [False, False, False, True]

    run(main())


@on_both_loops
def test_an_abort_never_looks_like_an_end(run: Run) -> None:
    """A broken stream is cut: no last chunk, whatever was buffered."""

    async def main() -> None:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            await asyncio.sleep(0.02)
            scope["extensions"]["penstock"].abort()

        async with serving(broken) as connect:
            client = await connect()
            client.say(GET)
            data = b""
            with contextlib.suppress(ConnectionError):
                data = await client.reader.read()
            assert b"part" in data
            assert not data.endswith(b"0\r\n\r\n")

    run(main())


@on_both_loops
def test_what_the_client_has_not_taken_is_known(run: Run) -> None:
    """The size of the buffer tells a client that does not read."""

    async def main() -> None:
        sizes: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            handle = scope["extensions"]["penstock"]
            sizes.append(handle.write_buffer_size())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            body = b"x" * 30_000_000
            await send({"type": "http.response.body", "body": body, "more_body": True})
            sizes.append(handle.write_buffer_size())
            handle.abort()

        async with serving(app) as connect:
            client = await connect()
            client.say(GET)
            await until(lambda: len(sizes) == 2)
        assert sizes[0] == 0
        assert sizes[1] > 1_000_000

    run(main())


def test_it_runs_under_uvicorn() -> None:
    """The class is what uvicorn's `http=` takes, and its shutdown ends the server."""

    async def main() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            config = uvicorn.Config(
                echo, http=with_limits(SMALL), lifespan="off", log_config=None, ws="none"
            )
            server = uvicorn.Server(config)
            task = asyncio.ensure_future(server.serve(sockets=[sock]))
            await until(lambda: server.started)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            client = Client(reader, writer)
            client.say(GET)
            assert await client.answer() == (200, b"GET / ")
            server.should_exit = True
            assert await client.is_closed()
            await task
            writer.close()

    asyncio.run(main())


def test_a_hang_up_ends_the_answer_that_others_wait_behind() -> None:
    """An event stream with a pipelined request behind it ends with its connection."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            before = len(gateway.runtime.recorder._subscribers)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            events = b"GET /penstock/events HTTP/1.1\r\nhost: localhost\r\n\r\n"
            writer.write(events + b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"snapshot" in await reader.readuntil(b"snapshot")
            assert len(gateway.runtime.recorder._subscribers) == before + 1
            writer.close()
            await until(lambda: len(gateway.runtime.recorder._subscribers) == before)

    asyncio.run(main())
