"""
A load that waits for nobody, and what it saw: used by `overload.py`.

Requests are sent when their time has come, however many are still without an answer: that is how people behave who
do not know of one another, and the only way to see what an overloaded server does (closed loops slow down with it).
The client is as small as can be (one protocol class, no HTTP library), since it shares the machine with what it
measures; the time to a first token counts from when the request was due, so a sender that lags is seen as slowness,
never hidden. (A refusal counts from when it was sent: how quick it is is what is asked there.)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

PATIENCE_S = 15.0
"""Clients give up when nothing has come for so long."""
_WORDS = [f"w{number:03d}" for number in range(500)]


@dataclass(frozen=True, slots=True)
class Asked:
    """
    One request of a plan.

    Attributes:
        at_s: when it is sent, from the beginning.
        prompt_tokens, answer_tokens: as `slotted_server` counts them.
        body: what is sent.
    """

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    body: bytes


@dataclass(slots=True)
class Saw:
    """
    What became of it. Times are seconds since it was due.

    Attributes:
        late_s: how late this very process was: the machine was busy.
        status: 0 when the connection broke or the client gave up before there was one.
        first_s: the first token.
        end_s: the end of the answer, or of the refusal.
        complete: the answer came to its proper end.
    """

    status: int = 0
    first_s: float | None = None
    end_s: float | None = None
    complete: bool = False
    late_s: float = 0.0


def plan(
    per_s: float,
    for_s: float,
    seed: int,
    *,
    prompts: tuple[int, int] = (200, 1000),
    answers: tuple[int, int] = (15, 45),
) -> list[Asked]:
    """Arrivals by Poisson, each with a prompt that shares nothing with the others."""
    rng = random.Random(seed)
    found, at_s = [], 0.0
    while (at_s := at_s + rng.expovariate(per_s)) < for_s:
        words, answer = rng.randint(*prompts), rng.randint(*answers)
        text = " ".join(
            [f"{rng.getrandbits(32):x}", *(rng.choice(_WORDS) for _ in range(words - 1))]
        )
        body = {"model": "m", "stream": True, "max_tokens": answer, "temperature": 0,
                "messages": [{"role": "user", "content": text}]}  # fmt: skip
        found.append(Asked(at_s, words + 2, answer, orjson.dumps(body)))
    return found


class _Connection(asyncio.Protocol):
    """Sends one request at a time, and reads its answer."""

    def __init__(self, idle: Callable[[_Connection], None]) -> None:
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._saw: Saw | None = None
        self._due_s = 0.0
        self._head = b""
        self._tail = b""
        self._left: int | None = None
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(reusable=False)

    async def ask(self, request: bytes, due_s: float, saw: Saw) -> None:
        """Send; returns when the answer is over, or patience is."""
        self._saw, self._due_s = saw, due_s
        self._head = self._tail = b""
        self._left = None
        done = self._done = self._loop.create_future()
        self.transport.write(request)
        timer = self._loop.call_at(due_s + PATIENCE_S, self._give_up)
        try:
            await done
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        if self._saw is not None and self._saw.first_s is None:
            self.transport.abort()
            self._finish(reusable=False)

    def data_received(self, data: bytes) -> None:
        saw = self._saw
        if saw is None:
            return
        if not saw.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            saw.status = int(self._head[9:12])
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            at = head.find(b"content-length:")
            if at >= 0:
                self._left = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if saw.status == 200 and saw.first_s is None and b'"content"' in data:
            saw.first_s = self._loop.time() - self._due_s
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._finish(reusable=True)
            return
        self._tail = (self._tail + data)[-64:]
        if self._tail.endswith(b"0\r\n\r\n"):
            saw.complete = b"data: [DONE]" in self._tail
            self._finish(reusable=True)

    def _finish(self, *, reusable: bool) -> None:
        saw, self._saw = self._saw, None
        if saw is not None:
            saw.end_s = self._loop.time() - self._due_s
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
        if saw is not None and reusable:
            self._idle(self)


_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


class _Pool:
    """Connections to one port, kept alive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, item: Asked, due_s: float, saw: Saw) -> None:
        """Ask on a connection that is free, or on a new one."""
        loop = asyncio.get_running_loop()
        saw.late_s = max(0.0, loop.time() - due_s)
        request = _HEAD % len(item.body) + item.body
        while self._idle:
            connection = self._idle.pop()
            if connection.transport.is_closing():
                continue
            await connection.ask(request, due_s, saw)
            if saw.status or (saw.end_s or 0.0) >= PATIENCE_S:
                return
            # It was being closed just when it was used again; every HTTP client tries once more then.
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._idle.append), "127.0.0.1", self._port
            )
        except OSError:
            saw.end_s = loop.time() - due_s
            return
        await connection.ask(request, due_s, saw)

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.transport.close()


async def send(port: int, asked: Sequence[Asked]) -> list[Saw]:
    """Send all of *asked* to *port* on loopback, each at its time."""
    loop, pool = asyncio.get_running_loop(), _Pool(port)
    saws = [Saw() for _ in asked]
    start_s = loop.time() + 0.2
    tasks = []
    for item, saw in zip(asked, saws, strict=True):
        due_s = start_s + item.at_s
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        tasks.append(asyncio.ensure_future(pool.ask(item, due_s, saw)))
    await asyncio.gather(*tasks)
    pool.close()
    return saws


async def answers_per_s(port: int, asked: Sequence[Asked], at_once: int, for_s: float) -> float:
    """What comes back when *at_once* clients ask again and again: the server's capacity."""
    loop, pool = asyncio.get_running_loop(), _Pool(port)
    items, answers = iter(asked), 0
    start_s = loop.time()

    async def client() -> None:
        nonlocal answers
        for item in items:
            if loop.time() - start_s >= for_s:
                return
            saw = Saw()
            await pool.ask(item, loop.time(), saw)
            answers += saw.complete

    await asyncio.gather(*(client() for _ in range(at_once)))
    pool.close()
    return answers / (loop.time() - start_s)
