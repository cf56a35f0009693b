"""
What is known of the conversations of one model at one upstream. Bookkeeping: `context` counts and decides
with it. All of it is bounded and can be lost at any time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from penstock import tokens
from penstock.domain.profile import ModelProfile
from penstock.gateway.conversations.fitting import Messages
from penstock.gateway.conversations.prefix_guard import PrefixGuard
from penstock.gateway.conversations.sessions import Sessions
from penstock.gateway.conversations.slots import Slots

_COUNT_AGAIN_AFTER_S = 300.0
_MOST_EXACT_CLASS = 1.5


@dataclass(slots=True)
class ModelContext:
    """
    One model at one upstream.

    Attributes:
        identity: what it is; another model under the same name starts anew.
        profile: the one that it was recognised by last.
        scale: weights of messages.
        calibration: how the server's own counts differ from them.
        slots: which slot of the server each conversation has, where the gateway may choose.
        sessions: which conversation the sessions that clients name are at.
        prefix: whether its prefix cache can help.
        told: conversations whose client was told of an overflow, and when (loop time).
        projected: the server refused a schema, so all of them are reduced from then on: tools are part of
            the prefix.
        exact_class: budget class where the server counts: 1 unless it refused what by its own counts
            should fit (a template that adds more than it showed).
        truncations: answers whose server had silently cut the prompt.
        overhead_known: the template's share was measured, or cannot be.
        failures: counts that were asked for in vain, one after the other.
        measured_since_s: since when it is measured although its kind counts, because it does not.
        asked_s: when the server was asked for it, or, when that was in vain, when it was given up.
    """

    identity: tuple[Any, ...]
    profile: ModelProfile
    scale: tokens.Scale
    calibration: tokens.Calibration
    slots: Slots = field(default_factory=Slots)
    sessions: Sessions = field(default_factory=Sessions)
    prefix: PrefixGuard = field(default_factory=PrefixGuard)
    told: OrderedDict[int, float] = field(default_factory=OrderedDict)
    projected: bool = False
    exact_class: float = 1.0
    truncations: int = 0
    overhead_known: bool = False
    failures: int = 0
    measured_since_s: float | None = None
    asked_s: float | None = None
    first_look: asyncio.Task[None] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it is time to see if the server counts by now."""
        since_s = self.measured_since_s
        return since_s is not None and (
            asyncio.get_running_loop().time() - since_s > _COUNT_AGAIN_AFTER_S
        )

    def as_read(self, messages: Messages) -> Messages:
        """*messages* as the model's template reads them: what it leaves out weighs nothing."""
        if self.scale.overhead.keeps_thinking:
            return messages
        return tokens.without_spent_thinking(messages)

    def measure_only(self, now_s: float) -> None:
        """The server does not count, whatever its kind can: measure, and learn how far that is off."""
        self.scale = tokens.Scale(exact=False, family=self.scale.family)
        self.calibration = tokens.Calibration(self.scale.family)
        self.measured_since_s, self.overhead_known = now_s, True

    @property
    def is_certain(self) -> bool:
        """Texts are counted, and what the template adds was measured: nothing is left to be learned."""
        return self.scale.exact and self.scale.overhead.measured

    def refused(self, planned: int, actual: int) -> None:
        """The server refused for its length what should fit: it counted *actual* tokens of *planned*."""
        if self.is_certain and planned > 0:
            needed = tokens.step(actual / planned)
            self.exact_class = max(self.exact_class, min(needed, _MOST_EXACT_CLASS))

    def as_status(self) -> dict[str, Any]:
        """For `/penstock/status`."""
        return {
            "counted": self.scale.exact,
            "budget_class": self.exact_class if self.is_certain else self.calibration.budget_class,
            "error_bound": round(self.calibration.bound, 4),
            "silent_truncations": self.truncations,
            "prefix": self.prefix.as_status(),
        }
