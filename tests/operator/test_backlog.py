"""The backlog: once each, never twice at a time, later after each failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.queueing.backlog import Backlog, Pace


def backlog() -> Backlog[str]:
    return Backlog(Pace(first_delay_s=1.0, longest_delay_s=60.0, jitter=0.2, resync_s=600.0))


def test_a_key_added_many_times_comes_once() -> None:
    """However often a model changed while it waited, it is looked at once."""
    keys = backlog()
    for _ in range(5):
        keys.add("a", 0.0)
    assert keys.take(0.0) == "a"
    assert keys.take(0.0) is None


def test_news_while_it_is_worked_on_brings_it_back_once_afterwards() -> None:
    """One model is never worked on twice at a time; what happened meanwhile is one more look."""
    keys = backlog()
    keys.add("a", 0.0)
    keys.take(0.0)
    keys.add("a", 0.0)
    keys.add("a", 0.0)
    assert keys.take(1.0) is None, "never twice at a time"
    keys.succeeded("a", 1.0, 0.5)
    assert keys.take(1.0) == "a"
    keys.succeeded("a", 1.0, 0.5)
    assert keys.take(1.0) is None


@pytest.mark.parametrize(
    ("failures", "chance", "delay_s"),
    [(1, 0.5, 1.0), (2, 0.5, 2.0), (4, 0.5, 8.0), (7, 0.5, 60.0), (999, 0.5, 60.0), (1, 0.0, 0.8)],
)
def test_each_failure_waits_longer_up_to_a_limit(
    failures: int, chance: float, delay_s: float
) -> None:
    """A model that fails again and again is tried ever more rarely, and never given up."""
    assert backlog().pace.delay_s(failures, chance) == pytest.approx(delay_s)


def test_news_shortens_a_long_delay_but_not_the_shortest() -> None:
    """A change of a failing model is looked at soon, but a stream of changes does not undo the back-off."""
    keys = backlog()
    keys.add("a", 0.0)
    now = 0.0
    for _ in range(6):
        assert keys.take(now) == "a"
        now += keys.failed("a", now, 0.5)
    failed_at = now - 32.0
    keys.add("a", failed_at + 0.1)
    assert keys.next_due() == pytest.approx(failed_at + 1.0)


def test_what_failed_while_the_api_server_was_away_is_due_when_that_is_back() -> None:
    """It does not wait out a delay that grew meanwhile; the next failure waits as short as the first."""
    keys = backlog()
    keys.add("a", 0.0)
    keys.add("well", 0.0, delay_s=500.0)
    now = 0.0
    for _ in range(6):
        assert keys.take(now) == "a"
        now += keys.failed("a", now, 0.5)
    now -= 30.0
    assert keys.take(now) is None
    keys.forgive(now)
    assert keys.take(now) == "a"
    assert keys.take(now) is None, "only what failed"
    assert keys.failed("a", now, 0.5) == pytest.approx(1.0)


def test_a_success_forgets_failures_and_sets_the_resync() -> None:
    """After a success the next failure waits as short as the first, and the next look comes by itself."""
    keys = backlog()
    keys.add("a", 0.0)
    keys.take(0.0)
    keys.failed("a", 0.0, 0.5)
    keys.take(1.0)
    keys.succeeded("a", 1.0, 0.0)
    assert keys.next_due() == pytest.approx(1.0 + 450.0)
    keys.add("a", 2.0)
    assert keys.take(2.0) == "a"
    assert keys.failed("a", 2.0, 0.5) == pytest.approx(1.0)


def test_what_is_gone_is_not_looked_at_again_unless_there_was_news() -> None:
    """A deleted model leaves the queue; one of its name that was made meanwhile stays in it."""
    keys = backlog()
    keys.add("a", 0.0)
    keys.take(0.0)
    keys.gone("a", 0.0)
    assert keys.next_due() is None
    keys.add("a", 1.0)
    keys.take(1.0)
    keys.add("a", 1.0)
    keys.gone("a", 1.0)
    assert keys.take(1.0) == "a"


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "ok", "fail"]), st.sampled_from("abc"))))
def test_no_news_is_lost_whatever_the_order(steps: list[tuple[str, str]]) -> None:
    """In any order of news, looks and failures, each piece of news is followed by a look that began after it."""
    keys, running, owed, now = backlog(), set[str](), set[str](), 0.0
    for what, key in steps:
        now += 0.5
        if what == "add":
            keys.add(key, now)
            owed.add(key)
        elif what == "take":
            taken = keys.take(now)
            if taken is not None:
                assert taken not in running
                running.add(taken)
                owed.discard(taken)
        elif key in running:
            running.discard(key)
            if what == "ok":
                keys.succeeded(key, now, 0.5)
            else:
                keys.failed(key, now, 0.5)
                owed.add(key)
    for key in running:
        keys.succeeded(key, now, 0.5)
    later, found = now + 61.0, set[str]()
    while (taken := keys.take(later)) is not None:
        found.add(taken)
    assert owed <= found


def test_news_during_a_failing_look_is_not_put_off_for_minutes() -> None:
    """What is told meanwhile may have healed it, so it is tried soon, as for news that comes after."""
    keys = backlog()
    keys.add("a", 0.0)
    for _ in range(8):
        now = keys.next_due()
        assert now is not None
        assert keys.take(now) == "a"
        keys.failed("a", now, 0.5)
    now = keys.next_due()
    assert now is not None
    assert keys.take(now) == "a"
    keys.add("a", now)
    assert keys.failed("a", now, 0.5) == pytest.approx(1.0)
