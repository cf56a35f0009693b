"""
Crowds: a llama.cpp that really has slots and takes time, clients that do as a test says, and what must hold
when all of them are gone. For stress scenarios; every one of them ends with `Stage.rest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loops import until
from penstock.adapters.transport.pool import MOST_IDLE
from rawserver import CHUNKED_HEAD, CLOSE, RESET, Peer, Received, chunk
from scripted import Here, Script, ScriptedLlama, delta, event, gateway_here, reply

WITHIN_S = 25.0
GAUGES_AT_REST = (
    "penstock_requests_in_flight",
    "penstock_requests_queued",
    "penstock_ghost_requests",
)
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)
"""A whole chat completion as bytes; `BODY` is its body."""

Answer = Callable[["BusyLlama", Peer, Received], Awaitable[object]]


class BusyLlama(ScriptedLlama):
    """
    A llama.cpp that works on as many requests at a time as it has slots; all others wait inside of it.

    Args:
        slots: requests that it works on at a time.
        answer: what it does in a slot, told by the number of the request, from 1; None for a good stream.
        tokens, token_s, prefill_s: of a good stream.
        told_slots: what its probes say, when that is something else.

    Attributes:
        most: requests that were in its slots or waited for one at the same time, at most.
        served, left: requests that it answered to their end; whose client went before.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        answer: Callable[[int], Answer | None] = lambda _: None,
        tokens: int = 4,
        token_s: float = 0.001,
        prefill_s: float = 0.002,
        told_slots: int | None = None,
    ) -> None:
        super().__init__(slots=told_slots or slots)
        self.tokens, self.token_s, self.prefill_s = tokens, token_s, prefill_s
        self.answer = answer
        self.here = 0
        self.most = 0
        self.served = 0
        self.left = 0
        self.order: list[str] = []
        self._slots = asyncio.Semaphore(slots)

    def script_for(self, request: Received) -> Script:
        """One step that does it all."""
        number = len(self.requests)

        async def work(peer: Peer) -> None:
            self.here += 1
            self.most = max(self.most, self.here)
            try:
                async with self._slots:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        self.order.append(json.loads(request.body)["messages"][-1]["content"])
                    await (self.answer(number) or good)(self, peer, request)
            finally:
                self.here -= 1

        return [work, *([CLOSE] if self.closes else [])]

    closes = False
    """It closes each connection after its answer."""

    def _probe(self, target: str) -> bytes:
        if target == "/slots" and self.ready:
            return reply(
                [
                    {"id": n, "n_ctx": self.window, "is_processing": n < self.here}
                    for n in range(self.slots)
                ]
            )
        return super()._probe(target)


async def good(llama: BusyLlama, peer: Peer, request: Received) -> None:
    """A stream of tokens, or embeddings; stops when the client has gone."""
    if request.line.split(b" ")[1] == b"/v1/embeddings":
        await peer.send(reply({"object": "list", "data": [{"embedding": [0.0], "index": 0}], "model": "m"}))  # fmt: skip
        llama.served += 1
        return
    await asyncio.sleep(llama.prefill_s)
    await peer.send(CHUNKED_HEAD)
    for number in range(llama.tokens):
        if peer.reader.at_eof() or peer.writer.is_closing():
            llama.left += 1
            raise ConnectionResetError
        await peer.send(event(delta(f"{number} ")))
        await asyncio.sleep(llama.token_s)
    await peer.send(event(delta("", "stop")) + event(b"[DONE]") + chunk(b""))
    llama.served += 1


def says(answer: bytes) -> Answer:
    """Answers with these bytes."""

    async def step(_: BusyLlama, peer: Peer, __: Received) -> None:
        await peer.send(answer)

    return step


async def resets(_: BusyLlama, peer: Peer, __: Received) -> None:
    """Resets before a byte."""
    peer.reset()
    raise ConnectionResetError


async def breaks(_: BusyLlama, peer: Peer, __: Received) -> None:
    """Breaks off in the middle of a stream."""
    await peer.send(CHUNKED_HEAD + event(delta("half ")))
    await asyncio.sleep(0.002)
    peer.reset()
    raise ConnectionResetError


async def stalls(_: BusyLlama, peer: Peer, __: Received) -> None:
    """Begins a stream and says no more."""
    await peer.send(CHUNKED_HEAD + event(delta("half ")))
    await peer.until_gone()
    raise ConnectionResetError


@dataclass
class Outcomes:
    """
    What a crowd of clients saw.

    Attributes:
        statuses: how often each; 0 for a client that left by itself.
        codes: of errors, in the answer or in its stream.
        texts: of whole answers.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)

    @property
    def whole(self) -> int:
        """Clients that got a whole, good answer."""
        return len(self.texts)

    @property
    def failed(self) -> int:
        """Clients that were told of an error."""
        return self.codes.total()


class Stage:
    """
    A gateway in front of a busy llama.cpp.

    Attributes:
        here: the gateway; `llama` the server; `outcomes` what clients saw so far.
    """

    def __init__(self, here: Here, llama: BusyLlama) -> None:
        self.here = here
        self.llama = llama
        self.outcomes = Outcomes()
        self._tasks = 0
        self._descriptors = 0
        self._own: set[asyncio.Task[Any] | None] = set()

    async def begin(self) -> None:
        """Remember what there is before anything has happened."""
        answer, self.llama.answer = self.llama.answer, lambda _: None
        await self.ask()
        self.llama.answer = answer
        assert self.outcomes.whole == 1, self.outcomes
        self.outcomes = Outcomes()
        self.llama.requests.clear()
        self.llama.order.clear()
        self.llama.served = self.llama.most = 0
        self._tasks, self._descriptors = len(asyncio.all_tasks()), descriptors()

    @property
    def state(self) -> Any:
        """The upstream as the gateway knows it."""
        return self.here.runtime.fleet.get("box")

    async def ask(
        self,
        text: str = "hi",
        *,
        stream: bool = False,
        path: str = "/v1/chat/completions",
        client: str = "",
        **fields: Any,
    ) -> int:
        """One request to its end; its status. What became of it goes into `outcomes`."""
        body: dict[str, Any] = {"model": "m", "stream": stream, **fields}
        if path == "/v1/embeddings" or path == "/v1/responses":
            body["input"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if path == "/v1/messages":
            body.setdefault("max_tokens", 16)
        headers = {"authorization": f"Bearer {client}"} if client else {}
        answer = await self.here.http.post(path, json=body, headers=headers)
        self.saw(answer)
        return answer.status_code

    def saw(self, answer: httpx.Response) -> None:
        """Take in what a client got."""
        found = self.outcomes
        found.statuses[answer.status_code] += 1
        if "retry-after" in answer.headers:
            found.retry_after.append(int(answer.headers["retry-after"]))
        if answer.status_code == 200 and not is_error(answer.text):
            found.texts.append(answer.text)
        else:
            found.codes[error_code(answer.text)] += 1

    async def crowd(self, count: int, **how: Any) -> None:
        """Many requests at once, each to its end."""
        await asyncio.gather(*(self.ask(f"request {n}", **how) for n in range(count)))

    async def leave(self, after: Callable[[], object] | float, **how: Any) -> None:
        """A request whose client hangs up when *after* holds, or after so many seconds."""
        task = asyncio.create_task(self.ask(**how))
        if isinstance(after, float):
            await asyncio.wait({task}, timeout=after)
        else:
            await until(after)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def opened(self, head: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own, and *head* sent on it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.here.port)
        writer.write(head)
        return reader, writer

    def gauge(self, name: str) -> float:
        """A gauge as `/metrics` tells it, over all labels."""
        text = self.here.runtime.recorder.metrics.render().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    async def rest(self) -> None:
        """All are gone: nothing is in flight, queued, held or haunted; no task, no descriptor is left."""
        runtime = self.here.runtime
        await until(lambda: not runtime.in_flight, WITHIN_S)
        for state in runtime.fleet:
            await until(lambda s=state: s.limiter.running == s.limiter.waiting == 0, WITHIN_S)
            await until(lambda s=state: s.ghosts == s.holding.waiting == 0, WITHIN_S)
            assert state.limiter.free >= 1
        assert {name: self.gauge(name) for name in GAUGES_AT_REST} == dict.fromkeys(
            GAUGES_AT_REST, 0.0
        )
        await self.here.http.aclose()
        # What may stay are the idle connections of the bounded pool, each with a task of the server's.
        await until(lambda: len(asyncio.all_tasks()) <= self._tasks + MOST_IDLE, WITHIN_S)
        await until(lambda: descriptors() <= self._descriptors + 2 * MOST_IDLE, WITHIN_S)
        status = (await self.fresh("GET", "/penstock/status")).json()
        assert all(u["concurrency"]["in_flight"] == 0 for u in status["upstreams"])
        assert all(u["concurrency"]["queued"] == 0 for u in status["upstreams"])

    async def fresh(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request over a connection of its own."""
        more = {"headers": self.here.http.headers, **more}
        async with httpx.AsyncClient(base_url=self.here.url, trust_env=False) as http:
            return await http.request(method, path, **more)


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def is_error(text: str) -> bool:
    """Whether an answer, or the end of a stream, is an error."""
    return (
        '"error":' in text.rsplit("data:", 1)[-1] and '"code"' in text
    ) or "event: error" in text


def error_code(text: str) -> str:
    """Our code in an error, "" where there is none."""
    _, _, rest = text.rpartition('"code":"')
    return rest.partition('"')[0]


def stress(
    *,
    settings: dict[str, Any] | None = None,
    keys: dict[str, str] | None = None,
    clients: int = 400,
    **server: Any,
) -> Callable[[Callable[[Stage], Awaitable[None]]], Callable[[], None]]:
    """
    A scenario: a coroutine function that gets a `Stage`, made a test. Afterwards everything is at rest.

    Args:
        settings: the tree of `penstock.yaml`.
        keys: client keys by name; the crowd has the first one.
        clients: connections that the clients have, at most.
        server: see `BusyLlama`.
    """

    def decorate(scenario: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
        key = next(iter((keys or {}).values()), "")

        async def play() -> None:
            async with asyncio.timeout(2 * WITHIN_S):
                async with BusyLlama(**server) as llama:
                    async with gateway_here(llama.url, settings=settings, keys=keys) as here:
                        await here.http.aclose()
                        here.http = httpx.AsyncClient(
                            base_url=here.url,
                            timeout=2 * WITHIN_S,
                            trust_env=False,
                            headers={"authorization": f"Bearer {key}"} if key else {},
                            limits=httpx.Limits(max_connections=clients),
                        )
                        stage = Stage(here, llama)
                        await stage.begin()
                        await scenario(stage)
                        await stage.rest()

        @functools.wraps(scenario)
        def test() -> None:
            asyncio.run(play())

        test.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
        return test

    return decorate


__all__ = [
    "BODY", "HEAD", "RESET", "BusyLlama", "Outcomes", "Stage", "breaks", "good", "resets", "says", "stalls", "stress",
]  # fmt: skip
