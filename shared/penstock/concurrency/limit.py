"""
How many requests at a time: a number that follows what the server shows. Sample in, number out; no clock.

The well-known limiters compare response times with a smallest one (Netflix concurrency-limits: Vegas, Gradient;
Envoy's gradient controller), and each had to be mended for it: the smallest time goes stale and must be measured
anew at almost no load (Envoy), or it is an average that drifts until slowness is normal and the limit grows without
end (Netflix pull requests 88 and 134, issue 137), or normal variation is taken for overload (Envoy pull request
9038). A local server makes it worse: two requests in its batch are each a little slower and together much quicker
than one after the other, so a longer time to first token alone is no reason for anything.

So what is compared here is what flows at two limits, one measured right after the other: a small trial (the way of
PCC, Dong et al., NSDI 2015). A higher limit is kept when it lets more through, a lower one when the server was
choking. If a trial changes nothing the cause is not our doing (a neighbour, a busy machine): the limit stays and the
new pace is normal, so that over-throttling cannot get stuck. What flows is told by `pace`: time to first token
corrected for the prompt's length, and time per token. Neither waiting in our queue nor the length of an answer is
part of it.

    1. teaches?    our refusals, hang-ups, model loads and what was sent under an earlier limit teach nothing
    2. error       too much at once: down by 0.7, once for all that was under way; the level is avoided for a while
    3. trial       enough requests at the tried limit: keep it, or go back and wait longer before the next try
    4. steady      slower than it was: try less. The limit is reached: try more. It is not: nothing (a limit that
                   nobody reaches proves nothing; concurrency-limits has the same rule in each of its limits)

Laws, held by tests over virtual time: never below 1, never above the ceiling, no growth while under half is in use,
near the best fixed limit within a minute, no oscillation.
"""

from __future__ import annotations

from collections import deque
from statistics import fmean

from penstock.concurrency.pace import Seen, compare, fit_prefill
from penstock.concurrency.sample import Move, Sample
from penstock.concurrency.trial import (
    DOWN,
    FEWEST,
    LONGEST_AFTER_ERRORS_S,
    MOST,
    Avoided,
    Reason,
    Trial,
    less_than,
    waits_inside,
)

_HISTORY = 40
_SHORTEST_S = 1.0
_PAUSE_ENDS_TRIAL_S = 30.0
_SLOWER, _BETTER = 1.5, 1.3
_IN_A_ROW = 2
"""Standard requests take so much longer (shorter) than they did, twice in a row: something happened."""
_SIMILAR_LEVEL, _SIMILAR_WORK = (0.8, 1.25), (0.5, 2.0)
_CUT = 0.7
_UP_FAST, _UP = 1.5, 0.25
_EXPLORE = 0.5
_EXPLORED_FROM = 4
"""A trusted ceiling is looked below once, for a moment; with less than that it would cost too much."""
_SOON_S, _LATER_S = 60.0, 600.0
"""How long after the last time a lower limit is looked at again: when the limit was raised since, and else."""
_FIRST_CALM_S, _LONGEST_CALM_S = 8.0, 120.0
_NEVER = float("-inf")


class Limit:
    """
    Args:
        start: to begin with.
        ceiling: never above it.
        trusted: somebody who knows named the ceiling (the server its slots, the user a number): the limit is below
            it for a reason only, and goes back when that does no harm. Otherwise it is a guess, and each step up
            has to earn its place.

    Attributes:
        number: requests at a time.
        why: why it moved last, empty when it never did.
        moved_s: when that was.
    """

    def __init__(self, start: int, *, ceiling: int, trusted: bool) -> None:
        self.ceiling = max(1, ceiling)
        self.trusted = trusted
        self.number = min(max(1, start), self.ceiling)
        self.why = ""
        self.moved_s: float | None = None
        self._since_s = self._group_since_s = self._ended_s = _NEVER
        self._loading = (_NEVER, _NEVER)
        self._history: deque[Seen] = deque(maxlen=_HISTORY)
        self._group: list[Seen] = []
        self._sent_s: list[float] = []
        self._normal: list[Seen] | None = None
        self._slower = self._better = 0
        self._trial: Trial | None = None
        self._avoided = Avoided()
        self._fast = True
        self._step = 0
        self._explored = False
        self._was_raised = False
        self._looked_down_s: float | None = None
        self._calm_s, self._calm_until_s = _FIRST_CALM_S, _NEVER

    @property
    def settled(self) -> int:
        """The limit without the trial that may be under way."""
        return self.number if self._trial is None else self._trial.before

    def set_ceiling(self, ceiling: int, *, trusted: bool) -> None:
        """
        Another ceiling: the server told its slots, or other ones, or the settings changed. The limit goes along,
        unless it was low for a reason.
        """
        ceiling = max(1, ceiling)
        if (ceiling, trusted) == (self.ceiling, self.trusted):
            return
        number = self.settled
        was_low = self.trusted and number < self.ceiling
        self.ceiling, self.trusted = ceiling, trusted
        self.number = ceiling if trusted and not was_low else min(number, ceiling)
        self._trial = self._normal = None
        self._new_group(self._group_since_s)

    def take(self, sample: Sample, *, may_grow: bool = True) -> Move | None:
        """
        Learn from a request that has ended.

        Args:
            may_grow: False while memory is short.

        Returns:
            the move when the limit is another one now.
        """
        # 1. Does it teach anything?
        if sample.lesson == "ignored" or self.ceiling == 1:
            return None
        if sample.cold:
            self._forget_load(sample)
            return None
        now_s, ended_s, self._ended_s = sample.now_s, self._ended_s, sample.now_s
        if sample.sent_s <= self._since_s:
            return None
        # 2. An error.
        if sample.lesson != "success":
            return self._failed(sample)
        if sample.first_token_s is None or self._met_load(sample.sent_s, sample.first_token_s):
            return None
        is_early = now_s - self._group_since_s < _SHORTEST_S
        if is_early and len(self._group) >= MOST:
            return None
        # 3. A trial.
        seen = _seen(sample)
        trial = self._trial
        if trial is not None and not trial.fits(seen):
            trial.misfits += 1
            if trial.misfits >= self._needed() or sample.sent_s > ended_s + _PAUSE_ENDS_TRIAL_S:
                self._trial = None
                return self._move(trial.before, now_s, "nobody needs another one now")
            return None
        self._history.append(seen)
        self._group.append(seen)
        self._sent_s.append(sample.sent_s)
        if is_early or len(self._group) < self._needed():
            if trial is not None and trial.is_choking(self._group):
                return self._judge(trial, now_s, may_grow)
            return None
        if trial is not None:
            return self._judge(trial, now_s, may_grow)
        # 4. Steady.
        return self._steady(self._group, now_s, may_grow)

    def _needed(self) -> int:
        trial = self._trial
        explores = trial.why == "explore" if trial is not None else not self._explored
        if self.trusted and explores:
            return FEWEST
        if self._fast and not self.trusted:
            return min(MOST, max(4, self.number))
        return min(MOST, max(FEWEST + 2, 2 * self.number))

    # 1. Loads.

    def _forget_load(self, sample: Sample) -> None:
        """What was under way while a model was loaded waited for that."""
        if sample.first_token_s is None:
            return
        self._loading = (sample.sent_s, sample.sent_s + sample.first_token_s)
        both = list(zip(self._group, self._sent_s, strict=True))
        kept = [pair for pair in both if not self._met_load(pair[1], pair[0].first_token_s)]
        self._group = [seen for seen, _ in kept]
        self._sent_s = [sent_s for _, sent_s in kept]

    def _met_load(self, sent_s: float, first_token_s: float) -> bool:
        begin_s, end_s = self._loading
        return sent_s < end_s and sent_s + first_token_s > begin_s

    # 2. Errors.

    def _failed(self, sample: Sample) -> Move | None:
        trial, now_s = self._trial, sample.now_s
        at_work = max(sample.in_flight, sample.at_end)
        level = min(self.number, at_work)
        if sample.lesson == "dropped":
            if 2 * at_work <= self.number:
                return None  # with so little to do it was not for having too much
            level = self.number
        if level <= 1:
            return None
        self._fast, self._step = False, 1
        self._calm_s = _FIRST_CALM_S
        self._avoided.failed(level, now_s, longest_s=LONGEST_AFTER_ERRORS_S)
        self._trial = self._normal = None
        if trial is not None and trial.is_up:
            return self._move(trial.before, now_s, f"{trial.at} at a time were too many")
        why = f"requests failed with {level} at a time"
        return self._move(max(1, int(level * _CUT)), now_s, why)

    # 3. Trials.

    def _judge(self, trial: Trial, now_s: float, may_grow: bool) -> Move | None:
        group, before_at, at = self._group, trial.before, trial.at
        before, tried = trial.flows(group)
        self._trial = None
        if trial.is_close(before, tried) and not self._fast:
            self._calm_s = min(_LONGEST_CALM_S, 1.5 * self._calm_s)
            self._calm_until_s = now_s + self._calm_s
        verdict = trial.verdict(before, tried, trusted=self.trusted, fast=self._fast)
        if verdict == "world changed":
            self._try_anew()
            self._normal = None
            return self._move(before_at, now_s, "the server became quicker by itself")
        if trial.is_up:
            if verdict == "kept":
                return self._keep_more(trial, group, now_s, may_grow)
            self._fast = False
            self._step = (at - before_at) // 2
            if self._step == 0:
                self._avoided.failed(at, now_s)
            return self._move(before_at, now_s, f"{at} at a time let no more through")
        if verdict == "kept":
            return self._keep_less(trial, group, tried.level, now_s)
        less = less_than(before.level)
        if trial.half_was_enough(before, tried) and less > at:
            self.number = before_at
            return self._start(less, trial.here, "slower", now_s)
        # It was not for our number: what is measured from now on is normal.
        self._normal = None
        return self._move(before_at, now_s, f"fewer than {before_at} at a time were no better")

    def _keep_more(
        self, trial: Trial, group: list[Seen], now_s: float, may_grow: bool
    ) -> Move | None:
        self._normal = group
        self._step, self._was_raised = 0, True
        self._avoided.went_well(trial.at)
        self._new_group(now_s)
        self.why, self.moved_s = f"{trial.at} at a time let more through", now_s
        return self._try_more(group, now_s) if may_grow else None

    def _keep_less(self, trial: Trial, group: list[Seen], level: float, now_s: float) -> Move:
        self._normal = group
        self._avoided.left(trial.before, now_s)
        self._fast, self._step, self._explored = False, 1, True
        self.why = f"{trial.before} at a time let no more through than {trial.at}"
        self.moved_s = now_s
        if less := less_than(level):
            self._start(less, group, trial.why, now_s)
        else:
            self._new_group(now_s)
        return Move(trial.before, self.number, self.why, False)

    # 4. Steady.

    def _steady(self, group: list[Seen], now_s: float, may_grow: bool) -> Move | None:
        level = fmean(seen.level for seen in group)
        if self._is_slower(group, level) and (less := less_than(level)):
            return self._start(less, group, "slower", now_s)
        self._new_group(now_s)
        if 2 * sum(seen.level >= self.number for seen in group) < len(group):
            return None  # it is not reached
        group = [seen for seen in group if seen.level >= DOWN * self.number]
        waits = not self.trusted and waits_inside(group)
        if self._looked_down_s is None:
            self._looked_down_s = now_s - (_SOON_S if waits else 0.0)
        if now_s < self._calm_until_s and not waits:
            return None
        is_low = not self.trusted or self.number < self.ceiling
        due_s = self._looked_down_s + (_SOON_S if waits or self._was_raised else _LATER_S)
        if is_low and now_s >= due_s and (less := less_than(self.number)):
            self._looked_down_s, self._was_raised = now_s, False
            return self._start(less, group, "less", now_s)
        if may_grow and not waits and (move := self._try_more(group, now_s)) is not None:
            return move
        if self.trusted and not self._explored and self.number >= _EXPLORED_FROM:
            self._explored = True
            return self._start(int(self.number * _EXPLORE), group, "explore", now_s)
        return None

    def _is_slower(self, group: list[Seen], level: float) -> bool:
        """Whether requests are slower than they were; what is normal is kept up to date."""
        normal = self._normal
        if normal is None or not _is_alike(normal, group):
            self._normal = group
            self._slower = self._better = 0
            return False
        then, now = compare(normal, group, fit_prefill(list(self._history)))
        more = level / then.level
        is_slower = now.standard_s > _SLOWER * max(1.0, more) * then.standard_s
        is_better = more >= _SIMILAR_LEVEL[0] and now.standard_s * _BETTER < then.standard_s
        self._slower = self._slower + 1 if is_slower else 0
        self._better = self._better + 1 if is_better else 0
        if self._better >= _IN_A_ROW:
            self._try_anew()  # whoever was in the way has gone
            self._normal = group
        elif not (is_slower or is_better or _SIMILAR_LEVEL[0] <= more <= _SIMILAR_LEVEL[1]):
            self._normal = group
        return self._slower >= _IN_A_ROW

    def _try_more(self, group: list[Seen], now_s: float) -> Move | None:
        number = self.number
        if self._fast:
            target = max(number + 1, int(number * _UP_FAST))
        else:
            target = number + (self._step or max(1, int(number * _UP)))
        target = self._avoided.most(min(target, self.ceiling), now_s)
        return self._start(target, group, "more", now_s) if target > number else None

    # Moving.

    def _start(self, number: int, here: list[Seen], why: Reason, now_s: float) -> Move:
        trial = Trial(self.number, number, here, why, fit_prefill(list(self._history)))
        move = self._move(number, now_s, f"{number} at a time are tried", is_trial=True)
        self._trial = trial
        return move

    def _move(self, number: int, now_s: float, why: str, *, is_trial: bool = False) -> Move:
        move = Move(self.number, number, why, is_trial)
        self.number = number
        self._since_s = now_s
        self._slower = self._better = 0
        self._new_group(now_s)
        if not is_trial:
            self.why, self.moved_s = why, now_s
        return move

    def _new_group(self, now_s: float) -> None:
        self._group_since_s = now_s
        self._group, self._sent_s = [], []

    def _try_anew(self) -> None:
        """The server is another one now: what was tried before tells nothing any more."""
        self._avoided.forget()
        self._slower = self._better = 0
        self._calm_s, self._calm_until_s = _FIRST_CALM_S, _NEVER


def _is_alike(one: list[Seen], other: list[Seen]) -> bool:
    """Whether two groups had work of the same kind: past that, correcting for it is guessing."""
    few, many = _SIMILAR_WORK
    work = sum(seen.uncached_tokens for seen in one) / len(one)
    return few * work <= sum(seen.uncached_tokens for seen in other) / len(other) <= many * work


def _seen(sample: Sample) -> Seen:
    assert sample.first_token_s is not None
    tokens = sample.output_tokens
    return Seen(
        sample.first_token_s,
        sample.uncached_tokens,
        sample.output_s / (tokens - 1) if tokens > 1 else None,
        tokens,
        sample.in_flight,
    )
