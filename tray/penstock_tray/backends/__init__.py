"""
Who shows icon and menu: `linux` (our StatusNotifierItem, and an XEmbed icon where a panel knows nothing else),
`toolkit` (pystray, on Windows and macOS). `choose` picks; all look the same from `desk`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from penstock.errors import PenstockError
from penstock_tray.icon_state import IconState
from penstock_tray.menu import Item


class NoDesktop(PenstockError):
    """There is no desktop that could ever show an icon."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Look:
    """What is shown."""

    items: tuple[Item, ...] = ()
    title: str = ""
    icon: IconState = field(default_factory=lambda: IconState("off"))


@dataclass(frozen=True, slots=True)
class Calls:
    """
    What a backend calls, from any thread; each returns at once.

    Attributes:
        clicked: with the key of an item.
        opened: the menu opens now.
        hidden: there is no place for an icon, and why, in a sentence.
        ended: the desktop's session is over.
    """

    clicked: Callable[[str], None]
    opened: Callable[[], None]
    hidden: Callable[[str], None]
    ended: Callable[[], None]


class Backend(Protocol):
    """
    One owner: `start`, `show` and `stop` are called in the event loop.

    Raises:
        NoDesktop: by `start`.
    """

    async def start(self) -> None:
        """Show what `show` was given last, as soon as there is a place for it."""

    def show(self, look: Look) -> None:
        """Show something else."""

    def stop(self) -> None:
        """Take the icon away."""


def choose(calls: Calls) -> Backend:
    """The backend of this system."""
    if sys.platform == "linux":
        from penstock_tray.backends.linux import LinuxBackend

        return LinuxBackend(calls)
    from penstock_tray.backends.toolkit import ToolkitBackend

    return ToolkitBackend(calls)
