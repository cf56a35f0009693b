"""Two replicas never lead at a time, and a silent one is followed within the promised time."""

from __future__ import annotations

from penstock_operator.leading.lease import Election, Holding, Move, Terms

TERMS = Terms(duration_s=10.0, renew_deadline_s=6.0, retry_s=2.0)


def test_without_a_lease_it_is_made_and_then_led() -> None:
    """The first replica makes the Lease and leads by it."""
    one = Election("one", TERMS)
    assert one.move(None, 0.0) is Move.CREATE
    assert not one.leads(0.0), "not before the write succeeded"
    one.renewed(0.0, "1")
    assert one.leads(5.9)
    assert not one.leads(6.0), "the renew deadline"


def test_a_holder_that_renews_is_respected_for_ever() -> None:
    """However long another leads, as long as it renews nobody follows it."""
    two = Election("two", TERMS)
    for second in range(0, 100, 2):
        assert two.move(Holding("one", str(second)), float(second)) is Move.WAIT


def test_a_silent_holder_is_followed_within_fifteen_seconds_and_after_its_deadline() -> None:
    """A dead leader is followed in time, and never before it must have stopped writing."""
    two, now = Election("two", TERMS), 0.0
    while two.move(Holding("one", "7"), now) is Move.WAIT:
        now += TERMS.retry_s
    assert TERMS.renew_deadline_s < now <= 15.0


def test_a_released_lease_is_taken_at_once() -> None:
    """A leader that ends in order leaves no gap."""
    assert Election("two", TERMS).move(Holding("", "7"), 0.0) is Move.TAKE


def test_a_paused_leader_that_wakes_up_does_not_write() -> None:
    """By its own clock its time is over before anybody else leads."""
    one = Election("one", TERMS)
    one.renewed(0.0, "1")
    assert not one.leads(30.0), "its clock went on while it was stopped"
    assert one.move(Holding("two", "9"), 30.0) is Move.WAIT
    assert not one.leads(30.0)


def test_the_deadline_counts_from_when_the_renewal_was_sent() -> None:
    """An answer that comes late lengthens nobody's time as a leader."""
    one = Election("one", TERMS)
    one.renewed(sent_at=0.0, version="1")  # the answer came five seconds later
    assert one.leads(5.0)
    assert not one.leads(6.5)
