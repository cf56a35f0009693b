"""
The way of a generating request through the gateway: the one place that knows the order of the decisions.

    1. accept    authenticate, bound the size, parse                 (access, body)
    2. resolve   which upstream, which model, which profile          (resolve, fleet)
    3. cloud?    then nothing is added, removed or renamed           (cloud)
                 nor for a local upstream that is bypassed           (bypass)
                 else another dialect becomes OpenAI's               (translate)
    4. tune      names, sampling, template                           (tune)
    5. fit       the conversation into the window, output budget     (prepare, context, fitting)
    6. admit     a permit, or a place in the queue                   (admit, limiter)
    7. forward   with separate time limits, retried by policy        (forward)
    8. relay     verbatim, translated or collected                   (relaying, relays, answer)
    9. record    one outcome                                         (record)

The numbers stand in the code as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.breaker import Pass
from penstock.concurrency import Ask
from penstock.domain.fault import Fault, Outcome
from penstock.domain.json_kinds import kind_of
from penstock.domain.profile import WindowSource
from penstock.domain.upstream import Locality
from penstock.errors import (
    ERROR_TABLE,
    AnswerError,
    ErrorCode,
    Refused,
    RequestError,
    UpstreamFault,
)
from penstock.gateway.conversations.slots import with_slot
from penstock.gateway.edge.answer import ClientAnswer, announcement_headers
from penstock.gateway.edge.body import ClientGone, parse_object
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.relays.choose_relay import make_relay
from penstock.gateway.relays.mending import mending_rules
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.admit import (
    admit,
    pass_gate,
    refuse_at_the_door,
    refuse_if_left_alone,
)
from penstock.gateway.steps.asking import ask_of
from penstock.gateway.steps.bypass import bypass
from penstock.gateway.steps.cloud import pass_through, splice_model
from penstock.gateway.steps.cloud_advice import advise
from penstock.gateway.steps.count import answer_count
from penstock.gateway.steps.elsewhere import anew, elsewhere, goes_on, move_on
from penstock.gateway.steps.forward import open_answer
from penstock.gateway.steps.letting_go import let_go
from penstock.gateway.steps.limiter import Permit
from penstock.gateway.steps.opening import Job
from penstock.gateway.steps.prepare import Preparation
from penstock.gateway.steps.relaying import Relaying
from penstock.gateway.steps.succession import have_proven, means_of
from penstock.gateway.steps.teach import answer_began, teach_breaker
from penstock.gateway.steps.translate import Work, translation_of, work_of
from penstock.gateway.steps.tune import Tuned, wants_stream, weight_of
from penstock.gateway.steps.upstream_headers import headers_for
from penstock.gateway.steps.watch import Clock, Watch
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.resolve import Resolution
from penstock.placement import prefix_of

log = logging.getLogger("penstock.pipeline")

_LONGEST_MODEL = 1024  # names are remembered, logged and shown


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
    # 2. Resolve. An upstream that fails before anything of its answer was relayed is not the last word.
    if runtime.router.places:
        exchange.prefix = prefix_of(body)
    found = await runtime.router.resolve(
        exchange.model, explicit=incoming.route.upstream, prefix=exchange.prefix
    )
    changes = list(exchange.changes)
    tried: list[str] = []
    while True:
        state = runtime.fleet.get(found.upstream)
        try:
            await _send_to(found, state, incoming, runtime, transport, body, raw, tried)
            return
        except (Refused, UpstreamFault) as error:
            tried.append(found.upstream)
            other = elsewhere(error, incoming, runtime, tried)
            if other is None:
                other = await anew(incoming, runtime, state)
            if other is None:
                raise
            move_on(exchange, runtime, error, other)
            found, exchange.changes[:] = other, changes  # what was changed for that one is not sent


async def _send_to(
    found: Resolution,
    state: UpstreamState,
    incoming: Incoming,
    runtime: Runtime,
    transport: UpstreamTransport,
    body: dict[str, Any],
    raw: bytes,
    tried: list[str],
) -> None:
    """Steps 3 to 9 at one upstream. *tried*: those that failed before it."""
    exchange = incoming.exchange
    exchange.upstream, exchange.upstream_model = state.name, found.model
    exchange.locality = state.locality_of(found.model)
    # 3. Cloud? Then nothing is added, removed or renamed.
    if exchange.locality is not Locality.LOCAL:
        if found.model != exchange.model and found.model:
            raw = splice_model(raw, body, found.model)
        if found.how == "fallback":
            exchange.changes.extend(found.changes)  # for the record: a cloud's answer tells nothing
        await pass_gate(exchange, runtime.settings, state)
        try:
            await pass_through(
                incoming, runtime.settings, transport, state, raw, again=not exchange.attempts
            )
        finally:
            if exchange.operation == "chat" and advise(exchange, body):
                runtime.recorder.metrics.count("penstock_cloud_window_advice", (state.name,))
        return
    if state.gate.bypassed:
        await bypass(incoming, runtime, transport, state, body, raw)
        return
    exchange.changes.extend(found.changes)
    if incoming.route.kind != "count":
        refuse_if_left_alone(state)
    # Which server it is decides what can be said to it, so the first contact waits for its first look.
    await runtime.keeper.first_contact(state)
    if incoming.route.kind == "count":
        await answer_count(incoming, runtime, state, body)
        return
    work = work_of(body, raw, incoming.route, exchange, state.spec)
    exchange.changes.extend(work.changes)
    if work.answered is not None:
        exchange.outcome = Outcome.IGNORED
        headers = [*announcement_headers(exchange), (b"content-type", b"application/json")]
        await incoming.answer.whole(200, headers, work.answered)
        return
    await LocalRun(incoming, runtime, transport, state, work, tried).run()


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
        work: Work,
        tried: list[str],
    ) -> None:
        self.incoming = incoming
        self.exchange = incoming.exchange
        self.answer: ClientAnswer = incoming.answer
        self.tried = tried
        self.runtime = runtime
        self.transport = transport
        self.state = state
        self.work: Work | None = work
        # Heartbeats may come before there is anything to relay, in the client's dialect as well; and there may
        # have been some while another upstream was tried.
        if self.answer.writer is None and work.translation and self.exchange.stream:
            self.answer.writer = work.translation.writer()
        self._writer = self.answer.writer
        self.size_bytes = len(work.raw)
        self.weight = weight_of(work.body)
        self.ready = Preparation(incoming, runtime, state, work)
        self.job: Job | None = None
        self.relaying: Relaying | None = None
        self.permit: Permit | None = None
        self.passed: Pass | None = None
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
        exchange, state, work = self.exchange, self.state, self.work
        assert work is not None
        try:
            refuse_at_the_door(self.incoming, state, self.size_bytes)
            # 4. and 5. Tune and fit, so that a request that cannot work does not wait for a permit.
            if state.kind is not None:
                await self.ready.make_early()
            # 6. Admit.
            self.passed, self.permit = await admit(
                self.incoming,
                self.runtime.settings,
                state,
                ask=self.ask(),
                raw=work.raw,
                memory=self.runtime.memory,
                needed_bytes=self.ready.needed_bytes,
            )
            if state.spec.behaviour.keeps_slots_warm:
                # While the server works, nobody waits for this.
                asyncio.get_running_loop().call_soon(self._tell_conversation)
            # 7. Forward.
            self.job = Job(
                exchange=exchange,
                state=state,
                prepare=self.request_for_attempt,
                adapt=self.ready.adapt,
                goes_on=self._goes_on,
                left_alone=self._left_alone,
                began=self._began,
                own_key=state.upstream.api_key is not None,
                watch=self.watch,
                settings=self.runtime.settings,
            )
            keeper = self.runtime.keeper
            relaying = self.relaying = Relaying(self.answer, self.job, keeper, self._task)
            opened = await open_answer(self.job, self.transport, keeper)
            self.ready.opened()
            self._began()
            # 8. Relay.
            await relaying.run(opened, work)
            exchange.outcome = Outcome.SUCCESS
            self.ready.answered()
            have_proven(self, work)
            if exchange.profile is not None and exchange.profile.reading.loaded is False:
                self.runtime.keeper.contradicted(state, "the model was loaded for a request")
            elif _is_beyond_belief(exchange):
                self.runtime.keeper.contradicted(state, "it took more than its window")
        except UpstreamFault as fault:
            row = ERROR_TABLE[fault.code]
            exchange.outcome = Outcome.DROPPED if row.breaker else Outcome.IGNORED
            self._teach(fault.message)
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
            let_go(self)
            self._teach("")
            # A relay and its job know each other, and the job knows us: only the collector would free all of
            # this, and late.
            if self.job is not None:
                self.job.relay = None
            self.work = self.job = self.relaying = None
            self.ready.forget()

    def _began(self) -> None:
        """The upstream answers: nobody waits for the end of an answer to know that it works again."""
        self.passed = answer_began(self.runtime, self.state, self.passed)

    def _goes_on(self, fault: Fault) -> bool:
        """Whether it is tried here again."""
        return not self._left_alone() and goes_on(
            fault, self.incoming, self.runtime, self.state, self.tried
        )

    def _left_alone(self) -> bool:
        """Whether the breaker has opened since the request was let through: then there are no more attempts."""
        return self.passed is not None and self.state.breaker.has_opened_since(self.passed)

    def _teach(self, why: str) -> None:
        """Tell the breaker once how it ended."""
        passed, self.passed = self.passed, None
        if passed is not None:
            teach_breaker(self.runtime, self.state, passed, self.exchange, why)

    async def request_for_attempt(self) -> tuple[UpstreamRequest, Callable[[], Any] | None]:
        """The request as it is to be sent now; made anew when what is known of the upstream changed."""
        state = self.state
        if state.kind is None and not await self.runtime.keeper.look(state):
            raise TransportError("refused", "connect", detail=state.error or "connection refused")
        if self.ready.wants_to_be_alone:
            await self._be_alone()
        await self.ready.make_now()
        tuned, work = self.tuned, self.work
        assert work is not None
        assert self.job is not None
        assert self.relaying is not None
        self.job.path = tuned.path
        slot = self.ready.take_slot()
        body = tuned.body if slot is None else with_slot(tuned.body, slot)
        query = self.incoming.query if work.translation is None else ""
        request = UpstreamRequest(
            self.incoming.method.encode("ascii"),
            (state.prefix + tuned.path + query).encode("ascii"),
            headers_for(self.incoming, state, tuned.path, self.runtime.via),
            body,
        )
        self.job.means = means_of(self, work)
        translation = translation_of(work, tuned.chat, self.exchange)
        if not tuned.streams and translation is None:
            return request, None
        # What an attempt before this one wrote went to nobody.
        self.answer.writer = self._writer
        return request, partial(
            make_relay,
            tuned,
            self.exchange,
            self.incoming.surface,
            self.relaying.late,
            rules=mending_rules(work, self.exchange, self.runtime.settings),
            guarded=self.runtime.settings.loop_guard.enabled,
            translation=translation,
            begin=self.answer.begin_writing,
        )

    def ask(self) -> Ask:
        """What it asks of admission."""
        return ask_of(
            self.incoming,
            self.runtime.settings,
            self.state,
            self.ready,
            weight=self.weight,
            size_bytes=self.size_bytes,
        )

    def _tell_conversation(self) -> None:
        if self.permit is not None and self.work is not None:
            self.permit.belongs_to(self.ready.conversation())

    async def _be_alone(self) -> None:
        """Wait until the server works on nothing else: what its slots share was too full for this request."""
        self.ready.wants_to_be_alone = False
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.release()
        self.watch.run("none")
        limiter = self.state.limiter
        self.permit = await limiter.acquire(
            self.ask()._replace(weight=limiter.limit),
            first=True,
            deadline_s=self.incoming.queue_deadline_s(self.runtime.settings),
        )
        self.watch.run("first_token")

    def move_to(self, state: UpstreamState, passed: Pass, permit: Permit) -> None:
        """Another upstream goes on with the request, which failed at the one before."""
        self.ready.give_slot_back()
        self.exchange.outcome = Outcome.DROPPED
        self._teach("the answer broke off")
        self.exchange.outcome, self.passed = None, passed
        if self.permit is not None:
            self.permit.release()
        self.state, self.permit = state, permit
        self.exchange.upstream = state.name
        self.exchange.in_flight = 0  # half an answer teaches nothing of how many are too many there
        if self.job is not None:
            self.job.state = state
        if self.relaying is not None:
            self.relaying.state = state
