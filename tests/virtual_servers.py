"""
Model servers in virtual time, clients in front of them, and a limit between: a simulation without a clock.

A server here has slots (or takes whatever comes), shares its prefill speed between the prompts that it works on,
writes one token after the other for each answer, and is slowed down by what it has to do. What it leaves out:
batches (work is a flow, not steps), caches of prefixes (a prompt is what is not cached of it), networks.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from penstock.concurrency import Limit, Move, Sample


@dataclass(frozen=True)
class Server:
    """
    Attributes:
        prefill_tokens_per_s: of all prompts together.
        token_s: seconds per token of an answer, alone.
        slots: requests at work at a time; more wait inside, unseen. None takes all.
        slowdown: by what everything takes longer, of (requests at work, tokens held).
        kv_tokens: what all requests at work may hold together; with more, all of them fail.
        load: (when, how long): the model goes, and the next request waits for its load, with all others.
    """

    prefill_tokens_per_s: float = 2000.0
    token_s: float = 0.02
    slots: int | None = None
    slowdown: Callable[[int, float], float] = lambda at_work, held: 1.0
    kv_tokens: float | None = None
    load: tuple[float, float] | None = None


Lengths = Callable[[random.Random, float], tuple[int, int]]
"""(random numbers, now) -> (prompt tokens, answer tokens)."""


def usual(rng: random.Random, now_s: float) -> tuple[int, int]:
    """Prompts of 100 to 1,000 tokens, answers of 20 to 200."""
    return rng.randint(100, 1000), rng.randint(20, 200)


@dataclass(frozen=True)
class Clients:
    """
    Attributes:
        closed: so many ask, wait for the answer, and ask again.
        per_s: arrivals that wait for nobody, by Poisson; a queue of 100 takes them.
        lengths: of prompts and answers.
        during: of the whole run, (from, to).
        through_us: False for a neighbour, who goes to the server directly.
    """

    closed: int = 0
    per_s: float = 0.0
    lengths: Lengths = usual
    during: tuple[float, float] = (0.0, float("inf"))
    through_us: bool = True


class Follows(Protocol):
    """What decides how many requests are at work: `Limit`, or a fixed number."""

    number: int

    def take(self, sample: Sample) -> Move | None:
        """Learn from a request that has ended."""


class Fixed:
    """The same number for ever."""

    def __init__(self, number: int) -> None:
        self.number = number

    def take(self, sample: Sample) -> None:
        """Learn nothing."""


@dataclass(eq=False)
class _Job:
    owner: Clients
    prompt: float
    answer: float
    came_s: float
    effort: float
    sent_s: float = 0.0
    in_flight: int = 0
    prefill_left: float = 0.0
    answer_left: float = 0.0
    first_token_s: float | None = None
    cold: bool = False

    @property
    def held(self) -> float:
        return self.prompt + self.answer - self.answer_left


@dataclass
class Run:
    """
    What was seen of the clients that go through us.

    Attributes:
        limits: (when, limit) at the start and at each move.
        ended: (when, work of it in standard requests, time to first token from sending).
        failed, refused: how many.
        moves: of the limit.
    """

    limits: list[tuple[float, int]] = field(default_factory=list)
    ended: list[tuple[float, float, float]] = field(default_factory=list)
    failed: int = 0
    refused: int = 0
    moves: list[Move] = field(default_factory=list)

    def goodput(self, start_s: float, end_s: float) -> float:
        """Answers a second, each counted by the work that it was."""
        return sum(work for at, work, _ in self.ended if start_s <= at < end_s) / (end_s - start_s)

    def limit_at(self, now_s: float) -> int:
        """The limit in force."""
        return [number for at, number in self.limits if at <= now_s][-1]

    def average_limit(self, start_s: float, end_s: float) -> float:
        """The limit over a time."""
        total = 0.0
        for (at, number), (until, _) in zip(
            self.limits, [*self.limits[1:], (float("inf"), 0)], strict=True
        ):
            total += number * max(0.0, min(until, end_s) - max(at, start_s))
        return total / (end_s - start_s)

    def moved(self, start_s: float, end_s: float) -> Iterator[int]:
        """Each limit that was in force in a time."""
        yield self.limit_at(start_s)
        yield from (number for at, number in self.limits if start_s < at < end_s)


class _World:
    def __init__(self, server: Server, limit: Follows, seed: int) -> None:
        self.server, self.limit = server, limit
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.run = Run(limits=[(0.0, limit.number)])
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.queue: deque[_Job] = deque()
        self.ours = 0
        self.inside: deque[_Job] = deque()
        self.at_work: list[_Job] = []
        self.loading_until_s = -1.0
        self.lost_model = False
        self._count = 0

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self.events, (when_s, self._count, act))

    # Clients.

    def begin(self, clients: Clients) -> None:
        start_s = clients.during[0]
        for number in range(clients.closed):
            self.at(start_s + 0.05 * number, lambda: self.ask(clients))
        if clients.per_s:
            self.at(start_s, lambda: self.arrive(clients))

    def arrive(self, clients: Clients) -> None:
        if self.now_s < clients.during[1]:
            self.ask(clients)
            self.at(self.now_s + self.rng.expovariate(clients.per_s), lambda: self.arrive(clients))

    def ask(self, clients: Clients) -> None:
        if self.now_s >= clients.during[1]:
            return
        prompt, answer = clients.lengths(self.rng, self.now_s)
        job = _Job(clients, prompt, answer, self.now_s, self.rng.lognormvariate(0.0, 0.15))
        if not clients.through_us:
            self.send(job)
        elif len(self.queue) >= 100:
            self.run.refused += 1
        else:
            self.queue.append(job)
            self.admit()

    def admit(self) -> None:
        while self.queue and self.ours < self.limit.number:
            self.ours += 1
            job = self.queue.popleft()
            job.in_flight = self.ours
            self.send(job)

    def leave(self, job: _Job, *, failed: bool = False) -> None:
        if job.owner.closed:
            self.at(self.now_s + (1.0 if failed else 0.01), lambda: self.ask(job.owner))
        if not job.owner.through_us:
            return
        at_end, self.ours = self.ours, self.ours - 1
        if failed:
            self.run.failed += 1
            self.learn(Sample("too_much", job.sent_s, self.now_s, job.in_flight, at_end))
        else:
            assert job.first_token_s is not None
            ttft_s = job.first_token_s - job.sent_s
            work = job.prompt / self.server.prefill_tokens_per_s + job.answer * self.server.token_s
            self.run.ended.append((self.now_s, work, ttft_s))
            self.learn(
                Sample(
                    "success", job.sent_s, self.now_s, job.in_flight, at_end, ttft_s, int(job.prompt),
                    int(job.answer), self.now_s - job.first_token_s, job.cold,
                )
            )  # fmt: skip
        self.admit()

    def learn(self, sample: Sample) -> None:
        move = self.limit.take(sample)
        if move is not None:
            self.run.moves.append(move)
            self.run.limits.append((self.now_s, self.limit.number))

    # The server.

    def send(self, job: _Job) -> None:
        job.sent_s = self.now_s
        job.prefill_left, job.answer_left = job.prompt * job.effort, job.answer
        if self.lost_model:
            self.lost_model = False
            assert self.server.load is not None
            self.loading_until_s = self.now_s + self.server.load[1]
            self.at(self.loading_until_s, lambda: None)
            job.cold = True
        self.inside.append(job)
        self.fill()

    def fill(self) -> None:
        while self.inside and (self.server.slots is None or len(self.at_work) < self.server.slots):
            self.at_work.append(self.inside.popleft())
        kv = self.server.kv_tokens
        if kv is not None and sum(job.held for job in self.at_work) > kv:
            # llama.cpp ends all of them ("Context size has been exceeded."; update_slots in server-context.cpp).
            failed, self.at_work = self.at_work, []
            for job in failed:
                self.leave(job, failed=True)

    def lose_model(self) -> None:
        self.lost_model = True

    def speeds(self) -> list[tuple[_Job, float]]:
        if self.now_s < self.loading_until_s:
            return [(job, 0.0) for job in self.at_work]
        slow = self.server.slowdown(len(self.at_work), sum(job.held for job in self.at_work))
        prefilling = sum(job.prefill_left > 0 for job in self.at_work)
        return [
            (
                job,
                self.server.prefill_tokens_per_s / prefilling / slow
                if job.prefill_left > 0
                else 1 / (self.server.token_s * slow),
            )
            for job in self.at_work
        ]

    def step(self, end_s: float) -> None:
        speeds = self.speeds()
        until_s = min(end_s, self.events[0][0] if self.events else end_s)
        for job, speed in speeds:
            if speed:
                left = job.prefill_left if job.prefill_left > 0 else job.answer_left
                until_s = min(until_s, self.now_s + left / speed)
        passed_s = max(0.0, until_s - self.now_s)
        self.now_s = until_s
        done = []
        for job, speed in speeds:
            if not speed:
                continue
            if job.prefill_left > 0:
                job.prefill_left -= speed * passed_s
                if job.prefill_left <= 1e-6:
                    job.prefill_left, job.first_token_s = 0.0, self.now_s
            else:
                job.answer_left -= speed * passed_s
                if job.answer_left <= 1e-6:
                    job.answer_left = 0.0
                    done.append(job)
        for job in done:
            self.at_work.remove(job)
        for job in done:
            self.leave(job)
        while self.events and self.events[0][0] <= self.now_s:
            heapq.heappop(self.events)[2]()
        self.fill()


def play(
    server: Server, limit: Follows, clients: list[Clients], *, until_s: float, seed: int = 1
) -> Run:
    """Let *clients* ask *server* through *limit* until *until_s*."""
    world = _World(server, limit, seed)
    for one in clients:
        world.begin(one)
    if server.load is not None:
        world.at(server.load[0], world.lose_model)
    while world.now_s < until_s:
        world.step(until_s)
    return world.run


@dataclass(frozen=True)
class Scene:
    """
    A server, its clients, and how much is known of it.

    Attributes:
        start, ceiling, trusted: of the limit.
        at_most: fixed limits up to this one are tried for the best.
    """

    server: Server
    clients: tuple[Clients, ...] = (Clients(closed=40),)
    start: int = 1
    ceiling: int = 32
    trusted: bool = False
    at_most: int = 12

    def limit(self) -> Limit:
        """The product's own, as it begins."""
        return Limit(self.start, ceiling=self.ceiling, trusted=self.trusted)

    def play(self, limit: Follows, *, until_s: float, seed: int) -> Run:
        """Let it run."""
        return play(self.server, limit, list(self.clients), until_s=until_s, seed=seed)


def batch(at_work: int, held: float) -> float:
    """A batch takes a little longer with each request in it."""
    return 1 + 0.04 * (at_work - 1)


def knee(at: int) -> Callable[[int, float], float]:
    """Past *at* requests memory is moved to and fro: everything takes longer by the square."""
    return lambda at_work, held: max(1.0, (at_work / at) ** 2) * batch(at_work, held)


def full_cache(at_work: int, held: float) -> float:
    """Each token that is held is looked at for each token that is made."""
    return batch(at_work, held) * (1 + held / 20_000)


def told(slots: int, server: Server, *clients: Clients) -> Scene:
    """The server tells its slots."""
    return Scene(server, clients or (Clients(closed=40),), slots, slots, True, slots)


_NEIGHBOUR = Clients(closed=4, through_us=False, during=(180.0, 300.0))
SCENES: dict[str, Scene] = {
    "four slots": told(4, Server(slots=4, slowdown=batch)),
    "eight slots": told(8, Server(slots=8, slowdown=batch)),
    "four slots that it does not tell": Scene(Server(slots=4, slowdown=batch)),
    "ten slots that it does not tell": Scene(Server(slots=10, slowdown=batch), start=4),
    "one slot that it does not tell": Scene(Server(slots=1), start=4),
    "unified KV": Scene(Server(slowdown=full_cache, kv_tokens=5000)),
    "unified KV under sixteen slots": told(
        16, Server(slots=16, slowdown=full_cache, kv_tokens=5000)
    ),
    "thrashing past six": Scene(Server(slowdown=knee(6))),
    "thrashing past four of eight slots": told(8, Server(slots=8, slowdown=knee(4))),
    "a cold load in the middle": told(4, Server(slots=4, slowdown=batch, load=(150.0, 25.0))),
    "a noisy neighbour": Scene(Server(slowdown=knee(6)), (Clients(closed=40), _NEIGHBOUR)),
    "a noisy neighbour at six slots": told(
        6, Server(slots=6, slowdown=batch), Clients(closed=40), _NEIGHBOUR
    ),
    "four slots and arrivals that wait for nobody": told(
        4, Server(slots=4, slowdown=batch), Clients(per_s=4.0)
    ),
}
