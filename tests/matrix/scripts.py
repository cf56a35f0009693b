"""
The faults of the matrix as bytes: what a server does on one connection for one request.

A script waits at its gate until the driver opens it: by then the request stands where the fault is to strike, and
what else the scene asks for has happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from matrix.owed import Fault, Moment
from matrix.wires import BUSY, LOADING, OUT_OF_MEMORY, PAGE, TEXTS, Wire
from rawserver import CLOSE, GONE, RESET, Peer, Step, answer, chunk

Script = list[Step]
_BEFORE = 2
"""Pieces of the answer that come before a fault in its middle."""
_STATUS = b"500 Internal Server Error"
_BUSY_STATUS = b"503 Service Unavailable"
_JSON = b"content-type: application/json"
_TEXT = b"content-type: text/plain"


def good(wire: Wire) -> Script:
    """A whole answer."""
    return [wire.head, *map(wire.piece, TEXTS), wire.closing, chunk(b"")]


def script(
    fault: Fault,
    moment: Moment,
    kind: str,
    wire: Wire,
    gate: Callable[[Peer], Awaitable[object]],
    die: Callable[[], Awaitable[None]],
) -> Script:
    """
    What the server does with a request that meets *fault* at *moment*.

    Args:
        gate: waits until the fault may strike.
        die: ends the server.
    """
    before = _before(moment, wire)
    rest = _rest(moment, wire)

    async def crash(peer: Peer) -> None:
        peer.reset()
        await die()

    if fault.says is not None:
        return [*before, gate, *_said(fault.says, wire)]
    match fault.id:
        case "reset":
            return [*before, gate, RESET]
        case "close":
            return [*before, gate, CLOSE]
        case "crash":
            return [*before, gate, crash, CLOSE]
        case "stall":
            return [*before, gate, GONE]
        case "pings":
            return [*before, gate, _ever(wire.ping)]
        case "drip" | "clock-jump" | "disk-full":
            slowly = fault.id == "drip"
            return [*before, gate, *(_drops(rest) if slowly else rest)]
        case "half-head":
            return [gate, b"HTTP/1.1 200 OK\r\ncontent-ty", CLOSE]
        case "half-event":
            return [*before, gate, wire.half, CLOSE]
        case "cut":
            return [*before, gate, chunk(b"")]
        case "loading":
            return [gate, LOADING[kind]]
        case "error-event":
            return [*before, gate, wire.error("boom", 500), chunk(b"")]
        case "out-of-memory" if moment == "headers":
            return [gate, wire.refusal(OUT_OF_MEMORY[kind], _STATUS)]
        case "out-of-memory":
            return [*before, gate, wire.error(OUT_OF_MEMORY[kind], 500), chunk(b"")]
        case "overloaded":
            return [gate, wire.refusal(BUSY[kind], _BUSY_STATUS)]
        case "busy-long":
            return [gate, wire.refusal(BUSY[kind], _BUSY_STATUS, b"Retry-After: 30")]
        case "http-500":
            return [gate, wire.refusal("boom", _STATUS)]
        case "error-in-200":
            return [gate, wire.refusal("boom inside a 200", b"200 OK")]
        case "html":
            return [gate, PAGE]
        case "half-json":
            return [gate, answer(b'{"choices": [', b"200 OK", _JSON)]
        case "empty":
            return [gate, answer(b"", b"200 OK", _JSON)]
        case "too-short":
            return [gate, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n%b\r\n\r\n{}" % _JSON, CLOSE]
        case "too-long":
            return [
                gate,
                b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n%b\r\n\r\n{"choices": []}' % _JSON,
            ]
        case "not-http":
            return [gate, b"what is HTTP?\r\n\r\n", CLOSE]
        case "endless-head":
            return [gate, b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 100_000, GONE]
        case "bad-chunk":
            return [*before, gate, b"no number\r\n", GONE]
        case "junk-event":
            return [*before, gate, wire.junk, *rest]
        case "more":
            return [*before, gate, wire.piece("more"), wire.closing, chunk(b"")]
        case _:
            raise AssertionError(f"no script for {fault.id} at {moment}")


def _said(said: tuple[int | None, bytes], wire: Wire) -> Script:
    status, body = said
    if status is not None:
        return [answer(body, b"%d Said" % status, _JSON if body[:1] in b"{[" else _TEXT)]
    return [chunk(b"%b%b%b" % (wire.before, body, wire.after)), chunk(b"")]


def _before(moment: Moment, wire: Wire) -> Script:
    """What has come when the fault strikes."""
    if moment == "headers":
        return []
    if moment == "first_token":
        return [wire.head]
    if moment == "midstream":
        return [wire.head, *map(wire.piece, TEXTS[:_BEFORE])]
    assert moment == "after_end"
    return [wire.head, *map(wire.piece, TEXTS), wire.closing]


def _rest(moment: Moment, wire: Wire) -> Script:
    """What would come then, if all went well."""
    if moment == "after_end":
        return [chunk(b"")]
    pieces = [*map(wire.piece, TEXTS[_BEFORE if moment == "midstream" else 0 :])]
    head = [wire.head] if moment == "headers" else []
    return [*head, *pieces, wire.closing, chunk(b"")]


def _drops(steps: Script) -> Iterator[Step]:
    """The same bytes, a few at a time."""
    whole = b"".join(step for step in steps if isinstance(step, bytes))

    async def wait(_: Peer) -> None:
        await asyncio.sleep(0.001)

    for start in range(0, len(whole), 40):
        yield whole[start : start + 40]
        yield wait


def _ever(data: bytes) -> Callable[[Peer], Awaitable[object]]:
    """*data* again and again, until the other side has gone."""

    async def send(peer: Peer) -> None:
        while True:
            await peer.send(data)
            await asyncio.sleep(0.02)

    return send
