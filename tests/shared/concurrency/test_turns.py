"""Whose turn it is: the bounds that `penstock.concurrency.turns` states, as laws."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.concurrency import Ask, Priority, Ticket
from penstock.concurrency.ask import Place
from penstock.concurrency.turns import (
    LAG_S,
    MOST_HEAD_START_S,
    MOST_MS,
    QUANTUM_MS,
    STRETCH,
    Turns,
    cost_ms,
)

WORK = st.floats(0.001, 90)


def come(turns: Turns, now_s: float = 0.0, **asks: object) -> Ticket:
    """Somebody comes to wait."""
    ticket = Ticket(Ask(**asks), now_s, 1e9)  # type: ignore[arg-type]
    ticket.place = Place.LANE
    turns.add(ticket)
    return ticket


def serve(turns: Turns) -> Ticket:
    """The next one has its turn."""
    ticket = turns.next()
    assert ticket is not None
    assert turns.next() is ticket
    assert turns.order()[0] is ticket
    turns.served(ticket)
    ticket.place = Place.OUTSIDE
    return ticket


@given(st.lists(st.tuples(st.sampled_from("abcd"), WORK), min_size=1, max_size=120))
def test_clients_that_both_wait_get_the_same_work(asked: list[tuple[str, float]]) -> None:
    """While two clients wait, what they got differs by no more than a quantum and two requests."""
    turns = Turns()
    waiting: Counter[str] = Counter()
    for client, work_s in asked:
        come(turns, client=client, work_s=work_s)
        waiting[client] += 1
    got: Counter[str] = Counter()
    while all(waiting[client] for client in set(waiting)):
        ticket = serve(turns)
        client = ticket.ask.client
        waiting[client] -= 1
        got[client] += cost_ms(ticket)
        counts = [got[c] for c in waiting]
        assert max(counts) - min(counts) <= QUANTUM_MS + 2 * MOST_MS


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.5, 5)), max_size=12),
    st.floats(0.001, 500),
)
def test_a_long_request_comes_to_its_turn(short: list[tuple[str, float]], work_s: float) -> None:
    """However long it is, each other client is served for at most fifteen rounds before it."""
    turns = Turns()
    for client, each_s in short:
        come(turns, client=client, work_s=each_s)
    long = come(turns, client="long", work_s=work_s)
    before: Counter[str] = Counter()
    while (ticket := serve(turns)) is not long:
        before[ticket.ask.client] += cost_ms(ticket)
        come(turns, client=ticket.ask.client, work_s=ticket.ask.work_s)  # it never ends by itself
    rounds = -(-cost_ms(long) // QUANTUM_MS)
    assert rounds <= MOST_MS // QUANTUM_MS
    for client in before:
        longest = max(cost_ms(t) for t in turns.order() if t.ask.client == client)
        assert before[client] <= (rounds + 1) * QUANTUM_MS + longest


@given(st.lists(st.tuples(st.floats(0, 100), WORK), min_size=2, max_size=40))
def test_within_a_client_nobody_passes_who_came_long_before(
    asked: list[tuple[float, float]],
) -> None:
    """A short request passes longer ones, but only those that came shortly before it."""
    turns = Turns()
    tickets = [come(turns, now_s, client="a", work_s=work_s) for now_s, work_s in sorted(asked)]
    order = [serve(turns) for _ in tickets]
    for place, first in enumerate(order):
        for later in order[place + 1 :]:
            passed_by_s = first.entered_s - later.entered_s
            assert passed_by_s <= min(MOST_HEAD_START_S, STRETCH * later.ask.work_s) + 1e-9


@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.sampled_from(Priority), st.sampled_from("ab")),
        min_size=2,
        max_size=40,
    )
)
def test_patient_requests_grow_older(asked: list[tuple[float, Priority, str]]) -> None:
    """A level is passed by a more urgent one only while the oldest there came within the lag."""
    turns = Turns()
    waiting = [
        come(turns, now_s, priority=priority, client=client)
        for now_s, priority, client in sorted(asked)
    ]
    while waiting:
        ticket = serve(turns)
        level = [t for t in waiting if t.ask.priority is ticket.ask.priority]
        aged = min(t.entered_s for t in level) + LAG_S[ticket.ask.priority]
        for other in waiting:
            assert aged <= other.entered_s + LAG_S[other.ask.priority]
        waiting.remove(ticket)


def test_one_client_with_a_hundred_and_one_with_three() -> None:
    """The modest one is served in turns with the greedy one, and done after a few."""
    turns = Turns()
    for _ in range(100):
        come(turns, client="greedy", work_s=2.0)
    modest = [come(turns, client="modest", work_s=2.0) for _ in range(3)]
    served = [serve(turns) for _ in range(7)]
    assert set(modest) <= set(served)


def test_a_short_request_goes_before_a_long_one_of_another_client() -> None:
    """Whoever has an hour of prefill waits for those who need a moment, and not the other way round."""
    turns = Turns()
    long = come(turns, client="agent", work_s=3600.0)
    short = [come(turns, 1.0, client="chat", work_s=0.5) for _ in range(4)]
    assert [serve(turns) for _ in range(5)] == [*short, long]


@pytest.mark.parametrize("clients", [1, 3])
def test_equal_requests_go_as_they_came(clients: int) -> None:
    """Nothing is shuffled without a reason."""
    turns = Turns()
    tickets = [come(turns, n, client=str(n % clients), work_s=2.0) for n in range(9)]
    assert [serve(turns) for _ in tickets] == tickets


def test_who_was_away_saved_nothing() -> None:
    """A client that waited before and left begins anew, behind the others."""
    turns = Turns()
    gone = come(turns, client="a", work_s=20.0)
    for _ in range(3):
        come(turns, client="b", work_s=1.0)
    serve(turns)
    gone.place = Place.OUTSIDE
    back = come(turns, client="a", work_s=3.0)
    assert serve(turns) is not back
