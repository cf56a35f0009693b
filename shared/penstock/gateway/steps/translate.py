"""
Step 3b: a request in another dialect becomes one in OpenAI's, which is what every step after this one reads.

Only for local upstreams; a cloud gets the client's own bytes. What a dialect says and OpenAI's cannot say is
announced. Requests that only their own server understands (a prompt with a suffix of Ollama's, llama.cpp's
`/completion`) are no conversations: they stay as they are and are relayed in their own dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from penstock.dialects.anthropic import MESSAGES, read_for_count
from penstock.dialects.base import AnswerHead, AnswerWriter, Asked, ClientDialect
from penstock.dialects.ollama.chat import CHAT as OLLAMA_CHAT
from penstock.dialects.ollama.embeddings import embed_answer, embed_request, nothing_to_embed
from penstock.dialects.ollama.generate import GENERATE, completion_body, needs_completion
from penstock.dialects.ollama.request import LOAD
from penstock.dialects.openai.answer import CHAT
from penstock.dialects.openai.body import render_request
from penstock.dialects.responses import RESPONSES
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Event
from penstock.gateway.edge.exchange import Exchange, Operation
from penstock.gateway.edge.routes import Route
from penstock.gateway.steps.edit import written
from penstock.servers.base import ServerSpec

_CHAT_PATH = "/v1/chat/completions"
_CONVERSATIONS: Mapping[str, ClientDialect] = {
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": GENERATE,
}
_EMBEDDINGS = frozenset({"/api/embed", "/api/embeddings"})


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


class Work(NamedTuple):
    """
    What is asked of a local upstream.

    Attributes:
        operation, dialect, path: of `body`, which for a translated request is not the client's.
        body, raw: the request, parsed and as bytes.
        translation: how the answer becomes the client's; None where the client speaks the server's dialect.
        changes: what could not be said in OpenAI's dialect.
        plain_answer: makes the client's answer of the server's, for work that has no stream. Raises `ValueError`.
        answered: the answer, where none of the upstream is needed.
    """

    operation: Operation
    dialect: str
    path: str
    body: dict[str, Any]
    raw: bytes
    translation: Translation | None = None
    changes: tuple[Change, ...] = ()
    plain_answer: Callable[[bytes], bytes] | None = None
    answered: bytes | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation that the gateway understands."""
        return self.operation == "chat" and self.dialect == "openai"


NOTHING = Work("other", "openai", "", {}, b"")
"""Stands in for a request that was let go of."""


def chat_work(body: dict[str, Any]) -> Work:
    """
    A conversation in OpenAI's dialect.

    Raises:
        RequestError: something in it cannot be written.
    """
    return Work("chat", "openai", _CHAT_PATH, body, written(body))


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
    path = route.upstream_path
    as_it_is = Work(route.operation, route.dialect, path, body, raw)
    if route.dialect == "openai":
        return as_it_is
    head = answer_head(exchange)
    if route.dialect == "ollama":
        if spec.behaviour.chat_dialect == "ollama":
            if path in _EMBEDDINGS or _is_ollamas_own(body, path):
                return as_it_is
        elif path in _EMBEDDINGS:
            return _embeddings(body, path, head)
        elif path == "/api/generate" and needs_completion(body):
            return _completion(body, head)
    dialect = _CONVERSATIONS.get(path)
    if dialect is None:
        return as_it_is
    asked = dialect.read(body)
    if LOAD in asked.echo and (dialect is OLLAMA_CHAT or dialect is GENERATE):
        if spec.behaviour.chat_dialect == "ollama":
            return as_it_is
        whole = (OLLAMA_CHAT if dialect is OLLAMA_CHAT else GENERATE).loaded(head, asked)
        return as_it_is._replace(changes=asked.changes, answered=orjson.dumps(whole))
    return chat_work(render_request(asked.chat))._replace(
        translation=Translation(dialect, asked, head),
        changes=asked.changes,
    )


def counted_body(body: dict[str, Any], route: Route) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """
    A request whose tokens are asked for, in OpenAI's dialect, and what could not be said in it.

    Raises:
        RequestError: the body is not of its dialect.
    """
    if route.dialect == "openai":
        return body, ()
    asked = read_for_count(body) if route.dialect == "anthropic" else RESPONSES.read(body)
    return render_request(asked.chat), asked.changes


def _is_ollamas_own(body: Mapping[str, Any], path: str) -> bool:
    """What a real Ollama can say and no translation keeps."""
    if body.get("logprobs") is True:
        return True
    return path == "/api/generate" and needs_completion(body) != ""


def _completion(body: dict[str, Any], head: AnswerHead) -> Work:
    """A prompt without a template around it."""
    completion, changes = completion_body(body)
    asked = Asked(ChatRequest(head.model, ()), changes)
    return Work(
        "completions",
        "openai",
        "/v1/completions",
        completion,
        written(completion),
        Translation(GENERATE, asked, head),
        changes,
    )


def _embeddings(body: dict[str, Any], path: str, head: AnswerHead) -> Work:
    nothing = nothing_to_embed(body, path, head)
    request, changes = embed_request(body, path)
    return Work(
        "embeddings",
        "openai",
        "/v1/embeddings",
        request,
        written(request),
        changes=changes,
        plain_answer=lambda raw: orjson.dumps(embed_answer(orjson.loads(raw), path, head)),
        answered=None if nothing is None else orjson.dumps(nothing),
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
