"""
What each kind of sign costs at one model, learned from whole requests: the arithmetic of the calibration.

The rule is the Kalman filter for constant coefficients (recursive least squares with a prior; R. E.
Kalman, 1960; Gelman et al., "Bayesian Data Analysis", 14.8): with weights w, their covariance P, a request
x that cost y tokens and noise r,

    s = x'Px + r,   k = Px / s,   w += k (y - x'w),   P -= k (Px)'

and sqrt(s) is the standard deviation of what comes next. A kind of sign that was never seen keeps the wide
doubt of the beginning, however much was learned of others. Only kinds that occurred take room and time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from penstock.tokens.families import Factors
from penstock.tokens.mix import MOST, SCRIPTS, Lane, Mix

_SHARE, _SHARE_COUNTED = 0.03, 0.002
"""
By how much one message is taken to differ from what the weights explain. Only its size beside the doubt of
the beginning matters for what is learned; how far off expectations are is learned apart (`excess`).
"""
_LEAST_EXCESS = 0.1
_NOISE_TOKENS = 1.5
_PRIOR_SPREADS = 3
_MEDIAN_OF_SQUARES = 0.455
"""Median of the chi-squared distribution with one degree of freedom."""


@dataclass(frozen=True, slots=True)
class View:
    """
    What the regression thinks of a mix.

    Attributes:
        expected: tokens, within what is possible.
        linear: the same by the weights alone, which is what learning must compare with.
        variance: from doubt about the weights, which evidence shrinks.
        noise: variance that no weight explains: texts of one kind differ, and many even out.
        excess: by how much larger the squares of earlier misses were than these two say.
        most: the most tokens that it can be at all.
    """

    expected: float
    linear: float
    variance: float
    noise: float
    excess: float
    most: int

    @property
    def deviation(self) -> float:
        """Standard deviation of the expectation."""
        return sqrt(self.variance * max(1.0, self.excess) + self.noise * self.excess)


class Regression:
    """
    Weights of the lanes of one model, and the doubt about them.

    Args:
        by: the frozen factors, which are the beginning.
        counted: texts are counted exactly, so that only the template is in doubt.
        template_known: what the template adds is counted too.
    """

    def __init__(self, by: Factors, *, counted: bool, template_known: bool) -> None:
        self._frozen = frozen_weights(by)
        self._priors = _priors(self._frozen, template_known)
        self._share = _SHARE_COUNTED if counted else _SHARE
        self._excess = 1.0
        self._spreads: deque[float] = deque(maxlen=48)
        self._weights: dict[Lane, float] = {}
        self._doubts: dict[Lane, dict[Lane, float]] = {}

    def forget(self) -> None:
        """Begin again."""
        self._weights.clear()
        self._doubts.clear()
        self._spreads.clear()
        self._excess = 1.0

    def view(self, mix: Mix) -> View:
        """What *mix* will cost."""
        weights, priors, frozen, doubts = self._weights, self._priors, self._frozen, self._doubts
        parts = self._parts(mix)
        text = around = variance = 0.0
        text_most = around_most = 0
        for lane, amount in parts:
            weight = weights.get(lane)
            row = doubts.get(lane)
            if weight is None or row is None:
                weight, doubt = priors[lane]
                variance += (amount * doubt) ** 2
            else:
                pushed = 0.0
                for other, other_amount in parts:
                    pushed += other_amount * row.get(other, 0.0)
                variance += amount * pushed
            if lane in frozen or lane in _OF_TEXT:
                text += amount * weight
                text_most += MOST.get(lane, 0) * int(amount)
            else:
                around += amount * weight
                around_most += MOST[lane] * int(amount)
        # A text has no more tokens than bytes, whatever the regression says.
        expected = min(max(text, 0.0), float(text_most)) + max(around, 0.0)
        messages = max(1, mix.amount(Lane.MESSAGES))
        noise = (self._share * expected) ** 2 / messages + _NOISE_TOKENS**2
        most = text_most + around_most
        return View(expected, text + around, max(0.0, variance), noise, self._excess, most)

    def learn(self, mix: Mix, view: View, tokens: int) -> None:
        """*mix*, of which *view* was the expectation, cost so many *tokens*."""
        missed_by = tokens - view.linear
        total = view.variance + view.noise
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
        self._spread(view, missed_by)

    def _spread(self, view: View, missed_by: float) -> None:
        """Learn how much texts differ from what the weights explain."""
        self._spreads.append(missed_by * missed_by / (view.variance + view.noise))
        # The median, because one odd text must not make all others doubtful; as a variance.
        typical = sorted(self._spreads)[len(self._spreads) // 2] / _MEDIAN_OF_SQUARES
        count = len(self._spreads)
        self._excess = max(
            _LEAST_EXCESS, (_PRIOR_SPREADS + count * typical) / (_PRIOR_SPREADS + count)
        )

    def _open(self, lane: Lane) -> None:
        """Begin to learn of a lane."""
        if lane in self._weights:
            return
        weight, doubt = self._priors[lane]
        self._weights[lane] = weight
        for row in self._doubts.values():
            row[lane] = 0.0
        self._doubts[lane] = dict.fromkeys(self._weights, 0.0) | {lane: doubt * doubt}

    def _parts(self, mix: Mix) -> list[tuple[Lane, float]]:
        """The x: the amounts, and (in the lane of tokens) the text by the frozen factors."""
        parts: list[tuple[Lane, float]] = []
        text = 0.0
        for lane, amount in mix.amounts():
            parts.append((lane, amount))
            text += self._frozen.get(lane, 0.0) * amount
        if text:
            parts.append((Lane.TOKENS, text))
        return parts


_OF_TEXT = frozenset({Lane.TOKENS, Lane.PUNCTUATION})


def frozen_weights(by: Factors) -> dict[Lane, float]:
    """Tokens per unit of the lanes of text, by the frozen factors."""
    milli = {
        Lane.LETTERS: by.letter, Lane.SPACES: by.space, Lane.LINES: by.line, Lane.MARKS: by.mark,
        Lane.DIGITS: by.digit, Lane.GROUPS: by.group, Lane.DENSE: by.dense, **by.foreign,
    }  # fmt: skip
    return {lane: factor / 1000 for lane, factor in milli.items()}


def _priors(
    frozen: Mapping[Lane, float], template_known: bool
) -> Mapping[Lane, tuple[float, float]]:
    """
    What is believed before any evidence: tokens per unit of each lane, and the standard deviation.

    A vocabulary as a whole may be finer or coarser than the frozen factors (lane of tokens, 1 +- 1); each
    kind of sign may deviate from that by some two fifths, which is what known vocabularies do, and a script
    that the vocabulary hardly has may fall back to bytes.
    """
    text = {lane: (0.0, 0.05 + 0.4 * factor) for lane, factor in frozen.items()}
    for lane in SCRIPTS:
        text[lane] = (0.0, max(text[lane][1], (MOST[lane] - frozen[lane]) / 3))
    guessed = {
        Lane.MESSAGES: (5.0, 4.0),
        Lane.CALLS: (16.0, 12.0),
        Lane.TOOLSETS: (120.0, 150.0),
        Lane.REQUESTS: (8.0, 30.0),
    }
    # What was measured stands in the lane of what was counted.
    measured = {
        Lane.MESSAGES: (0.0, 0.05),
        Lane.CALLS: (0.0, 2.0),
        Lane.TOOLSETS: (0.0, 40.0),
        Lane.REQUESTS: (0.0, 2.0),
    }
    return {
        **text,
        **(measured if template_known else guessed),
        Lane.TOKENS: (1.0, 1.0),
        Lane.PUNCTUATION: (0.0, 0.2),
        Lane.COUNTED: (1.0, 0.003),
        Lane.PICTURES: (1.0, 1.0),
        Lane.PLAIN: (1.0, 1.5),
    }
