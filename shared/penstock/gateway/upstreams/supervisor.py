"""
Keeps one server of our own alive: starts it, waits until it is ready, starts it again when it has ended or hangs.

    starting -> running -> restarting -> running ...      arrivals are held from the death until it is ready again
                                      -> given_up         arrivals are told why, until somebody has it tried again

What a death means and when the next start is due is decided by `penstock.supervision`; processes are
`penstock.adapters.child`. Each start, death and giving up goes through `Recorder.acted`.

The address of a user's command is a guess unless it was given: what listens among the command's processes and
answers as a model server is believed more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import urlsplit

from penstock import supervision
from penstock.adapters import probe
from penstock.adapters.child import CannotStart, Child
from penstock.adapters.listening import listening_urls
from penstock.adapters.log_file import LogFile
from penstock.detection import judge
from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.upstreams.supervised import NOWHERE, Phase, Server, Supervised
from penstock.gateway.views.logs import SINK, server_log_path
from penstock.gateway.views.record import ActName, Recorder
from penstock.settings import Settings
from penstock.supervision import Death

log = logging.getLogger("penstock.supervisor")

_POLL_FIRST_S, _POLL_LONGEST_S = 0.05, 1.0
_CONNECT_WITHIN_S = 0.5
_LOOK_WITHIN_S = 2.0
_ORDER_WAITS_S = 20.0


class Supervisor:
    """
    Args:
        server: what is run.
        keeper: looks at it.
        settings: returns the settings in force.
        on_moved: called with the upstream when it turned out to listen elsewhere.
        on_failed_start: called with what happened when a server that must start did not.
    """

    def __init__(
        self,
        server: Server,
        keeper: ProfileKeeper,
        recorder: Recorder,
        *,
        settings: Callable[[], Settings],
        on_moved: Callable[[Upstream], None],
        on_failed_start: Callable[[str], None] | None = None,
    ) -> None:
        self.name = server.upstream
        self._server = server
        self._keeper = keeper
        self._recorder = recorder
        self._settings = settings
        self._on_moved = on_moved
        self._on_failed_start = on_failed_start
        self._log: LogFile | None = None
        self._order = asyncio.Event()
        self._order_why = ""
        self._again = asyncio.Event()
        self._ready = asyncio.Event()
        self._was_ready = False
        self._tried = ""
        self._child: Child | None = None
        self._state: UpstreamState | None = None
        self.told = Supervised(server.launch(0.0).shown, self._try_again)

    def attach(self, states: Iterable[UpstreamState]) -> None:
        """The upstreams are these now; the one of this server's name is its."""
        for state in states:
            if state.name == self.name and state is not self._state:
                self._state = state
                state.supervised = self.told
                if state.kind is None:
                    state.kind = self._server.kind
                state.restart = None if self.told.is_given_up else self.restart
                if self.told.phase in ("starting", "restarting"):
                    state.holding.begin("restarting")

    async def restart(self, why: str) -> bool:
        """
        Start it anew, because it hangs. Returns whether it is ready again, or on its way to that after a while.
        """
        self._ready.clear()
        self._order_why = why
        self._order.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ORDER_WAITS_S):
                await self._ready.wait()
        return self._child is not None and self._child.alive

    def _try_again(self) -> None:
        if self.told.is_given_up:
            self._hold("restarting")
            self._again.set()

    async def run(self) -> None:
        """Keep it alive until cancelled; then end it."""
        self._open_log()
        in_a_row = 0
        try:
            while True:
                death = await self._live()
                self._note_death(death)
                in_a_row = await self._after(death, in_a_row)
        finally:
            if self._child is not None:
                await self._child.stop()
                self._note("stopped with the gateway")
            if self._log is not None:
                self._log.close()

    # One life.

    async def _live(self) -> Death:
        """From a start to the end."""
        self._order.clear()
        options = self._settings().supervision
        if await self._is_taken():
            return Death(why=f"another process listens at {self._upstream.url} already")
        now = asyncio.get_running_loop().time
        began_s, ready_s = now(), None
        try:
            child = await Child.start(self._server.launch(options.stop_s), self._write)
        except CannotStart as exc:
            return Death(why=str(exc))
        self._child = child
        ending = asyncio.ensure_future(child.wait())
        readying = asyncio.ensure_future(self._until_ready(child))
        ordered = asyncio.ensure_future(self._order.wait())
        try:
            first = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait(
                {ending, readying, ordered}, timeout=options.ready_within_s, return_when=first
            )
            if done == {readying}:
                readying.result()
                became_s = now()
                self._goes_on(child, became_s - began_s)
                done, _ = await asyncio.wait({ending, ordered}, return_when=first)
                ready_s = now() - became_s
                self._hold("restarting")
            code = await child.stop()
            self._child = None
            tail = tuple(child.tail)
            if ending in done:
                return Death(code, ready_s, child.failed, tail=tail)
            if ordered in done:
                return Death(code, ready_s, self._order_why, ordered=True, tail=tail)
            why = f"it was not ready within {options.ready_within_s:g} s; {self._tried}"
            return Death(None, None, why, tail=tail)
        finally:
            for task in (ending, readying, ordered):
                task.cancel()
            await asyncio.gather(ending, readying, ordered, return_exceptions=True)

    async def _is_taken(self) -> bool:
        """Whether somebody else listens where it is going to: that one's answers would be taken for its."""
        parts = urlsplit(self._upstream.url)
        if parts.hostname not in ("127.0.0.1", "::1", "localhost") or parts.port is None:
            return False
        try:
            async with asyncio.timeout(_CONNECT_WITHIN_S):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    async def _until_ready(self, child: Child) -> None:
        """Look again and again until it answers and has loaded its model."""
        pause_s = _POLL_FIRST_S
        while True:
            state, url = self._attached, self._upstream.url
            self._tried = f"nothing answered at {url}"
            if url != NOWHERE and await self._keeper.look_anew(state):
                answered = await probe.ready(
                    url, state.spec, client=self._keeper.http(state), api_key=self._upstream.api_key
                )
                if answered and state.ready:
                    return
                self._tried = f"at {url} it still said that it loads"
            elif not self._server.address_is_given:
                found = await self._find(child)
                if found is not None and found != url:
                    self._move(found)
                    continue
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_LONGEST_S)

    async def _find(self, child: Child) -> str | None:
        """Where one of its processes listens and answers as a model server; None while none does."""
        urls = await asyncio.to_thread(listening_urls, child.pid)
        known = self._upstream.url
        if not urls:
            at = "" if known == NOWHERE else f" nothing answered at {known}, and"
            self._tried = f"looked for it:{at} its processes listen on no TCP port"
            return None
        async with probe.make_client() as client:
            for url in urls:
                look = await probe.look(
                    url, client=client, api_key=self._upstream.api_key, timeout_s=_LOOK_WITHIN_S
                )
                if look.kind is not None and not look.is_penstock:
                    return url
        self._tried = f"its processes listen at {', '.join(urls)}, where no model server answers"
        return None

    def _move(self, url: str) -> None:
        moved = replace(self._upstream, url=url)
        self._note(f"listens at {url}")
        log.info("found", extra={"penstock": {"upstream": self.name, "url": url}})
        self._attached.move_to(moved)
        self._on_moved(moved)

    # What became of it.

    async def _after(self, death: Death, in_a_row: int) -> int:
        """Wait until the next start is due. Returns how many ends in a row were too soon."""
        step = supervision.decide(death, in_a_row, self._settings().supervision)
        fails_for_good = self._server.must_start and not self._was_ready and not death.ordered
        if isinstance(step, supervision.GiveUp) or fails_for_good:
            why = supervision.given_up(death, step.in_a_row)
            self._give_up(why)
            if fails_for_good and self._on_failed_start is not None:
                self._on_failed_start(why)
            await self._again.wait()
            self._again.clear()
            self._attached.restart = self.restart
            self._count_restart()
            return 0
        self._hold("restarting" if self._was_ready or step.in_a_row else "starting")
        self._count_restart()
        await asyncio.sleep(step.after_s)
        return step.in_a_row

    def _give_up(self, why: str) -> None:
        state = self._attached
        self._enter("given_up")
        self.told.why = why
        state.restart = None
        state.holding.end("restarting")
        self._acted("server_given_up", why)

    def _goes_on(self, child: Child, took_s: float) -> None:
        """It is ready: so are those who wait for it."""
        state = self._attached
        self.told.pid = child.pid
        act: ActName = "server_restarted" if self.told.restarts else "server_started"
        self._enter("running")
        self._was_ready = True
        state.breaker.start_afresh()
        state.holding.end("restarting")
        self._ready.set()
        self._acted(act, f"process {child.pid} was ready after {took_s:.1f} s")

    def _note_death(self, death: Death) -> None:
        words = supervision.last_words(death.tail)
        told = supervision.how_it_ended(death)
        self.told.pid, self.told.why = None, told
        self._note(told)
        if not death.ordered:
            self._acted("server_died", f"{told}; its last lines: {words}" if words else told)

    def _hold(self, phase: Phase) -> None:
        """Arrivals wait from now on."""
        state = self._attached
        self._ready.clear()
        state.holding.begin("restarting")
        state.forget_loaded()  # it may come back with other windows
        state.ready = True  # until it says otherwise
        self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.told.phase = phase
        self.told.since_s = asyncio.get_running_loop().time()
        self._recorder.changed()

    def _count_restart(self) -> None:
        self.told.restarts += 1
        self._recorder.metrics.count("penstock_server_restarts", (self.name,))

    def _acted(self, act: ActName, why: str) -> None:
        self._recorder.acted(self.name, act, why)

    @property
    def _attached(self) -> UpstreamState:
        assert self._state is not None
        return self._state

    @property
    def _upstream(self) -> Upstream:
        return self._attached.upstream

    # Its output.

    def _open_log(self) -> None:
        settings = self._settings()
        path = server_log_path(settings.log, settings.listen.port, self.name)
        if path is not None:
            self._log = LogFile(path, most_bytes=settings.log.file_bytes, keep=settings.log.files)
            self.told.log_file = str(path)
        self._note(f"runs {self.told.command}")

    def _write(self, lines: str) -> None:
        if self._log is not None:
            self._log.write(lines)
        else:
            SINK.write(lines)

    def _note(self, what: str) -> None:
        if self._log is not None:
            self._log.write(f"--- penstock: {what}\n")


def is_here(url: str) -> bool:
    """Whether a server at *url* can be one that runs on this machine."""
    return url.startswith("unix:") or judge(url).is_local
