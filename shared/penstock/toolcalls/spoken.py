"""
The text of an answer that may turn out to be a call: held while it may, let go as it came when it is none.

Thinking that a model writes into its answer (`<think>`) goes on; what stands behind it may be a call. What
decides is `penstock.toolcalls.recover`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penstock.domain.chat import TextDelta
from penstock.toolcalls.mended import Out, Rules
from penstock.toolcalls.recover import Call, may_become_call, recover_calls

_LONGEST_HELD_TEXT = 4 * 1024 * 1024
_VIEW, _VIEW_BEGIN, _VIEW_END = 16_384, 512, 4_096
"""Of a long text its beginning and its end tell whether it may be a call."""
_THINK, _THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class _Part:
    """The end of a piece of text, whose beginning went on already."""

    token: Any
    piece: str


class SpokenText:
    """
    The text of one choice.

    Args:
        rules, choice: see `AnswerMender`.
    """

    __slots__ = ("_choice", "_held", "_rules", "_size", "_state", "_tail", "_view")

    def __init__(self, rules: Rules, choice: int) -> None:
        self._rules = rules
        self._choice = choice
        self._state: Literal["open", "think", "closed"] = "open" if rules.recover else "closed"
        self._held: list[tuple[Any, str]] = []
        self._size = 0
        self._view = ""
        self._tail = ""

    @property
    def is_closed(self) -> bool:
        """Whether text goes on as it comes, whatever it is."""
        return self._state == "closed"

    @property
    def holds(self) -> bool:
        """Whether some text waits."""
        return bool(self._held)

    def take(self, token: Any, text: str) -> list[Out]:
        """A piece of the answer's text."""
        if self._state == "closed" or not text:
            return [Out(token)]
        if self._state == "think":
            return self._think(token, text)
        self._held.append((token, text))
        self._size += len(text)
        self._view += text
        if len(self._view) > _VIEW:
            self._view = self._view[:_VIEW_BEGIN] + self._view[-_VIEW_END:]
        begin = self._view[:_VIEW_BEGIN].lstrip()
        if begin.startswith(_THINK):
            self._state = "think"
            held, self._held, self._size, self._view = self._held, [], 0, ""
            return [out for token, piece in held for out in self.take(token, piece)]
        if _THINK.startswith(begin):
            return []
        tools = self._rules.tools()
        if self._size > _LONGEST_HELD_TEXT or not may_become_call(self._view, tools):
            return self.let_go()
        return []

    def _think(self, token: Any, text: str) -> list[Out]:
        """Thinking that a model writes into its answer goes on; what stands behind it may be a call."""
        known = len(self._tail)
        window = self._tail + text
        end = window.find(_THOUGHT)
        if end < 0:
            self._tail = window[1 - len(_THOUGHT) :]
            return [Out(token)]
        end += len(_THOUGHT) - known
        self._state, self._tail = "open", ""
        if end == len(text):
            return [Out(token)]
        rest = self.take(token, text[end:])
        if rest and all(out.token is token and out.delta is None for out in rest):
            return [Out(token)]  # nothing is held: it goes on whole
        self._held = [
            (token if isinstance(token, _Part) else _Part(token, piece), piece)
            for token, piece in self._held
        ]
        return [Out(token, TextDelta(text[:end], self._choice)), *rest]

    def let_go(self) -> list[Out]:
        """It is no call: all that is held goes on as it came, and what follows too."""
        self._state = "closed"
        held, self._held = self._held, []
        return [
            Out(token.token, TextDelta(token.piece, self._choice))
            if isinstance(token, _Part)
            else Out(token)
            for token, _ in held
        ]

    def recover(self) -> tuple[Any, tuple[Call, ...]] | None:
        """The calls that the held text is, and the token that it began with; None when it is none."""
        text = "".join(piece for _, piece in self._held)
        found = (
            recover_calls(text, self._rules.tools(), earlier=self._rules.earlier) if text else None
        )
        if found is None or not found.calls:
            return None
        token = self._held[0][0]
        self._held, self._state = [], "closed"
        return token.token if isinstance(token, _Part) else token, found.calls
