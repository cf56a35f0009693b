"""The line in front of permits, held to its laws by a machine that plays clients."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loops import until
from penstock.concurrency import ConcurrencyOptions, Granted, Line, Queued, RefusedEntry, Ticket
from penstock.errors import ErrorCode, Refused
from penstock.gateway.steps.limiter import Limiter, Permit


class Clients(RuleBasedStateMachine):
    """Clients that come, finish, leave and time out, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.options = ConcurrencyOptions(queue_length=5, queue_bytes=1000)
        self.line = Line(3, self.options)
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.gone: list[Ticket] = []

    def granted(self, tickets: list[Ticket]) -> None:
        """Permits were handed out: to those who came first, and to nobody twice."""
        assert tickets == self.waiting[: len(tickets)]
        for ticket in tickets:
            self.waiting.remove(ticket)
            self.running.append(ticket)

    @rule(weight=st.integers(1, 5), size=st.integers(0, 400), patience=st.floats(0.1, 20))
    def enter(self, weight: int, size: int, patience: float) -> None:
        """Somebody comes."""
        ticket = Ticket(weight, size, self.now, self.now + patience)
        entry = self.line.enter(ticket)
        if isinstance(entry, Granted):
            assert not self.waiting
            self.running.append(ticket)
        elif isinstance(entry, Queued):
            self.waiting.append(ticket)
            assert entry.position == len(self.waiting)
        else:
            assert isinstance(entry, RefusedEntry)
            full = len(self.waiting) >= self.options.queue_length
            heavy = sum(t.size_bytes for t in self.waiting) + size > self.options.queue_bytes
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

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """Somebody leaves the line."""
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.granted(self.line.abort(ticket, self.now))

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        """Those whose patience is over go."""
        self.now += seconds
        late = [t for t in self.waiting if t.deadline_s <= self.now]
        expired, granted = self.line.expire(self.now)
        assert expired == late
        for ticket in expired:
            self.waiting.remove(ticket)
        self.granted(granted)

    @rule(limit=st.integers(0, 6))
    def resize(self, limit: int) -> None:
        """The server has another number of slots."""
        self.granted(self.line.resize(limit, self.now))

    @invariant()
    def laws(self) -> None:
        """Counts are right, the limit holds (but for one alone), and nobody waits for nothing."""
        assert self.line.in_use == sum(t.weight for t in self.running)
        assert self.line.running == len(self.running)
        assert self.line.waiting == len(self.waiting)
        assert [self.line.position(t) for t in self.waiting] == list(
            range(1, len(self.waiting) + 1)
        )
        if self.waiting:
            first = self.waiting[0]
            assert self.running
            assert self.line.in_use + first.weight > self.line.limit


Clients.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLine = Clients.TestCase


def test_the_limit_is_never_exceeded_but_by_one_alone() -> None:
    """Unless the limit shrank under those who run, weight out is at most the limit or one ticket."""
    line = Line(2, ConcurrencyOptions())
    heavy = Ticket(5, 0, 0.0, 9.0)
    assert isinstance(line.enter(heavy), Granted)
    assert isinstance(line.enter(Ticket(1, 0, 0.0, 9.0)), Queued)
    assert line.free == 0
    assert len(line.leave(heavy, 1.0)) == 1


# The asynchronous limiter.


def limiter(limit: int = 1, **options: float) -> Limiter:
    """A limiter."""
    return Limiter(limit, ConcurrencyOptions(**options))  # type: ignore[arg-type]


async def take(of: Limiter, deadline_s: float = 5.0) -> Permit:
    """A permit."""
    return await of.acquire(weight=1, size_bytes=10, deadline_s=deadline_s)


def test_free_permits_cost_no_task_and_no_timer() -> None:
    """Whoever finds one free does not even yield."""

    async def main() -> None:
        one = limiter(2)
        coroutine = take(one)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        assert one.running == 1

    asyncio.run(main())


def test_releasing_twice_gives_one_back() -> None:
    """Idempotent."""

    async def main() -> None:
        one = limiter(1)
        permit = await take(one)
        permit.release()
        permit.release()
        assert (one.running, one.free) == (0, 1)

    asyncio.run(main())


def test_first_come_first_served() -> None:
    """In the order of their coming."""

    async def main() -> None:
        one, order = limiter(1), []
        first = await take(one)

        async def client(number: int) -> None:
            permit = await take(one)
            order.append(number)
            permit.release()

        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(client(number)))
            await asyncio.sleep(0)
        first.release()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
        assert one.running == one.waiting == 0

    asyncio.run(main())


def test_cancelled_while_waiting() -> None:
    """Its place goes to the next."""

    async def main() -> None:
        one = limiter(1)
        first = await take(one)
        second, third = asyncio.create_task(take(one)), asyncio.create_task(take(one))
        await until(lambda: one.waiting == 2)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        first.release()
        (await third).release()
        assert one.running == one.waiting == 0

    asyncio.run(main())


def test_cancelled_in_the_moment_of_being_granted() -> None:
    """The permit is not lost."""

    async def main() -> None:
        one = limiter(1)
        first = await take(one)
        second = asyncio.create_task(take(one))
        await until(lambda: one.waiting == 1)
        first.release()  # granted, but the task has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (one.running, one.free) == (0, 1)

    asyncio.run(main())


def test_the_deadline_and_a_release_in_the_same_moment() -> None:
    """Either a permit or a refusal, and nothing left over."""

    async def main() -> None:
        for _ in range(50):
            one = limiter(1)
            first = await take(one)
            waiting = asyncio.create_task(take(one, deadline_s=0.001))
            asyncio.get_running_loop().call_later(0.001, first.release)
            result = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if isinstance(result, Permit):
                result.release()
            else:
                assert isinstance(result, Refused)
                assert result.code is ErrorCode.QUEUE_DEADLINE
            await until(lambda: one.running == 0)  # noqa: B023
            assert one.waiting == 0

    asyncio.run(main())


def test_more_slots_let_more_in() -> None:
    """At once; fewer leave those who run alone."""

    async def main() -> None:
        one = limiter(1)
        first = await take(one)
        waiting = [asyncio.create_task(take(one)) for _ in range(3)]
        await until(lambda: one.waiting == 3)
        one.resize(3)
        await until(lambda: one.running == 3)
        one.resize(1)
        assert one.running == 3
        first.release()
        assert one.waiting == 1
        for task in waiting[:2]:
            (await task).release()
        (await waiting[2]).release()
        assert one.running == 0

    asyncio.run(main())


def test_ten_thousand_clients_leave_nothing_behind() -> None:
    """Whatever becomes of them."""

    async def main() -> None:
        one = limiter(4, queue_length=50)

        async def client(number: int) -> None:
            try:
                permit = await take(one, deadline_s=0.01 if number % 7 == 0 else 5.0)
            except Refused:
                return
            try:
                await asyncio.sleep(0)
            finally:
                permit.release()

        for start in range(0, 10_000, 100):
            tasks = [asyncio.create_task(client(n)) for n in range(start, start + 100)]
            await asyncio.sleep(0)
            for task in tasks[::9]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (one.running, one.waiting, one.free) == (0, 0, 4)
        assert not one._waiters

    asyncio.run(main())
