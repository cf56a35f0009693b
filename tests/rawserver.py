"""
A TCP server that does on the wire exactly what a test says, byte by byte.

Model servers die, stall, reset and lie about lengths; no polite HTTP library can be made to. A script is
a sequence of steps, played on one connection:

    bytes           send them
    REQUEST         read one whole request (kept in `peer.requests`)
    asyncio.Event   wait until it is set
    GONE            wait until the other side has closed (its way of saying goodbye: `peer.ended`)
    CLOSE           close
    HALF_CLOSE      send FIN, go on reading
    RESET           close with a TCP reset
    a function      `await step(peer)`, for everything else

When a script is over without CLOSE or RESET the connection stays open until the other side closes it.
The n-th connection plays the n-th script, further ones the last. Example:

    async with RawServer([REQUEST, b"HTTP/1.1 200 OK\\r\\ncontent-length: 9\\r\\n\\r\\nhalf", RESET]) as server:
        ...  # server.port, server.peers[0].requests[0].body

What it gets wrong: it believes in well-formed requests, and its TLS cannot be reset half-way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Self


class Act(Enum):
    """Steps that are neither bytes nor an event."""

    REQUEST = "request"
    GONE = "gone"
    CLOSE = "close"
    HALF_CLOSE = "half close"
    RESET = "reset"


REQUEST, GONE, CLOSE, HALF_CLOSE, RESET = Act


@dataclass(frozen=True)
class Received:
    """
    A request as it came.

    Attributes:
        line: the request line without its end.
        headers: case and order kept.
        body: transfer encoding undone.
        raw: head and body as they came.
    """

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    raw: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of header *name* (lower case)."""
        return next((value for found, value in self.headers if found.lower() == name), None)


@dataclass
class Peer:
    """One connection, seen from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[Received] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the other side has closed or reset the connection, or the script has."""

    async def send(self, data: bytes) -> None:
        """Send *data*; returns when the socket has taken most of it."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_request(self) -> Received:
        """
        Read one request.

        Raises:
            EOFError, ConnectionError: the other side closed before a request was complete.
        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (h.partition(b":") for h in rest)]
        given = {name.lower(): value for name, value in headers}
        raw = body = b""
        if b"chunked" in given.get(b"transfer-encoding", b""):
            while True:
                size = await self.reader.readuntil(b"\r\n")
                chunk = await self.reader.readexactly(int(size.split(b";")[0], 16) + 2)
                raw += size + chunk
                body += chunk[:-2]
                if len(chunk) == 2:
                    break
        elif length := int(given.get(b"content-length", b"0")):
            raw = body = await self.reader.readexactly(length)
        request = Received(line, headers, body, head + raw)
        self.requests.append(request)
        return request

    async def until_gone(self) -> None:
        """Read and forget until the other side closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with a TCP reset; what was not sent yet is lost."""
        sock = self.writer.get_extra_info("socket")
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Step = bytes | asyncio.Event | Act | Callable[[Peer], Awaitable[object]]
Script = Sequence[Step]


def answer(body: bytes = b"", status: bytes = b"200 OK", *headers: bytes) -> bytes:
    """A whole answer with `content-length`; *headers* are lines such as `b"connection: close"`."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVER = [REQUEST, answer(b"ok")] * 1000
"""The script of a well-behaved server."""


class RawServer:
    """
    See the module.

    Attributes:
        port: on 127.0.0.1.
        peers: one per connection that was accepted, in that order.
    """

    def __init__(
        self,
        *scripts: Script,
        unix_path: str | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._scripts = list(scripts) or [EVER]
        self._unix_path = unix_path
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted = asyncio.Condition()
        self.peers: list[Peer] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        if self._unix_path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._unix_path)
        else:
            self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def listen_again(self) -> None:
        """At the same port, after the end."""
        self._server = await asyncio.start_server(self._serve, self._host, self.port)

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Base address."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def peer(self, number: int = 0) -> Peer:
        """The connection with this number, waiting until it is there."""
        async with asyncio.timeout(10), self._accepted:
            await self._accepted.wait_for(lambda: len(self.peers) > number)
        return self.peers[number]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        peer = Peer(reader, writer)
        script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
        self.peers.append(peer)
        async with self._accepted:
            self._accepted.notify_all()
        try:
            await self._play(peer, script)
        except (EOFError, ConnectionError):
            pass  # the other side hung up in the middle of the script: tests look at `ended`
        except asyncio.CancelledError:
            pass  # the server is being closed; asyncio's streams would report it as an error
        finally:
            peer.ended.set()
            writer.transport.abort()

    async def _play(self, peer: Peer, script: Script) -> None:
        for step in script:
            if isinstance(step, bytes):
                await peer.send(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is REQUEST:
                await peer.read_request()
            elif step is GONE:
                await peer.until_gone()
                peer.ended.set()
            elif step is HALF_CLOSE:
                peer.writer.write_eof()
            elif step is CLOSE:
                peer.writer.close()
                await peer.writer.wait_closed()
                return
            elif step is RESET:
                peer.reset()
                return
            else:
                assert callable(step)
                await step(peer)
        await peer.until_gone()
