"""
An answer that broke off goes on: the effects of `penstock.resume`.

`Resumable` stands between an upstream's answer and the relay. While all goes well it hands the bytes on and
keeps them on a tape. When the connection breaks it waits until the server is back, makes sure that it is the
same version of the same model, asks it to continue what was said, and hands on what comes. The relay and the
client see one stream.

The attempts are those of the retry policy, of which the first answer was one. Waiting has the clock of a load.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import orjson

from penstock import faults, resume
from penstock.adapters.transport import TransportError, UpstreamResponse
from penstock.domain.fault import Fault
from penstock.errors import ErrorCode
from penstock.gateway.edge.exchange import Attempt, Exchange
from penstock.gateway.relays.continuing import Continuing
from penstock.gateway.relays.decoding import content_coding
from penstock.gateway.relays.tape import Tape
from penstock.gateway.steps.opening import Job, Means, broken_stream, classify, is_stream
from penstock.gateway.steps.watch import Watch
from penstock.resume import Said

_POLL_S = 0.25
_LARGEST_ERROR_BYTES = 64 * 1024


class Resumable:
    """
    An upstream's answer that may go on as another one. See `UpstreamResponse`.

    Args:
        response: the first answer.
        job: whose it is.
        means: how it is continued.
    """

    __slots__ = (
        "_continuing", "_deaths", "_inner", "_job", "_means", "_tape", "complete", "headers",
        "reused", "status",
    )  # fmt: skip

    def __init__(self, response: UpstreamResponse, job: Job, means: Means) -> None:
        self._inner = response
        self._job = job
        self._means = means
        self._tape = Tape(ndjson=means.ndjson)
        self._continuing: Continuing | None = None
        self._deaths = 0
        self.status = response.status
        self.headers = response.headers
        self.reused = response.reused
        self.complete = False

    @property
    def ready(self) -> bool:
        """See `UpstreamResponse`."""
        return self._inner.ready

    def close(self) -> None:
        """See `UpstreamResponse`."""
        self._inner.close()

    async def read(self, limit_bytes: int) -> bytes:
        """See `UpstreamResponse`: an answer that is no stream is not continued."""
        body = await self._inner.read(limit_bytes)
        self.complete = True
        return body

    async def next_chunk(self) -> bytes:
        """See `UpstreamResponse`."""
        while True:
            try:
                data = await self._inner.next_chunk()
            except TransportError as exc:
                # The broken answer remembers its error: with these frames it would keep all of the request.
                await self._go_on(exc.with_traceback(None))
                continue
            continuing = self._continuing
            if continuing is not None:
                data = continuing.feed(data) if data else continuing.end()
            if data:
                self._tape.add(data)
                # An end that was not announced is found by the next call.
                self.complete = self._inner.complete and self._tape.looks_ended()
                return data
            if self._inner.complete:
                if not self._tape.looks_ended() and await self._go_on(None):
                    continue
                self.complete = True
                return b""

    async def _go_on(self, broken: TransportError | None) -> bool:
        """
        Have the answer continued. False when it may not be, and ended as a body should.

        Raises:
            TransportError: it may not be, and broke.
            UpstreamFault: it was tried.
        """
        job, exchange = self._job, self._job.exchange
        if broken is not None:
            job.state.suspect()
        if (
            job.relay is None or job.relay.seen.closed
        ):  # the answer is whole, whatever comes behind it
            if broken is not None:
                raise broken
            return False
        options = job.settings.resume
        obstacle, said = "it is too long", Said()
        if not job.relay.cut():
            obstacle = "it had ended, or a tool call is in it"
        elif not self._tape.is_full:
            said = self._tape.cut()
            obstacle = resume.decide(
                said, self._means.proven, resumed=exchange.resumed, options=options
            )
        if not obstacle and len(exchange.attempts) >= job.settings.retry.local.attempts:
            obstacle = "all attempts that the policy allows were made"
        if obstacle:
            exchange.warnings.append(f"the answer broke off and was not continued: {obstacle}")
            if exchange.resumed:
                exchange.resume_outcome = "gave_up"
                self._give_up(broken)
            exchange.resume_outcome = "not_possible"
            if broken is not None:
                raise broken
            return False
        exchange.resume_outcome = "gave_up"  # until it goes on
        try:
            await self._continue(said, broken)
        except asyncio.CancelledError:
            _raise_if_expired(job)
            raise
        return True

    async def _continue(self, said: Said, broken: TransportError | None) -> None:
        job, exchange, means = self._job, self._job.exchange, self._means
        loop = asyncio.get_running_loop()
        policy = job.settings.retry.local
        fault = _fault(broken)
        while True:
            self._inner.close()
            job.sent = False
            self._note(fault)
            exchange.stage = "loading"
            job.watch.run("load")
            state = await means.ready_again(job.settings.resume.wait_s)
            if state is None:
                self._give_up(broken)
            body = resume.continuation(
                orjson.loads(means.body),
                said,
                fields=state.spec.behaviour.continues or {},
                thinking_field="thinking" if means.ndjson else state.spec.behaviour.reasoning_field,
            )
            if body is None:
                exchange.warnings.append(
                    "the answer broke off and was not continued: its budget is spent"
                )
                self._give_up(broken)
            exchange.stage = "forwarding"
            job.watch.run("first_token")
            exchange.attempts.append(Attempt(state.name, loop.time()))
            job.sent = True
            try:
                response = await means.transport.send(
                    state.origin,
                    means.request(state, orjson.dumps(body)),
                    connect_timeout_s=job.settings.timeouts.connect_s,
                    head_timeout_s=None,
                )
            except TransportError as exc:
                broken, fault = exc, _fault(exc)
            else:
                self._inner = response
                found = await self._refusal(response)
                exchange.attempts[-1].status = response.status
                if found is None:
                    break
                if found.code is ErrorCode.UPSTREAM_LOADING:
                    exchange.attempts.pop()  # waiting for a load is no attempt
                    await asyncio.sleep(_POLL_S)
                    continue
                if not (found.transient and found.code is ErrorCode.UPSTREAM_ERROR):
                    self._note(found)
                    self._raise(found)
                broken, fault = None, found
            self._deaths += 1
            if self._deaths >= 2 or len(exchange.attempts) >= policy.attempts:
                self._note(fault)
                self._give_up(broken)
        self._deaths = 0
        self._continuing = Continuing(said, ndjson=means.ndjson)
        exchange.resumed += 1
        exchange.resume_outcome = "resumed"
        exchange.stage = "streaming"

    async def _refusal(self, response: UpstreamResponse) -> Fault | None:
        """Why an answer is no continuation; None when it is one."""
        if response.status == 200 and is_stream(response) and not content_coding(response):
            return None
        try:
            body = await response.read(_LARGEST_ERROR_BYTES)
        except TransportError as exc:
            return _fault(exc)
        return classify(self._job, response, body) or broken_stream()

    def _note(self, fault: Fault) -> None:
        """The attempt that was made last has failed."""
        record = self._job.exchange.attempts[-1]
        record.ended_s = asyncio.get_running_loop().time()
        record.fault = record.fault or fault

    def _give_up(self, broken: TransportError | None) -> NoReturn:
        exchange: Exchange = self._job.exchange
        deaths = sum(
            attempt.fault is not None and attempt.fault.code is ErrorCode.BROKEN_STREAM
            for attempt in exchange.attempts
        )
        fault = _fault(broken)
        if deaths >= 2:
            fault = Fault(
                ErrorCode.OUT_OF_MEMORY,
                f"the server died {deaths} times while it worked on this request, "
                "which is what running out of memory looks like",
                phase="stream",
                matched="it died again",
            )
        self._note(fault)
        self._raise(fault)

    def _raise(self, fault: Fault) -> NoReturn:
        exchange = self._job.exchange
        self._job.sent = False
        raise faults.to_error(
            fault,
            upstream=exchange.upstream,
            attempts=len(exchange.attempts),
            window=exchange.window,
        )


def _fault(broken: TransportError | None) -> Fault:
    fault = broken_stream()
    if broken is None:
        return fault
    return Fault(fault.code, f"{fault.message}: {broken}", phase="stream", matched=fault.matched)


def _raise_if_expired(job: Job) -> None:
    """A cancellation by our own clock is a fault of the upstream."""
    watch: Watch = job.watch
    clock = watch.expired
    if clock is None:
        return
    watch.expired = None
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    exchange = job.exchange
    fault = faults.classify_timeout(clock)
    exchange.attempts[-1].fault = exchange.attempts[-1].fault or fault
    raise faults.to_error(
        fault,
        upstream=exchange.upstream,
        attempts=len(exchange.attempts),
        window=exchange.window,
    )
