"""
Hold: requests for an upstream wait in front of it while it is away on purpose (contracts 6: a clock of its own).

Paused by a person, drained so that its server can be replaced, restarted under supervision: each is a reason,
and requests go on when the last reason has gone. What a reason means is known by whoever begins and ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from penstock.errors import ErrorCode, Refused

Reason = Literal["paused", "drained", "restarting", "no_address"]

_TOLD: dict[Reason, str] = {
    "paused": "it is paused",
    "drained": "it is drained, so that its server can be replaced",
    "restarting": "its server is being restarted",
    "no_address": "its name has no address, so no server is there",
}
_RETRY_AFTER_S = 15.0


def _nobody() -> None:
    """Is told when nobody wants to know."""


class Holding:
    """
    Whether requests for one upstream are held, and why.

    Attributes:
        waiting: requests that are held now.
        on_change: called when reasons came or went.
    """

    __slots__ = ("_free", "_reasons", "on_change", "waiting")

    def __init__(self) -> None:
        self._reasons: dict[Reason, None] = {}
        self._free = asyncio.Event()
        self._free.set()
        self.waiting = 0
        self.on_change: Callable[[], None] = _nobody

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why requests are held, in the order in which it began; empty when they are not."""
        return tuple(self._reasons)

    def begin(self, reason: Reason) -> bool:
        """Hold requests from now on. Returns whether this is news."""
        is_news = reason not in self._reasons
        self._reasons[reason] = None
        self._free.clear()
        self.on_change()
        return is_news

    def end(self, reason: Reason) -> bool:
        """This reason has gone; with the last one requests go on. Returns whether it was one."""
        was_one = reason in self._reasons
        self._reasons.pop(reason, None)
        if not self._reasons:
            self._free.set()
        self.on_change()
        return was_one

    async def wait(self, upstream: str, within_s: float) -> None:
        """
        Wait until requests for *upstream* go on.

        Args:
            within_s: how long at most, seconds.

        Raises:
            Refused: `hold_expired`.
        """
        if not self._reasons:
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(within_s):
                await self._free.wait()
        except TimeoutError:
            told = " and ".join(_TOLD[reason] for reason in self._reasons) or "it was away"
            raise Refused(
                ErrorCode.HOLD_EXPIRED,
                f"The request was held for {within_s:g} s in front of the upstream {upstream!r}: {told}.",
                hint="penstock status tells why it is held; timeouts.hold_s is the limit.",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        finally:
            self.waiting -= 1
