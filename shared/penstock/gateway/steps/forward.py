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
from dataclasses import replace
from typing import Protocol

from penstock import faults, retry
from penstock.adapters.transport import (
    TransportError,
    UpstreamResponse,
    UpstreamTransport,
)
from penstock.domain.fault import Fault
from penstock.domain.profile import WindowSource
from penstock.errors import ErrorCode, UpstreamFault
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.relays.decoding import Decoded, can_decode, content_coding
from penstock.gateway.steps.opening import (
    AttemptFailed,
    Job,
    Opened,
    is_stream,
    no_descriptors,
    open_body,
)
from penstock.gateway.steps.resume import Resumable
from penstock.gateway.upstreams.fleet import UpstreamState

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


async def open_answer(job: Job, transport: UpstreamTransport, readiness: Readiness) -> Opened:
    """
    Send the request until an answer begins or the policy says that there will be none.

    Raises:
        UpstreamFault: with the attempts made.
        asyncio.CancelledError: the client hung up, or the gateway stops.
    """
    exchange, state, policy = job.exchange, job.state, job.settings.retry.local
    loop = asyncio.get_running_loop()
    attempt = len(exchange.attempts)  # at upstreams before this one
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
            if job.unchanged:
                attempt -= 1
                exchange.attempts.pop()
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
            # Alone in the server the same request may fit.
            job.refused = None if fault.shared_kv else fault
            continue
        decision = retry.decide(
            fault,
            attempt=attempt,
            jitter=random.random(),
            policy=policy,
            deaths=deaths,
        )
        if isinstance(decision, retry.GiveUp) and decision.fault is not None:
            fault = decision.fault
        if isinstance(decision, retry.GiveUp) or not job.goes_on(fault):
            raise _error(fault, job)
        if isinstance(decision, retry.Retry) and _is_held(fault, state):
            decision = retry.WaitUntilReady(counts=False)
        if isinstance(decision, retry.WaitUntilReady):
            if await _wait_until_ready(job, readiness, loading):
                if job.left_alone():
                    raise _error(fault, job)
                if not decision.counts:
                    attempt -= 1
                    exchange.attempts.pop()
                continue
            if state.supervised is not None:
                state.supervised.refuse_if_given_up()
            # It is gone rather than loading: an attempt like any other, and a pause before the next.
            fault = record.fault = faults.gone(fault)
            if attempt >= policy.attempts or not job.goes_on(fault):
                raise _error(fault, job)
            decision = retry.Retry(retry.delay_s(attempt, random.random(), policy))
        record.delay_s = decision.after_s
        exchange.stage = "forwarding"
        job.watch.run("none")
        await asyncio.sleep(decision.after_s)
        if job.left_alone():
            raise _error(fault, job)


def _error(fault: Fault, job: Job) -> UpstreamFault:
    exchange = job.exchange
    return faults.to_error(
        fault,
        upstream=job.state.name,
        attempts=len(exchange.attempts),
        window=exchange.window,
    )


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


def _is_held(fault: Fault, state: UpstreamState) -> bool:
    """Nobody listens because the server is away on purpose, or is being restarted: no attempt was made."""
    return (
        fault.code is ErrorCode.UPSTREAM_UNREACHABLE
        and fault.phase == "connect"
        and bool(state.holding.reasons)
    )


def _raise_if_expired(job: Job, *, cancelled: bool = True) -> None:
    """A cancellation that came from our own clock becomes the fault that the clock stands for."""
    if job.watch.expired is None:
        return
    task = asyncio.current_task()
    if task is not None and cancelled:
        task.uncancel()
    clock = job.watch.expired
    job.watch.expired = None
    raise _error(faults.classify_timeout(clock), job)


async def _attempt(job: Job, transport: UpstreamTransport, readiness: Readiness) -> Opened:
    exchange, state, watch = job.exchange, job.state, job.watch
    exchange.stage = "forwarding"
    watch.run("first_token")
    exchange.sent_s = asyncio.get_running_loop().time()
    # What an attempt before this one got does not count: its answer was thrown away.
    exchange.first_token_s = exchange.prefill_done = exchange.prefill_total = None
    try:
        request, job_relay = await job.prepare()
        refused, job.refused = job.refused, None
        job.unchanged = refused is not None and request.body == job.body
        if refused is not None and job.unchanged:
            raise AttemptFailed(
                refused
            )  # what was learned changes nothing, so it is not sent again
        job.body = request.body
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
            state.note_load(1)
            try:
                response: UpstreamResponse = await asyncio.shield(job.sending)
            finally:
                state.note_load(-1)
            job.sending = None
        else:
            response = await sending
        job.response = response
        if not response.reused:
            readiness.new_connection(state)
        if coding := content_coding(response):
            response = job.response = _decoded(response, coding)
        if job.means is not None and is_stream(response):
            response = job.response = Resumable(response, job, job.means)
        return await open_body(job, response, job_relay)
    except TransportError as exc:
        job.sending = None
        if exc.kind == "descriptors":
            raise no_descriptors() from exc
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
    if fault.code in (ErrorCode.UPSTREAM_UNREACHABLE, ErrorCode.BROKEN_STREAM):
        state.suspect()
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
