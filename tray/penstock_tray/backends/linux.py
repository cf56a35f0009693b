"""
Linux: a StatusNotifierItem wherever a panel takes one, an XEmbed icon where there is a panel of the old kind only.

The item waits on the session bus for a panel to come, so a tray that starts before its panel, or outlives one, shows
up all the same. For an old panel there is no such word: it is looked for every half a minute, as long as no other is
there. Where neither comes within some seconds, one sentence says what to do; GNOME needs an extension.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

from penstock_tray.backends import Calls, Look, NoDesktop
from penstock_tray.drawing import pixmaps
from penstock_tray.icon_state import IconState

if sys.platform != "linux":
    raise ImportError("this backend is Linux's own")

from penstock_tray.backends.linux_hint import hint
from penstock_tray.backends.xembed import XEmbedIcon, has_panel
from penstock_tray.notifier_item import Notifier

_PATIENCE_S, _LOOK_S = 8.0, 30.0


class LinuxBackend:
    """See `backends.Backend`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._look = Look()
        self._drawn: tuple[IconState, list[list[object]]] | None = None
        self._item = Notifier(calls.clicked, calls.opened, self._panel_came, calls.ended)
        self._xembed: XEmbedIcon | None = None
        self._search: asyncio.Task[None] | None = None
        self._has_bus = False
        self._lost = asyncio.Event()

    async def start(self) -> None:
        try:
            await self._item.start()
            self._has_bus = True
        except (OSError, ValueError, EOFError) as exc:
            if not os.environ.get("DISPLAY"):
                raise NoDesktop(
                    f"There is no desktop session here, neither a session bus ({exc}) nor a display, so nothing can be "
                    "shown. `penstock serve` runs the gateway without an icon."
                ) from exc
        self._search = asyncio.create_task(self._search_old_panel())

    def show(self, look: Look) -> None:
        self._look = look
        if self._drawn is None or self._drawn[0] != look.icon:
            self._drawn = (look.icon, pixmaps(look.icon))
        self._item.update(look.items, look.title, self._drawn[1])
        if self._xembed is not None:
            self._xembed.show(look)

    def stop(self) -> None:
        if self._search is not None:
            self._search.cancel()
        self._leave_old_panel()
        self._item.stop()

    def _panel_came(self) -> None:
        if self._xembed is not None:
            self._leave_old_panel()
            self._lost.set()

    def _leave_old_panel(self) -> None:
        if self._xembed is not None:
            self._xembed.stop()
            self._xembed = None

    async def _search_old_panel(self) -> None:
        """As long as no panel takes the item."""
        loop, told, losses = asyncio.get_running_loop(), False, 0
        began = loop.time()
        await asyncio.sleep(1.0)  # a panel of the new kind comes first
        while True:
            if self._lost.is_set():
                # A panel that is restarted is back in a second; one that throws icons out is not asked for ever.
                losses = losses + 1 if loop.time() - began < _LOOK_S else 0
                await asyncio.sleep(min(_LOOK_S, 2.0**losses))
                self._lost.clear()
                self._leave_old_panel()
                began = loop.time()
            if self._item.has_panel:
                await self._item.panel_left()
                began = loop.time()
            if self._xembed is None and await asyncio.to_thread(has_panel):
                self._xembed = XEmbedIcon(
                    lambda: self._calls.clicked("show"),
                    partial(_from_thread, loop, self._lost),
                    self._look,
                )
                self._xembed.start()
            waited_s = loop.time() - began
            if self._xembed is None and not told and waited_s >= _PATIENCE_S:
                told = True
                self._calls.hidden(hint(os.environ.get("XDG_CURRENT_DESKTOP", ""), self._has_bus))
            # While an icon is there, nothing wakes up but its loss.
            pause_s = 1.0 if waited_s < _PATIENCE_S else _LOOK_S
            try:
                async with asyncio.timeout(None if self._xembed is not None else pause_s):
                    await self._lost.wait()
            except TimeoutError:
                pass


def _from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
