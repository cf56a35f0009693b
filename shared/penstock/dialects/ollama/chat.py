"""Ollama's `/api/chat` in front of any server: `CHAT` is a `ClientDialect` (see `dialects/base.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.dialects.base import AnswerHead, Asked, ClientDialect
from penstock.dialects.ollama.answer import LineWriter, load_answer, whole_answer
from penstock.dialects.ollama.request import LOAD, read_chat
from penstock.domain.chat import Event


class OllamaChat:
    """`/api/chat`."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """See `ClientDialect`."""
        return read_chat(body)

    def writer(self, head: AnswerHead, asked: Asked) -> LineWriter:
        """See `ClientDialect`."""
        return LineWriter(head, "message")

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """See `ClientDialect`."""
        return whole_answer(events, head, "message")

    def loaded(self, head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """
        The answer to a request without messages (`asked.echo["load"]`): Ollama loads the model, or lets it
        go. One plain body, whether a stream was asked for or not. In front of another server it is
        answered here: there is nothing to load.
        """
        return load_answer(head, asked.echo[LOAD], "message")


CHAT = OllamaChat()
_is_one: ClientDialect = CHAT
