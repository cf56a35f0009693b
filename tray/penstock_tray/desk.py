"""
The tray itself: one event loop in which the gateway's state, a person's clicks and the clock meet.

The gateway's word comes from `follower`; what is shown follows from it alone (`menu`, `icon_state`), with what is only
known here laid over it: that a gateway is being started, or why it could not be. Nothing here blocks: clicks are done
in threads, and what they say comes back as a sentence, in the menu and as a notification.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from penstock.client import GatewayError, NotRunning
from penstock_tray import actions, gateway_process, login, notices, pacing, preferences, restarts
from penstock_tray.backends import Backend, Calls, Look
from penstock_tray.follower import Follower
from penstock_tray.icon_state import icon_state
from penstock_tray.instance import Instance
from penstock_tray.menu import Desktop, menu_spec, parts, title
from penstock_tray.notices import Button, Notice
from penstock_tray.notifications import Notifications
from penstock_tray.snapshot import Snapshot

_log = logging.getLogger(__name__)


class Desk:
    """
    Args:
        choose: makes the backend.
        starts: whether a gateway is started where none runs.
    """

    def __init__(self, choose: Callable[[Calls], Backend], *, starts: bool) -> None:
        self._loop = asyncio.get_running_loop()
        calls = Calls(
            clicked=self._from_anywhere(self.clicked),
            opened=self._from_anywhere(self._opened),
            hidden=self._from_anywhere(self._hidden),
            ended=self._from_anywhere(self.end),
        )
        self.backend = choose(calls)
        self._starts = starts
        self._followed = Snapshot()
        self._own: Snapshot | None = None
        self._desktop = Desktop()
        self._pace = pacing.Pace()
        self._look: Look | None = None
        self._known = notices.Known()
        self._again: asyncio.TimerHandle | None = None
        self._lasts: asyncio.TimerHandle | None = None
        self._refreshes = False
        self._deaths: tuple[float, ...] = ()
        self._wanted = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._notifications = Notifications(self._pressed)
        self._follower = Follower(self._from_anywhere(self._told))

    async def run(self, instance: Instance) -> None:
        """Until it is told to quit."""
        if sys.platform != "win32":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if threading.current_thread() is threading.main_thread():
                    self._loop.add_signal_handler(number, self.end)
        await self._read_own()
        self._show_now()
        await instance.listen(self._asked)
        await self.backend.start()
        first = await asyncio.to_thread(gateway_process.look)
        self._followed = first
        if first.gateway == "off" and self._starts:
            self._do(self._start())
        elif first.gateway == "running":
            self._do(self._find_apps())
        self._changed()
        self._follower.start()
        await self._done.wait()
        self._follower.end()
        self.backend.stop()
        for task in self._tasks:
            task.cancel()

    def end(self) -> None:
        """Leave; the gateway goes on."""
        self._done.set()

    @property
    def snapshot(self) -> Snapshot:
        """What is so now."""
        if self._followed.gateway in ("running", "unclear") or self._own is None:
            return self._followed
        return self._own

    # What comes in

    def clicked(self, of: str) -> None:
        """A person chose the item with this key."""
        verb, rest = parts(of)
        self._said("")
        match verb:
            case "on":
                self._do(self._stop() if self.snapshot.gateway == "running" else self._start())
            case "quit":
                self._do(self._quit())
            case "show":
                self._do(self._show())
            case "search":
                self._do(self._search())
            case _:
                self._do(self._act(verb, rest))

    def _asked(self, word: str) -> None:
        """By another process of this user."""
        if word == "look":
            self._do(self._look_at_own())
        else:
            self.clicked(word)

    def _pressed(self, button: Button, notice: Notice) -> None:
        keys = {"show": "show", "start": "on", "logs": "logs"}
        if button == "restart":
            self._do(self._act("restart", (notice.server,)))
        elif button != "start" or self.snapshot.gateway in ("off", "failed"):
            self.clicked(keys[button])

    def _told(self, snapshot: Snapshot) -> None:
        """By the follower."""
        before = self._followed
        if snapshot.gateway == "failed" and before.ending:
            snapshot = Snapshot()  # killed before it was drained: it was to end anyway
        self._followed = snapshot
        if snapshot.gateway in ("running", "unclear"):
            self._own = None
        if snapshot.gateway == "running":
            if before.gateway != "running":
                self._do(self._find_apps())
        elif snapshot.gateway == "failed":
            self._own = snapshot
            self._followed = Snapshot()
            if before.ours:
                self._died()
        elif before.gateway in ("running", "unclear"):
            self._own = None
        self._changed()

    def _opened(self) -> None:
        """What the stream does not tell is asked for: how many requests run."""
        self._do(self._refresh())

    def _hidden(self, why: str) -> None:
        print(why, file=sys.stderr, flush=True)
        self._do(self._notify(Notice("Penstock has no icon here", why)))

    # What is done

    async def _start(self) -> None:
        if self.snapshot.gateway not in ("off", "failed"):
            return
        self._own = Snapshot("starting")
        self._changed()
        log = gateway_process.start_log()
        try:
            process = await asyncio.to_thread(gateway_process.start, log)
            wrong = await asyncio.to_thread(gateway_process.wait_until_up, process, log)
            threading.Thread(target=process.wait, daemon=True).start()  # nobody else collects it
        except OSError as exc:
            wrong = str(exc)
        if wrong:
            self._own = Snapshot("failed", wrong)
            self._changed()

    async def _stop(self) -> None:
        self._known = notices.Known()
        self._said(await _told_by(gateway_process.stop))

    async def _quit(self) -> None:
        starting = self._own is not None and self._own.gateway == "starting"
        if starting:  # it would come up with nobody left to stop it
            for _ in range(int(gateway_process.UP_WITHIN_S * 10)):
                if self._own is None or self._own.gateway != "starting":
                    break
                await asyncio.sleep(0.1)
        await _told_by(gateway_process.quit_tray)
        self.end()

    async def _show(self) -> None:
        if self.snapshot.gateway in ("off", "failed"):
            await self._start()
        await self._act("dashboard", ())

    async def _act(self, verb: str, of: tuple[str, ...]) -> None:
        snapshot, desktop = self.snapshot, self._desktop
        wrong = await asyncio.to_thread(actions.act, verb, of, snapshot, desktop)
        await self._read_own()
        if verb == "add":
            found = tuple(one for one in self._desktop.found if one.url != of[0])
            self._desktop = replace(self._desktop, found=found)
        if verb == "app":
            await self._find_apps()
        self._said(wrong)
        self._changed()
        if wrong:
            await self._notify(Notice("That did not work", wrong))

    async def _search(self) -> None:
        self._desktop = replace(self._desktop, searching=True)
        self._changed()
        try:
            found = await asyncio.to_thread(actions.search, self.snapshot)
        finally:
            self._desktop = replace(self._desktop, searching=False)
        self._desktop = replace(self._desktop, found=found)
        self._said("" if found else "No other model server was found on this machine")
        self._changed()

    async def _find_apps(self) -> None:
        apps = await asyncio.to_thread(actions.apps)
        self._desktop = replace(self._desktop, apps=apps)
        self._changed()

    async def _refresh(self) -> None:
        before = self._followed
        if before.gateway not in ("running", "unclear") or self._refreshes:
            return
        self._refreshes = True
        try:
            seen = await asyncio.to_thread(gateway_process.look)
        finally:
            self._refreshes = False
        # What the stream has told meanwhile is newer; that a gateway is gone it tells by itself.
        if self._followed is before and seen.gateway in ("running", "unclear"):
            hangs = seen.gateway == "unclear"
            self._followed = replace(before, gateway="unclear", why=seen.why) if hangs else seen
            self._changed()

    async def _notify(self, notice: Notice) -> None:
        if preferences.load().notifications:
            await self._notifications.send(notice)

    def _died(self) -> None:
        """A gateway that a tray started has ended by itself."""
        self._deaths, after_s = restarts.after_death(self._deaths, self._loop.time())
        if after_s is not None:
            self._do(self._start_after(after_s))

    async def _start_after(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._start()

    # What is shown

    async def _read_own(self) -> None:
        """What a person chose, from where it is kept; on macOS a program is asked."""
        state = await asyncio.to_thread(login.entry().state)
        self._desktop = replace(
            self._desktop, notifications=preferences.load().notifications, login=state
        )

    async def _look_at_own(self) -> None:
        await self._read_own()
        self._changed()

    def _said(self, wrong: str) -> None:
        if self._desktop.said != wrong:
            self._desktop = replace(self._desktop, said=wrong)
            self._changed()

    def _changed(self) -> None:
        self._pace, now = pacing.changed(self._pace, self._loop.time())
        if now:
            self._show_now()
        elif self._pace.due_at is not None and self._again is None:
            self._again = self._loop.call_at(self._pace.due_at, self._show_waiting)

    def _show_waiting(self) -> None:
        self._again = None
        self._pace = pacing.shown(self._loop.time())
        self._show_now()

    def _show_now(self) -> None:
        snapshot = self.snapshot
        look = Look(menu_spec(snapshot, self._desktop), title(snapshot), icon_state(snapshot))
        if look != self._look:
            self._look = look
            self.backend.show(look)
        self._tell_what_lasts()

    def _tell_what_lasts(self) -> None:
        self._known, due, again_at = notices.look(self._known, self.snapshot, self._loop.time())
        for notice in due:
            self._do(self._notify(notice))
        if self._lasts is not None:
            self._lasts.cancel()
        self._lasts = (
            None if again_at is None else self._loop.call_at(again_at, self._tell_what_lasts)
        )

    # How

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        wrong = None if task.cancelled() else task.exception()
        if wrong is not None:  # a defect of ours, which must not pass without a word
            _log.error("a click or a timer went wrong", exc_info=wrong)
            self._said(f"That did not work: {wrong or type(wrong).__name__}")

    def _from_anywhere(self, call: Callable[..., None]) -> Callable[..., None]:
        def called(*values: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(call, *values)

        return called


async def _told_by(call: Callable[[], Any]) -> str:
    """How *call*, which blocks, went wrong; empty if it did not."""
    try:
        await asyncio.to_thread(call)
    except (GatewayError, NotRunning, OSError) as exc:
        return str(exc)
    return ""
