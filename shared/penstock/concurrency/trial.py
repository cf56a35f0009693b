"""
A small trial of another limit, and how it is judged: by what flowed before and during it (see `pace`).

A higher limit has to earn its place where the ceiling is only a guess, or it would move our queue into the server,
unseen: of what it adds it must let a fifth through, beyond doubt (the standard error of what was measured). Where
somebody who knows named the ceiling it is enough that nothing is lost. A lower limit is kept when it lets more
through (the server was choking), and against a guessed ceiling also when it loses next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from statistics import median
from typing import Literal

from penstock.concurrency.pace import NO_PREFILL, Flow, Prefill, Seen, compare, fit_prefill

Reason = Literal["more", "slower", "explore", "less"]
"""Why a limit is tried: it was reached, the server is slower than it was, nothing lower was ever seen, to be sure."""
Verdict = Literal["kept", "refused", "world changed"]

FEWEST, MOST = 6, 24
"""So many requests make a comparison, by default twice the limit."""
ENOUGH_IF_BAD = 3
DOWN = 0.75
_GAIN = 0.2
_NO_LOSS = 0.95
_RELIEF = 1.1
_CHOKED = 0.6
_IMPOSSIBLE = 1.15
_DOUBT = 0.5
_WAITING = 0.5
_FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_AFTER_ERRORS_S = 15.0, 120.0, 600.0
_FORGOTTEN_AFTER_S = 1200.0
"""A try that only costs time may be repeated sooner than one at which requests fail."""


@dataclass(slots=True)
class Trial:
    """
    Attributes:
        before, at: the limit that was, and the one that is tried.
        here: requests under the limit before.
        why: the reason.
        prefill: what prompt tokens cost.
        misfits: requests that were sent when less was at work than the trial is about.
    """

    before: int
    at: int
    here: list[Seen]
    why: Reason
    prefill: Prefill
    misfits: int = 0

    @property
    def is_up(self) -> bool:
        """Whether a higher limit is tried."""
        return self.at > self.before

    def fits(self, seen: Seen) -> bool:
        """Whether a request was sent at about the limit that is tried."""
        if self.is_up:
            return 2 * seen.level > self.before + self.at
        return seen.level >= DOWN * self.at

    def flows(self, group: Sequence[Seen]) -> tuple[Flow, Flow]:
        """What flowed before, and what flows now."""
        return compare(self.here, group, self.prefill)

    def is_choking(self, group: Sequence[Seen]) -> bool:
        """Whether it need not be waited for: more at a time makes the server choke."""
        if not self.is_up or len(group) < ENOUGH_IF_BAD:
            return False
        before, tried = self.flows(group)
        if len(group) < FEWEST:
            return tried.per_s < _CHOKED * before.per_s
        return tried.per_s * (1 + 2 * _doubt(before, tried)) < before.per_s

    def verdict(self, before: Flow, tried: Flow, *, trusted: bool, fast: bool) -> Verdict:
        """
        Whether the limit that was tried is kept.

        Args:
            trusted: the ceiling was named by somebody who knows.
            fast: at the beginning: a step too far is found out by the next.
        """
        more = tried.level / before.level - 1
        doubt = min(0.5, _DOUBT * _doubt(before, tried))
        if self.is_up:
            if tried.per_s > _IMPOSSIBLE * before.per_s * (1 + more):
                return "world changed"  # so much the additional requests cannot account for
            gained = tried.per_s * (1 - (0.0 if fast and not trusted else doubt)) / before.per_s
            return "kept" if gained >= (_NO_LOSS if trusted else 1 + _GAIN * more) else "refused"
        if trusted or self.why != "less":
            return "kept" if tried.per_s >= before.per_s * _RELIEF else "refused"
        left = tried.per_s * (1 + doubt) / before.per_s
        return "kept" if left >= 1 + _GAIN / 2 * more else "refused"

    def is_close(self, before: Flow, tried: Flow) -> bool:
        """Whether not much is to be won around here, so that the next trial can wait."""
        return tried.per_s < before.per_s * (1 + 2 * _GAIN * (tried.level / before.level - 1))

    def half_was_enough(self, before: Flow, tried: Flow) -> bool:
        """Half the requests got more than half through: three quarters may get more through than all."""
        return self.why == "explore" and tried.per_s > _CHOKED * before.per_s


@dataclass(slots=True)
class Avoided:
    """
    A level that failed is not tried again for a while, and for longer each time.

    Attributes:
        level: it and all above; None for none.
        until_s: until then.
    """

    level: int | None = None
    until_s: float = 0.0
    _wait_s: float = 0.0
    _last: int | None = None
    _failed_s: float = 0.0

    def failed(self, level: int, now_s: float, *, longest_s: float = LONGEST_WAIT_S) -> None:
        """*level* was too much; it is left alone for *longest_s* at most."""
        known = self._last
        is_same = known is not None and abs(level - known) <= max(1, known // 4)
        if not is_same or now_s - self._failed_s > _FORGOTTEN_AFTER_S:
            self._wait_s = 0.0  # another trouble than the one before
        self._wait_s = max(_FIRST_WAIT_S, min(longest_s, 2 * self._wait_s))
        self._last, self._failed_s = level, now_s
        self.level = level if self.level is None else min(level, self.level)
        self.until_s = now_s + self._wait_s

    def left(self, level: int, now_s: float) -> None:
        """Less than *level* was better, now; that may pass soon."""
        self.forget()
        self.level, self.until_s = level, now_s + _FIRST_WAIT_S

    def went_well(self, level: int) -> None:
        """*level* was not too much after all."""
        if self.level is not None and level >= self.level:
            self.level = None

    def forget(self) -> None:
        """Whatever failed, it tells nothing any more."""
        self.level, self._last, self.until_s = None, None, 0.0

    def most(self, target: int, now_s: float) -> int:
        """The most up to *target* that may be tried now."""
        if self.level is None or target < self.level or now_s >= self.until_s:
            return target
        return self.level - 1


def _doubt(one: Flow, other: Flow) -> float:
    """The standard error of the ratio of two flows, as a share of it."""
    return hypot(one.doubt, other.doubt)


def waits_inside(group: Sequence[Seen]) -> bool:
    """
    Whether half the time of requests went by with waiting in the server: what their first tokens took that their
    own prompts do not explain. It has fewer slots then than it is given requests.
    """
    prefill = fit_prefill(group)
    fixed_s = (
        median(seen.first_token_s for seen in group) if prefill is NO_PREFILL else prefill.fixed_s
    )
    flow, _ = compare(group, group)
    return fixed_s > _WAITING * flow.standard_s


def less_than(level: float) -> int:
    """The next lower limit to try when *level* requests are at work; 0 when there is none."""
    return max(0, min(round(level * DOWN), round(level) - 1))
