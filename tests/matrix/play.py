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
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loops import until
from matrix.fronts import FRONTS, Front, Got, ask
from matrix.owed import (
    ATTEMPTS,
    FAILURES,
    SHORTER,
    Fault,
    Mode,
    Moment,
    Owed,
    Scene,
    Times,
    owed,
    owed_after,
    refused,
)
from matrix.scripts import good, script
from matrix.wires import SENTENCE, Ollama, Stranger, Wire, wire_of
from penstock.domain.upstream import ServerKind, Upstream
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings
from rawserver import CLOSE, RESET, Peer, Step
from scripted import Here, ScriptedLlama, gateway_here

KINDS = ("llamacpp", "ollama")
MODES: tuple[Mode, ...] = ("plain", "stream")
_AWAY_S = 0.1
_WITHIN_S = 20.0


@dataclass
class Sent:
    """One request of a client: what it got, and what it is owed."""

    name: str
    task: asyncio.Task[Got]
    owed: Owed
    begun: asyncio.Event


@dataclass
class Cell:
    """One dialect and mode in front of one server of one kind, in one run."""

    front: str
    mode: Mode
    kind: str
    server: ScriptedLlama
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Sent] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the cell, its upstream and its model."""
        return f"{self.front}-{self.mode}-{self.kind}"

    @property
    def verbatim(self) -> bool:
        """The server's stream is the client's."""
        is_same = self.front == "completions" or (self.front == "chat" and self.kind == "llamacpp")
        return is_same and self.mode == "stream"

    @property
    def client(self) -> Front:
        """How it asks."""
        return FRONTS[self.front]

    @property
    def wire(self) -> Wire:
        """How its server streams."""
        return wire_of(self.kind, self.front)


class FullDisk(io.StringIO):
    """Standard error, on a disk without space."""

    def write(self, _: str) -> int:
        """Fails."""
        raise OSError(errno.ENOSPC, "No space left on device")


def cells(scene: Scene, kinds: Sequence[str]) -> list[Cell]:
    """
    All of a run. Where something else goes on, each dialect meets one kind of server, in turns: what differs between
    the kinds is looked at alone. Plain requests get no heartbeats.
    """
    made = []
    servers = {"llamacpp": ScriptedLlama, "ollama": Ollama}
    for place, (front, mode) in enumerate(itertools.product(FRONTS, MODES)):
        if scene == "heartbeat" and mode == "plain":
            continue
        turn = (place + place // len(MODES)) % len(kinds)
        for kind in kinds if scene == "alone" else kinds[turn : turn + 1]:
            server = servers.get(kind, Stranger)()
            cell = Cell(front, mode, kind, server)
            server.model = cell.name
            made.append(cell)
    return made


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
        descriptors = _descriptors()
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
            tasks = _tasks()
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
        if (left := _descriptors() - descriptors) > 0:
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
                    self._plugs[cell.name] = _plugged(cell.server.port)
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
            _compare_answer(got, sent.owed, cell)
            exchange = here.runtime.recorder.find(got.headers["penstock-request-id"])
            assert exchange is not None, "it is not recorded"
            _compare_record(exchange, sent.owed)
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
                "tasks": [str(task) for task in _tasks() - tasks],
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


def _compare_answer(got: Got, due: Owed, cell: Cell) -> None:
    assert not got.broke, f"the transfer broke: {got.broke}"
    if due.is_whole:
        assert got.error is None, f"an error instead of the answer: {got.error}"
        assert (got.status, got.text, got.is_complete) == (200, SENTENCE, True), got
        return
    error = got.error
    assert error is not None, f"no error: {got}"
    assert error["code"] in due.codes, f"{error['code']}, not {due.codes}: {error['message']}"
    assert not got.is_complete, "an error and a proper end"
    assert got.is_event is due.as_event, f"as an event: {got.is_event}"
    status = error["status"] if due.as_event else got.status
    # Codex gives up on 429 and tries again on 503.
    is_codex = cell.front == "responses" and due.codes == ("queue_full",)
    due_status = 503 if is_codex else due.status
    assert status == due_status, f"status {status}, not {due_status}"
    if due.as_event:
        assert got.status == 200
        assert SENTENCE.startswith(got.text), f"text that the server never said: {got.text!r}"
    sources = ("penstock",) if due.is_refusal else ("upstream",)
    if SHORTER in due.codes:
        sources = ("penstock", "upstream")
    assert error["source"] in sources, f"source {error['source']}, not {sources}"
    if due.is_refusal:
        assert got.headers["x-should-retry"] == "true"
    else:
        low, high = due.attempts
        # Our own word, that it cannot be made shorter, counts none.
        tries = error.get("attempts", low if error["source"] == "penstock" else 0)
        assert error["upstream"] == cell.name
        assert low <= tries <= high, f"{tries} attempts, not {low} to {high}"
        if not due.as_event:
            assert got.headers.get("x-should-retry") == "false", "the client is not told to give up"
            assert int(got.headers["penstock-attempts"]) >= tries, "two numbers of attempts"
    if not due.as_event and due.retry_after:
        assert 1 <= int(got.headers.get("retry-after", "0")) <= 60, "no fitting Retry-After"


def _compare_record(exchange: Exchange, due: Owed) -> None:
    assert exchange.outcome is not None
    assert exchange.outcome.value == due.outcome, f"recorded as {exchange.outcome.value}"
    is_told = (exchange.error_code in due.codes) if due.codes else not exchange.error_code
    assert is_told, f"recorded with {exchange.error_code!r}"
    low, high = due.attempts
    tries = len(exchange.attempts)
    assert low <= tries <= high, f"{tries} attempts are recorded, not {low} to {high}"
    assert not exchange.client_gone
    assert exchange.stage == "done"
    assert exchange.duration_s is not None
    assert 0 <= exchange.duration_s < 60


def _has_failed(exchange: Exchange) -> bool:
    return bool(exchange.attempts) and exchange.attempts[0].ended_s is not None


def _plugged(port: int) -> list[socket.socket]:
    """A port whose queue of connections is full: the system answers no further one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    made = [listener]
    for _ in range(2):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(("127.0.0.1", port))
        made.append(one)
    return made


def _tasks() -> set[asyncio.Task[Any]]:
    """All but those that serve connections to scripted servers: these live as long as the connection."""
    return {
        task
        for task in asyncio.all_tasks()
        if not str(getattr(task.get_coro(), "__qualname__", "")).startswith("RawServer.")
    }


def _descriptors() -> int:
    place = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return len(os.listdir(place))
