"""Which icon a snapshot gets: a state, which differs in shape as well as colour, and at most one badge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock_tray.snapshot import Snapshot

State = Literal["off", "starting", "ok", "degraded", "error"]
Badge = Literal["", "paused", "bypass"]


@dataclass(frozen=True, slots=True)
class IconState:
    """
    Attributes:
        badge: `paused` before `bypass`, for requests wait then, or are refused where it is drained.
    """

    state: State
    badge: Badge = ""


_BY_OVERALL: dict[str, State] = {
    "ok": "ok",
    "starting": "starting",
    "degraded": "degraded",
    "error": "error",
}


def icon_state(snapshot: Snapshot) -> IconState:
    """The icon of *snapshot*. A word that a newer gateway invents counts as `degraded`: worth a look."""
    if snapshot.gateway == "off":
        return IconState("off")
    if snapshot.gateway == "starting":
        return IconState("starting")
    if snapshot.gateway in ("failed", "unclear"):
        return IconState("error")
    badge: Badge = ""
    if snapshot.paused != "none" or snapshot.drained != "none":
        badge = "paused"
    elif snapshot.bypass != "none":
        badge = "bypass"
    return IconState(_BY_OVERALL.get(snapshot.overall, "degraded"), badge)
