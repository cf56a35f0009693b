"""
What goes to the client: status and headers, heartbeats, the body, errors before and after the headers.

The status line goes out as late as possible ("commitment"), so that refusals, retries and quick failures
keep their own status codes. After it an error can only be an event of the client's dialect, and the end
comes without the dialect's closing event, so that no client takes half an answer for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import compress
from operator import itemgetter
from typing import Any

import orjson

from penstock.dialects.base import AnswerWriter
from penstock.dialects.surfaces import Surface, error_object
from penstock.errors import ERROR_TABLE, AnswerError, ErrorCode
from penstock.gateway.edge.cycle import Connection
from penstock.gateway.edge.exchange import Exchange

Headers = list[tuple[bytes, bytes]]

LONGEST_RETRY_AFTER_S = 60.0
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


_first = itemgetter(0)
_MOST_NAMES = 1024


class HeaderFilter:
    """
    Headers that a proxy passes on (RFC 9110 section 7.6.1): without the hop-by-hop ones, without those
    that `Connection` names, and without some more. Case and order stay.

    What is thought of a name is remembered, because the same ones come again and again.

    Args:
        drop: what more is left out, lower case.
        drop_prefix: beginning of other names that are left out, lower case.
    """

    __slots__ = ("_drop", "_drop_prefix", "_stays")

    def __init__(
        self, drop: frozenset[bytes] = frozenset(), *, drop_prefix: bytes | None = None
    ) -> None:
        self._drop = drop | _HOP_BY_HOP
        self._drop_prefix = drop_prefix
        self._stays = _Names(self._verdict)

    def __call__(self, headers: Headers) -> Headers:
        """The headers that stay."""
        stays = [*map(self._stays.__getitem__, map(_first, headers))]
        kept = list(compress(headers, stays))
        if None not in stays:
            return kept
        named = {
            part.strip().lower()
            for name, value in headers
            if name.lower() == b"connection"
            for part in value.split(b",")
        }
        return [header for header in kept if header[0].lower() not in named]

    def _verdict(self, name: bytes) -> bool | None:
        """Whether it stays; None for `Connection`, which does not and names others."""
        low = name.lower()
        if low == b"connection":
            return None
        if self._drop_prefix is not None and low.startswith(self._drop_prefix):
            return False
        return low not in self._drop


class _Names(dict[bytes, bool | None]):
    def __init__(self, verdict: Callable[[bytes], bool | None]) -> None:
        self._verdict = verdict

    def __missing__(self, name: bytes) -> bool | None:
        found = self._verdict(name)
        if len(self) < _MOST_NAMES:
            self[name] = found
        return found


end_to_end = HeaderFilter()
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


def header_text(text: str, longest: int = 400) -> bytes:
    """
    Text as a header value: one line, printable ASCII, bounded. Names of fields that clients send stand in it, and
    what tools are called by models.
    """
    line = " ".join(text.split())
    return _UNPRINTABLE.sub(b"?", line[:longest].encode("ascii", "replace"))


_name_text = lru_cache(maxsize=64)(header_text)


def announcement_headers(exchange: Exchange) -> Headers:
    """The `penstock-*` headers that are known now (contracts 4), and the id under the official clients' names."""
    request_id = exchange.id.encode("ascii")
    headers: Headers = [(b"penstock-request-id", request_id), (b"x-request-id", request_id)]
    if exchange.dialect == "anthropic":
        headers.append((b"request-id", request_id))
    if exchange.upstream:
        headers.append((b"penstock-upstream", _name_text(exchange.upstream)))
        if exchange.attempts:
            headers.append((b"penstock-attempts", b"%d" % len(exchange.attempts)))
    if exchange.window is not None:
        headers.append((b"penstock-window", b"%d" % exchange.window))
    if exchange.queued_s is not None and exchange.waited_s >= 0.001:
        headers.append((b"penstock-waited", b"%.3f" % exchange.waited_s))
    if exchange.fitted:
        headers.append((b"penstock-fitted", exchange.fitted.encode("ascii")))
        if exchange.prompt_tokens_original is not None:
            headers.append(
                (b"penstock-prompt-tokens-original", b"%d" % exchange.prompt_tokens_original)
            )
    if exchange.repaired:
        headers.append((b"penstock-repaired", b"%d" % exchange.repaired))
    if exchange.changes:
        told = ", ".join(f"{c.field} {c.action}" for c in exchange.changes)
        headers.append((b"penstock-changed", header_text(told)))
    if exchange.warnings:
        headers.append((b"penstock-warning", header_text("; ".join(exchange.warnings))))
    return headers


def late_facts(exchange: Exchange, *, committed_early: bool) -> dict[str, Any] | None:
    """What became known after the headers went out; None when nothing did."""
    facts: dict[str, Any] = {}
    if committed_early:
        facts["attempts"] = len(exchange.attempts)
        facts["waited_s"] = round(exchange.waited_s, 3)
        if exchange.window is not None:
            facts["window"] = exchange.window
        if exchange.fitted:
            facts["fitted"] = exchange.fitted
            facts["prompt_tokens_original"] = exchange.prompt_tokens_original
    warnings = exchange.warnings[0 if committed_early else exchange.warnings_told :]
    if warnings:
        facts["warnings"] = warnings
    if exchange.repaired:
        facts["repaired"] = exchange.repaired
    if exchange.resumed:
        facts["resumed"] = exchange.resumed
    if exchange.cached_tokens is not None:
        facts["cached_tokens"] = exchange.cached_tokens
    if not facts:
        return None
    return {"request_id": exchange.id, **facts}


def explained(body: bytes, exchange: Exchange) -> bytes:
    """A plain JSON body with the `penstock` object in it, when the client asked for one."""
    if not exchange.explain or not body.rstrip().endswith(b"}"):
        return body
    facts: dict[str, Any] = {
        "request_id": exchange.id,
        "upstream": exchange.upstream,
        "model": exchange.upstream_model,
        "attempts": len(exchange.attempts),
        "window": exchange.window,
        "waited_s": round(exchange.waited_s, 3),
        "fitted": exchange.fitted or None,
        "prompt_tokens_original": exchange.prompt_tokens_original,
        "cached_tokens": exchange.cached_tokens,
        "repaired": exchange.repaired,
        "resumed": exchange.resumed,
        "changes": [
            {"step": c.step, "field": c.field, "action": c.action, "detail": c.detail}
            for c in exchange.changes
        ],
        "warnings": list(exchange.warnings),
    }
    return body.rstrip()[:-1] + b',"penstock":' + orjson.dumps(facts) + b"}"


class ClientAnswer:
    """
    The answer to one request.

    Attributes:
        committed: the status line went out.
        committed_early: a heartbeat committed it, before the upstream answered.
        ended: the body is complete.
        writer: of a stream that is written in the client's dialect; None for streams that are relayed as they
            come, whose heartbeats and errors stand for themselves.
    """

    __slots__ = (
        "_connection",
        "_cycle",
        "_exchange",
        "_waits",
        "committed",
        "committed_early",
        "ended",
        "surface",
        "writer",
    )

    def __init__(self, connection: Connection, surface: Surface, exchange: Exchange) -> None:
        self._cycle = connection.cycle
        self._connection = connection
        self._exchange = exchange
        self._waits = False  # something was made and could not be sent yet
        self.surface = surface
        self.writer: AnswerWriter | None = None
        self.committed = False
        self.committed_early = False
        self.ended = False

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with one body."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers, hold=True)
        await self.end(body)

    async def start(self, status: int, headers: Headers, *, hold: bool = False) -> None:
        """
        Begin a body that comes in pieces.

        Args:
            hold: `write` or `end` follows without anything to wait for: the head goes out with the piece.
        """
        self._commit(status)
        if self._cycle.flow.write_paused:
            await self._room()
        self._cycle.begin(status, headers, hold=hold)

    async def write(self, data: bytes) -> None:
        """Send a piece. Returns when the client's buffer has room again (backpressure)."""
        exchange, cycle = self._exchange, self._cycle
        exchange.answer_bytes += len(data)
        exchange.chunks += 1
        if cycle.flow.write_paused:
            await self._room()
        cycle.piece(data, more=True)

    async def end(self, data: bytes = b"") -> None:
        """Complete the body."""
        self.ended = True
        self._exchange.answer_bytes += len(data)
        if self._cycle.flow.write_paused:
            await self._room()
        self._cycle.piece(data, more=False)

    def _commit(self, status: int) -> None:
        self.committed = True
        self._exchange.committed = True
        self._exchange.warnings_told = len(self._exchange.warnings)
        self._exchange.status = status

    async def _room(self) -> None:
        self._waits = True
        try:
            await self._cycle.room()
        finally:
            self._waits = False

    def abort(self) -> None:
        """Drop the connection: a body that broke must not look complete."""
        self.ended = True
        self._connection.abort()

    def give_up_on_client(self) -> None:
        """The client has taken nothing for too long: that is a hang-up, and nobody else's fault."""
        self._exchange.warnings.append("the client stopped reading")
        self.abort()

    def beat(self) -> None:
        """
        Send a heartbeat; the first one commits. Called from a timer. It is made and sent in one go: what is written
        in between would carry later numbers and stand before it.
        """
        if (
            self.ended
            or self._waits
            or self._connection.disconnected
            or self._connection.write_buffer_size()
        ):
            return  # A client that does not read gets no more to read.
        writer = self.writer
        if writer is None:
            data = self.surface.heartbeat(self._exchange.id, self._exchange.model)
        else:
            data = writer.heartbeat()
        if not data:
            return
        if not self.surface.is_ndjson and (facts := waiting_facts(self._exchange)):
            data = with_comment(data, facts)
        if not self.committed:
            self.committed_early = True
            self._commit(200)
            self._cycle.begin(200, self.stream_headers())
        self._exchange.heartbeats += 1
        self._cycle.piece(data, more=True)

    def begin_writing(self, writer: AnswerWriter) -> AnswerWriter:
        """
        An attempt's answer begins: heartbeats and an error go on from where it is.

        Args:
            writer: where nothing was written before.
        """
        self.writer = writer if self.writer is None else self.writer.fork()
        return self.writer

    def stream_headers(self) -> Headers:
        """Headers of a stream that the gateway itself begins."""
        return [
            (b"content-type", self.surface.content_type_stream),
            (b"cache-control", b"no-cache"),
            *announcement_headers(self._exchange),
        ]

    async def fail(self, error: AnswerError) -> None:
        """Tell the client about *error*, in its dialect, as a status or as an event."""
        self._exchange.error_code = error.code.value
        sentence = f"{error.message} {error.hint}" if error.hint else error.message
        self._exchange.error_message = sentence[:400]
        if self.ended or self._connection.disconnected:
            return
        if self.committed:
            if self.writer is None:
                told = self.surface.error_event(error, self._exchange)
            else:
                told = self.writer.failed(error_object(error, self._exchange), error.status)
            await self.end(told)
            return
        headers = announcement_headers(self._exchange)
        headers.append((b"content-type", b"application/json"))
        headers.extend(retry_headers(error))
        if error.code is ErrorCode.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.whole(
            self.surface.status_of(error),
            headers,
            orjson.dumps(self.surface.error_body(error, self._exchange)),
        )


def waiting_facts(exchange: Exchange) -> dict[str, Any] | None:
    """What a client that waits is told with a heartbeat; None while there is nothing to tell."""
    if exchange.spot is not None and (told := exchange.spot.told()) is not None:
        return {"queue": {"position": told[0], "expected_wait_s": round(told[1], 1)}}
    if exchange.stage != "prefilling" or not exchange.prefill_total:
        return None
    return {"prefill": {"processed": exchange.prefill_done, "total": exchange.prefill_total}}


def with_comment(event: bytes, facts: dict[str, Any]) -> bytes:
    """An event with *facts* in a comment line directly before its last `data:` line (contracts 4)."""
    at = event.rfind(b"\ndata:") + 1
    return event[:at] + b": penstock " + orjson.dumps(facts) + b"\n" + event[at:]


def retry_headers(error: AnswerError) -> Headers:
    """`Retry-After` and `x-should-retry`, which the official clients obey (contracts 5)."""
    headers: Headers = []
    blame = ERROR_TABLE[error.code].blame
    if error.retry_after_s is not None:
        wait_s = error.retry_after_s
        if blame == "penstock":
            wait_s = min(wait_s, LONGEST_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % max(1, round(wait_s + 0.499))))
    if blame == "penstock" and error.code is not ErrorCode.INTERNAL_ERROR:
        headers.append((b"x-should-retry", b"true"))
    elif blame == "upstream" or error.status >= 500:
        headers.append((b"x-should-retry", b"false"))
    return headers
