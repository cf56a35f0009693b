"""Menu and icon follow from a snapshot alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock_tray.icon_state import IconState, icon_state
from penstock_tray.menu import Item, menu_spec, quit_label, title
from penstock_tray.snapshot import Model, Server, Snapshot, read

RUNNING = Snapshot(
    "running", url="http://127.0.0.1:11435", servers=(Server("a", "http://a", "ok"),)
)


def item(snapshot: Snapshot, key: str) -> Item:
    return next(one for one in menu_spec(snapshot) if one.key == key)


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        pytest.param(Snapshot(), IconState("off"), id="nothing runs"),
        pytest.param(Snapshot("starting"), IconState("starting"), id="being started"),
        pytest.param(Snapshot("failed", "taken"), IconState("error"), id="it could not start"),
        pytest.param(RUNNING, IconState("ok"), id="all well"),
        pytest.param(replace(RUNNING, overall="degraded"), IconState("degraded"), id="one is away"),
        pytest.param(replace(RUNNING, overall="error"), IconState("error"), id="all are away"),
        pytest.param(replace(RUNNING, overall="new"), IconState("degraded"), id="unknown word"),
        pytest.param(replace(RUNNING, bypass="all"), IconState("ok", "bypass"), id="bypass"),
        pytest.param(
            replace(RUNNING, bypass="all", paused="some"),
            IconState("ok", "paused"),
            id="paused first",
        ),
        pytest.param(
            replace(RUNNING, drained="all"),
            IconState("ok", "paused"),
            id="drained: nothing is let through",
        ),
        pytest.param(
            Snapshot("unclear", "it hangs"), IconState("error"), id="there, and does not answer"
        ),
    ],
)
def test_each_state_has_its_icon(snapshot: Snapshot, expected: IconState) -> None:
    """State and badge follow from the snapshot alone."""
    assert icon_state(snapshot) == expected


@pytest.mark.parametrize(
    ("snapshot", "checked", "enabled"),
    [
        pytest.param(Snapshot(), False, True, id="off: can be switched on"),
        pytest.param(Snapshot("starting"), True, False, id="starting: wait"),
        pytest.param(RUNNING, True, True, id="on: can be switched off"),
        pytest.param(Snapshot("failed", "x"), False, True, id="failed: try again"),
        pytest.param(replace(RUNNING, ending=True), False, False, id="ending: wait"),
        pytest.param(Snapshot("unclear", "x"), False, False, id="unclear: nothing to switch"),
    ],
)
def test_the_toggle_shows_the_live_state(snapshot: Snapshot, checked: bool, enabled: bool) -> None:
    """The check mark is what runs now; it cannot be clicked while it starts."""
    on = item(snapshot, "on")
    assert (on.checked, on.enabled) == (checked, enabled)


def test_quit_says_whether_the_gateway_ends() -> None:
    """The label tells whether the gateway goes on."""
    assert quit_label(RUNNING) == "Quit Penstock tray (gateway goes on)"
    assert quit_label(replace(RUNNING, ours=True)) == "Quit Penstock (gateway ends)"
    assert quit_label(Snapshot()) == "Quit Penstock"


def test_an_item_keeps_its_key_when_the_state_changes() -> None:
    """A server that goes away changes labels, not items."""
    away = replace(RUNNING, servers=(Server("a", "http://a", "unreachable"),), overall="error")
    assert [one.key for one in menu_spec(away)] == [one.key for one in menu_spec(RUNNING)]
    assert "a does not answer" in title(away)


def test_keys_are_unique_and_quit_is_last() -> None:
    """Two servers with the same models have items of their own."""
    models = (Model("m", True, 8192), Model("n", None, None))
    full = replace(RUNNING, servers=tuple(Server(n, "u", "ok", 2, models) for n in ("a", "b")))
    items = menu_spec(full)
    keys = [one.key for top in items for one in (top, *top.items)]
    assert len(keys) == len(set(keys))
    assert items[-1].key == "quit"
    server = item(full, "server a")
    assert server.label == "a, 2 running"
    assert [one.label for one in server.items] == ["m, window 8,192, loaded", "n"]


def test_a_status_is_read() -> None:
    """A gateway's status becomes a snapshot; what is new in it is passed over."""
    status = {
        "url": "http://127.0.0.1:1", "overall": "ok", "state": "ok", "started_by": "tray", "added_later": 1,
        "switched": {"paused": "none", "bypass": "all", "drained": "some"},
        "upstreams": [
            {
                "name": "a", "url": "http://a", "state": "ok", "concurrency": {"in_flight": 3},
                "models": [{"id": "m", "loaded": False, "context_window": 4096}],
            }
        ],
    }  # fmt: skip
    seen = read(status)
    assert seen.ours
    assert not seen.ending
    assert (seen.paused, seen.drained) == ("none", "some")
    assert seen.bypass == "all"
    assert seen.servers == (Server("a", "http://a", "ok", 3, (Model("m", False, 4096),)),)


@pytest.mark.parametrize(
    ("retry_after_s", "state"),
    [
        pytest.param(None, "ok", id="closed"),
        pytest.param(12.5, "unreachable", id="open"),
    ],
)
def test_a_server_behind_an_open_breaker_is_away(retry_after_s: float | None, state: str) -> None:
    """What the gateway's own word for all counts as away, the menu names as the reason."""
    status = {
        "url": "http://127.0.0.1:1", "overall": "error", "state": "draining", "started_by": "command",
        "switched": {"paused": "none", "bypass": "none", "drained": "none"},
        "upstreams": [
            {
                "name": "a", "url": "http://a", "state": "ok", "concurrency": {"in_flight": 0}, "models": [],
                "breaker": {"state": "open", "retry_after_s": retry_after_s}, "unloads": True,
            }
        ],
    }  # fmt: skip
    seen = read(status)
    assert seen.ending
    assert seen.servers[0].unloads
    assert seen.servers[0].state == state
    assert ("a does not answer" in title(replace(seen, ending=False))) == (state == "unreachable")


@pytest.mark.parametrize(
    ("snapshot", "said", "label"),
    [
        pytest.param(
            replace(RUNNING, drained="all", paused="all"), "takes no new requests", "Take requests again", id="drained"
        ),
        pytest.param(replace(RUNNING, drained="some"), "in part", "Take requests again", id="in part"),
        pytest.param(
            replace(RUNNING, paused="all"), "requests wait", "Let waiting requests go on", id="paused"
        ),
    ],
)  # fmt: skip
def test_what_keeps_requests_away_is_said_and_can_be_ended(
    snapshot: Snapshot, said: str, label: str
) -> None:
    """A gateway that lets nothing through never looks as if all were well."""
    assert said in title(snapshot)
    assert item(snapshot, "resume").label == label
