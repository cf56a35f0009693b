"""
Reading an answer until there is something to relay of it: the part of step 7 that knows relays.

An answer that is a failure, or that breaks before anything of it could be relayed, is an attempt that failed;
what becomes of the request then is decided in `forward`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from penstock import faults
from penstock.adapters.transport import (
    TransportError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTransport,
)
from penstock.domain.fault import Fault
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.relays.collecting import CollectingRelay
from penstock.gateway.relays.relay import Relay
from penstock.gateway.relays.translating import CollectingTranslator, TranslatingRelay
from penstock.gateway.steps.watch import Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.resume import Way
from penstock.settings import Settings

LARGEST_PLAIN_ANSWER_BYTES = 64 * 1024 * 1024
_LARGEST_ERROR_BYTES = 1024 * 1024
_REST_WITHIN_S = 1.0
"""What is left behind an answer's closing event is the end of its body: it comes at once or is not worth the wait."""


@dataclass(slots=True)
class Opened:
    """
    An answer that has begun.

    Attributes:
        response: its head, and the rest of its body.
        relay: None for a plain answer.
        first: bytes for the client that are there already; a plain answer's whole body.
        complete: the upstream's body is at its end.
    """

    response: UpstreamResponse
    relay: Relay | None
    first: bytes
    complete: bool


class AttemptFailed(Exception):
    """One attempt, by *fault*; what becomes of the request is decided by the policy."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Means(NamedTuple):
    """
    What is needed to continue an answer.

    Attributes:
        body: the request as it was sent.
        proven: what the server was seen to continue.
        ready_again: the upstream that goes on: the same one after it is back, or another. None when there is none
            by then; its argument is for how long it waits for a server that does not listen.
        request: a request with this body for an upstream.
        ndjson: it speaks Ollama's dialect.
    """

    body: bytes
    proven: frozenset[Way]
    ready_again: Callable[[float], Awaitable[UpstreamState | None]]
    request: Callable[[UpstreamState, bytes], UpstreamRequest]
    transport: UpstreamTransport
    ndjson: bool


@dataclass(slots=True)
class Job:
    """
    What is to be sent, and how its answer is read.

    Attributes:
        prepare: the request as it is to be sent now, and what makes a relay for its answer (None for an
            answer that is not a stream). Asked before each attempt: the upstream may be another one by
            then. Raises `TransportError` when the upstream is not there, `AttemptFailed` while it loads.
        adapt: told of a fault; True when the request would be made differently now, because the fault
            taught something (a template's rule). Then it is sent once more at once.
        goes_on: told of a fault after which the request would be tried again here: False when it is not to be,
            because another upstream can take it, or this one is left alone by now.
        left_alone: whether this upstream is left alone by now: asked after each wait.
        began: told of the first token, also of an answer that is collected.
        own_key: the credential sent is the configured one, not the client's.
        path: where it goes, without the upstream's prefix.
        sending: the request on its way to a server that throws its load away when the connection closes;
            None for all others.
        means: how the answer is continued if it breaks off; None where it is not.
        sent: a request went out and its answer was not read to the end: the server may be at work on it.
    """

    exchange: Exchange
    state: UpstreamState
    prepare: Callable[[], Awaitable[tuple[UpstreamRequest, Callable[[], Relay] | None]]]
    adapt: Callable[[Fault], bool]
    goes_on: Callable[[Fault], bool]
    left_alone: Callable[[], bool]
    began: Callable[[], None]
    own_key: bool
    watch: Watch
    settings: Settings
    path: str = ""
    sending: asyncio.Task[UpstreamResponse] | None = None
    response: UpstreamResponse | None = None
    relay: Relay | None = None
    means: Means | None = None
    sent: bool = False
    body: bytes | None = None
    refused: Fault | None = None
    unchanged: bool = False

    def hang_up(self) -> None:
        """Drop the upstream connection, if there is one."""
        if self.response is not None:
            self.response.close()
            self.response = None


async def open_body(
    job: Job, response: UpstreamResponse, make_relay: Callable[[], Relay] | None
) -> Opened:
    """Read until there is something to relay."""
    exchange, watch = job.exchange, job.watch
    if response.status >= 400 or make_relay is None or not is_stream(response):
        limit = _LARGEST_ERROR_BYTES if response.status >= 400 else LARGEST_PLAIN_ANSWER_BYTES
        body = await response.read(limit)
        fault = classify(job, response, body)
        if fault is not None:
            raise AttemptFailed(fault)
        # Also when a stream was asked for and a plain answer came: some servers do that.
        return _plain(job, response, body, make_relay)
    relay = job.relay = make_relay()
    seen = relay.seen
    while True:
        data = await response.next_chunk()
        try:
            out = relay.feed(data) if data else relay.end()
        except ValueError as exc:
            raise AttemptFailed(
                _bad_answer(f"the stream holds something that is not JSON: {exc}")
            ) from exc
        if seen.error is not None:
            raise AttemptFailed(faults.classify_stream_error(seen.error, job.state.spec))
        if seen.progress is not None:
            note_progress(exchange, watch, relay)
        if seen.token:
            if exchange.first_token_s is None:
                exchange.first_token_s = asyncio.get_running_loop().time()
                exchange.stage = "streaming"
                job.began()
            if watch.clock != "stall":
                watch.run("stall")
            if not says_nothing(data):
                watch.touch()
        if seen.ended_by_us:
            job.hang_up()
            return Opened(response, relay, out + relay.end(), True)
        if data and seen.closed and isinstance(relay, CollectingRelay | CollectingTranslator):
            watch.run("none")
            await past_the_end(response)
            return Opened(response, relay, out + relay.end(), True)
        if not data:
            if not (seen.closed or seen.finished or seen.token):
                raise AttemptFailed(_bad_answer("the stream ended before its first event"))
            if not (seen.closed or seen.finished) and isinstance(
                relay, CollectingRelay | CollectingTranslator
            ):
                raise AttemptFailed(broken_stream())
            return Opened(response, relay, out, True)
        if out:
            return Opened(response, relay, out, False)


def says_nothing(data: bytes) -> bool:
    """
    Whether a piece of a stream is a sign of life and no more: comments, empty lines. llama.cpp sends one every 30 s, also
    when it is stuck (`server.cpp`, SSE ping), so these must not keep the stall limit from passing.
    """
    return data[:1] in (b":", b"\n", b"\r") and b"\ndata:" not in data and b"{" not in data


async def past_the_end(response: UpstreamResponse) -> None:
    """
    Behind the closing event of an answer: it is whole, whatever becomes of its connection. That one is of use to
    others if the body ends soon.
    """
    if response.complete:
        return
    try:
        async with asyncio.timeout(_REST_WITHIN_S):
            while await response.next_chunk():
                pass
    except (TransportError, TimeoutError):
        response.close()


def _plain(
    job: Job, response: UpstreamResponse, body: bytes, make_relay: Callable[[], Relay] | None
) -> Opened:
    """An answer that came as one body, in the client's dialect."""
    relay = None if make_relay is None else make_relay()
    if not isinstance(relay, CollectingTranslator | TranslatingRelay):
        return Opened(response, None, body, True)
    try:
        out = relay.whole(orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise AttemptFailed(_bad_answer(f"the answer is not JSON: {exc}")) from exc
    if relay.seen.error is not None:
        raise AttemptFailed(faults.classify_stream_error(relay.seen.error, job.state.spec))
    job.relay = relay
    return Opened(response, relay, out, True)


def is_stream(response: UpstreamResponse) -> bool:
    """Whether an answer says that it is a stream."""
    for name, value in response.headers:
        if name.lower() == b"content-type":
            kind = value.split(b";")[0].strip().lower()
            return kind in (
                b"text/event-stream",
                b"application/x-ndjson",
                b"application/stream+json",
            )
    return False


def classify(job: Job, response: UpstreamResponse, body: bytes) -> Fault | None:
    """What is wrong with a whole answer; None for a proper one."""
    return faults.classify_answer(
        status=response.status,
        headers={
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers
        },
        body=body,
        spec=job.state.spec,
        now_s=time.time(),
        own_key=job.own_key,
        path=job.path,
    )


def note_progress(exchange: Exchange, watch: Watch, relay: Relay) -> None:
    """Prefill goes on: its clock starts again, and status and heartbeats can tell how far it is."""
    progress = relay.seen.progress
    if progress is None:
        return
    relay.seen.progress = None
    exchange.prefill_done, exchange.prefill_total = progress.processed, progress.total
    if exchange.first_token_s is None:
        exchange.stage = "prefilling"
    watch.touch()


def no_descriptors() -> Refused:
    """This process has no descriptor left for a connection: that is not the upstream's fault."""
    return Refused(
        ErrorCode.QUEUE_FULL,
        "The gateway has as many connections open as its limit of file descriptors allows.",
        hint="Fewer connections at a time, or a higher limit (`ulimit -n`, LimitNOFILE=).",
        retry_after_s=5.0,
    )


def broken_stream() -> Fault:
    """The fault of an answer that broke off."""
    return Fault(
        ErrorCode.BROKEN_STREAM,
        "the upstream's answer broke off before its end",
        phase="stream",
        matched="stream ended without its closing event",
    )


def _bad_answer(why: str) -> Fault:
    return Fault(ErrorCode.BAD_ANSWER, why, phase="stream", matched="unreadable stream")
