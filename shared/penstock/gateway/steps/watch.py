"""
One timer per request that keeps all of its clocks: heartbeats, load, first token, stall.

A timer that is moved at every token would cost more than relaying the token. So a touch only stores the
time, and the timer, when it fires, looks how long ago that was and sets itself again (the way in which
Linux and nginx keep idle connections). What happens when a limit passes is the owner's business: it is
told once by `on_expired`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from penstock.clocks import stood_still

Clock = Literal["none", "load", "first_token", "stall"]
"""Which limit runs now. `none` while the request waits in the queue, which has a clock of its own."""


def _nobody(_: object = None) -> None:
    """Is told when there is nobody left to be told."""


class Watch:
    """
    The clocks of one request.

    Args:
        loop: whose monotonic time is used, seconds.
        limits_s: limit of each clock.
        heartbeat_s: silence after which `on_silence` is called; None for never.
        on_expired: called once with the clock whose limit passed.
        on_silence: called when nothing was written to the client for `heartbeat_s`.
    """

    __slots__ = (
        "_due_s",
        "_handle",
        "_heartbeat_s",
        "_limits_s",
        "_loop",
        "_on_expired",
        "_on_silence",
        "clock",
        "expired",
        "touched_s",
        "written_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits_s: dict[Clock, float],
        heartbeat_s: float | None,
        on_expired: Callable[[Clock], None],
        on_silence: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._limits_s = limits_s
        self._heartbeat_s = heartbeat_s
        self._on_expired = on_expired
        self._on_silence = on_silence
        # When the timer fires is kept here: uvloop gives a plain handle, without `when`, for what is due at once.
        self._handle: asyncio.Handle | None = None
        self._due_s = 0.0
        now = loop.time()
        self.clock: Clock = "none"
        self.expired: Clock | None = None
        self.touched_s = now
        self.written_s = now
        if heartbeat_s is not None:
            self._set(now + heartbeat_s)

    def run(self, clock: Clock) -> None:
        """Let the limit of *clock* run from now on, in place of the one before."""
        self.clock = clock
        if clock == "none":
            return
        self.touched_s = self._loop.time()
        due = self.touched_s + self._limits_s[clock]
        # A timer that is set already never comes too late for a heartbeat.
        handle = self._handle
        if handle is None or self._due_s > due:
            if handle is not None:
                handle.cancel()
            self._set(due)

    def now_s(self) -> float:
        """The time of the loop."""
        return self._loop.time()

    def touch(self) -> None:
        """There was progress: the running limit starts again."""
        self.touched_s = self._loop.time()

    def wrote(self) -> None:
        """Something went to the client: the silence starts again, and so does the running limit."""
        self.written_s = self.touched_s = self._loop.time()

    def stop(self) -> None:
        """No clock runs any more. Whoever was to be told is let go of: they know this watch as well."""
        self.clock = "none"
        self._on_expired = self._on_silence = _nobody
        self._heartbeat_s = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _set(self, due_s: float) -> None:
        self._due_s = due_s
        self._handle = self._loop.call_at(due_s, self._fire)

    def _due(self) -> float | None:
        due = None
        if self.clock != "none":
            due = self.touched_s + self._limits_s[self.clock]
        if self._heartbeat_s is not None:
            beat = self.written_s + self._heartbeat_s
            due = beat if due is None else min(due, beat)
        return due

    def _fire(self) -> None:
        self._handle = None
        if stood_still(self._loop.time() - self._due_s):
            # The process did not run (sleep, SIGSTOP): nobody was slow, and the upstream gets its time again.
            self.touched_s = self._loop.time()
        # A timer may fire early by its resolution; a microsecond of grace keeps it from spinning.
        now = self._loop.time() + 1e-6
        if self.clock != "none" and now >= self.touched_s + self._limits_s[self.clock]:
            self.expired = self.clock
            self.clock = "none"
            self._on_expired(self.expired)
        if self._heartbeat_s is not None and now >= self.written_s + self._heartbeat_s:
            self.written_s = now
            self._on_silence()
        due = self._due()
        if due is not None and self._handle is None:
            self._set(due)
