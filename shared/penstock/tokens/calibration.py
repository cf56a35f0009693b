"""
How many tokens is it really? Learns, for one model at one upstream, from every answer's `prompt_tokens`.

The frozen measure decides where cuts lie; this guards the budget only (contracts 9). It is a regression:
each part of a request (letters, words, digits, Han, messages, ...) costs some tokens, at first by the
frozen factors with wide doubt, and each answer narrows that down. So a conversation in a script that was
never seen keeps a wide bound however much English was learned, and what the template adds is learned too.

The rule is the Kalman filter for constant coefficients (recursive least squares with a prior; R. E.
Kalman, 1960; Gelman et al., "Bayesian Data Analysis", 14.8): with weights w, their covariance P, a request
x that cost y tokens and noise r,

    s = x'Px + r,   k = Px / s,   w += k (y - x'w),   P -= k (Px)'

and x'w +- z sqrt(s) bounds the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import sqrt

from penstock.tokens.families import Factors, factors
from penstock.tokens.mix import MOST, Lane, Mix, plain

STEPS = (1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
"""The budget classes: by how much a window is divided for weights of the frozen measure."""

_START = 5.0
"""Nothing is known: prose has about four and a half bytes for each token of the frozen measure."""
_NOISE_SHARE = 0.004
_NOISE_TOKENS = 1.5
_LEAST_SIGMAS = 3.0
_SETTLED_AFTER = 48
_SETTLED_ERROR = 0.01
_ODD_SIGMAS = 8.0
_ODD_SHARE = 0.2
_ODD_IN_A_ROW = 3
_CALM_FIRST = 2
_CALM_LATER = 16
_FEW = 20


class Calibration:
    """
    The estimator of one model at one upstream.

    Args:
        family: whose frozen factors are the beginning.
        exact: texts are counted by the server or its vocabulary; only the template is in doubt.
    """

    def __init__(self, family: str = "", *, exact: bool = False) -> None:
        self._exact = exact
        self._beginning = beginning(factors(family))
        self._weights: dict[Lane, float] = {}
        self._doubts: dict[Lane, dict[Lane, float]] = {}
        self._errors: deque[float] = deque(maxlen=64)
        self._sigmas: deque[float] = deque(maxlen=64)
        self._ratios: deque[float] = deque(maxlen=32)
        self._needs: deque[float] = deque(maxlen=_CALM_LATER)
        self._typical: Mix | None = None
        self._class = 1.0 if exact else _START
        self._odd = 0
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
            return 0.25 if self._exact else _START - 1.0
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
        return max(1, round(self._expected(_mix(measured))))

    def at_most(self, measured: Mix | int) -> int:
        """Tokens that this will not exceed, as far as evidence tells; at first one per byte of UTF-8."""
        mix = _mix(measured)
        most = max(1, mix.most)
        if not self.evidence and not self._exact:
            return most
        margin = self._margin() * sqrt(self._variance(mix) + self._noise(mix))
        expected = max(1.0, self._expected(mix))
        return max(self.estimate(mix), min(most, int(expected + margin) + 1))

    def at_least(self, measured: Mix | int) -> int:
        """Tokens that this will not fall below: an answer that reports fewer was cut by its server."""
        mix = _mix(measured)
        margin = self._margin() * sqrt(self._variance(mix) + self._noise(mix))
        return max(0, int(self._expected(mix) - margin))

    def class_for(self, measured: Mix | int) -> float:
        """The budget class for this request: higher than usual where it holds what was never learned."""
        mix = _mix(measured)
        needed = step(self.at_most(mix) / max(1, mix.tokens))
        if not self.evidence:
            return needed
        # A step up needs more than a hair's breadth, so that classes do not flap.
        if needed > self._class and self.at_most(mix) <= mix.tokens * self._class * 1.02:
            return self._class
        return max(self._class, needed)

    # Learning

    def learn(self, measured: Mix | int, actual: int) -> bool:
        """
        A request of this make had *actual* tokens by the server's own count.

        Answers that were cut, or are not the server's, must not come here. A single answer that is far
        off all the same is passed over; three in a row mean that the model is another one.

        Returns:
            whether it was learned from.
        """
        mix = _mix(measured)
        if actual <= 0 or mix.tokens <= 0:
            return False
        expected = self._expected(mix)
        variance = self._variance(mix)
        noise = self._noise(mix, actual)
        missed_by = actual - expected
        sigmas = missed_by / sqrt(variance + noise)
        if self._is_odd(sigmas, missed_by, actual):
            return False
        if self.evidence:
            self._errors.append(missed_by / max(1.0, actual))
            self._sigmas.append(abs(sigmas))
        self._ratios.append(actual / mix.tokens)
        self._typical = mix
        self.evidence += 1
        if self.evidence <= _SETTLED_AFTER or abs(missed_by) > _SETTLED_ERROR * actual:
            self._update(mix, missed_by, variance + noise)
        self._move(max(actual, self.at_most(mix)) / mix.tokens)
        return True

    def _is_odd(self, sigmas: float, missed_by: float, actual: int) -> bool:
        far = abs(sigmas) > _ODD_SIGMAS and abs(missed_by) > _ODD_SHARE * actual
        if self.evidence < _FEW or not far:
            self._odd = 0
            return False
        self._odd += 1
        if self._odd < _ODD_IN_A_ROW:
            return True
        self._odd = 0
        self._begin_again()
        return False

    def _begin_again(self) -> None:
        self._weights.clear()
        self._doubts.clear()
        self._errors.clear()
        self._sigmas.clear()
        self._ratios.clear()
        self._needs.clear()
        self._class = max(self._class, 1.25 if self._exact else _START)
        self.evidence = 0

    def _update(self, mix: Mix, missed_by: float, total: float) -> None:
        parts = mix.amounts()
        for lane, _ in parts:
            self._open(lane)
        pushed = dict.fromkeys(self._doubts, 0.0)
        for lane, amount in parts:
            for other, doubt in self._doubts[lane].items():
                pushed[other] += doubt * amount
        for lane, push in pushed.items():
            weight = self._weights[lane] + push / total * missed_by
            self._weights[lane] = min(max(weight, 0.0), float(max(MOST[lane], 1)))
            row = self._doubts[lane]
            share = push / total
            for other, other_push in pushed.items():
                row[other] -= share * other_push
            row[lane] = max(row[lane], 1e-12)

    def _open(self, lane: Lane) -> None:
        """Begin to learn of a lane."""
        if lane in self._weights:
            return
        weight, doubt = self._prior(lane)
        self._weights[lane] = weight
        for row in self._doubts.values():
            row[lane] = 0.0
        self._doubts[lane] = dict.fromkeys(self._weights, 0.0) | {lane: doubt * doubt}

    def _prior(self, lane: Lane) -> tuple[float, float]:
        return self._beginning[lane]

    def _move(self, need: float) -> None:
        """Move the budget class: up at once, down when calm."""
        self._needs.append(need)
        if need > self._class:
            self._class = step(need)
            return
        calm = _CALM_FIRST if self.evidence < _FEW else _CALM_LATER
        if len(self._needs) < calm:
            return
        lower = step(max(list(self._needs)[-calm:]) * 1.01)
        self._class = min(self._class, lower)

    # The model

    def _expected(self, mix: Mix) -> float:
        weights = self._weights
        total = 0.0
        for lane, amount in mix.amounts():
            weight = weights.get(lane)
            total += amount * (self._prior(lane)[0] if weight is None else weight)
        return total

    def _variance(self, mix: Mix) -> float:
        parts = mix.amounts()
        total = 0.0
        for lane, amount in parts:
            row = self._doubts.get(lane)
            if row is None:
                total += (amount * self._prior(lane)[1]) ** 2
            else:
                for other, other_amount in parts:
                    total += amount * other_amount * row.get(other, 0.0)
        return max(0.0, total)

    def _noise(self, mix: Mix, actual: int | None = None) -> float:
        size = self._expected(mix) if actual is None else float(actual)
        return (_NOISE_SHARE * size) ** 2 + _NOISE_TOKENS**2

    def _margin(self) -> float:
        """Standard deviations to keep: more where answers were further off than the model thinks."""
        few = 3.0 / (1 + self.evidence)
        return max(_LEAST_SIGMAS, 1.3 * max(self._sigmas, default=0.0)) + few


def beginning(by: Factors) -> Mapping[Lane, tuple[float, float]]:
    """Tokens per unit of each lane before any evidence, and the standard deviation of that belief."""
    text = {
        Lane.LETTERS: by.letter, Lane.SPACES: by.space, Lane.LINES: by.line,
        Lane.PUNCTUATION: 0, Lane.MARKS: by.mark, Lane.DIGITS: by.digit,
        Lane.GROUPS: by.group, Lane.DENSE: by.dense, **by.foreign,
    }  # fmt: skip
    known = {lane: milli / 1000 for lane, milli in text.items()}
    believed = {lane: (w, max(0.3, (MOST[lane] - w) / 2)) for lane, w in known.items()}
    return believed | {
        Lane.MESSAGES: (5.0, 4.0),
        Lane.CALLS: (16.0, 12.0),
        Lane.COUNTED: (1.0, 0.01),
        Lane.PICTURES: (1.0, 1.0),
        Lane.TOOLSETS: (120.0, 150.0),
        Lane.REQUESTS: (8.0, 30.0),
        Lane.PLAIN: (1.0, 1.5),
    }


def step(need: float) -> float:
    """The lowest of `STEPS` that is at least *need*; the highest where none is."""
    return next((one for one in STEPS if one >= need), STEPS[-1])


def _mix(measured: Mix | int) -> Mix:
    return measured if isinstance(measured, Mix) else plain(max(0, measured))
