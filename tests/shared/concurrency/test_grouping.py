"""Requests for one model go together where the server would load anew, and no model is starved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.concurrency import Ask, ConcurrencyOptions, Line, Ticket
from penstock.concurrency.grouping import ESCAPE_S, MOST_IN_A_ROW, TURN_S


class Server:
    """A line for a server with one model at a time; counts how often the model changes."""

    def __init__(self, limit: int = 1, at_once: int = 1) -> None:
        self.line = Line(limit, ConcurrencyOptions(queue_length=10_000))
        self.line.group_models(at_once, 0.0)
        self.now = 0.0
        self.running: list[Ticket] = []
        self.order: list[str] = []

    def ask(self, model: str) -> Ticket:
        """A request."""
        ticket = Ticket(Ask(model=model, work_s=0.1), self.now, 1e9)
        self.line.enter(ticket)
        self._started([ticket] if ticket.granted_s is not None else self.line.advance(self.now))
        return ticket

    def end(self) -> None:
        """The one that runs longest has ended."""
        self._started(self.line.leave(self.running.pop(0), self.now))

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self._started(self.line.advance(self.now))

    def _started(self, tickets: list[Ticket]) -> None:
        self.running += tickets
        self.order += [ticket.ask.model for ticket in tickets]

    @property
    def changes(self) -> int:
        """How often another model had to be loaded."""
        return sum(one != other for one, other in zip(self.order, self.order[1:], strict=False))


def test_a_b_a_b_becomes_a_a_b_b() -> None:
    """Twelve requests for two models in turns cost one change instead of eleven."""
    server = Server()
    for number in range(12):
        server.ask("ab"[number % 2])
    while server.running:
        server.end()
    assert "".join(server.order) == "aaaaaabbbbbb"


def test_another_model_waits_for_what_is_at_work() -> None:
    """It does not begin beside it although a permit is free; it begins when the last one has ended."""
    server = Server(limit=4)
    server.ask("a")
    server.ask("a")
    other = server.ask("b")
    assert other.granted_s is None
    server.end()
    assert other.granted_s is None
    server.end()
    assert other.granted_s is not None


def test_two_models_side_by_side_are_not_grouped() -> None:
    """Where the server holds both."""
    server = Server(limit=4, at_once=2)
    assert [server.ask(model).granted_s for model in "abab"] == [0.0] * 4
    assert server.ask("c").granted_s is None


def test_other_models_are_not_starved_by_number() -> None:
    """After so many in a row the other one has its turn, however many more wait."""
    server = Server()
    server.ask("a")
    other = server.ask("b")
    for _ in range(100):
        server.ask("a")
    for _ in range(MOST_IN_A_ROW + 1):
        server.end()
    assert other.granted_s is not None


def test_other_models_are_not_starved_by_time() -> None:
    """After so many seconds the one at work gets no more."""
    server = Server(limit=2)
    server.ask("a")
    other = server.ask("b")
    server.wait(TURN_S - 0.1)
    assert server.ask("a").granted_s is not None
    server.wait(0.2)
    late = server.ask("a")
    server.end()
    assert late.granted_s is None
    server.end()
    assert other.granted_s is not None


def test_what_is_believed_of_the_room_may_be_wrong() -> None:
    """A free permit is used after a while, whatever else is at work; and the line wakes up for it by itself."""
    server = Server(limit=2)
    server.ask("a")
    other = server.ask("b")
    assert server.line.next_due_s(server.now) == ESCAPE_S
    server.wait(ESCAPE_S)
    assert other.granted_s is not None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80), st.integers(1, 3))
def test_all_are_served_with_few_changes(models: list[str], limit: int) -> None:
    """Nobody is forgotten, and a change costs a group at least."""
    server = Server(limit)
    for model in models:
        server.ask(model)
    while server.running:
        assert len({ticket.ask.model for ticket in server.running}) == 1
        server.end()
    assert sorted(server.order) == sorted(models)
    assert server.changes <= 2 + len(models) // MOST_IN_A_ROW
