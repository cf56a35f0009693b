"""
Steps 4 and 5 of one request to a local upstream: made ready by what is known of the upstream now, and made
anew when that changes, or when a fault teaches what was not known.
"""

from __future__ import annotations

import contextlib
from typing import Any

from penstock import compress, template, tokens
from penstock.adapters.transport import TransportError
from penstock.compress import PrefixReport
from penstock.dialects.openai.request import validate
from penstock.domain.fault import Fault
from penstock.domain.pressure import Pressure
from penstock.domain.profile import ModelProfile, WindowSource
from penstock.domain.strategy import Strategy
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.conversations.context import FitRequest
from penstock.gateway.conversations.counts import ServerAway
from penstock.gateway.conversations.fitting import Prepared, choose_strategy, goes_next, overflow
from penstock.gateway.conversations.model_context import ModelContext
from penstock.gateway.conversations.slots import HeldSlot, Slots
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.opening import AttemptFailed
from penstock.gateway.steps.shape import shape, wished_num_ctx
from penstock.gateway.steps.translate import NOTHING, Work
from penstock.gateway.steps.tune import Tuned, tune
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.limits.num_ctx import NumCtx, choose_num_ctx

_UNEXPLAINED_OVERFLOW = 1.25
"""By how much the window is divided when the server refuses for length and names no number."""

_USUAL_OUTPUT = 4096
"""Tokens of an answer whose length nobody limits."""


class Preparation:
    """
    One request made ready.

    Attributes:
        tuned: what is sent; None before the first `make`.
        prepared: the conversation in it, None for requests that are none.
        context: what is known of the model's conversations.
        wants_to_be_alone: the server's shared KV was full: next it gets this request and no other.
    """

    def __init__(
        self,
        incoming: Incoming,
        runtime: Runtime,
        state: UpstreamState,
        work: Work,
    ) -> None:
        self._incoming = incoming
        self._exchange = incoming.exchange
        self._runtime = runtime
        self._state = state
        self._work = work
        self._body = work.body
        self._made_for = -1
        self._squeeze = 1.0
        self._squeezed = False
        self._counted = 0
        self._looked_again = False
        self._refusal: Fault | None = None
        self._report: PrefixReport | None = None
        self._shaped: Any = None
        self._tools_key: int | None = None
        self._slot = HeldSlot()
        self._conversation: int | None = None
        self.tuned: Tuned | None = None
        self.prepared: Prepared | None = None
        self.context: ModelContext | None = None
        self.wants_to_be_alone = False
        self._was_alone = False

    @property
    def is_current(self) -> bool:
        """Whether what was made is still what would be made now."""
        return self.tuned is not None and self._made_for == self._state.generation

    async def make_early(self) -> None:
        """
        Make it before it has a permit: what cannot work waits for none. Of a server that is away nothing is
        known now; `make_now` is asked again when it is sent.
        """
        with contextlib.suppress(ServerAway):
            await self.make()

    async def make_now(self) -> None:
        """
        Make it for an attempt, unless it is current.

        Raises:
            RequestError: it cannot work.
            TransportError, AttemptFailed: the server that is to count it is away.
        """
        if self.is_current:
            return
        try:
            await self.make()
        except ServerAway as away:
            if not away.loads:
                raise TransportError("refused", "connect", detail="connection refused") from away
            told = "the server loads its model"
            raise AttemptFailed(Fault(ErrorCode.UPSTREAM_LOADING, told, phase="load")) from away

    async def make(self) -> Tuned:
        """
        Make the request ready, and announce what was changed.

        Raises:
            RequestError: it cannot work.
            ServerAway: the server is to count it, and is away.
        """
        exchange, state, runtime = self._exchange, self._state, self._runtime
        generation = state.generation
        profile = state.profile(exchange.upstream_model)
        if profile is None:
            # A server that came back with another model answers for it under the name that it has now.
            exchange.upstream_model = runtime.router.model_now(
                state, exchange.model, self._incoming.route.upstream, exchange.upstream_model
            )
            profile = runtime.profile_of(state, exchange.upstream_model)
        exchange.profile = profile
        exchange.window = profile.window.tokens
        prepared = None
        work, pressure = self._work, runtime.memory.pressure_of(state)
        if work.is_chat:
            if work.translation is None:
                validate(work.body)
            try:
                prepared = await self._fit(profile, pressure)
            except RequestError as error:
                if not self._looked_again:
                    # The server may run with another window by now: what is refused is refused in true numbers.
                    self._looked_again = True
                    await runtime.keeper.look_again(state)
                    if state.generation != generation:
                        return await self.make()
                raise self._in_the_servers_numbers(error) from error
            exchange.window = prepared.num_ctx.window if prepared.num_ctx else exchange.window
        tuned = tune(
            work,
            upstream_model=exchange.upstream_model,
            profile=profile,
            spec=state.spec,
            settings=runtime.settings,
            counted_tokens=self._counted,
            env_max_tokens=runtime.env.max_tokens,
            memory_short=pressure is not Pressure.CALM,
            prepared=prepared,
            project=self.context is not None and self.context.projected,
            tools_key=self._tools_key or 0,
        )
        self._announce(tuned, prepared)
        self.tuned, self.prepared, self._made_for = tuned, prepared, generation
        return tuned

    @property
    def needed_bytes(self) -> int:
        """How much more memory the server takes for this request, as far as it takes any and we know it."""
        exchange, state = self._exchange, self._state
        profile = exchange.profile
        if state.spec.behaviour.memory_grows == "at_load" or profile is None or self.tuned is None:
            return 0
        prompt = exchange.prompt_tokens_planned or self.tuned.prompt_at_least
        window = exchange.window or profile.window.tokens
        output = self.tuned.output_tokens or min(_USUAL_OUTPUT, window // 8)
        return self._runtime.memory.needed_bytes(
            state, profile, window=window, tokens_taken=min(window, prompt + output)
        )

    def opened(self) -> None:
        """An answer has begun: the window that was asked for is the one that is loaded now."""
        asked = self.prepared.num_ctx if self.prepared is not None else None
        if asked is not None and asked.send is not None:
            self._runtime.note_loaded(self._state, self._exchange.upstream_model, asked.send)

    def answered(self) -> None:
        """The answer is complete: the server's own count of the prompt teaches how far ours was off."""
        exchange, prepared = self._exchange, self.prepared
        actual, profile = exchange.prompt_tokens, exchange.profile
        self._want_summaries()
        report = self._recognised()
        if report is not None and self.context is not None and actual:
            self.context.prefix.answered(
                report,
                tokens=actual,
                cut_at=prepared.plan.decided_at if prepared is not None and prepared.plan else -1,
                cached=exchange.cached_tokens,
            )
        if prepared is None or profile is None or not actual:
            return
        cut = self._runtime.contexts.answered(
            self._state,
            profile,
            prepared=prepared,
            body=self._body,
            actual=actual,
            certain=self.tuned.prompt_at_least if self.tuned is not None else 0,
            tools_key=self._tools_key,
        )
        if cut:
            exchange.warnings.append(
                f"the server cut the prompt: it counted {actual} tokens of about {prepared.tokens}"
            )
            self._runtime.note_truncation(self._state, exchange.upstream_model, actual)

    def _in_the_servers_numbers(self, error: RequestError) -> RequestError:
        """What the server said of the prompt is truer than what we took it for."""
        refusal = self._refusal
        if refusal is None or refusal.window is None or refusal.prompt_tokens is None:
            return error
        return overflow(refusal.prompt_tokens, refusal.window, hint=error.hint or "")

    def forget(self) -> None:
        """Let go of what is large."""
        self._recognised()
        self._shaped = None
        self._work, self._body, self.prepared = NOTHING, {}, None
        self.tuned = None

    def _announce(self, tuned: Tuned, prepared: Prepared | None) -> None:
        exchange = self._exchange
        if self.tuned is not None:
            for change in self.tuned.changes:
                exchange.changes.remove(change)
        exchange.changes.extend(tuned.changes)
        if prepared is not None:
            exchange.fitted = prepared.strategy
            exchange.prompt_tokens_planned = prepared.tokens
            exchange.prompt_tokens_original = prepared.original_tokens

    def _recognised(self) -> PrefixReport | None:
        """
        How the conversation goes on from its request before. Noted once, when somebody asks for it: for most
        requests at their end, when nobody waits for it any more.
        """
        context = self.context
        if self._report is None and self._shaped is not None and context is not None:
            guard, breaks = context.prefix, context.prefix.breaks
            self._report = guard.seen(self._shaped, self._exchange.client, self._tools_key or 0)
            if guard.breaks != breaks:
                name = self._state.name
                self._runtime.recorder.metrics.count("penstock_prefix_breaks", (name,))
        return self._report

    async def _fit(self, profile: ModelProfile, pressure: Pressure) -> Prepared:
        exchange, state, runtime = self._exchange, self._state, self._runtime
        settings = runtime.settings
        self.context = runtime.contexts.of(state, profile)
        messages, changes = shape(self._body, profile, settings.context.nonce_patterns)
        self._shaped = messages
        if self._tools_key is None:
            self._tools_key = tokens.tools_key(self._body)
        speaks_ollama = state.spec.behaviour.chat_dialect == "ollama"
        prepared = await runtime.contexts.fit(
            FitRequest(
                body=self._body,
                messages=messages,
                state=state,
                profile=profile,
                strategy=choose_strategy(
                    asked=self._incoming.strategy,
                    model=exchange.upstream_model,
                    user_agent=exchange.user_agent,
                    options=settings.context,
                ),
                settings=settings,
                pressure=pressure,
                client=exchange.client,
                squeeze=self._squeeze,
                choose_window=self._choose_window(profile) if speaks_ollama else None,
                summary=self._summary,
                tools_key=self._tools_key,
            )
        )
        return prepared.after(changes)

    def _summary(self, cut_key: str) -> str | None:
        summaries = self._runtime.summaries
        folder = self._runtime.settings.context.summary_folder
        return None if summaries is None else summaries.text(self._exchange.client, cut_key, folder)

    def _want_summaries(self) -> None:
        """Have what lies behind this cut summarised, and what will behind the next, outside the request."""
        prepared, summaries, profile = (
            self.prepared,
            self._runtime.summaries,
            self._exchange.profile,
        )
        if prepared is None or prepared.task is None or prepared.plan is None or profile is None:
            return
        if prepared.task.strategy is not Strategy.SUMMARY or summaries is None:
            return
        # A summary that is in use is not replaced by a fuller one: that would move the prefix.
        now = prepared.plan.behind if prepared.plan.summary_key is None else ()
        for behind in (now, goes_next(prepared.task, prepared.plan)):
            if behind:
                summaries.want(
                    self._exchange.client, compress.cut_key(behind), behind, self._state, profile,
                    self._runtime.settings,
                )  # fmt: skip

    def _choose_window(self, profile: ModelProfile) -> Any:
        body, state, runtime = self._body, self._state, self._runtime

        def choose(needed: int) -> NumCtx:
            return choose_num_ctx(
                needed=needed,
                wish=wished_num_ctx(body),
                loaded=profile.reading.running_window if profile.reading.loaded else None,
                configured=None if profile.reading.loaded else _next_window(profile),
                assumed=profile.window.tokens,
                trained=profile.reading.trained_window,
                fixed=profile.window.tokens if profile.window.is_users_word else None,
                affordable=runtime.memory.affordable_window(state, profile),
                most=runtime.memory.most_window(state, profile),
            )

        return choose

    def conversation(self) -> int:
        """What tells the request's conversation from others; 0 when nothing does."""
        if self._conversation is None:
            exchange, report = self._exchange, self._recognised()
            if exchange.conversation:
                self._conversation = hash((exchange.client, exchange.conversation)) or 1
            elif report is not None and self.context is not None:
                self._conversation = self.context.sessions.number(
                    report, exchange.client, exchange.session, self._tools_key or 0
                )
            elif exchange.session:
                self._conversation = hash((exchange.client, exchange.session)) or 1
            else:
                return 0
        return self._conversation

    def expected_in_cache(self) -> int:
        """Tokens that the server is likely to have of the prompt."""
        report = self._recognised()
        if report is None or self.context is None:
            return 0
        return self.context.prefix.expected_in_cache(report)

    def take_slot(self) -> int | None:
        """The server's slot for this conversation, where the gateway may choose one."""
        return self._slot.take(self._slots_to_choose_from(), self.conversation)

    def _slots_to_choose_from(self) -> tuple[Slots, int] | None:
        context, profile, state = self.context, self._exchange.profile, self._state
        if context is None or profile is None or not state.upstream.exclusive:
            return None
        slots = profile.reading.slots or 1
        body = self._body
        if (
            not state.spec.behaviour.takes_slot
            or slots < 2
            or "id_slot" in body
            or body.get("n", 1) != 1
        ):
            return None
        return context.slots, slots

    def give_slot_back(self) -> None:
        """The request has left its slot, if it had one."""
        self._slot.give_back()

    def adapt(self, fault: Fault) -> bool:
        """What a fault teaches of the model; True when the request would be made differently now."""
        exchange, state, runtime = self._exchange, self._state, self._runtime
        if fault.status is None and fault.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED:
            return False
        if fault.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
            return self._adapt_to_overflow(fault)
        if fault.code is ErrorCode.GRAMMAR_REFUSED:
            if self.context is None or self.context.projected:
                return False
            self.context.projected = True
            return self._again()
        if exchange.profile is None:
            return False
        rules = exchange.profile.reading.template
        learned = template.learn(rules, fault.message)
        if learned == rules:
            return False
        runtime.note_template(state, exchange.upstream_model, learned)
        return True

    def _adapt_to_overflow(self, fault: Fault) -> bool:
        exchange, state, runtime = self._exchange, self._state, self._runtime
        prepared, profile = self.prepared, exchange.profile
        others = state.limiter.running > 1
        if fault.shared_kv and others and not self._was_alone:
            self.wants_to_be_alone = self._was_alone = True
            if profile is not None:
                state.room.shared_kv_was_full(profile.reading.running_window, profile.window.tokens)
            return True
        self._refusal = fault
        believed = profile.window.tokens if profile is not None else 0
        if prepared is not None and prepared.num_ctx is not None:
            believed = prepared.num_ctx.window
        if fault.window is not None and fault.window < believed:
            runtime.note_refusal(state, exchange.upstream_model, fault.window)
            if fault.output_room is None:
                return prepared is not None
        if fault.output_room is not None:
            return self._reduce_output(fault)
        if prepared is None or profile is None or self._squeezed:
            return False
        # The window is what we believed, so the prompt is longer than we took it for.
        self._squeezed = True
        if fault.prompt_tokens is not None and prepared.tokens > 0:
            assert self.context is not None
            self.context.refused(prepared.tokens, fault.prompt_tokens)
            self._squeeze = max(1.02, 1.02 * fault.prompt_tokens / prepared.tokens)
        else:
            self._squeeze = _UNEXPLAINED_OVERFLOW
        return self._again()

    def _reduce_output(self, fault: Fault) -> bool:
        """The prompt fits, by the server's count; what was asked for after it does not, so less is asked for."""
        assert fault.prompt_tokens is not None
        assert fault.window is not None
        prepared, work = self.prepared, self._work
        ours = work.is_chat or (work.operation == "completions" and work.dialect == "openai")
        if self._counted or not ours:
            return False
        self._counted = fault.prompt_tokens
        if prepared is not None and "at least" in fault.message:
            # It stopped counting where nothing more would have fitted; our own count may know better.
            self._counted = max(self._counted, min(prepared.tokens, fault.window - 1))
        return self._again()

    def _again(self) -> bool:
        self._made_for = -1
        return True


def _next_window(profile: ModelProfile) -> int | None:
    """What a model that is not in memory will be loaded with, as far as that is known."""
    if profile.reading.running_window is None and profile.window.source is WindowSource.LEARNED:
        return profile.window.tokens
    return profile.reading.running_window
