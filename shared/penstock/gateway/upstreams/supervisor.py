"""
Runs one model server: starts it, waits until it is ready, starts it again when it ends, gives it up when that does
not help. The effects of `penstock.supervision`; the process itself is `adapters.server_process`.

While the server is away requests are held in front of its upstream, and go on once it is ready, so that clients see a
pause and no error. A connection that breaks is mostly the first sign of a death: `suspect` holds requests at once,
until it is known whether the process has ended. So a death that is being mended opens no breaker.

Given up, requests are told why, with the server's last words. `penstock resume` and a reload of the settings try
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from penstock import supervision
from penstock.adapters.log_file import LogFile
from penstock.adapters.server_process import ServerProcess
from penstock.errors import ErrorCode, PenstockError, UpstreamFault
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.views.record import Recorder
from penstock.settings import Settings
from penstock.supervision import ServerState

log = logging.getLogger("penstock.server")

_LOOK_FIRST_S, _LOOK_LONGEST_S = 0.05, 1.0
_SUSPECTED_S = 0.5
"""A process that dies closes its connections first, and some take a while to be gone (a core dump, its memory)."""
_NO_ADDRESS_S = 60.0
"""Looking for the port of an unknown server; one that loads before it listens has to be named."""


class ServerToRun(NamedTuple):
    """
    Attributes:
        name: of its upstream.
        command: with its arguments.
        url: where it will listen; None when only its ports will tell.
        why: how that is known, or why it is not.
        must_start: the gateway ends when it dies before it was ready for the first time.
    """

    name: str
    command: tuple[str, ...]
    url: str | None
    why: str
    must_start: bool = False


class ServerNotStarted(PenstockError):
    """A server without which the gateway does not begin; the message holds the end of its output."""


class Supervisor:
    """
    Args:
        server: what is run.
        fleet, keeper, recorder: of the gateway; its upstream is one of the fleet, or is added once the URL is known.
        settings: returns the settings in force.
        log_path: for its output.

    Attributes:
        state: see `ServerState`.
        why: how it ended last, or why it was given up; "" before.
        restarts: starts after the first.
        url: where it listens; None while that is unknown.
    """

    def __init__(
        self,
        server: ServerToRun,
        fleet: Fleet,
        keeper: ProfileKeeper,
        recorder: Recorder,
        settings: Callable[[], Settings],
        log_path: Path,
    ) -> None:
        self.server = server
        self.state: ServerState = "starting"
        self.why = ""
        self.restarts = 0
        self.url = server.url
        self.since_s: float | None = None
        self.log_path = log_path
        self._fleet = fleet
        self._keeper = keeper
        self._recorder = recorder
        self._settings = settings
        self._process: ServerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._suspecting: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._again = asyncio.Event()
        self._ordered = ""
        self._refusal = ""
        self._quick_deaths = 0
        self._ready_since_s: float | None = None
        self._was_ready = False
        self._log: LogFile | None = None

    @property
    def pid(self) -> int | None:
        """Of the command; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    @property
    def is_given_up(self) -> bool:
        """Whether it is not started again by itself."""
        return self.state == "given_up"

    # What the gateway does with it.

    def begin(self) -> None:
        """Start it, and look after it from now on."""
        options = self._settings().supervise
        self._log = LogFile(self.log_path, most_bytes=options.log_bytes, keep=options.log_files)
        self._set("starting")
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"server of {self.server.name}"
        )
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End it, gracefully if it lets us."""
        if self._task is None:
            return
        self._set("stopped")
        tasks = [task for task in (self._task, self._suspecting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)

    def attach(self) -> None:
        """Its upstream is in the fleet now, or is another one than before: what we do shows there."""
        state = self._upstream()
        if state is None:
            return
        state.supervised, state.restart = self, self.restart
        if self.state in ("starting", "restarting"):
            state.holding.begin("restarting")

    async def address(self) -> str:
        """
        Where it listens, once that is known.

        Raises:
            ServerNotStarted: it ended, or does not listen.
        """
        while self.url is None:
            self._raise_if_given_up()
            await self._wait_for_change()
        return self.url

    async def first_start(self) -> None:
        """
        Wait until it was ready for the first time.

        Raises:
            ServerNotStarted: it ended before that.
        """
        while self.state != "running" and self.state != "stopped":
            self._raise_if_given_up()
            await self._wait_for_change()

    async def restart(self, why: str) -> bool:
        """End it and start it again. Returns whether it is ready then."""
        process = self._process
        if self.state == "running" and process is not None:
            self._ordered = why
            self._set("restarting")
            await process.stop()
        while self.state in ("starting", "restarting"):
            await self._wait_for_change()
        return self.state == "running"

    def settings_changed(self) -> None:
        """New settings are in force."""
        options = self._settings().supervise
        if self._log is not None:
            self._log.bounds(most_bytes=options.log_bytes, keep=options.log_files)

    def try_again(self) -> None:
        """Somebody has mended something: a server that was given up has another chance."""
        if self.state == "given_up":
            self._quick_deaths = 0
            self._set("restarting")
            self._again.set()

    def suspect(self) -> None:
        """A connection broke: requests are held until it is known whether the server has ended."""
        state = self._upstream()
        if self.state == "running" and self._suspecting is None and state is not None:
            state.holding.begin("restarting")
            self._suspecting = asyncio.get_running_loop().create_task(
                self._find_out(), name=f"is the server of {self.server.name} dead?"
            )

    @property
    def is_suspected(self) -> bool:
        """Whether it may have ended, and that is not known yet."""
        return self._suspecting is not None

    async def settled(self) -> None:
        """Wait until that is known."""
        if self._suspecting is not None:
            await asyncio.wait({self._suspecting})

    def refuse_if_given_up(self) -> None:
        """
        Raises:
            UpstreamFault: `upstream_unreachable`, with the reason.
        """
        if self.state == "given_up":
            raise UpstreamFault(
                ErrorCode.UPSTREAM_UNREACHABLE,
                f"The upstream {self.server.name} cannot be reached: {self._refusal}",
                upstream=self.server.name,
                hint=f"Mend what its log tells (`penstock logs --server {self.server.name}`); `penstock resume` starts it again.",
            )

    def shown(self, now_s: float) -> dict[str, Any]:
        """As the status has it."""
        return {
            "state": self.state,
            "pid": self.pid,
            "restarts": self.restarts,
            "why": self.why or None,
            "log_file": str(self.log_path),
            "since_s": None if self.since_s is None else round(now_s - self.since_s, 1),
            "command": self.server.command[0],
        }

    # The course of its lives.

    async def _run(self) -> None:
        while True:
            process = await self._start()
            died_of = await self._live(process)
            await process.stop()
            if self._ordered:
                self._ordered = ""
                continue
            now_s = asyncio.get_running_loop().time()
            ready_for_s = None if self._ready_since_s is None else now_s - self._ready_since_s
            options = self._settings().supervise
            decision = supervision.after_death(self._quick_deaths, ready_for_s, options)
            self._quick_deaths = decision.quick_deaths
            needed = self.server.must_start and not self._was_ready
            if decision.after_s is None or needed:
                await self._give_up(died_of, self._words(process))
                continue
            log.info(
                "started again in %g s",
                decision.after_s,
                extra={"penstock": {"upstream": self.server.name}},
            )
            await asyncio.sleep(decision.after_s)

    async def _start(self) -> ServerProcess:
        assert self._log is not None
        is_first = self._process is None
        if not is_first:
            self.restarts += 1
            self._recorder.metrics.count("penstock_server_restarts", (self.server.name,))
        self._ready_since_s = None
        stop_s = self._settings().supervise.stop_s
        self._process = process = await ServerProcess.begin(
            self.server.command, log=self._log, stop_s=stop_s
        )
        told = " ".join(self.server.command[:2])
        self._act("server_started", told if is_first else f"start {self.restarts + 1}: {told}")
        return process

    async def _live(self, process: ServerProcess) -> str:
        """From a start to the end. Returns how it ended."""
        within_s = self._settings().supervise.ready_within_s
        ended = asyncio.create_task(process.ended())
        ready = asyncio.create_task(self._until_ready(process))
        began_s = asyncio.get_running_loop().time()
        try:
            await asyncio.wait(
                (ended, ready), timeout=within_s, return_when=asyncio.FIRST_COMPLETED
            )
            why = ""
            if process.alive and ready.done():
                why = ready.result()
                if not why:
                    self._is_ready(asyncio.get_running_loop().time() - began_s)
                    await ended
            elif process.alive:
                why = f"it was not ready within {within_s:g} s"
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)
        why = why or process.failed or supervision.how_it_ended(process.code, process.tail())
        if self._ordered:
            why = f"restarted: {self._ordered}"
        self.why = why
        was_first = self.state == "starting"
        self._set("starting" if was_first else "restarting")
        if not self._ordered:
            words = self._words(process)
            self._act("server_died", f"{why}. Its last words: {words}" if words else why)
        return why

    async def _until_ready(self, process: ServerProcess) -> str:
        """Wait until requests can be sent to it. Returns why that will never be, "" when it is."""
        if self.url is None and (why := await self._find_address(process)):
            return why
        pause_s = _LOOK_FIRST_S
        while True:
            state = self._upstream()
            if (
                state is not None
                and process.pid is not None
                and await self._keeper.look_anew(state)
            ):
                await self._keeper.wait_until_ready(state)
                # What it serves now is learned before the first request goes there.
                if await self._keeper.look_anew(state) and state.ready:
                    return ""
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_LONGEST_S)

    async def _find_address(self, process: ServerProcess) -> str:
        """Find out by its ports where it listens. Returns why that is not known, "" when it is."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + _NO_ADDRESS_S
        while loop.time() < give_up_s:
            urls = await asyncio.to_thread(process.listening_urls)
            if urls:
                self.url = urls[0]
                if len(urls) > 1:
                    log.warning("the server listens at %s; the first one is taken", ", ".join(urls))
                self._notify()
                return ""
            await asyncio.sleep(_LOOK_LONGEST_S / 4)
        return (
            f"its address is not known: {self.server.why}, and none of its processes listened on a TCP port within "
            f"{_NO_ADDRESS_S:g} s. Name it with --upstream http://127.0.0.1:PORT"
        )

    async def _find_out(self) -> None:
        process = self._process
        assert process is not None
        try:
            async with asyncio.timeout(_SUSPECTED_S):
                await process.ended()
        except TimeoutError:
            pass
        finally:
            self._suspecting = None
        if self.state == "running" and process.alive and process is self._process:
            self._end_hold()

    def _is_ready(self, after_s: float) -> None:
        self._ready_since_s = asyncio.get_running_loop().time()
        self._was_ready = True
        self._set("running")
        self._act("server_ready", f"ready at {self.url} after {after_s:.1f} s")
        state = self._upstream()
        if state is not None and state.breaker.start_afresh():
            self._act("breaker_closed", "its server was started anew")
        self._end_hold()

    async def _give_up(self, died_of: str, words: str) -> None:
        """Until somebody wants it tried again."""
        self._refusal = supervision.given_up(self._quick_deaths, died_of, words)
        self._again.clear()
        self.why = died_of
        self._set("given_up")
        self._act("server_given_up", self._refusal)
        self._end_hold()
        await self._again.wait()

    # Bookkeeping.

    def _words(self, process: ServerProcess) -> str:
        """What it said last; not when it has served: then there may be prompts in it."""
        return "" if self._ready_since_s is not None else supervision.last_words(process.tail())

    def _upstream(self) -> UpstreamState | None:
        state = self._fleet.states.get(self.server.name)
        return state if state is not None and state.upstream.url == self.url else None

    def _set(self, state: ServerState) -> None:
        self.state = state
        self.since_s = asyncio.get_running_loop().time()
        upstream = self._upstream()
        if upstream is not None and state in ("starting", "restarting"):
            upstream.holding.begin("restarting")
        self._notify()

    def _end_hold(self) -> None:
        state = self._upstream()
        if state is not None:
            state.holding.end("restarting")

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._recorder.changed()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()

    def _raise_if_given_up(self) -> None:
        if self.state == "given_up":
            raise ServerNotStarted(self._refusal[:1].upper() + self._refusal[1:])

    def _act(self, act: Any, why: str) -> None:
        self._recorder.acted(self.server.name, act, why)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("supervision failed: %s", self.server.name, exc_info=failed)
