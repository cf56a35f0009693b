"""
Whether an upstream that fails is asked at all: a circuit breaker, one per upstream.

It opens when three client requests in a row ended in a fault that speaks against the server, or when too large a
share of the recent ones did. Open, nobody is sent; after a delay that grows with each failure one request goes
through as a probe, and its outcome decides. What was sent before the breaker opened decides nothing any more.
Closed again, all may come at once: the limiter is what bounds them, so there is no slow start here.

Sources: Nygard, "Release It!" (2nd edition, Circuit Breaker); Fowler, "CircuitBreaker"; Envoy, outlier detection
(consecutive and share, growing ejection time).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from penstock.domain.options import Options, option


class BreakerOptions(Options):
    """When a local upstream that fails is left alone for a while."""

    enabled: bool = option(True, effect="Leave an upstream alone that fails again and again.")
    failures: int = option(
        3,
        effect="Requests in a row that end in a fault of the upstream until it is left alone.",
        reason="Each has had all its attempts before it counts.",
        ge=1,
        le=1000,
    )
    share: float = option(
        0.5,
        effect="Share of the recent requests that may end so.",
        unit="share",
        reason="A server that fails every second request never fails three in a row.",
        gt=0,
        le=1,
    )
    window_s: float = option(
        60.0, effect="How long a request counts as recent.", unit="seconds", gt=0
    )
    least_requests: int = option(
        10, effect="Recent requests below which the share says nothing.", ge=1, le=10_000
    )
    first_delay_s: float = option(
        5.0, effect="First delay until one request is tried.", unit="seconds", gt=0
    )
    longest_delay_s: float = option(60.0, effect="Longest such delay.", unit="seconds", gt=0)
    factor: float = option(2.0, effect="Each delay is the one before times this.", ge=1, le=10)


class BreakerState(StrEnum):
    """`closed` lets all through, `open` nobody, `half_open` one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Pass(NamedTuple):
    """
    The right to be sent.

    Attributes:
        era: which closing or opening it belongs to: results of an earlier one are no news.
        is_probe: its outcome decides.
    """

    era: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """The breaker has opened: why, and for how long."""

    why: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The breaker has closed; it was open for so many seconds."""

    after_s: float


_JITTER = 0.2


class Breaker:
    """
    Times are seconds of any one clock.

    Attributes:
        state: see `BreakerState`.
        why: why it opened last, "" before.
        since_s: when it opened, None while it is closed.
    """

    def __init__(self, options: BreakerOptions) -> None:
        self.options = options
        self.state = BreakerState.CLOSED
        self.why = ""
        self.since_s: float | None = None
        self._era = 0
        self._in_a_row = 0
        self._openings = 0
        self._until_s = 0.0
        self._is_probing = False
        self._recent: deque[tuple[float, bool]] = deque()
        self._recent_failures = 0

    def ask(self, now_s: float) -> Pass | None:
        """May a request be sent now? None when it may not."""
        if self.state is BreakerState.CLOSED or not self.options.enabled:
            return Pass(self._era, False)
        if self.state is BreakerState.OPEN and now_s >= self._until_s:
            self.state = BreakerState.HALF_OPEN
        if self.state is BreakerState.OPEN or self._is_probing:
            return None
        self._is_probing = True
        return Pass(self._era, True)

    def is_current(self, passed: Pass) -> bool:
        """Whether it has neither opened nor closed since."""
        return passed.era == self._era

    def has_opened_since(self, passed: Pass) -> bool:
        """Whether nobody who was let through before is to be sent any more."""
        return passed.era != self._era and self.state is not BreakerState.CLOSED

    @property
    def is_probing(self) -> bool:
        """Whether a request is on its way whose outcome decides."""
        return self._is_probing

    def is_open(self, now_s: float) -> bool:
        """Whether a request that came now would be refused. Asks for nothing."""
        if self.state is BreakerState.CLOSED or not self.options.enabled:
            return False
        return self._is_probing or now_s < self._until_s

    def retry_after_s(self, now_s: float) -> float:
        """When asking again makes sense."""
        return max(1.0, self._until_s - now_s)

    def succeeded(self, passed: Pass, now_s: float) -> Closed | None:
        """The upstream did its work."""
        if passed.era != self._era:
            return None
        self._in_a_row = self._openings = 0
        if not passed.is_probe:
            self._note(now_s, False)
            return None
        return self._close(now_s)

    def failed(self, passed: Pass, why: str, now_s: float, jitter: float) -> Opened | None:
        """
        The request ended in a fault that speaks against the upstream.

        Args:
            why: one sentence for people.
            jitter: a number in [0, 1), drawn by the caller.
        """
        if passed.era != self._era:
            return None
        if passed.is_probe:
            return self._open(why, now_s, jitter)
        self._in_a_row += 1
        self._note(now_s, True)
        options = self.options
        if not options.enabled:
            return None
        if self._in_a_row >= options.failures:
            return self._open(f"{self._in_a_row} requests in a row failed: {why}", now_s, jitter)
        failures, count = self._recent_failures, len(self._recent)
        if count >= options.least_requests and failures >= options.share * count:
            return self._open(
                f"{failures} of the last {count} requests failed: {why}", now_s, jitter
            )
        return None

    def taught_nothing(self, passed: Pass) -> None:
        """The client hung up, or was at fault itself; a probe gives its place to the next request."""
        if passed.is_probe and passed.era == self._era:
            self._is_probing = False

    def try_soon(self, now_s: float) -> None:
        """The upstream was seen alive again: the next request is the probe."""
        if self.state is BreakerState.OPEN:
            self._until_s = min(self._until_s, now_s)

    def start_afresh(self) -> bool:
        """
        Another server process is there, or loads: what the one before did says nothing of it. Returns whether it
        closed. If that one fails too, it is left alone for longer: only a success makes the delays short again.
        """
        was_open = self.state is not BreakerState.CLOSED
        if was_open:
            self._close(0.0)
        self._in_a_row = 0
        self._forget()
        return was_open

    def error_share(self, now_s: float) -> float:
        """Share of the recent requests that failed, 0 to 1."""
        self._let_go_of_old(now_s)
        return self._recent_failures / len(self._recent) if self._recent else 0.0

    def doubt(self, now_s: float) -> float:
        """
        The same with two good requests more, 0 to 1: one failure alone says little. It fades with time, so that an
        upstream that nobody is sent to for its failures is not passed over for ever.
        """
        self._let_go_of_old(now_s)
        return self._recent_failures / (len(self._recent) + 2)

    def _note(self, now_s: float, failed: bool) -> None:
        self._recent.append((now_s, failed))
        self._recent_failures += failed
        self._let_go_of_old(now_s)

    def _let_go_of_old(self, now_s: float) -> None:
        recent, window_s = self._recent, self.options.window_s
        while recent and (now_s - recent[0][0] > window_s or len(recent) > _MOST_REMEMBERED):
            self._recent_failures -= recent.popleft()[1]

    def _forget(self) -> None:
        self._recent.clear()
        self._recent_failures = 0

    def _open(self, why: str, now_s: float, jitter: float) -> Opened:
        options = self.options
        grown = options.first_delay_s * options.factor ** min(self._openings, 30)
        # Gateways that saw the same failure should not all try again in the same moment.
        for_s = min(options.longest_delay_s, grown) * (1.0 - _JITTER * jitter)
        self._openings += 1
        self._era += 1
        self._is_probing = False
        self._in_a_row = 0
        self._forget()
        self._until_s = now_s + for_s
        if self.since_s is None:
            self.since_s = now_s
        self.state, self.why = BreakerState.OPEN, why
        return Opened(why, for_s)

    def _close(self, now_s: float) -> Closed:
        after_s = now_s - self.since_s if self.since_s is not None else 0.0
        self._era += 1
        self._is_probing = False
        self._forget()
        self.since_s = None
        self.state = BreakerState.CLOSED
        return Closed(after_s)


_MOST_REMEMBERED = 1000
