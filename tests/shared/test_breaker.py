"""The breaker, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.breaker import Breaker, BreakerOptions, BreakerState, Closed, Opened, Pass

OPTIONS = BreakerOptions()


def passed(breaker: Breaker, now_s: float) -> Pass:
    """The right to be sent, which is there."""
    found = breaker.ask(now_s)
    assert found is not None
    return found


def opened(now_s: float = 0.0) -> Breaker:
    """One that has just opened."""
    breaker = Breaker(OPTIONS)
    for _ in range(3):
        breaker.failed(passed(breaker, now_s), "it broke", now_s, 0.0)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_three_in_a_row_open_it() -> None:
    """The third one says why, and until when."""
    breaker = Breaker(OPTIONS)
    assert breaker.failed(passed(breaker, 0), "it broke", 0, 0.0) is None
    assert breaker.failed(passed(breaker, 1), "it broke", 1, 0.0) is None
    told = breaker.failed(passed(breaker, 2), "it broke", 2, 0.0)
    assert told == Opened("3 requests in a row failed: it broke", 5.0)
    assert breaker.ask(2.1) is None
    assert breaker.is_open(2.1)
    assert breaker.retry_after_s(3.0) == pytest.approx(4.0)


def test_a_success_between_starts_the_count_again() -> None:
    """Two failures, a success and two failures are no three in a row."""
    breaker = Breaker(OPTIONS)
    for failed in (True, True, False, True, True):
        right = passed(breaker, 0)
        if failed:
            assert breaker.failed(right, "it broke", 0, 0.0) is None
        else:
            assert breaker.succeeded(right, 0) is None
    assert breaker.state is BreakerState.CLOSED


def test_a_share_of_recent_requests_opens_it() -> None:
    """A server that fails every second request never fails three in a row, and is left alone all the same."""
    breaker, told, number = Breaker(OPTIONS), None, 0
    while told is None and number < 40:
        number += 1
        if number % 2:
            breaker.succeeded(passed(breaker, number), number)
        else:
            told = breaker.failed(passed(breaker, number), "it broke", number, 0.0)
    assert number == 10
    assert told is not None
    assert told.why == "5 of the last 10 requests failed: it broke"


def test_what_was_long_ago_counts_no_more() -> None:
    """The share is that of the last minute."""
    breaker = Breaker(OPTIONS)
    for second in range(0, 4000, 40):
        right = passed(breaker, second)
        if second % 80:
            breaker.succeeded(right, second)
        else:
            assert breaker.failed(right, "it broke", second, 0.0) is None
    assert breaker.state is BreakerState.CLOSED


def test_half_open_lets_one_through_at_a_time() -> None:
    """Its success lets all through again."""
    breaker = opened()
    probe = passed(breaker, 5.0)
    assert probe.is_probe
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.ask(5.1) is None
    assert breaker.succeeded(probe, 6.0) == Closed(6.0)
    assert not passed(breaker, 6.0).is_probe


def test_a_failed_probe_waits_longer() -> None:
    """5, 10, 20, 40, 60, 60 seconds; a success begins again with 5."""
    breaker, now, delays = opened(), 0.0, []
    for _ in range(6):
        now += breaker.retry_after_s(now)
        told = breaker.failed(passed(breaker, now), "still broken", now, 0.0)
        assert told is not None
        delays.append(told.for_s)
    assert delays == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    breaker.succeeded(passed(breaker, now + 60), now + 60)
    for _ in range(3):
        told = breaker.failed(passed(breaker, now + 60), "again", now + 60, 0.0)
    assert told is not None
    assert told.for_s == 5.0


def test_a_probe_that_taught_nothing_gives_its_place_away() -> None:
    """Its client hung up: the next request is the probe."""
    breaker = opened()
    probe = passed(breaker, 5.0)
    breaker.taught_nothing(probe)
    assert passed(breaker, 5.1).is_probe


def test_what_was_sent_before_it_opened_decides_nothing() -> None:
    """A stream that began in better times and ends well, or badly, while it is open."""
    breaker = Breaker(OPTIONS)
    early, earlier = passed(breaker, 0), passed(breaker, 0)
    for _ in range(3):
        breaker.failed(passed(breaker, 1), "it broke", 1, 0.0)
    assert breaker.succeeded(early, 2) is None
    assert breaker.failed(earlier, "it broke", 2, 0.0) is None
    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_after_s(2) == pytest.approx(4.0)


def test_seen_alive_the_next_request_is_the_probe() -> None:
    """Without waiting for the delay to end; it does not close by being seen."""
    breaker = opened()
    breaker.try_soon(1.0)
    assert breaker.state is BreakerState.OPEN
    assert passed(breaker, 1.0).is_probe


def test_another_process_is_judged_anew_but_not_trusted_more() -> None:
    """Seen loading, it closes; when that one fails too the delay grows on, and a success makes it short again."""
    breaker = opened()
    assert breaker.start_afresh()
    assert not breaker.start_afresh()
    for _ in range(3):
        told = breaker.failed(passed(breaker, 9), "it broke", 9, 0.0)
    assert told is not None
    assert told.for_s == 10.0
    assert breaker.start_afresh()
    breaker.succeeded(passed(breaker, 30), 30)
    for _ in range(3):
        told = breaker.failed(passed(breaker, 31), "it broke", 31, 0.0)
    assert told is not None
    assert told.for_s == 5.0


def test_doubt_grows_with_failures_and_fades_with_time() -> None:
    """One failure says little, and an old one nothing."""
    breaker = Breaker(OPTIONS)
    assert breaker.doubt(0) == 0.0
    breaker.failed(passed(breaker, 0), "it broke", 0, 0.0)
    assert breaker.doubt(0) == pytest.approx(1 / 3)
    assert breaker.error_share(0) == 1.0
    for _ in range(3):
        breaker.succeeded(passed(breaker, 1), 1)
    assert breaker.doubt(1) == pytest.approx(1 / 6)
    assert breaker.doubt(60.5) == 0.0
    assert breaker.error_share(62) == 0.0


def test_who_was_let_through_before_is_sent_no_more_until_it_closes() -> None:
    """The probe is; after the closing all are."""
    breaker = Breaker(OPTIONS)
    early = passed(breaker, 0)
    assert not breaker.has_opened_since(early)
    for _ in range(3):
        breaker.failed(passed(breaker, 0), "it broke", 0, 0.0)
    assert breaker.has_opened_since(early)
    probe = passed(breaker, 5)
    assert breaker.has_opened_since(early)
    assert not breaker.has_opened_since(probe)
    breaker.succeeded(probe, 6)
    assert not breaker.has_opened_since(early)


@given(jitter=st.floats(0, 0.999))
def test_the_delay_is_spread(jitter: float) -> None:
    """By at most a fifth."""
    breaker = Breaker(OPTIONS)
    told = None
    for _ in range(3):
        told = breaker.failed(passed(breaker, 0), "it broke", 0, jitter)
    assert told is not None
    assert 4.0 <= told.for_s <= 5.0


def test_switched_off_it_never_opens() -> None:
    """And lets through what it had stopped."""
    breaker = Breaker(BreakerOptions(enabled=False))
    for _ in range(50):
        assert breaker.failed(passed(breaker, 0), "it broke", 0, 0.0) is None
    stopped = opened()
    stopped.options = BreakerOptions(enabled=False)
    assert stopped.ask(0.1) is not None


class Requests(RuleBasedStateMachine):
    """Requests that are let through or not, and end in any way and order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(OPTIONS)
        self.now = 0.0
        self.out: list[Pass] = []

    @rule()
    def come(self) -> None:
        """Somebody asks."""
        was_open = self.breaker.is_open(self.now)
        right = self.breaker.ask(self.now)
        assert (right is None) is was_open
        if right is not None:
            self.out.append(right)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), end=st.sampled_from(["good", "bad", "nothing"]))
    def end(self, data: st.DataObject, end: str) -> None:
        """Somebody's request ends."""
        right = data.draw(st.sampled_from(self.out))
        self.out.remove(right)
        if end == "good":
            self.breaker.succeeded(right, self.now)
        elif end == "bad":
            self.breaker.failed(right, "it broke", self.now, 0.5)
        else:
            self.breaker.taught_nothing(right)

    @rule(seconds=st.floats(0, 70))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens."""
        self.now += seconds

    @rule()
    def another_process(self) -> None:
        """It was started anew, or loads."""
        self.breaker.start_afresh()
        assert not self.breaker.is_open(self.now)

    @rule()
    def is_seen(self) -> None:
        """A look shows that it is alive."""
        self.breaker.try_soon(self.now)

    @invariant()
    def one_probe_at_most(self) -> None:
        """Of the present opening; and it never stays shut for longer than the longest delay."""
        era = self.breaker._era
        assert sum(right.is_probe and right.era == era for right in self.out) <= 1
        if not any(right.is_probe and right.era == era for right in self.out):
            assert not self.breaker.is_open(self.now + 60.0)

    @invariant()
    def failures_are_counted_right(self) -> None:
        """The number that is kept is that of those remembered."""
        recent = self.breaker._recent
        assert self.breaker._recent_failures == sum(failed for _, failed in recent)
        assert 0.0 <= self.breaker.doubt(self.now) <= self.breaker.error_share(self.now) <= 1.0


Requests.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestBreaker = Requests.TestCase
