"""A change that Penstock made to a request or an answer. Every one of them is announced."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change, as it is announced, logged and explained.

    Attributes:
        step: which decision made it: `route`, `template`, `sampling`, `output`, `stream`, `fit`, `repair`.
        field: the request's or answer's field that changed (`temperature`, `messages[3].role`).
        action: `set`, `dropped`, `renamed`, `reduced`, `rewritten`, `forced`.
        detail: one sentence for people; values may appear, prompts never.
    """

    step: str
    field: str
    action: str
    detail: str
