"""What clients that hung up left behind is there for a minute, for them and their very request only."""

from __future__ import annotations

from penstock.concurrency import Left


def test_the_same_client_takes_it_once() -> None:
    """With the same request; then it is gone."""
    left: Left[str] = Left()
    left.leave("a", ("/v1", 1), "place", 10.0)
    assert left.has_of("a")
    assert not left.has_of("b")
    assert left.take("b", ("/v1", 1), 11.0) is None
    assert left.take("a", ("/v1", 2), 11.0) is None
    assert left.take("a", ("/v1", 1), 11.0) == "place"
    assert left.take("a", ("/v1", 1), 11.0) is None
    assert not left.has_of("a")


def test_it_is_there_for_a_minute() -> None:
    """Later it is forgotten, by whatever comes next."""
    left: Left[str] = Left()
    left.leave("a", 1, "place", 0.0)
    left.leave("b", 1, "place", 50.0)
    assert left.take("a", 1, 60.1) is None
    assert (left.has_of("a"), left.has_of("b")) == (False, True)


def test_the_last_of_equal_ones_is_kept() -> None:
    """A client that hangs up again and again leaves one thing."""
    left: Left[int] = Left()
    for number in range(5):
        left.leave("a", 1, number, float(number))
    assert len(left) == 1
    assert left.take("a", 1, 5.0) == 4


def test_memory_is_bounded() -> None:
    """Thousands of hang-ups leave a few hundred things."""
    left: Left[int] = Left()
    for number in range(5000):
        left.leave(str(number % 700), number, number, 1.0)
    assert len(left) == 256
    assert left.take("699", 4899, 1.0) == 4899
    assert len(left._clients) <= 256
