"""
Step 8: what a local upstream answers goes to the client, until it ends, breaks, or stalls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock import faults
from penstock.adapters.transport import TransportError
from penstock.domain.fault import Fault
from penstock.errors import ErrorCode, UpstreamFault
from penstock.gateway.edge.answer import (
    ClientAnswer,
    HeaderFilter,
    announcement_headers,
    explained,
    late_facts,
)
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.relays.mending import mend_plain, mending_rules, tell, tell_mended
from penstock.gateway.steps.forward import Readiness
from penstock.gateway.steps.opening import (
    Job,
    Opened,
    broken_stream,
    note_progress,
    past_the_end,
    says_nothing,
)
from penstock.gateway.steps.translate import Work
from penstock.gateway.steps.watch import Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.toolcalls.stream import Mended

# Who may read across origins is ours to say.
_relayed = HeaderFilter(
    frozenset({b"content-length", b"server", b"date", b"content-encoding", b"x-request-id"}),
    drop_prefix=b"access-control-",
)


class Relaying:
    """
    One answer on its way.

    Args:
        answer: takes it.
        job: what was sent; its relay reads the answer.
        readiness: told when the upstream contradicts what is believed of it.
        task: of the request: our own clocks cancel it.
    """

    __slots__ = ("answer", "exchange", "job", "readiness", "state", "task", "watch")

    def __init__(
        self, answer: ClientAnswer, job: Job, readiness: Readiness, task: asyncio.Task[Any]
    ) -> None:
        self.answer = answer
        self.job = job
        self.exchange: Exchange = job.exchange
        self.state: UpstreamState = job.state
        self.watch: Watch = job.watch
        self.readiness = readiness
        self.task = task

    def late(self) -> dict[str, Any] | None:
        """What is announced before the closing event."""
        self.take_counts()
        return late_facts(self.exchange, committed_early=self.answer.committed_early)

    async def run(self, opened: Opened, work: Work) -> None:
        """Until the answer is complete. Raises `UpstreamFault` when it breaks."""
        answer, exchange, response = self.answer, self.exchange, opened.response
        headers = _relayed(response.headers)
        relay = opened.relay
        if opened.complete:
            self.job.sent = relay is not None and relay.seen.ended_by_us != ""
        if relay is None:
            if rules := mending_rules(work, exchange, self.job.settings):
                mended: list[Mended] = []
                opened.first = mend_plain(opened.first, rules, mended)
                tell_mended(mended, exchange)
            if work.plain_answer is not None:
                opened.first = self._translated(work.plain_answer, opened.first)
        if opened.relay is None or not exchange.stream:  # also where the server was asked for none
            if opened.relay is not None:
                self.take_counts()
                headers = [(n, v) for n, v in headers if n.lower() != b"content-type"]
                headers.append((b"content-type", b"application/json; charset=utf-8"))
            if answer.committed:
                raise faults.to_error(
                    Fault(
                        ErrorCode.BAD_ANSWER,
                        "the upstream answered plain although a stream was asked for",
                        phase="stream",
                    ),
                    upstream=self.state.name,
                    attempts=len(exchange.attempts),
                    window=exchange.window,
                )
            headers.extend(announcement_headers(exchange))
            headers.append((b"server", b"penstock"))
            await answer.whole(response.status, headers, explained(opened.first, exchange))
            return
        if not answer.committed:
            surface = answer.surface
            headers = [(n, v) for n, v in headers if n.lower() != b"content-type"]
            headers.append((b"content-type", surface.content_type_stream))
            headers.extend(announcement_headers(exchange))
            headers.append((b"server", b"penstock"))
            await answer.start(response.status, headers, hold=True)
        await self._stream(opened)

    def _translated(self, plain_answer: Callable[[bytes], bytes], body: bytes) -> bytes:
        try:
            return plain_answer(body)
        except ValueError as exc:
            raise self._error(Fault(ErrorCode.BAD_ANSWER, str(exc), phase="stream")) from exc

    async def _stream(self, opened: Opened) -> None:
        answer, watch, response, relay = self.answer, self.watch, opened.response, opened.relay
        assert relay is not None
        seen = relay.seen
        out, complete, is_idle = opened.first, opened.complete, False
        while True:
            if out and not complete:
                touched_s = watch.touched_s
                await answer.write(out)
                watch.wrote()
                if is_idle:
                    watch.touched_s = touched_s
            if complete:
                break
            if seen.closed:
                watch.run("none")
                await past_the_end(response)
                out = b""
                break
            try:
                data = await response.next_chunk()
                complete = response.complete
                is_idle = says_nothing(data)
                out = relay.feed(data) if data else b""
                if seen.ended_by_us:
                    complete = True
                    self.job.hang_up()
                elif complete and seen.error is None:
                    out += relay.end()
            except TransportError as exc:
                self.job.sent = False
                await self._let_go()
                raise self._broken(str(exc)) from exc
            except UpstreamFault:  # it was to be continued, and was not
                await self._let_go()
                raise
            except ValueError as exc:
                await self._let_go()
                raise self._broken(f"the stream holds something unreadable: {exc}") from exc
            except asyncio.CancelledError:
                if self._has_stalled():
                    await self._let_go()
                    raise self._error(faults.classify_timeout("stall")) from None
                raise
            if seen.error is not None:
                fault = faults.classify_stream_error(seen.error, self.state.spec)
                self.job.sent = False
                if out := out + relay.broken():
                    await answer.write(out)
                raise self._error(fault)
            if seen.progress is not None:
                note_progress(self.exchange, watch, relay)
            if seen.token and watch.clock == "first_token":
                watch.run("stall")
            if not is_idle:
                watch.touch()
        # The server may go on for a moment with an answer that we ended.
        self.job.sent = seen.ended_by_us != ""
        self.take_counts()
        if not (seen.closed or seen.finished):
            if out:
                await answer.write(out)
            raise self._error(broken_stream())
        await answer.end(out)

    def _has_stalled(self) -> bool:
        """A cancellation by our own clock is a fault of the upstream, not a hang-up."""
        if self.watch.expired is None:
            return False
        self.task.uncancel()
        self.watch.expired = None
        self.job.hang_up()
        return True

    async def _let_go(self) -> None:
        """What the relay held back of an answer that broke off is the client's."""
        relay = self.job.relay
        if relay is not None and (held := relay.broken()):
            await self.answer.write(held)

    def _broken(self, why: str) -> UpstreamFault:
        self.readiness.contradicted(self.state, why)
        self.state.suspect()
        fault = broken_stream()
        return self._error(Fault(fault.code, f"{fault.message}: {why}", phase="stream"))

    def _error(self, fault: Fault) -> UpstreamFault:
        if self.exchange.attempts:
            self.exchange.attempts[-1].fault = fault
        return faults.to_error(
            fault,
            upstream=self.state.name,
            attempts=len(self.exchange.attempts),
            window=self.exchange.window,
        )

    def take_counts(self) -> None:
        """What the relay noticed, for the record."""
        relay = self.job.relay
        if relay is None:
            return
        seen, exchange = relay.seen, self.exchange
        exchange.prompt_tokens = seen.prompt_tokens
        exchange.completion_tokens = seen.completion_tokens
        exchange.cached_tokens = seen.cached_tokens
        exchange.finish_reason = seen.finish_reason
        tell(seen, exchange)
        rate, known = seen.prefill_tokens_per_s, self.state.prefill_tokens_per_s
        if rate and not (seen.prefill_is_bound and known is not None and known < rate):
            self.state.prefill_tokens_per_s = rate
