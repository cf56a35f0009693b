"""
What the running gateway consists of, in one place: settings in force, the fleet, the keeper of profiles,
the requests in flight, ghosts. `pipeline` works on it, `status` shows it, `admin` steers it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from penstock.adapters.transport import UpstreamTransport
from penstock.breaker import Breaker, Opened
from penstock.domain.profile import ModelProfile, TemplateRules
from penstock.domain.upstream import Upstream
from penstock.gateway.conversations.context import Contexts
from penstock.gateway.conversations.summaries import Summaries
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.housekeeping import Housekeeping
from penstock.gateway.memory import Memory
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit
from penstock.gateway.upstreams.endpoints import Endpoints
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.upstreams.health import HealthMonitor
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.upstreams.proving import Proofs
from penstock.gateway.upstreams.router import Router
from penstock.gateway.upstreams.switchboard import Switchboard
from penstock.gateway.views.gauges import gauges
from penstock.gateway.views.history import History
from penstock.gateway.views.metrics import Gauge
from penstock.gateway.views.record import Recorder
from penstock.gateway.views.settings_view import settings_view
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings

log = logging.getLogger("penstock.gateway")


class Runtime:
    """
    The gateway's state. One per process; everything runs in one event loop.

    Args:
        settings: in force at the start.
        upstreams: configured, given by flag, or discovered.
        env: what `LOCAL_MODEL_*` say.
        started_by: `command`, `tray`, `operator`, `test`.
        board: what is switched at run time.
    """

    def __init__(
        self,
        settings: Settings,
        upstreams: tuple[Upstream, ...],
        env: LocalModelEnvironment,
        *,
        started_by: str = "command",
        board: Switchboard | None = None,
    ) -> None:
        self.settings = settings
        self.env = env
        self.started_by = started_by
        self.instance = secrets.token_hex(4)
        self.via = f"1.1 penstock-{self.instance}".encode("ascii")
        self.admin_token = secrets.token_urlsafe(32)
        self.leaving = False
        self.draining = False
        self.notices: dict[str, str] = {}
        self.in_flight: dict[str, Exchange] = {}
        self.recorder = Recorder(settings, self._gauges)
        self.started_s = 0.0
        self.url = ""
        self.settings_path: Path | None = None
        self.log_path: Path | None = None
        self.origins: Mapping[tuple[str | int, ...], str] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.fleet = Fleet({})
        self.memory = Memory(self.fleet, self._memory_changed)
        self.board = board or Switchboard()
        self.endpoints = Endpoints(
            lambda: self.board.switches.in_force(self.board.others),
            self._members_changed,
            self._note_endpoints,
        )
        self.set_upstreams(upstreams)
        self.keeper = ProfileKeeper(
            self.fleet,
            settings=lambda: self.settings,
            token_limit=lambda: self.env.token_limit,
            on_change=self._changed,
            on_loading=self._loads,
        )
        self.router = Router(self.fleet, self.keeper, lambda: self.settings)
        self.health = HealthMonitor(
            self.fleet,
            self.keeper,
            self.memory,
            self.recorder,
            settings=lambda: self.settings,
            in_flight=self.in_flight,
        )
        self.housekeeping = Housekeeping(self.keeper, self.health, self.recorder, self.notices)
        self.history = History(self.recorder, self.in_flight, lambda: self.memory.machine)
        self.contexts = Contexts(self.keeper.http, self._spawn)
        self.summaries: Summaries | None = None
        self.proofs: Proofs | None = None

    def connect(self, transport: UpstreamTransport) -> None:
        """Give the background work the way to upstreams."""
        self.housekeeping.transport = transport
        background = (transport, self._spawn, self._begin, self.finish, self.via)
        self.summaries = Summaries(*background)
        self.proofs = Proofs(*background)

    def _begin(self, exchange: Exchange) -> None:
        exchange.id = self.request_id()
        self.in_flight[exchange.id] = exchange

    async def start(self) -> None:
        """Begin the background work."""
        self.started_s = asyncio.get_running_loop().time()
        self.keeper.start()
        self._spawn(self.memory.watch(), "machine")
        self._spawn(self.health.watch(), "health")
        self._spawn(self.housekeeping.watch(), "housekeeping")
        self._spawn(self.endpoints.watch(), "endpoints")
        self._spawn(self.history.watch(self.fleet), "history")

    async def stop(self) -> None:
        """End the background work."""
        await self.health.stop()
        await self.keeper.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.contexts.aclose()
        self.recorder.log.flush()

    def set_upstreams(self, upstreams: tuple[Upstream, ...]) -> None:
        """The upstreams from now on; one whose declaration did not change keeps its state."""
        states: dict[str, UpstreamState] = {}
        for upstream in self.endpoints.expand(self.board.in_force(upstreams)):
            if upstream.name in states:
                continue  # what is configured comes first; one that was found has to stand back
            known = self.fleet.states.get(upstream.name)
            if known is not None and known.upstream == upstream:
                states[upstream.name] = known
            else:
                limiter = Limiter(1, self.settings.concurrency)
                state = states[upstream.name] = UpstreamState(
                    upstream, limiter, Breaker(self.settings.breaker)
                )
                if upstream.member_of is not None:
                    state.on_suspicion = self.endpoints.look_soon
                elif upstream.awaits_address:
                    state.holding.begin("no_address")
        for state in states.values():
            state.limit.set_base(
                self.settings.concurrency,
                given=self._given_limit(state.upstream),
                slots=state.slots_for_us,
                left_bytes=partial(self.memory.left_for, state.upstream),
            )
        before, self.fleet.states = self.fleet.states, states
        self.board.settle(self.fleet, before.values())

    def reload(self, settings: Settings, upstreams: tuple[Upstream, ...]) -> None:
        """New settings, without touching a request that runs."""
        self.settings = settings
        self.recorder.settings_changed(settings)
        self.set_upstreams(upstreams)
        self.keeper.start()
        for state in self.fleet:
            state.limiter.set_options(settings.concurrency)
            state.breaker.options = settings.breaker
            if state.reading is not None:
                state.learn(
                    state.reading,
                    settings=settings,
                    token_limit=self.env.token_limit,
                    now_s=state.looked_at or 0.0,
                )
            state.generation += 1
        self.endpoints.look_soon()
        self._changed(None)

    def _members_changed(self) -> None:
        before = set(self.fleet.states)
        self.set_upstreams(self.board.others)
        self.keeper.start()
        now = set(self.fleet.states)
        for name in sorted(before ^ now):
            if "/" in name and name in now:
                told = "it is a new address of its name; it gets requests once it has answered"
                self.recorder.acted(name, "member_found", told)
            elif "/" in name:
                told = "it is no longer an address of its name; what it runs may end, it gets nothing new"
                self.recorder.acted(name, "member_gone", told)
        self._changed(None)

    def _note_endpoints(self, upstream: str, problem: str | None) -> None:
        self.notices.pop(f"endpoints of {upstream}", None)
        if problem is not None:
            self.notices[f"endpoints of {upstream}"] = problem
        self.recorder.changed("notices")

    def request_id(self) -> str:
        """A request id: short, unique in this process and unlike that of another."""
        self._count += 1
        return f"req_{self.instance}{self._count:06x}"

    def profile_of(self, state: UpstreamState, model: str) -> ModelProfile:
        """What is known of *model* at *state*, or what is assumed."""
        return state.profile(model) or self.unknown_profile(state, model)

    def unknown_profile(self, state: UpstreamState, model: str) -> ModelProfile:
        """The profile of a model that its upstream does not list."""
        return state.unknown_profile(model, self.settings, self.env.token_limit)

    def note_refusal(self, state: UpstreamState, model: str, window: int) -> None:
        """A refusal for length named the window: it caps what is believed until the server restarts."""
        state.refused(model, window, settings=self.settings, token_limit=self.env.token_limit)
        self._changed(state)

    def breaker_opened(self, state: UpstreamState, opened: Opened) -> None:
        """Requests for *state* are refused, or go elsewhere, for a while."""
        told = f"{opened.why[:300]}; tried again in {opened.for_s:.1f} s"
        self.recorder.acted(state.name, "breaker_opened", told)
        state.limiter.turn_away()
        self.keeper.contradicted(state, "its breaker opened")

    def breaker_closed(self, state: UpstreamState) -> None:
        """It works again."""
        self.recorder.acted(state.name, "breaker_closed", "a request was answered again")

    def _loads(self, state: UpstreamState) -> None:
        """What loads is not dead: its requests wait."""
        if state.breaker.start_afresh():
            self.recorder.acted(
                state.name, "breaker_closed", "its server loads: requests wait for it"
            )

    def note_template(self, state: UpstreamState, model: str, rules: TemplateRules) -> None:
        """A refusal told what the model's template does not take."""
        state.learned_template(
            model, rules, settings=self.settings, token_limit=self.env.token_limit
        )

    def note_loaded(self, state: UpstreamState, model: str, window: int) -> None:
        """An answer began to a request that named its window: that is what is loaded now."""
        if state.loaded_with(
            model, window, settings=self.settings, token_limit=self.env.token_limit
        ):
            self._changed(state)

    def note_truncation(self, state: UpstreamState, model: str, tokens: int) -> None:
        """The server cut a prompt silently: its window is no more than what it kept, and some room."""
        self.recorder.metrics.count("penstock_silent_truncations", (state.name,))
        state.truncated(model, tokens, settings=self.settings, token_limit=self.env.token_limit)
        self._changed(state)

    # Requests.

    def haunt(self, permit: Permit | Haunted, ghost: Coroutine[Any, Any, None]) -> None:
        """Give *permit* back when the *ghost* has ended."""
        task = self._spawn(ghost, "ghost")
        task.add_done_callback(lambda _: permit.release())

    def at_work(self, state: UpstreamState) -> int:
        """Requests in flight of which *state* has shown that it works on them."""
        return sum(
            exchange.upstream == state.name and exchange.stage in ("prefilling", "streaming")
            for exchange in self.in_flight.values()
        )

    def finish(self, exchange: Exchange) -> None:
        """Step 9: one outcome is recorded."""
        self.in_flight.pop(exchange.id, None)
        self.recorder.finish(exchange)
        self.learn_of_upstream(exchange)

    def learn_of_upstream(self, exchange: Exchange) -> None:
        """A request has ended at its upstream, if perhaps to go on at another."""
        self.health.ended(exchange)
        if exchange.in_flight and exchange.ended_s is not None:
            self._learn_limit(exchange, exchange.ended_s)

    def _learn_limit(self, exchange: Exchange, ended_s: float) -> None:
        state = self.fleet.states.get(exchange.upstream)
        if state is None:
            return
        may_grow = not (state.limit.is_below_ceiling and self.memory.short(state))
        move = state.limit.learn(exchange, ended_s, may_grow=may_grow)
        if move is not None:
            why = f"{state.limiter.limit} requests at a time from now on: {move.why}"
            self.recorder.acted(state.name, "limit_lowered", why)

    def settings_in_force(self) -> dict[str, Any]:
        """The settings without secrets, and where each value that is no default came from."""
        return settings_view(
            self.settings,
            self.env,
            self.origins,
            self.settings_path,
            list(self.board.switches.in_force(self.board.others)),
            list(self.notices.values()),
        )

    def _gauges(self) -> list[Gauge]:
        keys = {key.name for key in self.settings.listen.client_keys}
        return gauges(self.fleet, self.memory.machine, keys)

    def _given_limit(self, upstream: Upstream) -> int | None:
        """The user's number of requests at a time; None when there is none."""
        for configured in self.settings.upstreams:
            if configured.name == upstream.declared and configured.max_concurrency:
                return int(configured.max_concurrency)
        return self.settings.concurrency.max_concurrency or self.env.max_concurrency

    def _memory_changed(self) -> None:
        self._changed(None)
        self.health.wake()

    def _changed(self, state: UpstreamState | None) -> None:
        if state is not None and state.reachable is False and state.on_suspicion is not None:
            state.on_suspicion()
        self.recorder.changed()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Work in the background, which ends with the gateway."""
        return self._spawn(work, name)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits for background work: what it failed of stands in the log."""
        self._tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("background work failed: %s", task.get_name(), exc_info=failed)
