"""
Step 3b: a request in another dialect becomes one in OpenAI's, which is what every step after this one reads.

Only for local upstreams; a cloud gets the client's own bytes. What a dialect says and OpenAI's cannot say is
announced. Requests that only their own server understands (`raw` prompts of Ollama's, llama.cpp's
`/completion`) are no conversations: they stay as they are and are relayed in their own dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock.dialects.base import AnswerHead, AnswerWriter, Asked, ClientDialect
from penstock.dialects.openai.answer import CHAT
from penstock.dialects.openai.body import render_request
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Event
from penstock.gateway.edge.exchange import Exchange, Operation
from penstock.gateway.edge.routes import Route
from penstock.servers.base import ServerSpec

_CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Work:
    """
    What is asked of a local upstream.

    Attributes:
        operation, dialect, path: of `body`, which for a translated request is not the client's.
        body, raw: the request, parsed and as bytes.
        translation: how the answer becomes the client's; None where the client speaks OpenAI's dialect.
        changes: what could not be said in OpenAI's dialect.
        plain_answer: makes the client's answer of the server's, for work that has no stream.
    """

    operation: Operation
    dialect: str
    path: str
    body: dict[str, Any]
    raw: bytes
    translation: Translation | None = None
    changes: tuple[Change, ...] = ()
    plain_answer: Callable[[bytes], bytes] | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation that the gateway understands."""
        return self.operation == "chat" and self.dialect == "openai"


@dataclass(frozen=True, slots=True)
class Translation:
    """How events become an answer in the client's dialect."""

    dialect: ClientDialect
    asked: Asked
    head: AnswerHead

    def writer(self) -> AnswerWriter:
        """A writer at the beginning of its stream."""
        return self.dialect.writer(self.head, self.asked)

    def body(self, events: list[Event]) -> bytes:
        """The whole body."""
        return orjson.dumps(self.dialect.whole(events, self.head, self.asked))


def chat_work(body: dict[str, Any]) -> Work:
    """A conversation of our own in OpenAI's dialect."""
    return Work("chat", "openai", _CHAT_PATH, body, orjson.dumps(body))


NOTHING = Work("other", "openai", "", {}, b"")
"""Stands in for a request that was let go of."""

_DIALECTS: Mapping[str, ClientDialect] = {}


def dialect_of(route: Route) -> ClientDialect | None:
    """The codec of a route's dialect; None where nothing is translated."""
    return _DIALECTS.get(route.upstream_path)


def work_of(
    body: dict[str, Any], raw: bytes, route: Route, exchange: Exchange, spec: ServerSpec
) -> Work:
    """
    What is asked of a local upstream.

    Args:
        spec: of the upstream's kind.

    Raises:
        RequestError: the body is not of its dialect.
    """
    dialect = dialect_of(route)
    if dialect is None:
        return Work(route.operation, route.dialect, route.upstream_path, body, raw)
    asked = dialect.read(body)
    chat = render_request(asked.chat)
    head = answer_head(exchange)
    return Work(
        "chat",
        "openai",
        _CHAT_PATH,
        chat,
        orjson.dumps(chat),
        Translation(dialect, asked, head),
        asked.changes,
    )


def translation_of(work: Work, chat: ChatRequest | None, exchange: Exchange) -> Translation | None:
    """
    How the answer becomes the client's; None where client and server speak the same dialect.

    Args:
        chat: the request as it was said to a server that does not speak OpenAI's dialect.
    """
    if work.translation is not None or chat is None:
        return work.translation
    return Translation(CHAT, Asked(chat), answer_head(exchange))


def answer_head(exchange: Exchange) -> AnswerHead:
    """What an answer of ours says of itself."""
    return AnswerHead(exchange.id.removeprefix("req_"), exchange.model, int(exchange.arrived_at))
