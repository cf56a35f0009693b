"""
Which changes a person is told of by a notification: those that last.

A server that stutters is no news, so a change must hold for `LASTS_S`. What is so at the first sight is no change.
Changes that fall due together are one notification, and the same server is not spoken of twice within `AGAIN_S`:
what flaps all night is told once. Time comes in, nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock_tray.snapshot import Snapshot

LASTS_S, AGAIN_S = 10.0, 600.0
Button = Literal["show", "restart", "start", "logs"]
GATEWAY = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """
    Attributes:
        buttons: what can be done about it.
        server: that `restart` starts again.
    """

    title: str
    text: str
    buttons: tuple[Button, ...] = ("show",)
    server: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """
    What a person knows, by a server's name; the gateway itself is `GATEWAY`.

    Attributes:
        told: the state that was told, or was there at the first sight.
        since: another state, and since when it holds.
        spoken_at: when it was last spoken of.
    """

    told: Mapping[str, str] = field(default_factory=dict)
    since: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    spoken_at: Mapping[str, float] = field(default_factory=dict)


def look(
    known: Known, snapshot: Snapshot, now: float
) -> tuple[Known, tuple[Notice, ...], float | None]:
    """
    What is to be said now.

    Returns:
        what is known after that, the notices, and when to look again if nothing happens; None for not at all.
    """
    states = _states(snapshot)
    told = {name: state for name, state in known.told.items() if name in states}
    since: dict[str, tuple[str, float]] = {}
    due: dict[str, str] = {}
    spoken_at = dict(known.spoken_at)
    again: list[float] = []
    for name, state in states.items():
        if state == "?":  # on its way: neither news nor the end of what is pending
            if name in known.since:
                since[name] = known.since[name]
            continue
        if name not in told or told[name] == state:
            told[name] = state
            continue
        pending, began = known.since.get(name, (state, now))
        began = began if pending == state else now
        ripe = max(began + LASTS_S, spoken_at.get(name, float("-inf")) + AGAIN_S)
        if now >= ripe:
            due[name], told[name], spoken_at[name] = state, state, now
        else:
            since[name] = (state, began)
            again.append(ripe)
    return Known(told, since, spoken_at), _notices(due, snapshot), min(again, default=None)


def _states(snapshot: Snapshot) -> dict[str, str]:
    """`ok`, `away`, or `?` for what is on its way."""
    if snapshot.gateway != "running":
        # One that a person switched off is no news; a gateway that starts is on its way.
        word = {"failed": "away", "off": "ok"}.get(snapshot.gateway, "?")
        return {GATEWAY: word}
    words = {"ok": "ok", "cloud": "ok", "unreachable": "away"}
    return {GATEWAY: "ok", **{one.name: words.get(one.state, "?") for one in snapshot.servers}}


def _notices(due: Mapping[str, str], snapshot: Snapshot) -> tuple[Notice, ...]:
    if due.get(GATEWAY) == "away":
        return (Notice("Penstock does not run", snapshot.why, ("start", "logs")),)
    away = [name for name, state in due.items() if name != GATEWAY and state == "away"]
    back = [name for name, state in due.items() if name != GATEWAY and state == "ok"]
    notices: list[Notice] = []
    if away:
        given_up = [one.name for one in snapshot.servers if one.name in away and one.given_up]
        one = away[0] if len(away) == 1 else f"{len(away)} servers"
        verb = "does" if len(away) == 1 else "do"
        notices.append(
            Notice(
                f"{one} {verb} not answer",
                "Requests wait until it is back." if len(away) == 1 else ", ".join(away),
                ("restart", "show") if given_up else ("show",),
                given_up[0] if given_up else "",
            )
        )
    if back:
        one = back[0] if len(back) == 1 else f"{len(back)} servers"
        verb = "answers" if len(back) == 1 else "answer"
        notices.append(Notice(f"{one} {verb} again", ", ".join(back) if len(back) > 1 else ""))
    return tuple(notices)
