"""
Plays the fault matrix: one fault at one moment, in front of every dialect, streaming and plain, towards a llama.cpp
and an Ollama; then compares what client, upstream, record, metrics and log saw with what `matrix.owed` says.

One gateway in the test's own loop serves all cells of a run; each cell has a server, a name and a model of its own, so
that nothing of one shows in another. A run has four acts: all requests go out and come to the moment; the scene
happens; the fault strikes; what is left is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import itertools
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from loops import until
from matrix.cells import KINDS, Cell, Sent, cells
from matrix.compare import compare_answer, compare_record
from matrix.fronts import ask
from matrix.owed import (
    ATTEMPTS,
    FAILURES,
    Fault,
    Moment,
    Owed,
    Scene,
    Times,
    owed,
    owed_after,
    refused,
)
from matrix.scripts import good, script
from matrix.wires import SENTENCE
from matrix.world import FullDisk, descriptors, plugged, tasks_now
from penstock.domain.upstream import ServerKind, Upstream
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings
from rawserver import CLOSE, RESET, Peer, Step
from scripted import Here, gateway_here

_AWAY_S = 0.1
_WITHIN_S = 20.0


class Run:
    """
    One fault at one moment, in one scene.

    Args:
        times: whether the server is well again after the fault.
        kinds: of servers.
    """

    def __init__(
        self,
        fault: Fault,
        moment: Moment,
        times: Times,
        scene: Scene = "alone",
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.fault = fault
        self.moment = moment
        self.times = times
        self.scene = scene
        self.cells = cells(scene, kinds)
        self.problems: list[str] = []
        self._unnamed: set[str] = set()
        self._unconnected: set[int] = set()
        self._plugs: dict[str, list[socket.socket]] = {}
        self._dying: set[asyncio.Task[None]] = set()

    async def play(self) -> list[str]:
        """All of it. Returns what was not as owed, one sentence each."""
        open_before = descriptors()
        asyncio.get_running_loop().set_exception_handler(
            lambda _, told: self.problems.append(f"nobody saw: {told.get('exception') or told}")
        )
        log = FullDisk() if self.fault.id == "disk-full" else io.StringIO()
        async with contextlib.AsyncExitStack() as stack:
            for cell in self.cells:
                await stack.enter_async_context(cell.server)
                self._write_script(cell)
            stack.enter_context(self._network())
            stack.enter_context(contextlib.redirect_stderr(log))
            upstreams = [self._upstream(cell) for cell in self.cells]
            here = await stack.enter_async_context(
                gateway_here(upstreams, settings=self._settings())
            )
            states = list(here.runtime.fleet)
            await until(lambda: all(state.first_look.is_set() for state in states), _WITHIN_S)
            await self._to_the_moment(here)
            tasks = tasks_now()
            await self._together(self._send(cell, here) for cell in self.cells)
            await self._scene(here)
            for cell in self.cells:
                cell.gate.set()
            if self.moment in ("connect", "keep_alive") and self.times == "once":
                await self._together(self._heal(cell, here) for cell in self.cells)
            for cell in self.cells:
                for sent in cell.sent:
                    await self._compare(cell, sent, here)
            for plug in itertools.chain.from_iterable(self._plugs.values()):
                plug.close()
            await self._at_rest(here, states, tasks)
            await self._metrics(here)
            here.runtime.recorder.log.flush()
            self._log(here, log.getvalue())
        await asyncio.gather(*self._dying, return_exceptions=True)
        await asyncio.sleep(0)
        if (left := descriptors() - open_before) > 0:
            self.problems.append(f"{left} descriptors are left open")
        return self.problems

    # What is set.

    def _settings(self) -> dict[str, Any]:
        limits = dict(self.fault.limits)
        if self.moment not in ("headers", "first_token"):
            limits.pop("first_token_s", None)
        if self.times == "once":
            limits.pop("load_s", None)
        if self.scene == "heartbeat":
            limits["heartbeat_s"] = 0.05
        delay_s = 0.01
        if self.times == "once" and (self.fault.kills or self.moment in ("connect", "keep_alive")):
            delay_s = 3 * _AWAY_S
        slots = {"max_concurrency": 1} if self.scene == "queued" else {}
        policy = {"attempts": ATTEMPTS, "first_delay_s": delay_s, "longest_delay_s": delay_s}
        # Whether a server can continue an answer is asked by requests of our own, and these servers cannot: what
        # is owed where one can is held by the tests of resume.
        return {
            "timeouts": limits,
            "retry": {"local": policy},
            "concurrency": slots,
            "resume": {"enabled": False},
        }

    def _upstream(self, cell: Cell, **more: Any) -> Upstream:
        url = cell.server.url
        if self.fault.id == "dns":
            url = url.replace("127.0.0.1", f"{cell.name}.test")
        # The key is the upstream's own: a client's is the client's business.
        return Upstream(
            cell.name,
            url,
            local=True,
            kind=ServerKind(cell.kind),
            models=(cell.name,),
            **{"api_key": "k", **more},
        )

    def _write_script(self, cell: Cell) -> None:
        well = good(cell.wire)
        if self.moment == "connect":
            cell.server.play([well])
            return
        if self.moment == "keep_alive":
            ends: dict[str, list[Step]] = {
                "close": [CLOSE],
                "unasked": [b"HTTP/1.1 408 Request Timeout\r\n\r\n"],
            }
            cell.server.play([[*well, *ends.get(self.fault.id, [])]])
            return

        async def die() -> None:
            task = asyncio.create_task(self._die(cell))
            self._dying.add(task)

        async def gate(_: Peer) -> None:
            await cell.gate.wait()
            if self._shows(cell):
                # What came before the fault has been relayed, also to those who come later.
                number = min(len(cell.server.requests), len(cell.sent))
                await cell.sent[number - 1].begun.wait()

        bad = script(self.fault, self.moment, cell.kind, cell.wire, gate, die)
        cell.server.play([bad, well] if self.times == "once" else [bad])

    async def _die(self, cell: Cell) -> None:
        await cell.server.leave()
        if self.times == "once":
            await asyncio.sleep(_AWAY_S / 2)
            await cell.server.come_back()

    @contextlib.contextmanager
    def _network(self) -> Iterator[None]:
        """`NAME.test` is this machine, unless it is unnamed; to some ports there is no descriptor left."""
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def look_up(host: Any, port: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if isinstance(name, str) and name.endswith(".test"):
                if name.removesuffix(".test") in self._unnamed:
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                host = "127.0.0.1"
            return await real(host, port, **more)

        real_connection = loop.create_connection

        async def connect(made: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
            if port in self._unconnected:
                raise OSError(errno.EMFILE, "Too many open files")
            return await real_connection(made, host, port, **more)

        loop.getaddrinfo = look_up  # type: ignore[assignment, method-assign]
        loop.create_connection = connect  # type: ignore[assignment, method-assign]
        yield

    # The acts.

    async def _together(self, work: Any) -> None:
        done = await asyncio.gather(*work, return_exceptions=True)
        for cell, failed in zip(self.cells, done, strict=True):
            if isinstance(failed, BaseException):
                self.problems.append(f"{cell.name}: {type(failed).__name__} {failed}")

    async def _to_the_moment(self, here: Here) -> None:
        """What has to be before the request."""
        if self.moment == "keep_alive":
            await self._together(self._first_of_two(cell, here) for cell in self.cells)
        if self.moment == "connect" or self.fault.id == "refused":
            for cell in self.cells:
                if self.fault.id == "dns":
                    self._unnamed.add(cell.name)
                    continue
                if self.fault.id == "descriptors":
                    self._unconnected.add(cell.server.port)
                    continue
                await cell.server.leave()
                if self.fault.id == "no-handshake":
                    self._plugs[cell.name] = plugged(cell.server.port)
            await asyncio.sleep(0)

    async def _first_of_two(self, cell: Cell, here: Here) -> None:
        got = await ask(here.http, cell.client, cell.name, cell.mode == "stream", asyncio.Event())
        assert (got.status, got.text) == (200, SENTENCE)
        cell.server.play(
            [[RESET], good(cell.wire)] if self.fault.id == "reset" else [good(cell.wire)]
        )
        if self.fault.id in ("close", "unasked"):
            await until(lambda: here.transport.idle_connections() == 0, _WITHIN_S)

    def _ask(self, cell: Cell, here: Here, name: str, due: Owed) -> Sent:
        begun = asyncio.Event()
        # Verbatim is verbatim: what the server said wrong is seen by the client, and by nobody else.
        junk = b"data: {not JSON\n\n" if self.fault.passes and cell.verbatim else b""
        asked = ask(here.http, cell.client, cell.name, cell.mode == "stream", begun, junk)
        sent = Sent(name, asyncio.create_task(asked), due, begun)
        cell.sent.append(sent)
        return sent

    async def _send(self, cell: Cell, here: Here) -> None:
        """The request, until it stands where the fault is to strike."""
        due = owed(
            self.fault, self.moment, cell.mode, self.times, self.scene, verbatim=cell.verbatim
        )
        if self.scene == "again":
            cell.gate.set()
            for number in range(FAILURES):
                if number and self.fault.kills:
                    due = owed(_REFUSED, "connect", cell.mode, "always")
                await self._ask(cell, here, f"request {number + 1}", due).task
            due = owed_after(due)
        sent = self._ask(cell, here, "the request", due)
        if self.moment in ("connect", "keep_alive"):
            return
        there = sent.begun.is_set if self._shows(cell) else lambda: cell.server.requests
        await until(lambda: there() or sent.task.done(), _WITHIN_S)

    def _shows(self, cell: Cell) -> bool:
        """Whether the client has got something when the fault strikes."""
        is_late = self.moment in ("midstream", "after_end") or self.scene == "heartbeat"
        return is_late and cell.mode == "stream"

    async def _scene(self, here: Here) -> None:
        runtime = here.runtime
        if self.fault.id == "clock-jump":
            await self._jump()
        if self.scene == "queued":
            await self._together(self._queue_behind(cell, here) for cell in self.cells)
        elif self.scene == "draining":
            runtime.draining = True
            for cell in self.cells:
                late = self._ask(cell, here, "the late one", refused("draining"))
                await late.task
        elif self.scene in ("reload", "redeclared"):
            more = {"api_key": "another"} if self.scene == "redeclared" else {}
            settings = Settings.model_validate(
                {**self._settings(), "sampling": {"temperature": 0.5}}
            )
            runtime.reload(settings, tuple(self._upstream(cell, **more) for cell in self.cells))

    async def _queue_behind(self, cell: Cell, here: Here) -> None:
        """Whoever waits meets a server that is well again, or the same fault on its own account."""
        behind: Times = "always"
        due = owed(self.fault, self.moment, cell.mode, behind, verbatim=cell.verbatim)
        if self.times == "once":
            due = Owed((), 200, False, (1, ATTEMPTS), (0, 9), "success", False)
        elif self.fault.kills:
            due = owed(_REFUSED, "connect", cell.mode, behind)
        limiter = here.runtime.fleet.get(cell.name).limiter
        ahead = cell.sent[0]
        self._ask(cell, here, "the one behind it", due)
        await until(lambda: limiter.waiting == 1 or ahead.task.done(), _WITHIN_S)

    async def _jump(self) -> None:
        """Backwards is worse than forwards: what was to come lies further away."""
        real = time.time
        time.time = lambda: real() - 86_400  # type: ignore[assignment]
        try:
            for cell in self.cells:
                cell.gate.set()
            await asyncio.gather(*(cell.sent[0].task for cell in self.cells))
        finally:
            time.time = real

    async def _heal(self, cell: Cell, here: Here) -> None:
        """The server is there again, once an attempt has met the fault."""
        mine = lambda: [e for e in here.runtime.in_flight.values() if e.upstream == cell.name]
        task = cell.sent[0].task
        await until(lambda: task.done() or any(_has_failed(e) for e in mine()), _WITHIN_S)
        self._unnamed.discard(cell.name)
        for plug in self._plugs.pop(cell.name, []):
            plug.close()
        if self.fault.id != "dns":
            await cell.server.come_back()

    # What is looked at.

    async def _compare(self, cell: Cell, sent: Sent, here: Here) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                got = await sent.task
            compare_answer(got, sent.owed, cell)
            exchange = here.runtime.recorder.find(got.headers["penstock-request-id"])
            assert exchange is not None, "it is not recorded"
            compare_record(exchange, sent.owed)
            if sent.owed.sent[1] and len(cell.sent) == 1:
                low, high = sent.owed.sent
                seen = len(cell.server.requests)
                assert low <= seen <= high, f"the upstream saw {seen} requests, not {low} to {high}"
            bodies = {request.body for request in cell.server.requests}
            # What one request learned, or what was set anew, may change the next.
            alike = len(cell.sent) == 1 and self.scene not in ("reload", "redeclared")
            assert len(bodies) <= 1 or not alike, "the upstream was asked different things"
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other cells are looked at too
            self.problems.append(f"{cell.name}: {sent.name}: {type(exc).__name__} {exc}")

    async def _at_rest(self, here: Here, states: list[UpstreamState], tasks: set[Any]) -> None:
        """Nothing is in flight, held, queued or haunted; connections are idle, tasks those of before."""
        transport = here.transport

        def left() -> dict[str, Any]:
            now = dict.fromkeys([*states, *here.runtime.fleet])
            return {
                "in flight": [e.id for e in here.runtime.in_flight.values()],
                "permits": sum(state.limiter.running for state in now),
                "queued": sum(state.limiter.waiting for state in now),
                "ghosts": sum(state.ghosts for state in now),
                "held": sum(state.holding.waiting for state in now),
                "busy connections": transport.open_connections() - transport.idle_connections(),
                "tasks": [str(task) for task in tasks_now() - tasks],
            }

        try:
            await until(lambda: not any(left().values()), _WITHIN_S)
        except TimeoutError:
            self.problems.append(f"not at rest: { ({k: v for k, v in left().items() if v}) }")
        asked = sum(len(cell.sent) for cell in self.cells)
        recorded = len(here.runtime.recorder.recent())
        before = len(self.cells) if self.moment == "keep_alive" else 0
        if recorded != asked + before:
            self.problems.append(f"{asked + before} requests, {recorded} records")

    async def _metrics(self, here: Here) -> None:
        scraped = (await here.http.get("/metrics")).text
        ended: Counter[tuple[str, str]] = Counter()
        attempts: Counter[str] = Counter()
        for name, told, value in _SAMPLE.findall(scraped):
            labels = dict(_LABEL.findall(told))
            upstream = labels.get("upstream", "")
            if name == "penstock_requests_total":
                ended[upstream, labels["outcome"]] += int(float(value))
            elif name == "penstock_attempts_total":
                attempts[upstream] += int(float(value))
            elif name in _ZERO_AT_REST and float(value):
                self.problems.append(f"{upstream}: {name} is {value}")
        for cell in self.cells:
            # Who is refused at the door was on the way to no upstream.
            inside = [s.owed for s in cell.sent if s.owed.codes != ("draining",)]
            due = Counter(each.outcome for each in inside)
            due["success"] += self.moment == "keep_alive"
            counted = {o: n for (name, o), n in ended.items() if name == cell.name}
            if counted != {o: n for o, n in due.items() if n}:
                self.problems.append(f"{cell.name}: the metrics count {counted}, not {dict(due)}")
            mine = [e for e in here.runtime.recorder.recent() if e.upstream == cell.name]
            if attempts[cell.name] != sum(len(e.attempts) for e in mine):
                self.problems.append(
                    f"{cell.name}: the metrics count {attempts[cell.name]} attempts"
                )

    def _log(self, here: Here, log: str) -> None:
        if self.fault.id == "disk-full":
            return
        told = Counter(
            word for line in log.splitlines() for word in line.split() if word.startswith("id=")
        )
        wrong = {e.id for e in here.runtime.recorder.recent() if told[f"id={e.id}"] != 1}
        if wrong:
            self.problems.append(f"not one log line each: {wrong}")
        for word in ("Traceback", "a defect in Penstock"):
            if word in log:
                self.problems.append(f"the log holds {word!r}: {log[log.index(word) :][:2000]}")


_REFUSED = Fault("refused", "", {"connect": ("upstream_unreachable",)})
_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_ZERO_AT_REST = (
    "penstock_requests_in_flight",
    "penstock_requests_queued",
    "penstock_ghost_requests",
)


def _has_failed(exchange: Exchange) -> bool:
    return bool(exchange.attempts) and exchange.attempts[0].ended_s is not None
