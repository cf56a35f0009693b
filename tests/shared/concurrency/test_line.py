"""The line in front of permits, held to its laws by a machine that plays clients."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from penstock.concurrency import (
    Ask,
    ConcurrencyOptions,
    Granted,
    Line,
    Priority,
    Queued,
    RefusedEntry,
    Ticket,
)

ASKS = st.builds(
    Ask,
    weight=st.integers(1, 4),
    size_bytes=st.integers(0, 300),
    tokens=st.integers(0, 900),
    work_s=st.floats(0.01, 60),
    client=st.sampled_from("abc"),
    priority=st.sampled_from(Priority),
    model=st.sampled_from("mn"),
    conversation=st.integers(0, 3),
)


class Clients(RuleBasedStateMachine):
    """Clients that come, finish, leave, come back and time out, in any order, at servers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.options = ConcurrencyOptions(queue_length=6, queue_bytes=1000)
        self.line = Line(3, self.options)
        self.now = 1.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.left: list[Ticket] = []

    @initialize(
        tokens=st.none() | st.just(1000),
        models=st.none() | st.just(1),
        slots=st.none() | st.just(3),
    )
    def a_server(self, tokens: int | None, models: int | None, slots: int | None) -> None:
        """What its slots have in common."""
        self.line.share_tokens(tokens, self.now)
        self.line.group_models(models, self.now)
        self.line.keep_slots(slots, self.now)

    def granted(self, tickets: list[Ticket]) -> None:
        """Permits were handed out: to those who waited, and to nobody twice."""
        assert len(set(tickets)) == len(tickets)
        for ticket in tickets:
            self.waiting.remove(ticket)
            self.running.append(ticket)
            assert ticket.granted_s == self.now

    @rule(ask=ASKS, patience=st.floats(0.1, 40), first=st.booleans())
    def enter(self, ask: Ask, patience: float, first: bool) -> None:
        """Somebody comes."""
        ticket = Ticket(ask, self.now, self.now + patience)
        entry = self.line.enter_first(ticket) if first else self.line.enter(ticket)
        if isinstance(entry, Granted):
            self.running.append(ticket)
        elif isinstance(entry, Queued):
            self.waiting.append(ticket)
            self.granted(self.line.advance(self.now))
        else:
            assert isinstance(entry, RefusedEntry)
            full = len(self.waiting) >= self.options.queue_length
            heavy = sum(t.ask.size_bytes for t in self.waiting) + ask.size_bytes > 1000
            assert full or heavy
            assert entry.retry_after_s >= 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Somebody has finished; doing so twice changes nothing."""
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        self.granted(self.line.leave(ticket, self.now))
        assert self.line.leave(ticket, self.now) == []

    @precondition(lambda self: self.running)
    @rule(data=st.data(), conversation=st.integers(0, 3))
    def is_named(self, data: st.DataObject, conversation: int) -> None:
        """It is found out late which conversation a request belongs to."""
        self.line.belongs_to(data.draw(st.sampled_from(self.running)), conversation, self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), keeps_its_place=st.booleans())
    def hang_up(self, data: st.DataObject, keeps_its_place: bool) -> None:
        """Somebody leaves the line, for ever or for a while."""
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        if keeps_its_place:
            self.left.append(ticket)
            self.granted(self.line.step_out(ticket, self.now))
        else:
            self.granted(self.line.abort(ticket, self.now))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Somebody comes back to a place."""
        ticket = data.draw(st.sampled_from(self.left))
        self.left.remove(ticket)
        if self.line.come_back(ticket, self.now, self.now + 5.0):
            self.waiting.append(ticket)
            self.granted(self.line.advance(self.now))
        assert not self.line.come_back(ticket, self.now, self.now + 5.0)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        """Those whose patience is over go."""
        self.now += seconds
        late = [t for t in self.waiting if t.deadline_s <= self.now]
        assert sorted(self.line.expire(self.now), key=id) == sorted(late, key=id)
        for ticket in late:
            self.waiting.remove(ticket)
        self.granted(self.line.advance(self.now))

    @rule(limit=st.integers(0, 6))
    def resize(self, limit: int) -> None:
        """Another number of permits."""
        self.granted(self.line.resize(limit, self.now))

    @rule(models=st.none() | st.integers(1, 2))
    def regroup(self, models: int | None) -> None:
        """It turns out that the server holds another number of models."""
        self.granted(self.line.group_models(models, self.now))

    @rule(slots=st.none() | st.integers(1, 4))
    def other_slots(self, slots: int | None) -> None:
        """It turns out that the server has another number of slots."""
        self.granted(self.line.keep_slots(slots, self.now))

    @rule(tokens=st.none() | st.integers(1, 2000))
    def other_tokens(self, tokens: int | None) -> None:
        """It turns out that the slots share a cache."""
        self.granted(self.line.share_tokens(tokens, self.now))

    @invariant()
    def counts_are_right(self) -> None:
        """What is out and what waits is what clients know of, and the order has each of them once."""
        line = self.line
        assert line.in_use == sum(t.ask.weight for t in self.running)
        assert line.tokens_in_use == sum(t.ask.tokens for t in self.running)
        assert line.running == len(self.running)
        assert line.waiting == len(self.waiting)
        assert line.waiting_bytes == sum(t.ask.size_bytes for t in self.waiting)
        order = line.order()
        assert len(order) == len(self.waiting)
        assert set(order) == set(self.waiting)
        assert sum(line.clients().values()) == len(self.waiting)

    @invariant()
    def somebody_works_while_somebody_waits(self) -> None:
        """A server is never idle while somebody waits, but for the moment in which a slot is kept."""
        if self.waiting and not self.running:
            oldest = min(t.entered_s for t in self.waiting)
            assert self.now < oldest + self.options.keep_slot_s

    @invariant()
    def something_is_due(self) -> None:
        """Whoever waits is woken by something: a deadline at the latest."""
        due = self.line.next_due_s(self.now)
        assert (due is None) == (not self.waiting)
        assert due is None or due <= min(t.deadline_s for t in self.waiting)

    def teardown(self) -> None:
        """When all have gone nothing is left."""
        for ticket in [*self.running, *self.waiting]:
            self.line.abort(ticket, self.now)
        for ticket in [*self.running, *self.waiting]:
            self.line.abort(ticket, self.now)
        assert (self.line.in_use, self.line.tokens_in_use, self.line.waiting) == (0, 0, 0)
        assert self.line.next_due_s(self.now) is None


Clients.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestLine = Clients.TestCase


class OverTheLimit(RuleBasedStateMachine):
    """Only for the limits: what is granted while they stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(3, ConcurrencyOptions())
        self.line.share_tokens(1000, 0.0)
        self.out: list[Ticket] = []
        self.all: list[Ticket] = []

    @rule(ask=ASKS)
    def enter(self, ask: Ask) -> None:
        """Somebody comes."""
        ticket = Ticket(ask, 1.0, 100.0)
        self.all.append(ticket)
        self.line.enter(ticket)
        self.line.advance(1.0)

    @rule(data=st.data())
    @precondition(lambda self: any(t.granted_s is not None for t in self.all))
    def leave(self, data: st.DataObject) -> None:
        """Somebody has finished."""
        running = [t for t in self.all if t.granted_s is not None]
        ticket = data.draw(st.sampled_from(running))
        self.all.remove(ticket)
        self.line.leave(ticket, 2.0)

    @invariant()
    def holds(self) -> None:
        """Weight and tokens that are out are within the limits, or one request is alone."""
        line = self.line
        assert line.running <= 1 or line.in_use <= line.limit
        assert line.running <= 1 or line.tokens_in_use <= (line.tokens or 0)


OverTheLimit.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestLimits = OverTheLimit.TestCase


def line_of(limit: int = 1, **options: float) -> Line:
    """A line."""
    return Line(limit, ConcurrencyOptions(**options))  # type: ignore[arg-type]


def come(line: Line, now_s: float, patience_s: float = 1000.0, **asks: object) -> Ticket:
    """Somebody comes and waits, or works."""
    ticket = Ticket(Ask(**asks), now_s, now_s + patience_s)  # type: ignore[arg-type]
    assert not isinstance(line.enter(ticket), RefusedEntry)
    line.advance(now_s)
    return ticket


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    """Whoever is next and does not fit is waited for; nobody passes it."""
    line = line_of(4)
    running = [come(line, 0.0) for _ in range(4)]
    heavy = come(line, 1.0, weight=4)
    small = come(line, 2.0)
    for ticket in running[:3]:
        assert line.leave(ticket, 3.0) == []
    assert line.leave(running[3], 3.0) == [heavy]
    assert line.leave(heavy, 4.0) == [small]


def test_permits_carry_tokens_where_a_cache_is_shared() -> None:
    """Two prompts that would overflow it together follow one another; before that is known they do not."""
    line = line_of(4)
    first, second = come(line, 0.0, tokens=600), come(line, 0.0, tokens=600)
    assert line.running == 2
    line.leave(second, 1.0)
    line.share_tokens(1000, 1.0)
    third = come(line, 1.0, tokens=600)
    assert third.granted_s is None
    assert line.leave(first, 2.0) == [third]
    alone = come(line, 3.0, tokens=5000)
    assert line.leave(third, 4.0) == [alone]


def test_a_place_is_kept_for_who_hangs_up_and_comes_back() -> None:
    """Behind those it was behind, before those it was before; nobody waits for an empty chair."""
    line = line_of()
    work = come(line, 0.0)
    first, second, third = (come(line, n, client="a") for n in (1.0, 2.0, 3.0))
    line.step_out(second, 4.0)
    assert (line.waiting, line.order()) == (2, [first, third])
    assert line.come_back(second, 5.0, 100.0)
    assert line.order() == [first, second, third]
    line.step_out(first, 6.0)
    assert line.leave(work, 7.0) == [second]


def test_who_missed_its_turn_is_next() -> None:
    """Its turn came while it was away: it goes before all others."""
    line = line_of()
    work = come(line, 0.0)
    first, second, _ = (come(line, n, client="a") for n in (1.0, 2.0, 3.0))
    other = come(line, 3.5, client="b", work_s=0.1)
    line.step_out(first, 4.0)
    granted = line.leave(work, 5.0)
    assert granted in ([second], [other])
    assert line.come_back(first, 6.0, 100.0)
    assert line.order()[0] is first
    assert line.leave(granted[0], 7.0) == [first]


def test_a_place_is_not_kept_for_ever() -> None:
    """Who comes after more than a minute comes anew."""
    line = line_of()
    come(line, 0.0)
    first = come(line, 1.0)
    line.step_out(first, 2.0)
    assert not line.come_back(first, 63.0, 100.0)
    assert line.waiting == 0


def test_retry_after_follows_the_measured_rate() -> None:
    """A line that moves every two seconds is half as long after as many grants as half of it takes."""
    line = line_of(1, queue_length=10)
    work = come(line, 0.0)
    waiting = [come(line, 0.0) for _ in range(10)]
    now = 0.0
    for _ in range(5):
        now += 2.0
        (work,) = line.leave(work, now)
        waiting.remove(work)
        waiting.append(come(line, now))
    refused = line.enter(Ticket(Ask(), now, now + 100.0))
    assert isinstance(refused, RefusedEntry)
    assert refused.retry_after_s == 2.0 * 6
    assert line.expected_wait_s(now, 3) == 6.0
    assert line.expected_wait_s(now + 50.0, 1) == 50.0  # it stands still


def test_who_waits_aside_is_not_forgotten_when_the_slot_is_kept_longer() -> None:
    """The conversation came back and went again meanwhile: there is still a time at which something is due."""
    line = Line(1, ConcurrencyOptions(keep_slot_s=2.0))
    line.keep_slots(1, 0.0)

    def asked(conversation: int, now_s: float) -> Ticket:
        ticket = Ticket(Ask(conversation=conversation), now_s, now_s + 100.0)
        line.enter(ticket)
        line.advance(now_s)
        return ticket

    line.leave(asked(1, 0.0), 0.1)
    line.leave(asked(1, 0.2), 0.3)
    stranger = asked(2, 0.4)
    assert stranger.granted_s is None
    assert line.next_due_s(0.4) == pytest.approx(2.3)
    back = asked(1, 0.5)
    assert back.granted_s == 0.5
    line.leave(back, 2.2)
    assert line.advance(2.3) == []
    assert line.next_due_s(2.3) == pytest.approx(2.4)
    assert line.advance(2.4) == [stranger]
