"""
Anthropic's Messages dialect towards clients: what Claude Code speaks.

`request` reads a request (`conversation` and `blocks` its messages, `tools` its tools), `answer` writes one
(`outcome` are its message object and errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.dialects.anthropic.answer import MessageWriter, whole_answer
from penstock.dialects.anthropic.request import read_request
from penstock.dialects.base import AnswerHead, AnswerWriter, Asked, ClientDialect
from penstock.domain.chat import Event


class _Messages:
    """See `ClientDialect`."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        return read_request(body)

    def writer(self, head: AnswerHead, asked: Asked) -> AnswerWriter:
        return MessageWriter(head)

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        return whole_answer(events, head)


MESSAGES: ClientDialect = _Messages()


def read_for_count(body: Mapping[str, Any]) -> Asked:
    """
    The neutral request of `/v1/messages/count_tokens`, which asks for no answer and so names no limit of it.

    Raises:
        RequestError: as `MESSAGES.read` does.
    """
    return read_request(body, needs_limit=False)


__all__ = ["MESSAGES", "MessageWriter", "read_for_count"]
