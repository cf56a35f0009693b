"""
The way of a generating request through the gateway: the one place that knows the order of the decisions.

    1. accept    authenticate, bound the size, parse                 (access, body)
    2. resolve   which upstream, which model, which profile          (resolve, fleet)
    3. cloud?    then nothing is added, removed or renamed           (cloud)
    4. tune      names, sampling, template                           (tune)
    5. fit       the conversation into the window, output budget     (prepare, context, fitting)
    6. admit     a permit, or a place in the queue                   (limiter)
    7. forward   with separate time limits, retried by policy        (forward)
    8. relay     verbatim, translated or collected                   (relay, answer)
    9. record    one outcome                                         (record)

The numbers stand in the code as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from penstock import faults
from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.domain.fault import Fault, Outcome
from penstock.domain.json_kinds import kind_of
from penstock.domain.profile import WindowSource
from penstock.domain.upstream import Locality
from penstock.errors import ERROR_TABLE, AnswerError, ErrorCode, RequestError, UpstreamFault
from penstock.gateway.conversations.slots import with_slot
from penstock.gateway.edge.answer import (
    ClientAnswer,
    HeaderFilter,
    announcement_headers,
    explained,
    late_facts,
)
from penstock.gateway.edge.body import ClientGone, parse_object
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.relays.choose_relay import make_relay
from penstock.gateway.relays.mending import mend_plain, mending_rules, tell, tell_mended
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.cloud import pass_through, splice_model
from penstock.gateway.steps.cloud_advice import advise
from penstock.gateway.steps.forward import Job, Opened, broken_stream, note_progress, open_answer
from penstock.gateway.steps.ghost import expect_ghost, let_load, outlast
from penstock.gateway.steps.limiter import Permit
from penstock.gateway.steps.prepare import Preparation
from penstock.gateway.steps.tune import Tuned, wants_stream, weight_of
from penstock.gateway.steps.upstream_headers import headers_for
from penstock.gateway.steps.watch import Clock, Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.toolcalls.stream import Mended

log = logging.getLogger("penstock.pipeline")

_LONGEST_MODEL = 1024  # names are remembered, logged and shown
# Who may read across origins is ours to say.
_relayed = HeaderFilter(
    frozenset({b"content-length", b"server", b"date", b"content-encoding"}),
    drop_prefix=b"access-control-",
)


async def generate(incoming: Incoming, runtime: Runtime, transport: UpstreamTransport) -> None:
    """
    Answer one generating request.

    Raises:
        AnswerError: to be told to the client by `incoming.answer`.
        asyncio.CancelledError: the client hung up, or the gateway stops.
    """
    exchange = incoming.exchange
    # 1. Accept: access was decided by `app`; the body is read and parsed here, once.
    raw = await incoming.read_body(runtime.settings)
    body = parse_object(raw)
    exchange.body_bytes = len(raw)
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"model: expected a string, got {kind_of(model)}.",
            param="model",
        )
    if model is not None and len(model) > _LONGEST_MODEL:
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"model: expected a name of at most {_LONGEST_MODEL} characters.",
            param="model",
        )
    exchange.model = model or ""
    exchange.stream = wants_stream(
        body, exchange.operation, exchange.dialect, incoming.route.upstream_path
    )
    incoming.read_wishes(body)
    # 2. Resolve.
    found = await runtime.resolve(exchange.model, explicit=incoming.route.upstream)
    state = runtime.fleet.get(found.upstream)
    exchange.upstream, exchange.upstream_model = state.name, found.model
    exchange.locality = state.locality_of(found.model)
    # 3. Cloud? Then nothing is added, removed or renamed.
    if exchange.locality is not Locality.LOCAL:
        if found.model != exchange.model and found.model:
            raw = splice_model(raw, body, found.model)
        try:
            await pass_through(incoming, runtime.settings, transport, state, raw)
        finally:
            if exchange.operation == "chat" and advise(exchange, body):
                runtime.recorder.metrics.count("penstock_cloud_window_advice", (state.name,))
        return
    exchange.changes.extend(found.changes)
    await LocalRun(incoming, runtime, transport, state, body, raw).run()


def _is_beyond_belief(exchange: Exchange) -> bool:
    """Whether a prompt was taken that is longer than the window which the server is believed to have."""
    if exchange.profile is None or exchange.window is None or exchange.prompt_tokens is None:
        return False
    users_word = exchange.profile.window.source in (WindowSource.EXPLICIT, WindowSource.ENV)
    return not users_word and exchange.prompt_tokens > exchange.window


class LocalRun:
    """Steps 4 to 9 of one request to a local upstream."""

    def __init__(
        self,
        incoming: Incoming,
        runtime: Runtime,
        transport: UpstreamTransport,
        state: UpstreamState,
        body: dict[str, Any],
        raw: bytes,
    ) -> None:
        self.incoming = incoming
        self.exchange = incoming.exchange
        self.answer: ClientAnswer = incoming.answer
        self.runtime = runtime
        self.transport = transport
        self.state = state
        self.body = body
        self.raw = raw
        self.weight = weight_of(body)
        self.ready = Preparation(incoming, runtime, state, body, raw)
        self.job: Job | None = None
        self.permit: Permit | None = None
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        times = runtime.settings.timeouts
        heartbeat_s = incoming.heartbeat_s(times.heartbeat_s) if self.exchange.stream else None
        self.watch = Watch(
            loop,
            {
                "load": times.load_s,
                "first_token": times.first_token_s,
                "stall": times.stall_s,
            },
            heartbeat_s=heartbeat_s,
            on_expired=self._expired,
            on_silence=self.answer.beat,
        )

    def _expired(self, _: Clock) -> None:
        self._task.cancel()

    @property
    def tuned(self) -> Tuned:
        """The request as it was made ready last."""
        tuned = self.ready.tuned
        assert tuned is not None
        return tuned

    async def run(self) -> None:
        """Steps 4 to 9; the permit is given back however it ends."""
        exchange, state = self.exchange, self.state
        try:
            # 4. and 5. Tune and fit, so that a request that cannot work does not wait for a permit.
            await self.runtime.keeper.first_contact(state)
            if state.kind is not None:
                await self.ready.make_early()
            # 6. Admit.
            exchange.stage = "queued"
            loop = asyncio.get_running_loop()
            exchange.queued_s = loop.time()
            self.permit = await state.limiter.acquire(
                weight=self.weight,
                size_bytes=len(self.raw),
                deadline_s=self.incoming.queue_deadline_s(self.runtime.settings),
            )
            exchange.admitted_s = loop.time()
            # 7. Forward.
            self.job = Job(
                exchange=exchange,
                state=state,
                prepare=self.request_for_attempt,
                adapt=self.ready.adapt,
                own_key=state.upstream.api_key is not None,
                watch=self.watch,
                settings=self.runtime.settings,
            )
            opened = await open_answer(self.job, self.transport, self.runtime.keeper)
            self.ready.opened()
            # 8. Relay.
            await self._relay(opened)
            exchange.outcome = Outcome.SUCCESS
            self.ready.answered()
            if exchange.profile is not None and exchange.profile.reading.loaded is False:
                self.runtime.keeper.contradicted(state, "the model was loaded for a request")
            elif _is_beyond_belief(exchange):
                self.runtime.keeper.contradicted(state, "it took more than its window")
        except UpstreamFault as fault:
            row = ERROR_TABLE[fault.code]
            exchange.outcome = Outcome.DROPPED if row.breaker else Outcome.IGNORED
            raise
        except AnswerError:
            exchange.outcome = Outcome.IGNORED
            raise
        except asyncio.CancelledError:
            exchange.outcome = Outcome.IGNORED
            if self.watch.expired is not None:  # while we waited for the client: all else takes it
                self._task.uncancel()
                self.answer.give_up_on_client()
                raise ClientGone from None
            raise
        finally:
            self.watch.stop()
            self._let_go()
            # The clocks and we know each other, so only the collector would free us, and late: what is
            # large goes now.
            self.body, self.raw, self.job = {}, b"", None
            self.ready.forget()

    async def request_for_attempt(self) -> tuple[UpstreamRequest, Callable[[], Any] | None]:
        """The request as it is to be sent now; made anew when what is known of the upstream changed."""
        state = self.state
        if state.kind is None and not await self.runtime.keeper.look(state):
            raise TransportError("refused", "connect", detail=state.error or "connection refused")
        if self.ready.wants_to_be_alone:
            await self._be_alone()
        await self.ready.make_now()
        tuned = self.tuned
        slot = self.ready.take_slot()
        body = tuned.body if slot is None else with_slot(tuned.body, slot)
        request = UpstreamRequest(
            self.incoming.method.encode("ascii"),
            (state.prefix + tuned.path + self.incoming.query).encode("ascii"),
            headers_for(self.incoming, state, tuned.path, self.runtime.via),
            body,
        )
        if not tuned.streams:
            return request, None
        rules = mending_rules(self.body, self.exchange, self.runtime.settings)
        guarded = self.runtime.settings.loop_guard.enabled
        return request, lambda: make_relay(
            tuned, self.exchange, self.incoming.surface, self.late, rules=rules, guarded=guarded
        )

    async def _be_alone(self) -> None:
        """Wait until the server works on nothing else: what its slots share was too full for this request."""
        self.ready.wants_to_be_alone = False
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.release()
        self.watch.run("none")
        limiter = self.state.limiter
        self.permit = await limiter.acquire(
            weight=limiter.limit,
            size_bytes=len(self.raw),
            deadline_s=self.incoming.queue_deadline_s(self.runtime.settings),
        )
        self.watch.run("first_token")

    def late(self) -> dict[str, Any] | None:
        """What is announced before the closing event."""
        assert self.job is not None
        self._take_counts()
        return late_facts(self.exchange, committed_early=self.answer.committed_early)

    async def _relay(self, opened: Opened) -> None:
        answer, exchange, response = self.answer, self.exchange, opened.response
        headers = _relayed(response.headers)
        assert self.job is not None
        relay = opened.relay
        if opened.complete:
            self.job.sent = relay is not None and relay.seen.ended_by_us != ""
        if relay is None and (
            rules := mending_rules(self.body, self.exchange, self.runtime.settings)
        ):
            mended: list[Mended] = []
            opened.first = mend_plain(opened.first, rules, mended)
            tell_mended(mended, exchange)
        if opened.relay is None or self.tuned.collects:
            if opened.relay is not None:
                self._take_counts()
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
            surface = self.incoming.surface
            headers = [(n, v) for n, v in headers if n.lower() != b"content-type"]
            headers.append((b"content-type", surface.content_type_stream))
            headers.extend(announcement_headers(exchange))
            headers.append((b"server", b"penstock"))
            await answer.start(response.status, headers, hold=True)
        await self._stream(opened)

    async def _stream(self, opened: Opened) -> None:
        answer, watch, response, relay = self.answer, self.watch, opened.response, opened.relay
        assert relay is not None
        assert self.job is not None
        seen = relay.seen
        out, complete = opened.first, opened.complete
        while True:
            if out and not complete:
                await answer.write(out)
                watch.wrote()
            if complete:
                break
            try:
                data = await response.next_chunk()
                complete = response.complete
                out = relay.feed(data) if data else b""
                if seen.ended_by_us:
                    complete = True
                    self.job.hang_up()
                elif complete and seen.error is None:
                    out += relay.end()
            except TransportError as exc:
                self.job.sent = False
                raise self._broken(str(exc)) from exc
            except ValueError as exc:
                raise self._broken(f"the stream holds something unreadable: {exc}") from exc
            except asyncio.CancelledError:
                self._stalled()
                raise
            if seen.error is not None:
                fault = faults.classify_stream_error(seen.error, self.state.spec)
                self.job.sent = False
                if out:
                    await answer.write(out)
                raise self._error(fault)
            if seen.progress is not None:
                note_progress(self.exchange, watch, relay)
            if seen.token and watch.clock == "first_token":
                watch.run("stall")
            watch.touch()
        # The server may go on for a moment with an answer that we ended.
        self.job.sent = seen.ended_by_us != ""
        self._take_counts()
        if not (seen.closed or seen.finished):
            if out:
                await answer.write(out)
            raise self._error(broken_stream())
        await answer.end(out)

    def _stalled(self) -> None:
        """A cancellation by our own clock is a fault of the upstream, not a hang-up."""
        if self.watch.expired is None:
            return
        self._task.uncancel()
        self.watch.expired = None
        assert self.job is not None
        self.job.hang_up()
        raise self._error(faults.classify_timeout("stall"))

    def _broken(self, why: str) -> UpstreamFault:
        self.runtime.keeper.contradicted(self.state, why)
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

    def _take_counts(self) -> None:
        relay = self.job.relay if self.job is not None else None
        if relay is None:
            return
        seen, exchange = relay.seen, self.exchange
        exchange.prompt_tokens = seen.prompt_tokens
        exchange.completion_tokens = seen.completion_tokens
        exchange.cached_tokens = seen.cached_tokens
        exchange.finish_reason = seen.finish_reason
        tell(seen, exchange)
        if seen.prefill_tokens_per_s:
            self.state.prefill_tokens_per_s = seen.prefill_tokens_per_s

    def _let_go(self) -> None:
        """Close what is open and give the permit back, at once or when the ghost has ended."""
        permit, job = self.permit, self.job
        self.ready.give_slot_back()
        if permit is None:
            return
        running = job is not None and job.sent
        if job is not None:
            job.hang_up()
            if job.sending is not None:
                others = self.state.limiter.waiting > 0
                grace_s = self.runtime.settings.timeouts.load_grace_s if others else 0.0
                self.runtime.haunt(permit, let_load(job.sending, grace_s))
                return
        if not running or self.ready.tuned is None:
            permit.release()
            return
        work = expect_ghost(
            self.state.spec.behaviour,
            streamed=self.tuned.streams,
            decoding=self.exchange.first_token_s is not None,
            prompt_tokens=self.exchange.prefill_total or self.tuned.prompt_at_least,
            output_tokens=self.tuned.output_tokens,
            prefill_tokens_per_s=self.state.prefill_tokens_per_s,
        )
        if work.expected_s <= 0:
            permit.release()
            return
        at_work = partial(self.runtime.at_work, self.state)
        self.runtime.haunt(permit, outlast(work, self.state, self.runtime.keeper, at_work))
