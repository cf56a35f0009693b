"""The asynchronous limiter: no permit is lost, none is given twice, whatever is cancelled when."""

from __future__ import annotations

import asyncio

import pytest

from loops import until
from penstock.concurrency import Ask, ConcurrencyOptions
from penstock.errors import ErrorCode, Refused
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit, TurnedAway


def limiter(limit: int = 1, **options: float) -> Limiter:
    """A limiter."""
    return Limiter(limit, ConcurrencyOptions(**options))  # type: ignore[arg-type]


async def take(of: Limiter, deadline_s: float = 5.0) -> Permit:
    """A permit."""
    return await of.acquire(Ask(size_bytes=10), deadline_s=deadline_s)


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


def test_who_is_turned_away_has_no_place_and_no_permit() -> None:
    """Nor has anybody who was in the queue with it; those at work stay."""

    async def main() -> None:
        one = limiter(1)
        first = await take(one)
        rest = [asyncio.create_task(take(one)) for _ in range(3)]
        await until(lambda: one.waiting == 3)
        one.turn_away()
        first.release()  # in the same moment
        results = await asyncio.gather(*rest, return_exceptions=True)
        assert [type(result) for result in results] == [TurnedAway] * 3
        # Whoever does not ask the breaker again can tell it to the client.
        assert all(isinstance(one, Refused) and one.retry_after_s for one in results)
        assert (one.running, one.waiting, one.free) == (0, 0, 1)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["turned away", "cancelled"])
@pytest.mark.parametrize("when", ["before", "in that moment", "after"])
def test_a_ghosts_permit_comes_back_whatever_becomes_of_its_heir(end: str, when: str) -> None:
    """The ghost ends before the heir stops waiting, in the very moment, or after."""

    async def main() -> None:
        one = limiter(1)
        haunted = Haunted(await take(one), one, "ghost")
        heir = asyncio.create_task(haunted.inherit(5.0))
        await until(lambda: one.waiting == 1)
        if when == "before":
            haunted.release()
        if end == "cancelled":
            heir.cancel()
        else:
            one.turn_away()
        if when == "in that moment":
            haunted.release()
        (result,) = await asyncio.gather(heir, return_exceptions=True)
        if isinstance(result, Permit):
            result.release()
        if when == "after":
            assert one.running == 1
            haunted.release()
        assert (one.running, one.waiting) == (0, 0)

    asyncio.run(main())
