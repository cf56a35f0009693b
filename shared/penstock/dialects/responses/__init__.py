"""
OpenAI's Responses dialect towards clients: what Codex speaks.

`request` reads a request (`items` and `parts` its conversation, `tools` its tools), `answer` writes one (`pieces` are its items, `outcome` the response object and errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.dialects.base import AnswerHead, AnswerWriter, Asked, ClientDialect
from penstock.dialects.responses.answer import ResponsesWriter, whole_answer
from penstock.dialects.responses.outcome import client_code
from penstock.dialects.responses.request import read_request
from penstock.domain.chat import Event


class _Responses:
    """See `ClientDialect`."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        return read_request(body)

    def writer(self, head: AnswerHead, asked: Asked) -> AnswerWriter:
        return ResponsesWriter(head, asked)

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        return whole_answer(events, head, asked)


RESPONSES: ClientDialect = _Responses()

__all__ = ["RESPONSES", "ResponsesWriter", "client_code"]
