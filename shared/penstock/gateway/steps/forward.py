"""
Step 7: get an answer to begin. The one retry loop of the whole path (contracts 5, behaviours F4).

`open_answer` returns when there is something to relay, or raises `UpstreamFault` when there will not be.
Until then nothing has been relayed, so trying again is safe; after that this module is done with the
request. What to do after a failure is decided in `penstock.retry`; what the failure *is*, in
`penstock.faults`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from penstock import faults, retry
from penstock.adapters.transport import (
    TransportError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTransport,
)
from penstock.domain.fault import Fault
from penstock.domain.profile import WindowSource
from penstock.errors import ErrorCode
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.relays.collecting import CollectingRelay, CollectingTranslator
from penstock.gateway.relays.decoding import Decoded, can_decode, content_coding
from penstock.gateway.relays.relay import Relay
from penstock.gateway.steps.watch import Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings

LARGEST_PLAIN_ANSWER_BYTES = 64 * 1024 * 1024
_LARGEST_ERROR_BYTES = 1024 * 1024
_LONGEST_PAUSE_S = 2.0
_MOST_ADAPTATIONS = 2
"""A shared KV that was full may leave a request alone in the server that is still too long."""


class Readiness(Protocol):
    """Tells when an upstream is ready again; implemented by `penstock.gateway.upstreams.profiles`."""

    async def wait_until_ready(self, state: UpstreamState) -> bool:
        """Poll until the upstream answers; False when it is gone rather than loading."""

    def contradicted(self, state: UpstreamState, why: str) -> None:
        """What is believed of the upstream is wrong: look again soon."""

    async def look_again(self, state: UpstreamState) -> None:
        """What is believed of the upstream is wrong: look now, and wait for that, though not for long."""

    def new_connection(self, state: UpstreamState) -> None:
        """A connection had to be made: the server may have been restarted since it was looked at."""


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
        own_key: the credential sent is the configured one, not the client's.
        sending: the request on its way to a server that throws its load away when the connection closes;
            None for all others.
        sent: a request went out and its answer was not read to the end: the server may be at work on it.
    """

    exchange: Exchange
    state: UpstreamState
    prepare: Callable[[], Awaitable[tuple[UpstreamRequest, Callable[[], Relay] | None]]]
    adapt: Callable[[Fault], bool]
    own_key: bool
    watch: Watch
    settings: Settings
    sending: asyncio.Task[UpstreamResponse] | None = None
    response: UpstreamResponse | None = None
    relay: Relay | None = None
    sent: bool = False

    def hang_up(self) -> None:
        """Drop the upstream connection, if there is one."""
        if self.response is not None:
            self.response.close()
            self.response = None


async def open_answer(job: Job, transport: UpstreamTransport, readiness: Readiness) -> Opened:
    """
    Send the request until an answer begins or the policy says that there will be none.

    Raises:
        UpstreamFault: with the attempts made.
        asyncio.CancelledError: the client hung up, or the gateway stops.
    """
    exchange, state, policy = job.exchange, job.state, job.settings.retry.local
    loop = asyncio.get_running_loop()
    attempt = 0
    deaths = 0
    adaptations = 0
    loading = _Loading(job.settings.timeouts.load_s)
    while True:
        attempt += 1
        record = Attempt(state.name, loop.time())
        exchange.attempts.append(record)
        try:
            opened = await _attempt(job, transport, readiness)
            record.ended_s, record.status = loop.time(), opened.response.status
            return opened
        except AttemptFailed as failed:
            fault = failed.fault
            record.ended_s, record.status, record.fault = loop.time(), fault.status, fault
            job.sent = False  # it answered, or it is gone: nothing goes on there
        finally:
            if record.ended_s is None:
                record.ended_s = loop.time()
                job.hang_up()
        job.hang_up()
        if fault.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED and fault.window is None:
            fault = record.fault = await _in_numbers(fault, job, readiness)
        _learn_from(fault, job, readiness)
        if fault.code is ErrorCode.UPSTREAM_UNREACHABLE and fault.phase not in ("connect", "send"):
            deaths += 1
        if (
            adaptations < _MOST_ADAPTATIONS
            and attempt < policy.attempts
            and fault.code is not ErrorCode.UPSTREAM_UNREACHABLE
            and job.adapt(fault)
        ):
            adaptations += 1
            continue
        decision = retry.decide(
            fault,
            attempt=attempt,
            jitter=random.random(),
            policy=policy,
            deaths=deaths,
        )
        if isinstance(decision, retry.GiveUp):
            raise faults.to_error(
                decision.fault or fault,
                upstream=state.name,
                attempts=len(exchange.attempts),
                window=exchange.window,
            )
        if isinstance(decision, retry.WaitUntilReady):
            if await _wait_until_ready(job, readiness, loading):
                if not decision.counts:
                    attempt -= 1
                    exchange.attempts.pop()
                continue
            # It is gone rather than loading: an attempt like any other, and a pause before the next.
            decision = retry.Retry(retry.delay_s(attempt, random.random(), policy))
        record.delay_s = decision.after_s
        exchange.stage = "forwarding"
        job.watch.run("none")
        await asyncio.sleep(decision.after_s)


class _Loading:
    """How long one request has waited for a load, over all of its attempts."""

    __slots__ = ("_limit_s", "_since_s", "rounds")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: float | None = None
        self.rounds = 0

    def is_over(self, now_s: float) -> bool:
        """Whether the load limit has passed."""
        if self._since_s is None:
            self._since_s = now_s
        self.rounds += 1
        return now_s - self._since_s >= self._limit_s


async def _wait_until_ready(job: Job, readiness: Readiness, loading: _Loading) -> bool:
    """Wait for a load to end. False when the server is gone. Raises `UpstreamFault` at the limit."""
    loop = asyncio.get_running_loop()
    job.exchange.stage = "loading"
    if loading.is_over(loop.time()):
        job.watch.expired = "load"
        _raise_if_expired(job, cancelled=False)
    job.watch.run("load")
    try:
        if loading.rounds > 1:
            # It says that it is ready and still refuses: some are ready before their models are.
            await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.1 * 1.5**loading.rounds))
        ready = await readiness.wait_until_ready(job.state)
    except asyncio.CancelledError:
        _raise_if_expired(job)
        raise
    job.watch.run("none")
    return ready


def _raise_if_expired(job: Job, *, cancelled: bool = True) -> None:
    """A cancellation that came from our own clock becomes the fault that the clock stands for."""
    if job.watch.expired is None:
        return
    task = asyncio.current_task()
    if task is not None and cancelled:
        task.uncancel()
    clock = job.watch.expired
    job.watch.expired = None
    fault = faults.classify_timeout(clock)
    raise faults.to_error(
        fault,
        upstream=job.state.name,
        attempts=len(job.exchange.attempts),
        window=job.exchange.window,
    )


async def _attempt(job: Job, transport: UpstreamTransport, readiness: Readiness) -> Opened:
    exchange, state, watch = job.exchange, job.state, job.watch
    exchange.stage = "forwarding"
    watch.run("first_token")
    exchange.sent_s = asyncio.get_running_loop().time()
    # What an attempt before this one got does not count: its answer was thrown away.
    exchange.first_token_s = exchange.prefill_done = exchange.prefill_total = None
    try:
        request, job_relay = await job.prepare()
        job.sent = True
        sending = transport.send(
            state.origin,
            request,
            connect_timeout_s=job.settings.timeouts.connect_s,
            head_timeout_s=None,
        )
        if state.spec.behaviour.close_cancels_load and not _is_loaded(exchange):
            # Closing would throw the load away; what becomes of it is decided when the client leaves.
            job.sending = asyncio.ensure_future(sending)
            response: UpstreamResponse = await asyncio.shield(job.sending)
            job.sending = None
        else:
            response = await sending
        job.response = response
        if not response.reused:
            readiness.new_connection(state)
        if coding := content_coding(response):
            response = job.response = _decoded(response, coding)
        return await _open(job, response, job_relay)
    except TransportError as exc:
        raise AttemptFailed(
            faults.classify_transport(
                kind=exc.kind,
                phase=exc.phase,
                reused=exc.reused,
                received_bytes=exc.received_bytes,
                detail=str(exc),
                spec=state.spec,
            )
        ) from exc
    except asyncio.CancelledError:
        if watch.expired is not None:
            record = exchange.attempts[-1]
            record.ended_s = asyncio.get_running_loop().time()
            job.hang_up()
        _raise_if_expired(job)
        raise


def _decoded(response: UpstreamResponse, coding: bytes) -> UpstreamResponse:
    if can_decode(coding):
        return Decoded(response, coding)
    name = coding.decode("latin-1")[:40]
    told = f"it is compressed with {name}, which was not asked for and cannot be read here"
    raise AttemptFailed(
        Fault(ErrorCode.BAD_ANSWER, told, transient=False, matched="content-encoding")
    )


def _is_loaded(exchange: Exchange) -> bool:
    return exchange.profile is not None and exchange.profile.reading.loaded is True


async def _open(
    job: Job, response: UpstreamResponse, make_relay: Callable[[], Relay] | None
) -> Opened:
    """Read until there is something to relay."""
    exchange, watch = job.exchange, job.watch
    if response.status >= 400 or make_relay is None or not _is_stream(response):
        limit = _LARGEST_ERROR_BYTES if response.status >= 400 else LARGEST_PLAIN_ANSWER_BYTES
        body = await response.read(limit)
        fault = _classify(job, response, body)
        if fault is not None:
            raise AttemptFailed(fault)
        # Also when a stream was asked for and a plain answer came: some servers do that.
        return Opened(response, None, body, True)
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
            if watch.clock != "stall":
                watch.run("stall")
            watch.touch()
        if seen.ended_by_us:
            job.hang_up()
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


def _is_stream(response: UpstreamResponse) -> bool:
    for name, value in response.headers:
        if name.lower() == b"content-type":
            kind = value.split(b";")[0].strip().lower()
            return kind in (
                b"text/event-stream",
                b"application/x-ndjson",
                b"application/stream+json",
            )
    return False


def _classify(job: Job, response: UpstreamResponse, body: bytes) -> Fault | None:
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
        path=job.exchange.path,
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


async def _in_numbers(fault: Fault, job: Job, readiness: Readiness) -> Fault:
    """
    A refusal for length that names no window, with the one that the server says it runs with now: it may
    just have loaded the model, or loaded it with another window.
    """
    await readiness.look_again(job.state)
    profile = job.state.profile(job.exchange.upstream_model)
    if profile is None:
        return fault
    window = profile.reading.running_window
    if window is None and profile.window.source is WindowSource.LEARNED:
        window = profile.window.tokens
    return replace(fault, window=window)


def _learn_from(fault: Fault, job: Job, readiness: Readiness) -> None:
    """Faults that contradict what is believed of the upstream."""
    state = job.state
    if fault.code is ErrorCode.OUT_OF_MEMORY:
        state.last_out_of_memory_s = asyncio.get_running_loop().time()
    if fault.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        if fault.window:
            job.exchange.window = fault.window
        readiness.contradicted(state, "the server refused a request for its length")
    elif fault.code in (
        ErrorCode.UPSTREAM_UNREACHABLE,
        ErrorCode.MODEL_MISSING,
        ErrorCode.BAD_ANSWER,
        ErrorCode.OUT_OF_MEMORY,
    ):
        readiness.contradicted(state, f"the server answered {fault.code.value}")
