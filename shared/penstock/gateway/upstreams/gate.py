"""
The gate of one upstream: whether new requests are refused there, and whether they pass unchanged.

Requests that wait are held by `holding`, which knows nothing of refusals; what a person switched comes in
through `set_by`.
"""

from __future__ import annotations

from typing import Literal

from penstock.errors import ErrorCode, Refused
from penstock.gateway.upstreams.holding import Holding
from penstock.switches import Switches

Refusing = Literal["paused", "drained"]

_TOLD: dict[Refusing, str] = {
    "paused": "is paused and takes no new requests",
    "drained": "lets its running requests end and takes no new ones",
}
_SHORTEST_S, _USUAL_S, _LONGEST_S = 5.0, 15.0, 60.0


class Gate:
    """
    Attributes:
        refusing: why new requests are refused; None when they are not.
        bypassed: requests pass through unchanged.
        is_gone: its address has vanished: running requests go on, nobody else is let in.
        drained_by_s: when a drain gives up waiting, loop time; None when nobody waits.
    """

    __slots__ = ("bypassed", "drained_by_s", "is_gone", "refusing")

    def __init__(self) -> None:
        self.refusing: Refusing | None = None
        self.bypassed = False
        self.is_gone = False
        self.drained_by_s: float | None = None

    def set_by(self, switches: Switches, upstream: str, holding: Holding) -> None:
        """
        Do what was switched for *upstream*, but for ending a hold: before that its server is looked at.
        """
        pause, drain = switches.pause.at(upstream), switches.drain.at(upstream)
        self.bypassed = bool(switches.bypass.at(upstream))
        self.refusing = "drained" if drain == "refuse" else "paused" if pause == "refuse" else None
        if pause == "hold":
            holding.begin("paused")
        if drain == "hold":
            holding.begin("drained")
        if not drain:
            self.drained_by_s = None

    def end_holds(self, switches: Switches, upstream: str, holding: Holding) -> None:
        """End the holds that nobody wants any more."""
        if switches.pause.at(upstream) != "hold":
            holding.end("paused")
        if switches.drain.at(upstream) != "hold":
            holding.end("drained")

    def refuse(self, upstream: str, now_s: float) -> None:
        """
        Refuse a new request, if new ones are refused.

        Raises:
            Refused: `draining`.
        """
        if self.is_gone:
            raise Refused(
                ErrorCode.DRAINING,
                f"The server {upstream!r} is no longer among the addresses of its name.",
                hint="Another one takes its requests as soon as there is one.",
                retry_after_s=_SHORTEST_S,
            )
        if self.refusing is None:
            return
        after_s = _USUAL_S
        if self.refusing == "drained" and self.drained_by_s is not None:
            after_s = min(max(_SHORTEST_S, self.drained_by_s - now_s), _LONGEST_S)
        raise Refused(
            ErrorCode.DRAINING,
            f"The upstream {upstream!r} {_TOLD[self.refusing]}.",
            hint="Somebody switched it so; `penstock resume` ends it.",
            retry_after_s=after_s,
        )
