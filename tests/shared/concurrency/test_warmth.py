"""Slots that are warm with a conversation are kept for it for a moment, and for no longer."""

from __future__ import annotations

import pytest

from penstock.concurrency import Ask, ConcurrencyOptions, Line, Ticket

KEEP_S = ConcurrencyOptions().keep_slot_s


class Server:
    """A line for a server with slots that stay warm."""

    def __init__(self, slots: int) -> None:
        self.line = Line(slots, ConcurrencyOptions())
        self.line.keep_slots(slots, 0.0)
        self.now = 0.0

    def ask(self, conversation: int) -> Ticket:
        """A request."""
        ticket = Ticket(Ask(conversation=conversation), self.now, 1e9)
        self.line.enter(ticket)
        self.line.advance(self.now)
        return ticket

    def serve(self, conversation: int, seconds: float = 1.0) -> None:
        """A request from its beginning to its end."""
        ticket = self.ask(conversation)
        assert ticket.granted_s == self.now
        self.now += seconds
        self.end(ticket)

    def end(self, ticket: Ticket) -> None:
        """A request has ended."""
        self.line.leave(ticket, self.now)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.line.advance(self.now)

    def agent(self, conversation: int) -> None:
        """A conversation that was seen to come back at once."""
        self.serve(conversation)
        self.wait(0.3)
        self.serve(conversation)


def test_a_stranger_does_not_take_the_slot_of_who_is_about_to_come_back() -> None:
    """The agent finds its slot when it is back from its tool; the stranger goes after it."""
    server = Server(1)
    server.agent(1)
    stranger = server.ask(2)
    assert (stranger.granted_s, stranger.was_kept) == (None, True)
    server.wait(0.4)
    agent = server.ask(1)
    assert agent.granted_s == server.now
    server.wait(3.0)
    server.end(agent)
    assert stranger.granted_s == server.now


def test_it_waits_no_longer_than_that() -> None:
    """The agent does not come: the slot goes to the stranger, and the line wakes up for that by itself."""
    server = Server(1)
    server.agent(1)
    ended_s = server.now
    stranger = server.ask(2)
    assert server.line.next_due_s(server.now) == pytest.approx(ended_s + KEEP_S)
    server.wait(KEEP_S)
    assert stranger.granted_s is not None


@pytest.mark.parametrize(
    ("slots", "before"),
    [
        pytest.param(1, [1], id="who came only once"),
        pytest.param(2, [1, 1], id="a cold slot is free"),
        pytest.param(2, [3, 1, 1], id="another slot will do"),
    ],
)
def test_nobody_is_waited_for_without_need(slots: int, before: list[int]) -> None:
    """A stranger goes at once."""
    server = Server(slots)
    for conversation in before:
        server.serve(conversation)
        server.wait(0.1)
    assert server.ask(2).granted_s == server.now


def test_the_last_warm_slot_is_not_taken_while_another_may_become_free() -> None:
    """One slot works, the other is an agent's: the stranger gets the one that becomes free first."""
    server = Server(2)
    busy = server.ask(9)
    server.agent(1)
    stranger = server.ask(2)
    assert stranger.granted_s is None
    server.wait(0.2)
    server.end(busy)
    assert stranger.granted_s == server.now
    assert server.ask(1).granted_s == server.now


def test_requests_of_one_conversation_follow_one_another() -> None:
    """The second one waits for the slot of the first rather than take another's."""
    server = Server(2)
    server.serve(2)
    first = server.ask(1)
    second = server.ask(1)
    assert (second.granted_s, second.was_kept) == (None, True)
    server.wait(1.0)
    server.end(first)
    assert second.granted_s == server.now


def test_they_do_not_follow_one_another_for_ever() -> None:
    """A long answer does not keep the next request from a free slot."""
    server = Server(2)
    server.serve(2)
    server.ask(1)
    second = server.ask(1)
    server.wait(KEEP_S)
    assert second.granted_s == server.now


def test_under_load_no_slot_is_idle() -> None:
    """Who has waited longer than a slot would be kept takes whatever is free."""
    server = Server(1)
    server.agent(1)
    agent = server.ask(1)
    waiting = [server.ask(100 + n) for n in range(20)]
    server.wait(10.0)
    for ticket in waiting:
        server.end(agent)
        assert ticket.granted_s == server.now
        agent = ticket
        server.wait(1.0)


def test_a_conversation_that_becomes_known_late_is_known() -> None:
    """Most are recognised only while the server is at work on them already."""
    server = Server(1)
    for _ in range(2):
        ticket = server.ask(0)
        server.line.belongs_to(ticket, 1, server.now)
        server.wait(1.0)
        server.end(ticket)
        server.wait(0.3)
    assert server.ask(2).granted_s is None


def test_many_conversations_are_remembered_but_not_all() -> None:
    """Memory is bounded."""
    server = Server(2)
    for conversation in range(1, 3000):
        server.serve(conversation, 0.01)
        server.serve(conversation, 0.01)
    warmth = server.line._warmth
    assert warmth is not None
    assert len(warmth._comes_back) <= 1024
    assert len(warmth._idle) <= 2
    assert not warmth._running
