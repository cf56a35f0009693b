"""
Cloud upstreams: bytes pass unchanged in both directions (contracts 3).

Only hop-by-hop headers and the configured credential differ, and an alias splices the value of `model`.
Nothing is added: no header, no heartbeat, no error event; no decision module runs. A stream that breaks
aborts the client's connection, it never ends cleanly. Retries by the cloud policy happen before the first
byte only. What we answer ourselves (the cloud cannot be reached) is an error of ours, marked as such.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from itertools import islice
from typing import Any

import orjson

from penstock import faults, retry
from penstock.adapters.transport import (
    TransportError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTransport,
)
from penstock.domain.fault import Fault, Outcome
from penstock.domain.retry_after import parse_retry_after
from penstock.errors import ErrorCode, RequestError, UpstreamFault
from penstock.gateway.edge.answer import ClientAnswer, end_to_end
from penstock.gateway.edge.body import ClientGone
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.edge.routes import allowed_for_cloud, wire_path
from penstock.gateway.steps.opening import no_descriptors
from penstock.gateway.steps.upstream_headers import headers_for
from penstock.gateway.steps.watch import Clock, Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings

_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 529})
_LARGEST_ERROR_BYTES = 1024 * 1024
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_MODEL_FIELD = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


def splice_model(raw: bytes, body: dict[str, Any], model: str) -> bytes:
    """
    *raw* with the value of its top-level `model` replaced and every other byte as it was.

    `"model": "x"` may stand deeper in the body as well, for example in a tool's schema.
    """
    wanted = {**body, "model": model}
    found = _own_model(raw)
    if found is not None:
        candidate = raw[: found.start(1)] + orjson.dumps(model) + raw[found.end(1) :]
        if orjson.loads(candidate) == wanted:
            return candidate
    return orjson.dumps(wanted)


def _own_model(raw: bytes) -> re.Match[bytes] | None:
    """The top-level `model` of a JSON object, the last one as parsers take it; in one pass, whatever a client sends."""
    fields = list(islice(_MODEL_FIELD.finditer(raw), 2))
    if len(fields) < 2:
        return fields[0] if fields else None
    own, depth = None, 0
    for token in _STRING_OR_BRACKET.finditer(raw):
        sign = token[0][:1]
        if sign in b"{[":
            depth += 1
        elif sign in b"}]":
            depth -= 1
        elif depth == 1:
            own = _MODEL_FIELD.match(raw, token.start()) or own
    return own


class _CloudRun:
    """The clocks of one cloud request: there are no heartbeats, only limits."""

    def __init__(self, settings: Settings) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        times = settings.timeouts
        self.watch = Watch(
            asyncio.get_running_loop(),
            {
                "first_token": times.first_token_s,
                "stall": times.stall_s,
            },
            None,
            self._expired,
            _nothing,
        )

    def _expired(self, _: Clock) -> None:
        self._task.cancel()

    def take_expired(self) -> Clock | None:
        """The clock whose limit passed, if that is why we were cancelled."""
        expired, self.watch.expired = self.watch.expired, None
        if expired is not None:
            self._task.uncancel()
        return expired


def _nothing() -> None:
    return None


async def pass_through(
    incoming: Incoming,
    settings: Settings,
    transport: UpstreamTransport,
    state: UpstreamState,
    raw: bytes,
    *,
    via: bytes | None = None,
    again: bool = True,
) -> None:
    """
    Send the request on and its answer back.

    Args:
        via: see `headers_for`; given for a local upstream whose requests pass unchanged.
        again: failed attempts are repeated by the cloud policy.

    Raises:
        RequestError: the path is none that the upstream's key may be used for.
        UpstreamFault: there is no answer, and nothing was sent to the client yet.
        asyncio.CancelledError: the client hung up.
    """
    exchange, answer = incoming.exchange, incoming.answer
    path = incoming.route.upstream_path
    # A local server that only relays some models to a cloud has paths of its own.
    if not state.is_local and not allowed_for_cloud(path):
        raise RequestError(
            ErrorCode.NOT_FOUND,
            f"{path} is not passed on to the cloud upstream {state.name}: only API paths are, "
            "so that its key serves no other purpose.",
        )
    request = UpstreamRequest(
        incoming.method.encode("ascii"),
        (state.prefix + wire_path(path) + incoming.query).encode("ascii"),
        headers_for(incoming, state, path, via),
        raw if raw or incoming.method not in ("GET", "HEAD", "OPTIONS") else None,
    )
    run = _CloudRun(settings)
    response: UpstreamResponse | None = None
    try:
        response, body = await _open(
            exchange, state, request, transport, settings, run, again=again
        )
        headers = end_to_end(response.headers)
        if body is not None:
            await answer.start(response.status, headers, hold=True)
            await answer.end(body)
        else:
            if not response.complete:
                run.watch.run("stall")
            await answer.start(response.status, headers, hold=response.ready)
            await _relay(exchange, answer, response, run)
        failed = exchange.error_code or response.status >= 500
        exchange.outcome = Outcome.DROPPED if failed else Outcome.SUCCESS
    except UpstreamFault:
        exchange.outcome = Outcome.DROPPED
        raise
    finally:
        run.watch.stop()
        if response is not None:
            response.close()


async def _open(
    exchange: Exchange,
    state: UpstreamState,
    request: UpstreamRequest,
    transport: UpstreamTransport,
    settings: Settings,
    run: _CloudRun,
    *,
    again: bool,
) -> tuple[UpstreamResponse, bytes | None]:
    """
    An answer to pass on.

    Returns:
        the answer, and its whole body where it was read already (a failure that was not retried).
    """
    loop = asyncio.get_running_loop()
    policy = settings.retry.cloud
    attempt = 0
    while True:
        attempt += 1
        record = Attempt(state.name, loop.time())
        exchange.attempts.append(record)
        exchange.sent_s = record.started_s
        exchange.stage = "forwarding"
        run.watch.run("first_token")
        response: UpstreamResponse | None = None
        try:
            response = await transport.send(
                state.origin,
                request,
                connect_timeout_s=settings.timeouts.connect_s,
                head_timeout_s=None,
            )
            record.status = response.status
            if not again or response.status not in _RETRIED_STATUSES:
                return response, None
            body = await response.read(_LARGEST_ERROR_BYTES)
            retry_after_s = _retry_after(response)
            fault = Fault(
                faults.cloud_code(response.status),
                f"the cloud answered {response.status}",
                status=response.status,
                retry_after_s=retry_after_s,
            )
        except TransportError as exc:
            if exc.kind == "descriptors":
                raise no_descriptors() from exc
            body = None
            fault = faults.classify_transport(
                kind=exc.kind,
                phase=exc.phase,
                reused=exc.reused,
                received_bytes=exc.received_bytes,
                detail=str(exc),
                spec=state.spec,
            )
        except asyncio.CancelledError:
            if run.take_expired() is None:
                raise
            body = None
            fault = faults.classify_timeout("first_token")
        finally:
            record.ended_s = loop.time()
            run.watch.run("none")
        record.fault = fault
        decision = retry.decide_cloud(
            fault,
            attempt=attempt,
            jitter=random.random(),
            policy=policy,
        )
        if again and isinstance(decision, retry.Retry):
            if response is not None:
                response.close()
            record.delay_s = decision.after_s
            await asyncio.sleep(decision.after_s)
            continue
        if response is not None and body is not None:
            return response, body
        raise faults.to_error(
            fault, upstream=state.name, attempts=len(exchange.attempts), window=None
        )


async def _relay(
    exchange: Exchange, answer: ClientAnswer, response: UpstreamResponse, run: _CloudRun
) -> None:
    """Pass the body on as it comes. After the first byte a failure can only cut the connection."""
    exchange.stage = "streaming"
    writing = False
    try:
        while True:
            data = await response.next_chunk()
            writing = True
            if exchange.first_token_s is None:
                exchange.first_token_s = run.watch.now_s()
            if response.complete:
                await answer.end(data)
                return
            await answer.write(data)
            writing = False
            run.watch.touch()
    except TransportError as exc:
        _cut(exchange, answer, f"the stream broke: {exc}")
    except asyncio.CancelledError:
        if run.take_expired() is None:
            raise
        if writing:
            answer.give_up_on_client()
            raise ClientGone from None
        _cut(exchange, answer, "the stream stalled")


def _cut(exchange: Exchange, answer: ClientAnswer, why: str) -> None:
    exchange.error_code = "broken_stream"
    exchange.warnings.append(why)
    answer.abort()


def _retry_after(response: UpstreamResponse) -> float | None:
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            return parse_retry_after(value.decode("latin-1"), time.time())
    return None
