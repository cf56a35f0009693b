"""What fitting comes to: messages, and for people what became of each of them and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from penstock.compress.assemble import Kept
from penstock.compress.replay import Cuts
from penstock.compress.summary import cut_key
from penstock.domain.change import Change

Message = Mapping[str, Any]


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
class Plan:
    """
    What was decided.

    Attributes:
        now: {place of a message that was made smaller: its tokens}.
    """

    messages: Sequence[Message]
    cuts: Cuts
    left: Kept
    now: Mapping[int, int]

    def fate(self, place: int, before: int) -> Fate:
        """What became of the message at *place*, which had *before* tokens."""
        kind, after = Kind.KEPT, self.now.get(place, before)
        if place not in self.left:
            kind, after, why = Kind.DROPPED, 0, "older than what is kept"
        elif place == self.left.merged:
            kind, why = Kind.MERGED, "part of the first user message, now its neighbour"
        elif place in self.now:
            kind = Kind.SHORTENED
            if place in self.cuts.shortened:
                why = "an oversized result, older than the last round"
            elif place in self.cuts.bare:
                why = "an image, older than the last round"
            else:
                why = "too large although all is dropped that may be dropped"
        elif self.messages[place].get("role") in ("system", "developer"):
            why = "system messages stay"
        elif place == self.cuts.units.first_user:
            why = "the first user message stays"
        elif place < self.left.tail:
            why = "its turn was cut in the middle"
        else:
            why = "newer than the cut" if self.left.dropped else "no turn had to go"
        return Fate(kind, before, after, why)

    def changes(self, weights: Sequence[int], tokens: int) -> tuple[Change, ...]:
        """What is announced; *tokens* are sent."""
        changes: list[Change] = []
        dropped, now = self.left.dropped, self.now
        if dropped:
            gone = sum(weights[place] for place in dropped)
            said = (
                f"{_messages(len(dropped), 'older ')} ({gone:,} tokens) left out to fit the window;"
                f" {tokens:,} tokens are sent"
            )
            changes.append(Change("fit", "messages", "dropped", said))
        if now:
            before = sum(weights[place] for place in now)
            said = (
                f"{_messages(len(now))} shortened from {before:,} to {sum(now.values()):,} tokens"
            )
            where = f"messages[{min(now)}].content" if len(now) == 1 else "messages"
            changes.append(Change("fit", where, "reduced", said))
        return tuple(changes)


def _messages(count: int, kind: str = "") -> str:
    return f"{count} {kind}message{'' if count == 1 else 's'}"


class Fitted(NamedTuple):
    """
    A conversation that fits. One is made for each request; a tuple takes a quarter of a frozen dataclass's time.

    Attributes:
        messages: the identical object when nothing was changed.
        tokens: of all that is sent, fixed ones included.
        original_tokens: the same of what came.
        decided_at: place of the last message that had a part in any decision, or -1. Where all weights up
            to it were true, and all others no less than the truth, the plan is the true one.
        changes: to be announced.
        cuts: how many cuts the replay made.
        summary_key: of the summary that stands in place of what was left out, or None. It may be a few
            messages short; while it is used no better one is needed, and would only move the prefix.
        plan: what was decided, None where nothing had to be.
    """

    messages: Sequence[Message]
    tokens: int
    original_tokens: int
    decided_at: int = -1
    changes: tuple[Change, ...] = ()
    cuts: int = 0
    summary_key: str | None = None
    plan: Plan | None = None

    @property
    def dropped(self) -> Sequence[Message]:
        """What was left out, in order, as it came."""
        if self.plan is None:
            return ()
        return [self.plan.messages[place] for place in self.plan.left.dropped]

    @property
    def cut_key(self) -> str | None:
        """Names what lies behind the cut: the same on every replica. None when nothing was left out."""
        behind = self.behind
        return cut_key(behind) if behind else None

    @property
    def behind(self) -> Sequence[Message]:
        """What a summary is to cover: all that was left out, and a message that ties it to what follows."""
        if self.plan is None or not self.plan.left.dropped:
            return ()
        return [self.plan.messages[place] for place in self.plan.left.behind]

    def fates(self, weights: Sequence[int]) -> list[Fate]:
        """What became of each message; *weights* as they were given."""
        if self.plan is None:
            return [Fate(Kind.KEPT, tokens, tokens, "everything fits") for tokens in weights]
        return [self.plan.fate(place, tokens) for place, tokens in enumerate(weights)]
