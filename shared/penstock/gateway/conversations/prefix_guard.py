"""
Watches whether the server's prefix cache can help: what a client changes near the beginning of its
conversations, and prompts that the server computes anew although their beginning is what it had.

Kept per model, bounded, and needed for nothing but telling people (status, metrics, `penstock doctor`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from penstock.compress import Conversations, PrefixReport
from penstock.gateway.conversations.fitting import Messages

_MOST_PREVIOUS = 256
_MOST_TEXT_BYTES = 2 * 1024 * 1024
_REUSED_FROM = 0.5
_WORTH_TOKENS = 64
_NO_REUSE_AFTER = 3


@dataclass(frozen=True, slots=True)
class _Sent:
    tokens: int
    cut_at: int


class PrefixGuard:
    """
    The conversations of one model.

    Attributes:
        breaks: requests that differed from the one before them further up than in the last turn.
        last_break: where and how the last of these did, None when there was none.
        reused, missed: requests whose beginning the server had just worked on, and took from its cache or
            did not.
    """

    __slots__ = (
        "_conversations",
        "_latest",
        "_previous",
        "_tools",
        "breaks",
        "last_break",
        "missed",
        "reused",
    )

    def __init__(self) -> None:
        self._conversations = Conversations(most_bytes=_MOST_TEXT_BYTES)
        self._previous: OrderedDict[int, _Sent] = OrderedDict()
        self._tools: OrderedDict[int, int] = OrderedDict()
        self._latest = 0
        self.breaks = 0
        self.last_break: dict[str, Any] | None = None
        self.reused = 0
        self.missed = 0

    def seen(self, messages: Messages, client: str, tools: int = 0) -> PrefixReport:
        """
        Note a request as the client sent it; what we cut ourselves is no surprise.

        Args:
            tools: what tells its tools from others: templates put them before the messages.
        """
        report = self._conversations.seen(messages, client)
        difference = report.first_difference
        before = self._tools.get(report.conversation)
        self._tools[report.conversation] = tools
        self._tools.move_to_end(report.conversation)
        while len(self._tools) > _MOST_PREVIOUS:
            self._tools.popitem(last=False)
        if before is not None and before != tools and report.previous_messages:
            self.breaks += 1
            self._previous.pop(report.conversation, None)  # nothing is to be expected of its cache
            why = "the tools are others than those of the request before"
            self.last_break = {
                "message": None,
                "role": None,
                "byte": None,
                "why": why,
                "client": client,
            }
        elif difference is not None and report.before_last_turn:
            self.breaks += 1
            self.last_break = {
                "message": difference.message,
                "role": difference.role,
                "byte": difference.byte,
                "why": difference.why,
                "client": client,
            }
        return report

    def answered(
        self, report: PrefixReport, *, tokens: int, cut_at: int, cached: int | None
    ) -> None:
        """
        Note what the server took from its cache.

        Args:
            tokens: of the prompt, as the server counted it.
            cut_at: place of the last message that had a part in a cut, -1 for none.
            cached: tokens that it had in its cache, None when it does not say.
        """
        number = report.conversation
        before = self._previous.get(number)
        in_a_row, self._latest = self._latest == number, number
        self._previous[number] = _Sent(tokens, cut_at)
        self._previous.move_to_end(number)
        while len(self._previous) > _MOST_PREVIOUS:
            self._previous.popitem(last=False)
        goes_on = report.first_difference is None and report.previous_messages > 0
        if before is None or cached is None or not goes_on or not in_a_row:
            return
        if before.cut_at != cut_at or before.tokens < _WORTH_TOKENS:
            return
        if cached >= _REUSED_FROM * before.tokens:
            self.reused += 1
        else:
            self.missed += 1

    def expected_in_cache(self, report: PrefixReport) -> int:
        """Tokens that the server is likely to have of a request's prompt: those of the one that it goes on from."""
        before = self._previous.get(report.conversation)
        goes_on = report.first_difference is None and report.previous_messages > 0
        return before.tokens if before is not None and goes_on else 0

    @property
    def reuse_is_impossible(self) -> bool:
        """Whether the server seems to compute every prompt anew, whatever it had before."""
        return self.missed >= _NO_REUSE_AFTER and self.missed > 2 * self.reused

    def as_status(self) -> dict[str, Any]:
        """For `/penstock/status`."""
        return {
            "breaks": self.breaks,
            "last_break": self.last_break,
            "reused": self.reused,
            "missed": self.missed,
            "reuse_is_impossible": self.reuse_is_impossible,
        }
