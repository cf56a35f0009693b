"""
How many tokens is it really? Learns, for one model at one upstream, from every answer's `prompt_tokens`.

The frozen measure decides where cuts lie; this guards the budget only (contracts 9). It bounds what a
request costs (`regression`), remembers what answered requests cost, so that one that continues such a
request is in doubt about its newest messages only, and moves the budget class.
"""

from __future__ import annotations

from collections import deque
from math import sqrt

from penstock.tokens.families import factors
from penstock.tokens.mix import Lane, Mix, plain
from penstock.tokens.regression import Regression, View

STEPS = (1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
"""The budget classes: by how much a window is divided for weights of the frozen measure."""

_START = 5.0
"""Nothing is known: prose has about four and a half bytes for each token of the frozen measure."""
_LEAST_DEVIATIONS = 4.0
_SURPRISE = 1.5
_FEW_DEVIATIONS = 8.0
_SLACK_TOKENS = 64
"""A class is for large requests: so much (what a template adds once) the output reserve takes."""
_HAIR = 1.015
"""What is counted exactly moves no class by so little: tokens at seams; the output reserve takes it."""
_SETTLED_AFTER = 48
_SETTLED_ERROR = 0.01
_SETTLED_EVERY = 4
_ODD_DEVIATIONS = 8.0
_ODD_SHARE = 0.3
_ODD_IN_A_ROW = 3
_MOST_SEEN = 512
_NEWEST = 12
"""How many newest messages a request may have beyond one that was answered, to be recognised."""
_CALM_FIRST = 2
_CALM_LATER = 16
_FEW = 20


class Calibration:
    """
    The estimator of one model at one upstream. Its memory is bounded, and losing it costs accuracy only.

    Args:
        family: whose frozen factors are the beginning.
        exact: texts are counted by the server or by its vocabulary.
        template_known: what the template adds was measured (`Overhead.measured`).
    """

    def __init__(
        self, family: str = "", *, exact: bool = False, template_known: bool = False
    ) -> None:
        self._exact = exact
        self._regression = Regression(factors(family), counted=exact, template_known=template_known)
        self._seen: dict[int, tuple[Mix, int]] = {}
        self._errors: deque[float] = deque(maxlen=64)
        self._surprises: deque[float] = deque(maxlen=64)
        self._ratios: deque[float] = deque(maxlen=32)
        self._needs: deque[float] = deque(maxlen=_CALM_LATER)
        self._typical: Mix | None = None
        self._class = 1.0 if exact else _START
        self._odd = 0
        self._passed = 0
        self.evidence = 0
        """Answers that were learned from."""

    # Questions

    @property
    def factor(self) -> float:
        """Tokens per token of the frozen measure: the median of the latest answers."""
        return sorted(self._ratios)[len(self._ratios) // 2] if self._ratios else 1.0

    @property
    def bound(self) -> float:
        """
        For requests of the latest kind: real tokens are at most `estimate * (1 + bound)`.

        It shrinks as evidence grows.
        """
        if self._typical is None:
            return _START - 1.0
        return self.at_most(self._typical) / self.estimate(self._typical) - 1.0

    @property
    def budget_class(self) -> float:
        """By how much to divide the window: one of `STEPS`, moved by evidence only, with hysteresis."""
        return self._class

    @property
    def error_p95(self) -> float | None:
        """95th percentile of the latest relative errors, each taken before it was learned from."""
        if not self._errors:
            return None
        ordered = sorted(map(abs, self._errors))
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]

    def estimate(self, measured: Mix | int) -> int:
        """Tokens that this will most likely be."""
        known, rest = self._split(_mix(measured))
        return max(1, known + round(self._regression.view(rest).expected))

    def at_most(self, measured: Mix | int) -> int:
        """Tokens that this will not exceed, as far as evidence tells; at first one per byte of UTF-8."""
        known, rest = self._split(_mix(measured))
        return max(1, known + self._highest(self._regression.view(rest)))

    def at_least(self, measured: Mix | int) -> int:
        """Tokens that this will not fall below: an answer that reports fewer was cut by its server."""
        known, rest = self._split(_mix(measured))
        view = self._regression.view(rest)
        return max(0, known + int(view.expected - self._margin() * view.deviation))

    def class_for(self, measured: Mix | int) -> float:
        """
        The budget class for this request.

        It is `budget_class`, or higher where the request holds what was never learned (another script,
        images). What earlier requests of its conversation cost does not count: where a cut lies must not
        depend on that.
        """
        mix = _mix(measured)
        needed = self._needed(mix, 0)
        return max(self._class, needed) if self.evidence or self._exact else needed

    # Learning

    def learn(self, measured: Mix | int, actual: int) -> bool:
        """
        A request of this make had *actual* tokens by the server's own count.

        Answers that were cut, or are not the server's, must not come here. A single answer that reports
        far too little all the same is passed over; three in a row mean that the model is another one.
        What a request has beyond the one that it continues is learned from alone: the rest was learned
        before. A settled calibration looks at every fourth answer only.

        Returns:
            whether it was learned from.
        """
        mix = _mix(measured)
        if actual <= 0 or mix.tokens <= 0:
            return False
        self._passed += 1
        if self.evidence > _SETTLED_AFTER and self._passed % _SETTLED_EVERY:
            self._remember(mix, actual)
            return False
        known, rest = self._split(mix)
        if known and (not rest.tokens or actual <= known):
            known, rest = 0, mix
        view = self._regression.view(rest)
        missed_by = actual - known - view.expected
        deviations = missed_by / view.deviation
        if self._is_odd(deviations, missed_by, actual):
            return False
        if self.evidence:
            self._errors.append(missed_by / actual)
            self._surprises.append(abs(deviations))
        self._ratios.append(actual / mix.tokens)
        self._typical = Mix(mix.packed)
        self.evidence += 1
        if self.evidence <= _SETTLED_AFTER or abs(missed_by) > _SETTLED_ERROR * actual:
            self._regression.learn(rest, view, actual - known)
        self._move(self._needed(mix, actual))
        self._remember(mix, actual)
        return True

    def _remember(self, mix: Mix, actual: int) -> None:
        if not mix.keys or mix.amount(Lane.UNCOUNTED):
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[hash(mix.keys)] = (Mix(mix.packed), actual)

    def _split(self, mix: Mix) -> tuple[int, Mix]:
        """
        Tokens that are known, and the rest.

        A request that continues one that was answered is known up to there: only its newest messages
        are in doubt.
        """
        if self._seen:
            for newest in range(min(_NEWEST, len(mix.keys))):
                seen = self._seen.get(hash(mix.keys[: len(mix.keys) - newest]))
                if seen is not None and (rest := mix.beyond(seen[0])) is not None:
                    return seen[1], rest
        return 0, mix

    def _highest(self, view: View) -> int:
        if not self.evidence and not self._exact:
            return max(1, view.most)
        highest = int(view.expected + self._margin() * view.deviation) + 1
        return max(round(view.expected), min(view.most, highest))

    def _margin(self) -> float:
        """Standard deviations to keep: more where answers were further off than was thought."""
        few = 0.0 if self._exact else _FEW_DEVIATIONS / sqrt(1 + self.evidence)
        return max(_LEAST_DEVIATIONS, _SURPRISE * max(self._surprises, default=0.0)) + few

    def _is_odd(self, deviations: float, missed_by: float, actual: int) -> bool:
        far = deviations < -_ODD_DEVIATIONS and -missed_by > _ODD_SHARE * (actual - missed_by)
        if self.evidence < _FEW or not far:
            self._odd = 0
            return False
        self._odd += 1
        if self._odd < _ODD_IN_A_ROW:
            return True
        self._begin_again()
        return False

    def _begin_again(self) -> None:
        self._regression.forget()
        for kept in (self._errors, self._surprises, self._ratios, self._needs):
            kept.clear()
        self._seen.clear()
        self._class = max(self._class, 1.25 if self._exact else _START)
        self._odd = self.evidence = 0

    def _needed(self, mix: Mix, actual: int) -> float:
        """The class that this request needs."""
        highest = max(actual, self._highest(self._regression.view(mix)))
        need = (highest - _SLACK_TOKENS) / max(1, mix.tokens)
        return step(need / _HAIR if self._exact else need)

    def _move(self, needed: float) -> None:
        """Move the budget class: up at once, down when calm."""
        self._needs.append(needed)
        calm = _CALM_FIRST if self.evidence < _FEW else _CALM_LATER
        if needed > self._class:
            self._class = needed
        elif len(self._needs) >= calm:
            self._class = min(self._class, max(list(self._needs)[-calm:]))


def step(need: float) -> float:
    """The lowest of `STEPS` that is at least *need*; the highest where none is."""
    return next((one for one in STEPS if one >= need), STEPS[-1])


def _mix(measured: Mix | int) -> Mix:
    return measured if isinstance(measured, Mix) else plain(max(0, measured))
