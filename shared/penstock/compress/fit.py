"""
Make a conversation fit: cut by watermark replay, note what is missing, shorten what is too large even so.

Laws, each held by a property test: deterministic; fitting a fitted conversation changes nothing; a
conversation that strict templates take stays one; the result is within the budget or `DoesNotFit` is
raised; system messages, the first and the last user message and the last round survive; a call and its
result stay together; between cuts the result of a request begins with the result of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.compress.assemble import NOTE, assembled, kept
from penstock.compress.budget import Budget
from penstock.compress.content import shrunk
from penstock.compress.options import ContextOptions
from penstock.compress.outcome import DoesNotFit, Fitted, Plan
from penstock.compress.replay import Cuts, Replay
from penstock.compress.squeeze import Squeeze
from penstock.compress.summary import found, shown, summary_tokens, tokens_of
from penstock.domain.strategy import Strategy

Message = Mapping[str, Any]
Weigh = Callable[[Message], int]


def fit(
    messages: Sequence[Message],
    weights: Sequence[int],
    *,
    budget: Budget,
    weigh: Weigh,
    strategy: Strategy,
    options: ContextOptions,
    summary: Callable[[str], str | None] | None = None,
) -> Fitted:
    """
    Make *messages* fit into *budget*.

    Args:
        messages: OpenAI-shaped, as parsed from JSON. Never mutated.
        weights: tokens of each.
        weigh: tokens of a message that is made here. Where it only guesses (no less than the truth), the
            caller counts what it was asked about and calls again: sizes that are tried do not depend on it.
        strategy: `client` is the caller's: it passes `window` or `off`.
        summary: with the strategy `summary`: the text for a `cut_key`, None while it is not ready.

    Raises:
        DoesNotFit: even the least is too much; with `off`, all of it.
    """
    original = budget.fixed + sum(weights)
    if strategy is Strategy.OFF:
        if original >= budget.window:
            every = dict(enumerate(weights))
            raise _does_not_fit(messages, every, original, original, budget.window - 1, budget)
        return Fitted(messages, original, original)
    if original <= budget.high:
        return Fitted(messages, original, original)
    note, note_tokens = NOTE, tokens_of(NOTE, weigh)
    room = summary_tokens(budget.window) if strategy is Strategy.SUMMARY else 0
    replay = Replay(
        messages,
        weights,
        budget=budget,
        weigh=weigh,
        note_tokens=note_tokens,
        room=room,
        reset=strategy is Strategy.RESET,
    )
    sent = _Sent(messages, weights, replay.run(), weigh, room)
    if sent.tokens > budget.most:
        sent = _Sent(messages, weights, replay.to_the_least(), weigh, room)
        if not sent.squeeze(weights, budget, options, weigh):
            left = sent.weights(weights)
            raise _does_not_fit(messages, left, original, sent.tokens, budget.most, budget)
    plan = Plan(messages, sent.cuts, sent.left, sent.now)
    fitted = Fitted(messages, sent.tokens, original, sent.cuts.decided_at, cuts=sent.cuts.count)
    if not sent.left.dropped and not sent.replaced:
        return fitted
    tokens, key = sent.tokens, None
    if room and summary is not None and sent.left.dropped:
        behind = sent.left.behind
        ready = found(
            [messages[place] for place in behind],
            [weights[place] for place in behind],
            (budget.high - budget.low) // 2,
            summary,
        )
        most = note_tokens + min(room, budget.most - tokens)
        text = shown(ready[1], most, weigh) if ready is not None else None
        if ready is not None and text is not None:
            key, note = ready[0], text
            tokens += tokens_of(text, weigh) - note_tokens
    return fitted._replace(
        messages=assembled(messages, sent.cuts, sent.left, sent.replaced, note),
        tokens=tokens,
        changes=plan.changes(weights, tokens),
        summary_key=key,
        plan=plan,
    )


def foresee(
    messages: Sequence[Message], weights: Sequence[int], *, budget: Budget, weigh: Weigh
) -> Sequence[Message]:
    """
    What a cut would leave behind if it were made now: for a summary that is ready when the cut comes.

    For conversations that near the mark. The cut itself will leave a little more behind; `fit` finds the
    summary of this beginning by its `cut_key`.
    """
    replay = Replay(
        messages,
        weights,
        budget=budget,
        weigh=weigh,
        note_tokens=tokens_of(NOTE, weigh),
        room=summary_tokens(budget.window),
    )
    replay.run()
    cuts = replay.cut_now()
    return [messages[place] for place in kept(messages, cuts).behind]


class _Sent:
    """
    What is sent after the cuts, but for the note.

    Attributes:
        replaced: {place: what stands in place of the original}.
        now: {place of such a message: its tokens}.
        tokens: of all that is sent, with the plain note.
    """

    __slots__ = ("_messages", "cuts", "left", "now", "replaced", "tokens")

    def __init__(
        self,
        messages: Sequence[Message],
        weights: Sequence[int],
        cuts: Cuts,
        weigh: Weigh,
        room: int,
    ) -> None:
        self._messages = messages
        self.cuts = cuts
        self.left = kept(messages, cuts)
        self.replaced: dict[int, Message] = {}
        self.now: dict[int, int] = {}
        self.tokens = cuts.tokens - (room if self.left.dropped else 0)
        for place, (bare, tokens) in cuts.bare.items():
            if place in self.left:
                self.replaced[place], self.now[place] = bare, tokens
        for place, target in cuts.shortened.items():
            if place in self.left:
                message = self.replaced.get(place, messages[place])
                weight = self.now.get(place, weights[place])
                made, tokens = shrunk(message, weight, target, weigh)
                self.replaced[place], self.now[place] = made, tokens
                self.tokens += tokens - target  # the replay's accounts are in targets

    def weights(self, weights: Sequence[int]) -> dict[int, int]:
        """{place of what is kept: tokens}."""
        places = self.left.places(len(self._messages))
        return {place: self.now.get(place, weights[place]) for place in places}

    def squeeze(
        self, weights: Sequence[int], budget: Budget, options: ContextOptions, weigh: Weigh
    ) -> bool:
        """Make it smaller than any cut can; whether it fits then."""
        squeeze = Squeeze(
            self._messages,
            self.weights(weights),
            self.replaced,
            self.tokens,
            weigh,
            self.cuts.units,
        )
        fits = squeeze.to(budget.most, window=budget.window, shorten_last=options.shorten_last)
        self.tokens = squeeze.tokens
        self.now = {place: squeeze.weights[place] for place in self.replaced}
        return fits


def _does_not_fit(
    messages: Sequence[Message],
    weights: Mapping[int, int],
    tokens: int,
    least: int,
    most: int,
    budget: Budget,
) -> DoesNotFit:
    what = f"tools and template have {budget.fixed:,} tokens"
    largest = max(weights, key=lambda place: weights[place], default=-1)
    if largest >= 0 and weights[largest] >= budget.fixed:
        role = str(messages[largest].get("role"))[:20]
        what = f"the largest message left is messages[{largest}] ({role}) with {weights[largest]:,} tokens"
    return DoesNotFit(tokens, least, most, budget.window, what)
