"""
Make a conversation fit: cut by watermark replay, note what is missing, shorten what is too large even so.

Laws, each held by a property test: deterministic; fitting a fitted conversation changes nothing; a
conversation that strict templates take stays one; the result is within the budget or `DoesNotFit` is
raised; system messages, the first and the last user message and the last round survive; a call and its
result stay together; between cuts the result of a request begins with the result of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from penstock.compress.assemble import NOTE, Kept, assembled, kept, summary_text
from penstock.compress.budget import Budget
from penstock.compress.content import shrunk
from penstock.compress.options import ContextOptions
from penstock.compress.replay import Cuts, Replay
from penstock.compress.squeeze import Squeeze
from penstock.domain.change import Change
from penstock.domain.strategy import Strategy

Message = Mapping[str, Any]
Weigh = Callable[[Message], int]

# With `summary` the cuts leave room for one, ready or not: they must not move when it gets ready.
_SUMMARY_SHARE = 16


class Kind(StrEnum):
    """What became of a message."""

    KEPT = "kept"
    SHORTENED = "shortened"
    DROPPED = "dropped"
    MERGED = "merged"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one message, in tokens before and after, and why."""

    kind: Kind
    before: int
    after: int
    reason: str


class DoesNotFit(Exception):
    """
    Even the least that may be sent is too much.

    Attributes:
        tokens: of the conversation as it came.
        least: tokens that are left when all is dropped that may be dropped.
        most: tokens that may be sent.
        window: of one request.
        what: the largest message that is left, and its tokens.
    """

    def __init__(self, tokens: int, least: int, most: int, window: int, what: str) -> None:
        self.tokens = tokens
        self.least = least
        self.most = most
        self.window = window
        self.what = what
        super().__init__(f"{least} of {tokens} tokens are left, {most} may be sent; {what}")


@dataclass(frozen=True, slots=True)
class Fitted:
    """
    A conversation that fits.

    Attributes:
        messages: the identical object when nothing was changed.
        tokens: of all that is sent, fixed ones included.
        original_tokens: the same of what came.
        decided_at: place of the last message that had a part in any decision, or -1. Where all weights up
            to it were true, and all others no less than the truth, the plan is the true one.
        changes: to be announced.
        cuts: how many cuts the replay made.
    """

    messages: Sequence[Message]
    tokens: int
    original_tokens: int
    decided_at: int = -1
    changes: tuple[Change, ...] = ()
    cuts: int = 0
    _plan: _Plan | None = field(default=None, repr=False)

    @property
    def dropped(self) -> Sequence[Message]:
        """What was left out, in order, as it came."""
        if self._plan is None:
            return ()
        return [self._plan.messages[place] for place in self._plan.left.dropped]

    @property
    def cut_key(self) -> str | None:
        """Names what was left out: the same on every replica. None when nothing was."""
        return _key(self.dropped) if self._plan is not None and self._plan.left.dropped else None

    def fates(self, weights: Sequence[int]) -> list[Fate]:
        """What became of each message; *weights* as they were given."""
        if self._plan is None:
            return [Fate(Kind.KEPT, tokens, tokens, "everything fits") for tokens in weights]
        return [self._plan.fate(place, tokens) for place, tokens in enumerate(weights)]


@dataclass(frozen=True, slots=True)
class _Plan:
    messages: Sequence[Message]
    cuts: Cuts
    left: Kept
    now: Mapping[int, int]  # {place of a replaced message: tokens}

    def fate(self, place: int, before: int) -> Fate:
        units = self.cuts.units
        role = self.messages[place].get("role")
        if place not in self.left:
            return Fate(Kind.DROPPED, before, 0, "older than what is kept")
        if place == self.left.merged:
            after = self.now.get(place, before)
            return Fate(
                Kind.MERGED, before, after, "part of the first user message, now its neighbour"
            )
        if place in self.now:
            why = (
                "an image"
                if place in self.cuts.bare and place not in self.cuts.shortened
                else "oversized"
            )
            return Fate(
                Kind.SHORTENED, before, self.now[place], f"{why}, and older than the last round"
            )
        if role in ("system", "developer"):
            return Fate(Kind.KEPT, before, before, "system messages stay")
        if place == units.first_user:
            return Fate(Kind.KEPT, before, before, "the first user message stays")
        if place < self.left.tail:
            return Fate(Kind.KEPT, before, before, "its turn was cut in the middle")
        return Fate(
            Kind.KEPT,
            before,
            before,
            "newer than the cut" if self.left.dropped else "all turns fit",
        )


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
            raise _does_not_fit(
                messages, dict(enumerate(weights)), original, original, budget.window - 1, budget
            )
        return Fitted(messages, original, original)
    if original <= budget.high:
        return Fitted(messages, original, original)
    # Its blank lines count too.
    note_tokens = weigh({"role": "user", "content": f"\n\n{NOTE}\n\n"})
    if strategy is Strategy.SUMMARY:
        note_tokens += budget.window // _SUMMARY_SHARE
    replay = Replay(
        messages,
        weights,
        budget=budget,
        weigh=weigh,
        note_tokens=note_tokens,
        reset=strategy is Strategy.RESET,
    )
    cuts = replay.run()
    left, replaced, now = _made(messages, weights, cuts, weigh)
    tokens = cuts.tokens + sum(
        now[place] - cuts.shortened[place] for place in now if place in cuts.shortened
    )
    if tokens > budget.most:
        cuts = replay.to_the_least()
        left, replaced, now = _made(messages, weights, cuts, weigh)
        tokens = cuts.tokens + sum(
            now[place] - cuts.shortened[place] for place in now if place in cuts.shortened
        )
        squeeze = Squeeze(
            messages,
            {place: now.get(place, weights[place]) for place in left.places(len(messages))},
            replaced,
            tokens,
            weigh,
            cuts.units,
        )
        if not squeeze.to(budget.most, window=budget.window, shorten_last=options.shorten_last):
            raise _does_not_fit(
                messages, squeeze.weights, original, squeeze.tokens, budget.most, budget
            )
        tokens = squeeze.tokens
        now = {place: squeeze.weights[place] for place in replaced}
    if not left.dropped and not replaced:
        return Fitted(messages, tokens, original, cuts.decided_at)
    note = NOTE
    if left.dropped and strategy is Strategy.SUMMARY and summary is not None:
        text = summary(_key([messages[place] for place in left.dropped]))
        if text is not None:
            made: Message = {"role": "user", "content": summary_text(text)}
            made, _ = shrunk(made, max(weigh(made), 1), note_tokens, weigh)
            note = made["content"]
    out = assembled(messages, cuts, left, replaced, note)
    changes = _changes(weights, left, now, tokens)
    return Fitted(
        out,
        tokens,
        original,
        cuts.decided_at,
        changes,
        cuts.count,
        _Plan(messages, cuts, left, now),
    )


def _made(
    messages: Sequence[Message], weights: Sequence[int], cuts: Cuts, weigh: Weigh
) -> tuple[Kept, dict[int, Message], dict[int, int]]:
    """What is kept; what stands in place of shortened messages, and its tokens."""
    left = kept(messages, cuts)
    replaced: dict[int, Message] = {}
    now: dict[int, int] = {}
    for place, (bare, tokens) in cuts.bare.items():
        if place in left:
            replaced[place], now[place] = bare, tokens
    for place, target in cuts.shortened.items():
        if place in left:
            message = replaced.get(place, messages[place])
            weight = now.get(place, weights[place])
            replaced[place], now[place] = shrunk(message, weight, target, weigh)
    return left, replaced, now


def _key(dropped: Sequence[Message]) -> str:
    try:
        data = orjson.dumps(dropped)
    except TypeError:  # half a surrogate pair, a number of more than 64 bits
        data = json.dumps(dropped).encode()
    return blake2b(data, digest_size=16).hexdigest()


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


def _changes(
    weights: Sequence[int], left: Kept, now: Mapping[int, int], tokens: int
) -> tuple[Change, ...]:
    changes: list[Change] = []
    if left.dropped:
        count, gone = len(left.dropped), sum(weights[place] for place in left.dropped)
        said = (
            f"{count} older message{'s' if count != 1 else ''} ({gone:,} tokens) left out to fit the window;"
            f" {tokens:,} tokens are sent"
        )
        changes.append(Change("fit", "messages", "dropped", said))
    if now:
        before = sum(weights[place] for place in now)
        said = (
            f"{len(now)} message{'s' if len(now) != 1 else ''} shortened"
            f" from {before:,} to {sum(now.values()):,} tokens"
        )
        places = sorted(now)
        field = f"messages[{places[0]}].content" if len(places) == 1 else "messages"
        changes.append(Change("fit", field, "reduced", said))
    return tuple(changes)
