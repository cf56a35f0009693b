"""
How quickly a server works, told by what it answered: the measure that `limit` compares.

Two requests are compared as if they had been the same: a time to first token is corrected for the prompt tokens
that the server had to work on (a cached prefix costs nothing), and of the answer only the time per token counts,
never how long it was. So `standard_s` is how long an average request would take, and `level / standard_s` what
flows (Little's law): more prompt, longer answers or a lucky cache change neither.

The cost of a prompt token is learned by a Theil-Sen line (Sen 1968: the median of the slopes of all pairs), which
bears that up to 29 % of the points are nonsense: a request that waited behind a load, a count that a server told
wrongly. Everything else is a median as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

_FEWEST_SLOPES = 12
_APART = 0.2
"""Two prompts tell something about the cost of a token if they differ by this share of the longer one."""
_MOST_CORRECTION = 50.0


class Seen(NamedTuple):
    """
    What a request showed of its server's pace.

    Attributes:
        first_token_s: from sending it to its first token.
        uncached_tokens: of the prompt, those that the server had to work on.
        token_s: time per token of the answer; None when it told nothing of that.
        output_tokens: of the answer.
        level: requests that were at work when it was sent, itself included.
    """

    first_token_s: float
    uncached_tokens: float
    token_s: float | None
    output_tokens: float
    level: int


class Prefill(NamedTuple):
    """Seconds to a first token: `fixed_s + token_s * uncached tokens`."""

    fixed_s: float
    token_s: float

    def factor(self, tokens: float, standard_tokens: float) -> float:
        """By what the time of a prompt is multiplied to be that of a standard one."""
        own_s = self.fixed_s + self.token_s * tokens
        standard_s = self.fixed_s + self.token_s * standard_tokens
        if own_s <= 0 or standard_s <= 0:
            return 1.0
        return min(_MOST_CORRECTION, max(1 / _MOST_CORRECTION, standard_s / own_s))


NO_PREFILL = Prefill(1.0, 0.0)
"""No correction: for prompts that are all alike, or before anything is known."""


def fit_prefill(seen: Sequence[Seen]) -> Prefill:
    """What prompt tokens cost, by the requests *seen* (a few dozen: the work grows with their square)."""
    slopes = []
    for number, one in enumerate(seen):
        for other in seen[:number]:
            apart = one.uncached_tokens - other.uncached_tokens
            if abs(apart) > _APART * max(one.uncached_tokens, other.uncached_tokens):
                slopes.append((one.first_token_s - other.first_token_s) / apart)
    if len(slopes) < _FEWEST_SLOPES:
        return NO_PREFILL
    token_s = median(slopes)
    if token_s <= 0:
        return NO_PREFILL
    fixed_s = median(one.first_token_s - token_s * one.uncached_tokens for one in seen)
    return Prefill(max(0.0, fixed_s), token_s)


class Flow(NamedTuple):
    """
    What a group of requests shows.

    Attributes:
        level: requests at work at a time, on average.
        first_token_s: of a standard request.
        standard_s: of a whole standard request.
        doubt: the standard error of that, as a share of it.
    """

    level: float
    first_token_s: float
    standard_s: float
    doubt: float

    @property
    def per_s(self) -> float:
        """Standard requests a second that get through at this level."""
        return self.level / self.standard_s


def compare(
    one: Sequence[Seen], other: Sequence[Seen], prefill: Prefill = NO_PREFILL
) -> tuple[Flow, Flow]:
    """
    Two groups of requests by one measure: their common average request.

    Args:
        prefill: what prompt tokens cost.
    """
    both = [*one, *other]
    tokens = fmean(seen.uncached_tokens for seen in both)
    output = fmean(seen.output_tokens for seen in both)
    return _flow(one, prefill, tokens, output), _flow(other, prefill, tokens, output)


def _flow(group: Sequence[Seen], prefill: Prefill, tokens: float, output: float) -> Flow:
    first_s, first_doubt_s = _middle(
        [seen.first_token_s * prefill.factor(seen.uncached_tokens, tokens) for seen in group]
    )
    token_s, token_doubt_s = _middle([seen.token_s for seen in group if seen.token_s is not None])
    standard_s = max(1e-6, first_s + output * token_s)
    doubt = (first_doubt_s**2 + (output * token_doubt_s) ** 2) ** 0.5 / standard_s
    return Flow(fmean(seen.level for seen in group), first_s, standard_s, doubt)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error by the median distance from it; (0, 0) for no values."""
    if not values:
        return 0.0, 0.0
    middle = median(values)
    distance = median(abs(value - middle) for value in values)
    # 1.48: from the median distance to a standard deviation; 1.25: a median errs more than a mean (normal errors).
    return middle, 1.48 * 1.25 * distance / len(values) ** 0.5
