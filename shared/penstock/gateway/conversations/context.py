"""
What the gateway knows of the conversations of each model: what messages weigh, how far that is off, which
conversations there were. Counts what must be counted, then lets `fitting` decide.

Nothing here is needed for a right answer; all of it is bounded and can be lost at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock import compress, tokens
from penstock.adapters import probe
from penstock.adapters.questions import OverTransport
from penstock.adapters.transport import Transport
from penstock.compress import DoesNotFit, Fitted
from penstock.domain.pressure import Pressure
from penstock.domain.profile import ModelProfile
from penstock.domain.strategy import Strategy
from penstock.gateway.conversations.counts import (
    ServerAway,
    count_messages,
    counts_exactly,
    measure_model,
)
from penstock.gateway.conversations.fitting import (
    ClientMustCompact,
    FitTask,
    Messages,
    Prepared,
    cannot_fit,
    fit,
    overflow,
    prepared_by,
)
from penstock.gateway.conversations.model_context import ModelContext
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.limits.num_ctx import NumCtx
from penstock.settings import Settings

log = logging.getLogger("penstock.context")

_MOST_MODELS = 16
"""Each may hold megabytes: weights, the latest requests of its conversations, a vocabulary."""
_MOST_TOLD = 4096
_TOLD_FOR_S = 3600.0
_ROUNDS = 64
"""Counts change plans, and plans make messages to be counted; it ends after a few."""
_MOST_FAILURES = 2
_CUT_BELOW = 0.75
"""A prompt that had less than this share of the least that it can have was cut by its server."""
_TRY_AGAIN_S = 60.0
_FIRST_LOOK_S = 10.0


class FitRequest(NamedTuple):
    """
    A conversation that is to be made to fit.

    Attributes:
        body: the request, for its tools.
        messages: valid OpenAI messages.
        client: who sent it, by the name of its key.
        squeeze: by how much more the window is divided, because the server refused what we thought fits.
        choose_window: tokens needed -> the window to ask Ollama for; None for other servers.
        summary: see `FitTask`.
        tools_key: of its tools, where it is known already.
    """

    body: Mapping[str, Any]
    messages: Messages
    state: UpstreamState
    profile: ModelProfile
    strategy: Strategy
    settings: Settings
    pressure: Pressure
    client: str = ""
    squeeze: float = 1.0
    choose_window: Callable[[int], NumCtx] | None = None
    summary: Callable[[str], str | None] | None = None
    tools_key: int | None = None


class Contexts:
    """
    The conversations of all models.

    Args:
        client_of: the control-plane HTTP client of an upstream.
        spawn: runs something in the background.
    """

    def __init__(
        self,
        client_of: Callable[[UpstreamState], Any],
        spawn: Callable[[Any, str], asyncio.Task[Any]],
    ) -> None:
        self._client_of = client_of
        self._transport = Transport()
        self._spawn = spawn
        self._known: OrderedDict[tuple[str, str], ModelContext] = OrderedDict()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def _way_to(self, state: UpstreamState) -> OverTransport:
        """
        By which *state* is asked for counts: like requests, but over connections of their own. A request on one
        that counting had used before would be sent once more, unseen, when the server drops it.
        """
        return OverTransport(self._transport, state.origin, state.host, state.prefix)

    def of(self, state: UpstreamState, profile: ModelProfile) -> ModelContext:
        """What is known of the conversations of *profile*'s model."""
        key = (state.name, profile.model)
        before = self._known.get(key)
        if before is not None and before.profile is profile and not before.is_stale:
            self._known.move_to_end(key)
            return before
        reading = profile.reading
        identity = (
            profile.kind,
            reading.trained_window,
            reading.parameter_count,
            reading.details.get("size_bytes"),
            reading.template,
        )
        if before is not None and before.identity == identity and not before.is_stale:
            before.profile = profile
            self._known.move_to_end(key)
            return before
        exact = state.spec.counting is not None  # a vocabulary makes it exact when it is there
        family = tokens.family_of(profile.model, str(reading.details.get("family") or ""))
        known = self._known[key] = ModelContext(
            identity,
            profile,
            tokens.Scale(exact=exact, family=family),
            tokens.Calibration(family, exact=counts_exactly(state.spec)),
        )
        if before is not None:
            # What is known of clients and slots holds for another way of counting as well.
            known.slots, known.prefix, known.told = before.slots, before.prefix, before.told
            known.truncations = before.truncations
        while len(self._known) > _MOST_MODELS:
            self._known.popitem(last=False)
        return known

    def status_of(self, upstream: str, model: str) -> dict[str, Any] | None:
        """For `/penstock/status`; None while there was no conversation."""
        known = self._known.get((upstream, model))
        return None if known is None else known.as_status()

    async def fit(self, request: FitRequest) -> Prepared:
        """
        Make a conversation fit.

        Raises:
            RequestError: `context_length_exceeded`.
            ServerAway: see there.
        """
        context = self.of(request.state, request.profile)
        if context.told or not context.overhead_known:
            await self._first_look(context, request)
        told_key = 0
        if request.strategy is Strategy.CLIENT:
            told_key = hash((request.client, compress.head_key(request.messages)))
        for _ in range(_ROUNDS):
            # Another one when the server has failed to count meanwhile, for whichever request.
            scale = context.scale
            read = context.as_read(request.messages)
            weighed = scale.weigh(read)
            tools, tools_counted = scale.weigh_tools(request.body, request.tools_key)
            fixed = tools + scale.overhead.base
            made: list[Mapping[str, Any]] = []
            task, num_ctx = self._task(context, request, weighed, fixed, told_key, made)
            plan: Fitted | None = None
            problem: DoesNotFit | ClientMustCompact | None = None
            try:
                plan = fit(task)
            except (DoesNotFit, ClientMustCompact) as exc:
                problem = exc
            decided_at = len(request.messages) if plan is None else plan.decided_at
            ask_tools = not tools_counted and decided_at >= 0
            waits = weighed.uncounted and any(p <= decided_at for p in weighed.uncounted)
            if not (made or ask_tools or waits):
                break
            # All that is not counted is counted now: a plan that rests on bounds would not be the plan of
            # another gateway that has counts already.
            missing = [read[place] for place in weighed.uncounted] + made
            await self._count(context, request, missing, ask_tools)
        if problem is not None:
            raise self._refusal(context, request, task, problem, told_key)
        assert plan is not None
        rest = [read[place] for place in weighed.uncounted]
        if rest or not tools_counted:
            self._spawn(self._count_behind(context, request, rest, not tools_counted), "count")
        counted = scale.exact and scale.overhead.measured and not rest
        known = None if weighed.uncounted else (scale, weighed)
        return prepared_by(task, plan, num_ctx, counted=counted, weighed=known)

    async def count(self, request: FitRequest) -> int:
        """
        Tokens of a conversation as the client sent it, tools and template included: the server's own count
        where it can count, else what it will most likely be.

        Raises:
            ServerAway: see there.
        """
        context = self.of(request.state, request.profile)
        await self._first_look(context, request)
        read = context.as_read(request.messages)
        weighed = context.scale.weigh(read)
        tools, tools_counted = context.scale.weigh_tools(request.body)
        if weighed.uncounted or not tools_counted:
            missing = [read[place] for place in weighed.uncounted]
            await self._count(context, request, missing, not tools_counted)
            weighed = context.scale.weigh(read)
            tools, _ = context.scale.weigh_tools(request.body)
        if context.is_certain and not weighed.uncounted:
            return tools + context.scale.overhead.base + sum(weighed.tokens)
        return context.calibration.estimate(context.scale.whole(weighed, request.body))

    def answered(
        self,
        state: UpstreamState,
        profile: ModelProfile,
        *,
        prepared: Prepared,
        body: Mapping[str, Any],
        actual: int,
        certain: int,
        tools_key: int | None = None,
    ) -> bool:
        """
        The server told how many tokens a prompt had.

        Args:
            prepared, body: what was sent, with its tools.
            actual: what the server counted.
            certain: what the prompt has at the very least, or nearly so.
            tools_key: of its tools, where it is known already.

        Returns:
            whether the server must have cut the prompt.
        """
        if prepared.messages[-1].get("role") == "assistant":
            # Templates render a turn that is to be continued in ways of their own: it shows nothing of other requests.
            return False
        context = self.of(state, profile)
        scale = context.scale
        read = context.as_read(prepared.messages)
        by, known = prepared.weighed or (None, None)
        if known is not None and by is scale and known.edition == scale.edition:
            weighed = scale.whole(known, body, tools_key)
        else:
            weighed = scale.weigh_request(read, body, tools_key)
        # Templates leave out what was thought in earlier turns, and blanks at the ends of texts.
        least = context.calibration.at_least(weighed) - tokens.thinking_bytes(read)
        if actual < _CUT_BELOW * max(certain, least):
            context.truncations += 1
            return True
        if not context.is_certain:
            context.calibration.learn(weighed, actual)
        return False

    def _task(
        self,
        context: ModelContext,
        request: FitRequest,
        weighed: tokens.Weighed,
        fixed: int,
        told_key: int,
        made: list[Mapping[str, Any]],
    ) -> tuple[FitTask, NumCtx | None]:
        options, calibration = request.settings.context, context.calibration
        window = request.profile.window.tokens
        num_ctx = None
        budget_class = context.exact_class
        certain = context.is_certain
        if certain and request.choose_window is None:
            whole = None  # nobody asks what it is made of
        else:
            whole = context.scale.whole(weighed, request.body, request.tools_key)
        if request.choose_window is not None and whole is not None:
            needed = calibration.at_most(whole)
            reserve = compress.reserve_tokens(max(window, needed), options)
            num_ctx = request.choose_window(needed + reserve)
            window = num_ctx.window
        if not certain and whole is not None:
            budget_class = self._class(context, whole, window)

        def weigh(message: Mapping[str, Any]) -> int:
            weight, counted = context.scale.weigh_one(message)
            if not counted:
                made.append(message)
            return weight

        task = FitTask(
            messages=request.messages,
            weights=weighed.tokens,
            fixed=fixed,
            window=window,
            strategy=request.strategy,
            options=options,
            weigh=weigh,
            pressure=request.pressure,
            budget_class=request.squeeze * budget_class,
            told=told_key in context.told,
            summary=request.summary,
        )
        return task, num_ctx

    def _class(self, context: ModelContext, whole: tokens.Mix, window: int) -> float:
        """By how much the window is divided for what was estimated."""
        if whole.most * 4 <= window:
            return (
                1.0  # whatever it is made of, no mark is reached: the calibration need not be asked
            )
        return context.calibration.class_for(whole)

    def _refusal(
        self,
        context: ModelContext,
        request: FitRequest,
        task: FitTask,
        problem: DoesNotFit | ClientMustCompact,
        told_key: int,
    ) -> Exception:
        if isinstance(problem, DoesNotFit):
            return cannot_fit(problem, task)
        now_s = asyncio.get_running_loop().time()
        context.told[told_key] = now_s
        context.told.move_to_end(told_key)
        while len(context.told) > _MOST_TOLD:
            context.told.popitem(last=False)
        return overflow(
            problem.tokens,
            task.window,
            hint="Compact the conversation; sent again as it is, its oldest turns are left out.",
        )

    async def _first_look(self, context: ModelContext, request: FitRequest) -> None:
        """Measure once what the template adds; whoever comes meanwhile waits for it, briefly."""
        now_s = asyncio.get_running_loop().time()
        while context.told:
            oldest = next(iter(context.told))
            if now_s - context.told[oldest] <= _TOLD_FOR_S:
                break
            del context.told[oldest]
        if context.overhead_known or not counts_exactly(request.state.spec):
            return
        if context.first_look is None:
            if context.asked_s is not None and now_s - context.asked_s < _TRY_AGAIN_S:
                return
            context.first_look = self._spawn(self._learn_overhead(context, request), "overhead")
            context.asked_s = now_s
        left_s = (
            _FIRST_LOOK_S if context.asked_s is None else context.asked_s + _FIRST_LOOK_S - now_s
        )
        await asyncio.wait({context.first_look}, timeout=max(0.0, left_s))

    async def _learn_overhead(self, context: ModelContext, request: FitRequest) -> None:
        state = request.state
        try:
            context.overhead_known = await measure_model(
                context.scale,
                state.upstream,
                state.spec,
                request.profile.model,
                self._way_to(state),
            )
        except Exception:
            log.exception("measuring the template failed", extra={"upstream": state.name})
        finally:
            context.first_look = None
            context.asked_s = asyncio.get_running_loop().time()

    async def _count(
        self,
        context: ModelContext,
        request: FitRequest,
        messages: Sequence[Mapping[str, Any]],
        tools: bool,
    ) -> None:
        """
        Ask the server for the weights of *messages*. When it does not tell all although it is there, twice in
        a row, also behind requests that fit without, it is asked no more (`measure_only`).

        Raises:
            ServerAway: see there.
        """
        state = request.state
        told = await count_messages(
            context.scale,
            messages,
            request.body if tools else None,
            state.upstream,
            state.spec,
            request.profile.model,
            self._way_to(state),
        )
        if told:
            context.failures = 0
            return
        if state.spec.counting is not None:
            away = await probe.absence(
                state.upstream.url,
                state.spec,
                client=self._client_of(state),
                api_key=state.upstream.api_key,
            )
            if away is not None:
                context.asked_s = None
                raise ServerAway(loads=away == "loading")
        context.failures += 1
        if context.scale.exact and context.failures >= _MOST_FAILURES:
            context.measure_only(asyncio.get_running_loop().time())

    async def _count_behind(
        self,
        context: ModelContext,
        request: FitRequest,
        messages: Sequence[Mapping[str, Any]],
        tools: bool,
    ) -> None:
        """The same for what no decision waits for."""
        with contextlib.suppress(ServerAway):
            await self._count(context, request, messages, tools)
