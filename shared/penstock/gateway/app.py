"""
The gateway as an ASGI app: one callable, raw on the data path.

It decides what a request is (`routes`), whether it may (`access`), and hands it to the pipeline, the
listings, the pass-through, the health answers or the admin app. Whatever happens, a request ends here
with one answer and one record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import orjson

from penstock.adapters.transport import UpstreamTransport
from penstock.dialects.surfaces import OPENAI, surface_of
from penstock.domain.fault import Outcome
from penstock.domain.upstream import Locality
from penstock.errors import AnswerError, ErrorCode, PenstockError, Refused, RequestError
from penstock.gateway.edge.access import Access, AccessRules, decide_access
from penstock.gateway.edge.answer import ClientAnswer
from penstock.gateway.edge.body import ClientGone
from penstock.gateway.edge.cycle import Connection
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.edge.routes import DASHBOARD, Route, normalise_path, route
from penstock.gateway.pipeline import generate
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.passage import pass_on
from penstock.gateway.views.listings import answer_listing

log = logging.getLogger("penstock.gateway")

_CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; no client sees it


class Gateway:
    """
    Args:
        runtime: what the process consists of.
        transport: the way to upstreams.
        rules: who may do what.
        admin: the ASGI app of `/penstock/*`.
    """

    def __init__(
        self, runtime: Runtime, transport: UpstreamTransport, rules: AccessRules, admin: Any
    ) -> None:
        self.runtime = runtime
        self.transport = transport
        self.rules = rules
        self.admin = admin
        runtime.connect(transport)
        self._via_mark = f"penstock-{runtime.instance}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        connection: Connection = scope["extensions"]["penstock"]
        headers = connection.headers
        method = scope["method"]
        exchange = Exchange(
            self.runtime.request_id(),
            asyncio.get_running_loop().time(),
            time.time(),
            method,
            scope["path"][:200],
        )
        exchange.user_agent = headers.get("user-agent", "")[:120]
        answer = ClientAnswer(connection, OPENAI, exchange)
        try:
            path = normalise_path(scope["raw_path"])
            exchange.path = path
            found = route(method, path)
            if path == "/" and method == "GET" and "text/html" in headers.get("accept", ""):
                found = DASHBOARD  # a browser; Ollama's clients ask here too, and mean the server
            answer.surface = surface_of(found.dialect, found.operation)
            access = self._access(connection, method, found)
            exchange.client = access.client
            if found.kind == "health":
                await self._health(answer, found.upstream_path)
                return
            if found.kind == "admin":
                await self.admin(scope, receive, send)
                return
            await self._work(scope, receive, connection, headers, exchange, answer, found, access)
        except AnswerError as error:
            # Refused at the door: nobody's request for a model, but it has its line and its count.
            exchange.outcome = Outcome.IGNORED
            await self._fail(answer, error)
            exchange.stage = "done"
            exchange.ended_s = asyncio.get_running_loop().time()
            self.runtime.recorder.refused(exchange)
        finally:
            connection.done()

    def _access(self, connection: Connection, method: str, found: Route) -> Access:
        """Who a request is from. Decided once for requests that differ in nothing of what decides it."""
        head, rules = connection.head, self.rules
        known: tuple[str, Route, AccessRules, Access] | None = head.access
        if known is not None and known[0] == method and known[1] is found and known[2] is rules:
            return known[3]
        access = decide_access(method=method, route=found, headers=connection.headers, rules=rules)
        head.access = (method, found, rules, access)
        return access

    async def _work(
        self,
        scope: Any,
        receive: Any,
        connection: Connection,
        headers: dict[str, str],
        exchange: Exchange,
        answer: ClientAnswer,
        found: Route,
        access: Access,
    ) -> None:
        """A request that is recorded: for a model, or passed on."""
        task = asyncio.current_task()
        assert task is not None
        connection.on_disconnect(task.cancel)
        exchange.operation, exchange.dialect = found.operation, found.dialect
        query = scope["query_string"]
        incoming = Incoming(
            exchange,
            answer,
            connection,
            receive,
            headers,
            f"?{query.decode('latin-1')}" if query else "",
            found,
            access,
        )
        self.runtime.in_flight[exchange.id] = exchange
        try:
            self._refuse_loops_and_late_comers(headers)
            if found.kind in ("generate", "count"):
                await generate(incoming, self.runtime, self.transport)
            elif found.kind == "models":
                await answer_listing(incoming, self.runtime, self.transport)
            else:
                await pass_on(incoming, self.runtime, self.transport)
        except AnswerError as error:
            if exchange.outcome is None:
                exchange.outcome = Outcome.IGNORED
            await self._fail(answer, error)
        except ClientGone:
            exchange.client_gone = True
        except asyncio.CancelledError:
            task.uncancel()
            exchange.outcome = exchange.outcome or Outcome.IGNORED
            if connection.disconnected:
                exchange.client_gone = True
            else:
                await self._cut_off(answer, exchange, found)
        except Exception:
            log.exception("a defect in Penstock", extra={"penstock": {"id": exchange.id}})
            exchange.outcome = exchange.outcome or Outcome.IGNORED
            await self._fail(
                answer,
                PenstockDefect(
                    ErrorCode.INTERNAL_ERROR,
                    f"A defect in Penstock; its log tells more under {exchange.id}.",
                ),
            )
        finally:
            exchange.stage = "done"
            exchange.ended_s = asyncio.get_running_loop().time()
            exchange.client_gone = exchange.client_gone or connection.disconnected
            if exchange.client_gone and exchange.status is None:
                exchange.status = _CLIENT_CLOSED_REQUEST
            self.runtime.finish(exchange)

    async def _cut_off(self, answer: ClientAnswer, exchange: Exchange, found: Route) -> None:
        """The time for running requests to end is over: the client is told, or sees that it broke."""
        is_ours = found.kind == "generate" and exchange.locality is Locality.LOCAL
        if answer.committed and not is_ours:
            exchange.error_code = ErrorCode.DRAINING.value
            answer.abort()
            return
        await self._fail(
            answer,
            Refused(
                ErrorCode.DRAINING,
                "The gateway has stopped before the answer was complete.",
                retry_after_s=5.0,
            ),
        )

    def _refuse_loops_and_late_comers(self, headers: dict[str, str]) -> None:
        if self._via_mark in headers.get("via", ""):
            raise RequestError(
                ErrorCode.LOOP_DETECTED,
                "The request has passed this gateway already: an upstream leads back to it.",
                hint="Check the upstreams' URLs.",
            )
        if self.runtime.draining:
            raise Refused(
                ErrorCode.DRAINING,
                "The gateway is about to stop and takes no new requests.",
                retry_after_s=5.0,
            )

    async def _fail(self, answer: ClientAnswer, error: AnswerError) -> None:
        try:
            await answer.fail(error)
        except (OSError, RuntimeError):
            log.debug("the client was gone before it could be told", exc_info=True)

    async def _health(self, answer: ClientAnswer, path: str) -> None:
        """`/healthz`, `/readyz` and `/metrics`: cheap, and independent of every upstream."""
        if path == "/metrics":
            kind = b"text/plain; version=0.0.4; charset=utf-8"
            await answer.whole(200, _own(kind), self.runtime.recorder.metrics.render())
            return
        gone = self.runtime.leaving or self.runtime.draining
        ready = path != "/readyz" or not gone
        body = {"status": "ok" if ready else "draining"}
        await answer.whole(200 if ready else 503, _own(b"application/json"), orjson.dumps(body))


class PenstockDefect(AnswerError, PenstockError):
    """Something that must not happen happened."""


def _own(content_type: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", content_type),
        (b"server", b"penstock"),
        (b"cache-control", b"no-store"),
    ]
