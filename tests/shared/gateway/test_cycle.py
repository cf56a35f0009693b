"""The short way to answer a request: what goes on the wire, and in which order requests are started."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from penstock.gateway.edge.answer import HeaderFilter
from penstock.gateway.edge.cycle import Cycle
from penstock.gateway.edge.starts import Starts

Headers = list[tuple[bytes, bytes]]


class Wire:
    """A client's transport that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False
        self.write_paused = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        return None


class Answered:
    """A request, the wire under it, and how often its answer was complete."""

    def __init__(self, method: str = "POST", *, keep_alive: bool = True) -> None:
        self.wire = Wire()
        self.ends = 0
        flow: Any = self.wire
        transport: Any = self.wire
        scope: Any = {"type": "http", "method": method}
        quiet = logging.getLogger("quiet")
        self.cycle = Cycle(
            scope, transport, flow, quiet, quiet, False, [], asyncio.Event(), False, keep_alive, self.end,
        )  # fmt: skip

    def end(self) -> None:
        self.ends += 1


PLAIN: Headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"2")]
STREAM: Headers = [(b"content-type", b"text/event-stream")]


def test_head_and_body_are_one_write() -> None:
    """A held head goes out with its first piece, the case of its names kept."""
    request = Answered()
    request.cycle.begin(200, PLAIN, hold=True)
    assert request.wire.writes == []
    request.cycle.piece(b"ok", more=False)
    assert request.wire.writes == [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
    ]
    assert (request.ends, request.wire.closed) == (1, False)


def test_pieces_are_chunks() -> None:
    """Without a length each piece is a chunk, an empty one is none, and the last one ends the body."""
    request = Answered()
    request.cycle.begin(200, STREAM)
    for piece in (b"one", b"", b"two"):
        request.cycle.piece(piece, more=True)
    request.cycle.piece(b"", more=False)
    assert request.wire.writes[0].endswith(b"transfer-encoding: chunked\r\n\r\n")
    assert request.wire.writes[1:] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert request.ends == 1


@pytest.mark.parametrize("headers", [PLAIN, STREAM], ids=["length", "chunks"])
def test_head_request_gets_no_body(headers: Headers) -> None:
    """The answer to HEAD has the headers of the answer to GET and not a byte more."""
    request = Answered("HEAD")
    request.cycle.begin(200, headers, hold=True)
    request.cycle.piece(b"ok", more=True)
    request.cycle.piece(b"", more=False)
    assert b"".join(request.wire.writes).endswith(b"\r\n\r\n")
    assert b"ok" not in b"".join(request.wire.writes)
    assert request.ends == 1


@pytest.mark.parametrize(
    ("keep_alive", "headers", "told"),
    [
        pytest.param(False, PLAIN, 1, id="the client wants it"),
        pytest.param(True, [*PLAIN, (b"Connection", b"x, Close")], 0, id="the answer says it"),
    ],
)
def test_connection_closes(keep_alive: bool, headers: Headers, told: int) -> None:
    """A connection that is to end is closed after the answer, which says so once."""
    request = Answered(keep_alive=keep_alive)
    request.cycle.begin(200, headers, hold=True)
    request.cycle.piece(b"ok", more=False)
    assert request.wire.writes[0].count(b"connection: close\r\n") == told
    assert request.wire.closed


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\rb"),
        (b"x", b"a\nb"),
        (b"x\r\ny", b"a"),
        (b"x", b"a\x00"),
        (b"x", b"\x7f"),
    ],
    ids=["line", "return", "feed", "name", "null", "delete"],
)
def test_headers_cannot_be_smuggled(header: tuple[bytes, bytes]) -> None:
    """A header that would be more than one line, or no text, is never written."""
    request = Answered()
    with pytest.raises(RuntimeError):
        request.cycle.begin(200, [*PLAIN, header])
    assert request.wire.writes == []


@pytest.mark.parametrize("body", [b"o", b"okay"], ids=["shorter", "longer"])
def test_length_holds(body: bytes) -> None:
    """A body that is not as long as announced is a defect, and never a complete answer."""
    request = Answered()
    request.cycle.begin(200, PLAIN, hold=True)
    with pytest.raises(RuntimeError):
        request.cycle.piece(body, more=False)
    assert request.ends == 0


def test_nothing_after_the_end() -> None:
    """A second head, and a piece after the last one, are defects."""
    request = Answered()
    request.cycle.begin(200, STREAM)
    with pytest.raises(RuntimeError):
        request.cycle.begin(200, STREAM)
    request.cycle.piece(b"x", more=False)
    for more in (True, False):
        with pytest.raises(RuntimeError):
            request.cycle.piece(b"y", more=more)


def test_client_that_left_gets_nothing() -> None:
    """Whoever hung up is written to no more, and that is no defect."""
    request = Answered()
    request.cycle.begin(200, STREAM)
    request.cycle.disconnected = True
    request.cycle.piece(b"x", more=True)
    request.cycle.piece(b"x", more=False)
    assert len(request.wire.writes) == 1


def test_starts_leave_room_for_answers() -> None:
    """Of many requests that come together a handful starts at once, the others a few a round, in order."""

    async def main() -> list[int]:
        starts, seen = Starts(), list[int]()
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[Any]]()

        async def work(number: int) -> None:
            seen.append(number)
            if number == 0:  # its answer is read before the last ones start
                loop.call_soon(seen.append, -1)

        for number in range(40):
            starts.add(loop, tasks, work(number))
        assert len(tasks) == 16
        await asyncio.sleep(0)
        starts.add(loop, tasks, work(40))  # it stands behind those who wait
        while len(seen) < 42:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not tasks
        for number in range(41, 50):
            starts.add(loop, tasks, work(number))
        assert len(tasks) == 9
        await asyncio.gather(*tasks)
        return seen

    seen = asyncio.run(main())
    assert [number for number in seen if number >= 0] == list(range(50))
    assert seen.index(-1) < seen.index(24)


def test_filter_remembers_a_bounded_number_of_names() -> None:
    """Names are judged alike however many there are, and whatever `Connection` names is left out."""
    keep = HeaderFilter(frozenset({b"server"}), drop_prefix=b"access-control-")
    odd = [(b"X-%d" % number, b"v") for number in range(3000)]
    assert keep([(b"Server", b"s"), *odd, (b"Access-Control-Max-Age", b"1")]) == odd
    assert keep([(b"Connection", b"close, X-7"), *odd[:9]]) == [*odd[:7], odd[8]]
    assert len(keep._stays) <= 1024
