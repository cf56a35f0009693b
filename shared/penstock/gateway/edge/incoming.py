"""A client's request as the server handed it over: headers, body, wishes, and the answer to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from penstock.dialects.surfaces import Surface
from penstock.domain.strategy import Strategy
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.access import Access
from penstock.gateway.edge.answer import ClientAnswer, Headers
from penstock.gateway.edge.body import read_body, too_large
from penstock.gateway.edge.cycle import Connection
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.routes import Route
from penstock.gateway.edge.sessions import session_of
from penstock.settings import Settings

_WISHES = frozenset(
    {
        "penstock-priority", "penstock-deadline", "penstock-explain", "penstock-strategy",
        "penstock-conversation",
    }
)  # fmt: skip
_PRIORITIES = ("high", "normal", "low")
_LONGEST_CONVERSATION = 128
_SHARE_OF_CLIENT_TIMEOUT = 0.5
"""A heartbeat goes out after this share of the read time-out that the client announced."""


class Incoming:
    """
    One request.

    Attributes:
        method: upper case.
        query: with its leading "?", or empty.
        headers: by lower-case name, the last one of each.
        raw_headers: as the client sent them.
        access: who it is and what they may.
        route: where it goes.
        deadline_s: seconds from arrival to the first token that the client asked for, None for none.
        strategy: how the client wants its conversation to be made to fit, None when it does not say.
        client_timeout_s: read time-out that the client announced, None for none.
    """

    __slots__ = (
        "_receive",
        "access",
        "answer",
        "client_timeout_s",
        "connection",
        "deadline_s",
        "exchange",
        "headers",
        "method",
        "query",
        "raw_headers",
        "route",
        "strategy",
        "surface",
    )

    def __init__(
        self,
        exchange: Exchange,
        answer: ClientAnswer,
        connection: Connection,
        receive: Callable[[], Awaitable[Any]],
        headers: Mapping[str, str],
        query: str,
        route: Route,
        access: Access,
    ) -> None:
        self.exchange = exchange
        self.answer = answer
        self.connection = connection
        self._receive = receive
        self.headers = headers
        self.query = query
        self.method = exchange.method
        self.raw_headers: Headers = connection.raw_headers
        self.surface: Surface = answer.surface
        self.route = route
        self.access = access
        self.deadline_s: float | None = None
        self.strategy: Strategy | None = None
        # Python's official clients say the first, those for JavaScript the second (Claude Code is one).
        timeout = headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout")
        self.client_timeout_s = None if timeout is None else _seconds(timeout)

    async def read_body(self, settings: Settings) -> bytes:
        """The whole body, within the bounds of the settings."""
        if self.connection.body_complete:
            body = self.connection.cycle.take_body()
            if body is not None and len(body) <= settings.listen.max_body_bytes:
                return body
            if body is not None:
                raise too_large(settings.listen.max_body_bytes, self.headers)
        return await read_body(
            self._receive,
            self.headers,
            max_bytes=settings.listen.max_body_bytes,
            timeout_s=settings.listen.body_timeout_s,
        )

    def read_wishes(self, body: Mapping[str, Any]) -> None:
        """
        What the client wants of Penstock: headers `penstock-*`, or the body's `penstock` object.

        Raises:
            RequestError: a wish that cannot be understood.
        """
        self.exchange.session = session_of(self.headers, body)
        wishes = body.get("penstock")
        if wishes is None and _WISHES.isdisjoint(self.headers):
            return
        if wishes is None:
            wishes = {}
        if not isinstance(wishes, Mapping):
            raise RequestError(
                ErrorCode.INVALID_REQUEST, "penstock: expected an object.", param="penstock"
            )
        priority = self.headers.get("penstock-priority") or wishes.get("priority") or "normal"
        if priority not in _PRIORITIES:
            raise RequestError(
                ErrorCode.INVALID_REQUEST,
                f"penstock-priority: expected one of {', '.join(_PRIORITIES)}.",
                param="penstock.priority",
            )
        self.exchange.priority = priority
        deadline = self.headers.get("penstock-deadline") or wishes.get("deadline_s")
        if deadline is not None:
            self.deadline_s = _seconds(deadline)
            if self.deadline_s is None:
                raise RequestError(
                    ErrorCode.INVALID_REQUEST,
                    "penstock-deadline: expected a number of seconds above 0.",
                    param="penstock.deadline_s",
                )
        strategy = self.headers.get("penstock-strategy") or wishes.get("strategy")
        if strategy is not None:
            if strategy not in tuple(Strategy):
                raise RequestError(
                    ErrorCode.INVALID_REQUEST,
                    f"penstock-strategy: expected one of {', '.join(Strategy)}.",
                    param="penstock.strategy",
                )
            self.strategy = Strategy(strategy)
        conversation = self.headers.get("penstock-conversation") or wishes.get("conversation")
        if conversation is not None:
            if not isinstance(conversation, str) or len(conversation) > _LONGEST_CONVERSATION:
                raise RequestError(
                    ErrorCode.INVALID_REQUEST,
                    f"penstock-conversation: expected at most {_LONGEST_CONVERSATION} characters.",
                    param="penstock.conversation",
                )
            self.exchange.conversation = conversation
        explain = self.headers.get("penstock-explain", "").lower() == "true"
        self.exchange.explain = explain or wishes.get("explain") is True

    def heartbeat_s(self, default_s: float) -> float:
        """Seconds of silence after which a heartbeat goes out."""
        if self.client_timeout_s is None:
            return default_s
        return min(default_s, max(0.5, self.client_timeout_s * _SHARE_OF_CLIENT_TIMEOUT))

    def queue_deadline_s(self, settings: Settings) -> float:
        """Seconds that the request may wait behind others."""
        limit_s = settings.concurrency.queue_deadline_s
        if self.deadline_s is not None:
            limit_s = min(limit_s, self.deadline_s)
        if not self.exchange.stream and self.client_timeout_s is not None:
            limit_s = min(limit_s, self.client_timeout_s)
        return limit_s


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < 1e9 else None
