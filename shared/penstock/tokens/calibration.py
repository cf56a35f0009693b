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
_SHARE, _SHARE_EXACT = 0.1, 0.002
"""By how much one message differs from what the factors explain, before any evidence: a guess."""
_NOISE_TOKENS = 1.5
_PRIOR_SPREADS = 3
_MEDIAN_OF_SQUARES = 0.455
"""Median of the chi-squared distribution with one degree of freedom."""
_LEAST_SIGMAS = 3.5
_OF_TEXT = frozenset({Lane.TOKENS, Lane.PUNCTUATION})
_SETTLED_AFTER = 48
_SETTLED_ERROR = 0.01
_ODD_SIGMAS = 8.0
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
    The estimator of one model at one upstream.

    Args:
        family: whose frozen factors are the beginning.
        exact: texts are counted by the server or its vocabulary; only the template is in doubt.
    """

    def __init__(self, family: str = "", *, exact: bool = False) -> None:
        self._exact = exact
        self._first_share = self._share = _SHARE_EXACT if exact else _SHARE
        self._spreads: deque[float] = deque(maxlen=48)
        self._seen: dict[int, tuple[Mix, int]] = {}
        self._frozen = _frozen(factors(family))
        self._priors = _priors(self._frozen)
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
        known, rest = self._split(_mix(measured))
        return max(1, known + round(self._expected(rest)))

    def at_most(self, measured: Mix | int) -> int:
        """Tokens that this will not exceed, as far as evidence tells; at first one per byte of UTF-8."""
        known, rest = self._split(_mix(measured))
        return known + self._rest_at_most(rest)

    def at_least(self, measured: Mix | int) -> int:
        """Tokens that this will not fall below: an answer that reports fewer was cut by its server."""
        known, rest = self._split(_mix(measured))
        return max(0, known + int(self._expected(rest) - self._doubt(rest)))

    def class_for(self, measured: Mix | int) -> float:
        """The budget class for this request: higher than usual where it holds what was never learned."""
        mix = _mix(measured)
        most = self._rest_at_most(mix)
        needed = step(most / max(1, mix.tokens))
        if not self.evidence:
            return needed
        # A step up needs more than a hair's breadth, so that classes do not flap.
        if needed > self._class and most <= mix.tokens * self._class * 1.02:
            return self._class
        return max(self._class, needed)

    # Learning

    def learn(self, measured: Mix | int, actual: int) -> bool:
        """
        A request of this make had *actual* tokens by the server's own count.

        Answers that were cut, or are not the server's, must not come here. A single answer that reports
        far too little all the same is passed over; three in a row mean that the model is another one. What a
        request has beyond the one that it continues is learned from alone: the rest was learned before.

        Returns:
            whether it was learned from.
        """
        mix = _mix(measured)
        if actual <= 0 or mix.tokens <= 0:
            return False
        known, rest = self._split(mix)
        if known and (not rest.tokens or actual <= known):
            known, rest = 0, mix
        missed_by = actual - known - self._expected(rest)
        variance, noise = self._variance(rest), self._noise(rest)
        sigmas = missed_by / sqrt(variance + noise)
        if self._is_odd(sigmas, missed_by, actual):
            return False
        if self.evidence:
            self._errors.append(missed_by / actual)
            self._sigmas.append(abs(sigmas))
        self._ratios.append(actual / mix.tokens)
        self._typical = Mix(mix.packed)
        self.evidence += 1
        if self.evidence <= _SETTLED_AFTER or abs(missed_by) > _SETTLED_ERROR * actual:
            self._update(rest, missed_by, variance + noise)
            self._spread(rest, missed_by, variance)
        self._move(max(actual, self._rest_at_most(mix)) / mix.tokens)
        if mix.keys and not mix.amount(Lane.UNCOUNTED):
            self._remember(mix, actual)
        return True

    def _remember(self, mix: Mix, actual: int) -> None:
        if len(self._seen) >= _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[hash(mix.keys)] = (Mix(mix.packed), actual)

    def _split(self, mix: Mix) -> tuple[int, Mix]:
        """
        Tokens that are known, and the rest.

        A request that continues one that was answered is known up to there: only its newest messages
        are in doubt.
        """
        for newest in range(min(_NEWEST, len(mix.keys))):
            seen = self._seen.get(hash(mix.keys[: len(mix.keys) - newest]))
            if seen is not None and (rest := mix.beyond(seen[0])) is not None:
                return seen[1], rest
        return 0, mix

    def _rest_at_most(self, rest: Mix) -> int:
        most = rest.most
        if not self.evidence and not self._exact:
            return max(1, most)
        expected = self._expected(rest)
        return max(round(expected), min(most, int(expected + self._doubt(rest)) + 1))

    def _doubt(self, mix: Mix) -> float:
        """By how much an estimate may be off: more deviations where answers were further off than thought."""
        few = 6.0 / (1 + self.evidence)
        margin = max(_LEAST_SIGMAS, 1.5 * max(self._sigmas, default=0.0)) + few
        return margin * sqrt(self._variance(mix) + self._noise(mix))

    def _is_odd(self, sigmas: float, missed_by: float, actual: int) -> bool:
        far = sigmas < -_ODD_SIGMAS and -missed_by > _ODD_SHARE * (actual - missed_by)
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
        self._spreads.clear()
        self._seen.clear()
        self._share = self._first_share
        self._class = max(self._class, 1.25 if self._exact else _START)
        self.evidence = 0

    def _update(self, mix: Mix, missed_by: float, total: float) -> None:
        parts = self._parts(mix)
        for lane, _ in parts:
            self._open(lane)
        pushed = dict.fromkeys(self._doubts, 0.0)
        for lane, amount in parts:
            for other, doubt in self._doubts[lane].items():
                pushed[other] += doubt * amount
        for lane, push in pushed.items():
            share = push / total
            self._weights[lane] += share * missed_by
            row = self._doubts[lane]
            for other, other_push in pushed.items():
                row[other] -= share * other_push
            row[lane] = max(row[lane], 0.0)

    def _open(self, lane: Lane) -> None:
        """Begin to learn of a lane."""
        if lane in self._weights:
            return
        weight, doubt = self._priors[lane]
        self._weights[lane] = weight
        for row in self._doubts.values():
            row[lane] = 0.0
        self._doubts[lane] = dict.fromkeys(self._weights, 0.0) | {lane: doubt * doubt}

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

    def _parts(self, mix: Mix) -> list[tuple[Lane, float]]:
        """The regression's x: the amounts, and (in the lane of tokens) the text by the frozen factors."""
        parts: list[tuple[Lane, float]] = []
        text = 0.0
        for lane, amount in mix.amounts():
            parts.append((lane, amount))
            text += self._frozen.get(lane, 0.0) * amount
        if text:
            parts.append((Lane.TOKENS, text))
        return parts

    def _expected(self, mix: Mix) -> float:
        weights = self._weights
        text = around = 0.0
        most = 0
        for lane, amount in self._parts(mix):
            weight = weights.get(lane)
            tokens = amount * (self._priors[lane][0] if weight is None else weight)
            if lane in self._frozen or lane in _OF_TEXT:
                text += tokens
                most += MOST.get(lane, 0) * int(amount)
            else:
                around += tokens
        # A text has no more tokens than bytes, whatever the regression says.
        return min(max(text, 0.0), float(most)) + max(around, 0.0)

    def _variance(self, mix: Mix) -> float:
        parts = self._parts(mix)
        total = 0.0
        for lane, amount in parts:
            row = self._doubts.get(lane)
            if row is None:
                total += (amount * self._priors[lane][1]) ** 2
            else:
                for other, other_amount in parts:
                    total += amount * other_amount * row.get(other, 0.0)
        return max(0.0, total)

    def _noise(self, mix: Mix) -> float:
        """Variance that no factor explains: texts of one kind differ, and many even out."""
        size = self._expected(mix)
        return self._share**2 * size * size / max(1, mix.amount(Lane.MESSAGES)) + _NOISE_TOKENS**2

    def _spread(self, mix: Mix, missed_by: float, variance: float) -> None:
        """Learn how much texts differ from what the factors explain."""
        size = max(1.0, self._expected(mix))
        unexplained = max(0.0, missed_by * missed_by - variance - _NOISE_TOKENS**2)
        self._spreads.append(unexplained / (size * size) * max(1, mix.amount(Lane.MESSAGES)))
        # The median, because one odd text must not make all others doubtful; as a variance.
        typical = sorted(self._spreads)[len(self._spreads) // 2] / _MEDIAN_OF_SQUARES
        count = len(self._spreads)
        self._share = sqrt(
            (_PRIOR_SPREADS * self._first_share**2 + count * typical) / (_PRIOR_SPREADS + count)
        )


def _frozen(by: Factors) -> dict[Lane, float]:
    """Tokens per unit of the lanes of text, by the frozen factors."""
    milli = {
        Lane.LETTERS: by.letter, Lane.SPACES: by.space, Lane.LINES: by.line, Lane.MARKS: by.mark,
        Lane.DIGITS: by.digit, Lane.GROUPS: by.group, Lane.DENSE: by.dense, **by.foreign,
    }  # fmt: skip
    return {lane: factor / 1000 for lane, factor in milli.items()}


def _priors(frozen: Mapping[Lane, float]) -> Mapping[Lane, tuple[float, float]]:
    """
    What is believed before any evidence: tokens per unit of each lane, and the standard deviation.

    A vocabulary as a whole may be finer or coarser than the frozen factors (lane of tokens, 1 +- 1); each
    kind of sign may deviate from that by some two fifths, which is what known vocabularies do.
    """
    text = {lane: (0.0, 0.05 + 0.4 * factor) for lane, factor in frozen.items()}
    return text | {
        Lane.TOKENS: (1.0, 1.0),
        Lane.PUNCTUATION: (0.0, 0.2),
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
