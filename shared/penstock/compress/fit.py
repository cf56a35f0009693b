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
    plain_tokens = weigh(
        {"role": "user", "content": f"\n\n{NOTE}\n\n"}
    )  # its blank lines count too
    room = budget.window // _SUMMARY_SHARE if strategy is Strategy.SUMMARY else 0
    replay = Replay(
        messages,
        weights,
        budget=budget,
        weigh=weigh,
        note_tokens=plain_tokens,
        room=room,
        reset=strategy is Strategy.RESET,
    )
    sent = _Sent(messages, weights, replay.run(), weigh, room)
    if sent.tokens > budget.most:
        sent = _Sent(messages, weights, replay.to_the_least(), weigh, room)
        if not sent.squeeze(weights, budget, options, weigh):
            raise _does_not_fit(
                messages, sent.weights(weights), original, sent.tokens, budget.most, budget
            )
    cuts, left = sent.cuts, sent.left
    if not left.dropped and not sent.replaced:
        return Fitted(messages, sent.tokens, original, cuts.decided_at)
    note, tokens = NOTE, sent.tokens
    if left.dropped and room and summary is not None:
        text = summary(_key([messages[place] for place in left.dropped]))
        if text is not None:
            made: Message = {"role": "user", "content": f"\n\n{summary_text(text)}\n\n"}
            made, more = shrunk(made, max(weigh(made), 1), plain_tokens + room, weigh)
            if more <= plain_tokens + room and tokens + more - plain_tokens <= budget.most:
                note, tokens = made["content"].strip("\n"), tokens + more - plain_tokens
    out = assembled(messages, cuts, left, sent.replaced, note)
    changes = _changes(weights, left, sent.now, tokens)
    plan = _Plan(messages, cuts, left, sent.now)
    return Fitted(out, tokens, original, cuts.decided_at, changes, cuts.count, plan)


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
