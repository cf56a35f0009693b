"""What is done about a server that died, in numbers and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import supervision
from penstock.supervision import Decision, SupervisionOptions, after_death, how_it_ended, last_words

OPTIONS = SupervisionOptions()


def course(lives: list[float | None], options: SupervisionOptions = OPTIONS) -> list[float | None]:
    """The pauses after lives that were ready for so long."""
    deaths, pauses = 0, []
    for ready_for_s in lives:
        decision = after_death(deaths, ready_for_s, options)
        deaths = decision.quick_deaths
        pauses.append(decision.after_s)
    return pauses


def test_pauses_double_and_it_is_given_up() -> None:
    """One, two, four, eight seconds; the fifth death in a row is the last."""
    assert course([None] * 5) == [1.0, 2.0, 4.0, 8.0, None]
    many = SupervisionOptions(give_up_after=9)
    assert course([None] * 8, many) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_server_that_was_ready_for_a_while_is_forgiven() -> None:
    """The next pause is the first one again, and it is not given up."""
    assert course([None, None, None, None, 60.0, None]) == [1.0, 2.0, 4.0, 8.0, 1.0, 2.0]
    assert after_death(4, 59.9, OPTIONS) == Decision(5, None)


def test_one_death_can_be_enough() -> None:
    """With `give_up_after: 1` it is not started again, unless it had served for a while."""
    options = SupervisionOptions(give_up_after=1)
    assert after_death(0, None, options).after_s is None
    assert after_death(0, 3600.0, options).after_s == 1.0


@given(
    lives=st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=60),
    options=st.builds(
        SupervisionOptions,
        first_delay_s=st.floats(0, 100),
        longest_delay_s=st.floats(0, 100),
        factor=st.floats(1, 10),
        give_up_after=st.integers(1, 20),
    ),
)
def test_pauses_are_bounded(lives: list[float | None], options: SupervisionOptions) -> None:
    """No pause is longer than the longest, and it is given up after so many quick deaths and not before."""
    deaths = 0
    for ready_for_s in lives:
        before = deaths
        deaths, after_s = after_death(deaths, ready_for_s, options)
        steady = ready_for_s is not None and ready_for_s >= options.steady_s
        assert deaths == (1 if steady else before + 1)
        assert (after_s is None) == (not steady and deaths >= options.give_up_after)
        assert after_s is None or 0 <= after_s <= options.longest_delay_s


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        pytest.param(0, "", "it ended with code 0", id="ended"),
        pytest.param(1, "", "it ended with code 1", id="failed"),
        pytest.param(127, "", "it ended with code 127 (a command was not found)", id="not found"),
        pytest.param(-11, "", "it was ended by SIGSEGV", id="crashed"),
        pytest.param(
            -9,
            "",
            "it was ended by SIGKILL: probably out of memory, unless somebody killed it",
            id="killed",
        ),
        pytest.param(
            137,
            "",
            "it ended with code 137 (SIGKILL): probably out of memory, unless somebody killed it",
            id="killed in a container",
        ),
        pytest.param(
            -6,
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "it was ended by SIGABRT: out of memory, by its own words",
            id="bad_alloc",
        ),
        pytest.param(
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "it ended with code 1: out of memory, by its own words",
            id="CUDA",
        ),
        pytest.param(None, "", "it is gone", id="not seen"),
        pytest.param(-1073741819, "", "it ended with code -1073741819 (an access violation)", id="Windows"),
    ],
)  # fmt: skip
def test_how_it_ended(code: int | None, said: str, told: str) -> None:
    """A person reads what happened, and whether it was the memory."""
    assert how_it_ended(code, said) == told


def test_last_words() -> None:
    """The last lines in one, progress bars and empty lines apart, and not too many."""
    assert last_words("a\n\nb\r 10%\r 20%\nend\n") == "b | 10% | 20% | end"
    assert last_words("") == ""
    assert len(last_words("x" * 5000)) < 700


def test_why_it_is_not_started_again() -> None:
    """How often, why, and what it said."""
    assert supervision.given_up(1, "it is gone", "") == (
        "the supervised server died once: it is gone."
    )
    assert supervision.given_up(5, "it ended with code 1", "no such file").endswith(
        "died 5 times: it ended with code 1. Its last words: no such file"
    )
