"""What lasts is told, once, together; when a change is shown; when a gateway is started again."""

from __future__ import annotations

import pytest

from penstock_tray.notices import AGAIN_S, LASTS_S, Known, Notice, look
from penstock_tray.pacing import BETWEEN_S, Pace, changed, shown
from penstock_tray.restarts import GIVE_UP_AFTER, WITHIN_S, after_death
from penstock_tray.snapshot import Server, Snapshot


def seen(*states: str, given_up: bool = False) -> Snapshot:
    """A running gateway whose servers `a`, `b` ... have these states."""
    servers = tuple(
        Server(name, "u", state, given_up=given_up)
        for name, state in zip("abc", states, strict=False)
    )
    return Snapshot("running", servers=servers)


def play(*steps: tuple[float, Snapshot]) -> list[list[str]]:
    """The titles that are said at each step."""
    known, told = Known(), []
    for now, snapshot in steps:
        known, notices, _ = look(known, snapshot, now)
        told.append([notice.title for notice in notices])
    return told


AWAY = ["a does not answer"]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([(0, seen("unreachable")), (60, seen("unreachable"))], [[], []], id="at the start"),
        pytest.param(
            [(0, seen("ok")), (1, seen("unreachable")), (1 + LASTS_S, seen("unreachable"))],
            [[], [], AWAY],
            id="it lasts",
        ),
        pytest.param(
            [(0, seen("ok")), (1, seen("unreachable")), (9, seen("ok")), (30, seen("ok"))],
            [[], [], [], []],
            id="it was short",
        ),
        pytest.param(
            [(0, seen("ok")), (1, seen("unreachable")), (5, seen("loading")), (12, seen("unreachable"))],
            [[], [], [], AWAY],
            id="on its way is neither news nor an end",
        ),
        pytest.param(
            [(0, seen("ok", "ok")), (1, seen("unreachable", "unreachable")), (12, seen("unreachable", "unreachable"))],
            [[], [], ["2 servers do not answer"]],
            id="together",
        ),
        pytest.param(
            [(0, seen("ok")), (1, seen("unreachable")), (12, seen("unreachable")), (20, seen("ok")),
             (40, seen("ok")), (13 + AGAIN_S, seen("ok"))],
            [[], [], AWAY, [], [], ["a answers again"]],
            id="not twice in ten minutes",
        ),
        pytest.param(
            [(0, seen("ok")), (1, Snapshot()), (60, Snapshot()), (61, seen("ok")), (90, seen("ok"))],
            [[], [], [], [], []],
            id="switched off and on by a person",
        ),
        pytest.param(
            [(0, seen("ok")), (1, Snapshot("failed", "x")), (2, Snapshot("starting")), (12, Snapshot("failed", "x"))],
            [[], [], [], ["Penstock does not run"]],
            id="the gateway fails for good",
        ),
        pytest.param(
            [(0, seen("ok")), (1, Snapshot("failed", "x")), (3, seen("ok")), (30, seen("ok"))],
            [[], [], [], []],
            id="the gateway was started again",
        ),
    ],
)  # fmt: skip
def test_only_what_lasts_is_told(
    steps: list[tuple[float, Snapshot]], told: list[list[str]]
) -> None:
    """Nothing at the start, nothing of what passes, one notice for all that fall due together."""
    assert play(*steps) == told


def test_when_to_look_again_is_known() -> None:
    """What is pending says when it is due, so no timer ticks in between; nothing pending, nothing to do."""
    known, _, again = look(Known(), seen("ok"), 0.0)
    assert again is None
    _, _, again = look(known, seen("unreachable"), 5.0)
    assert again == 5.0 + LASTS_S


def test_a_server_that_was_given_up_can_be_restarted_from_the_notice() -> None:
    """The button that helps is on it, first."""
    known, _, _ = look(Known(), seen("ok"), 0.0)
    known, _, _ = look(known, seen("unreachable", given_up=True), 1.0)
    _, [notice], _ = look(known, seen("unreachable", given_up=True), 20.0)
    expected = Notice(
        "a does not answer", "Requests wait until it is back.", ("restart", "show"), "a"
    )
    assert notice == expected


def test_the_first_change_is_shown_at_once_and_a_burst_together() -> None:
    """A panel gets at most a few menus a second, and a person never waits after a calm moment."""
    pace, now = changed(Pace(), 10.0)
    assert now
    pace, now = changed(pace, 10.01)
    assert not now
    assert pace.due_at == 10.0 + BETWEEN_S
    pace, now = changed(pace, 10.02)
    assert not now
    pace = shown(10.0 + BETWEEN_S)
    assert changed(pace, 10.0 + 2 * BETWEEN_S)[1]


def test_a_gateway_that_dies_again_and_again_is_given_up() -> None:
    """The pauses double; after some deaths in a short time nobody starts it; after a calm while it counts anew."""
    deaths: tuple[float, ...] = ()
    pauses = []
    for number in range(GIVE_UP_AFTER):
        deaths, pause = after_death(deaths, float(number))
        pauses.append(pause)
    assert pauses == [1.0, 2.0, 4.0, 8.0, None]
    assert after_death(deaths, WITHIN_S + 100)[1] == 1.0
