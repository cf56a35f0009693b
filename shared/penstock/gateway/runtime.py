"""
What the running gateway consists of, in one place: settings in force, the fleet, the keeper of profiles,
the requests in flight, ghosts. `pipeline` works on it, `status` shows it, `admin` steers it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from penstock import resources
from penstock.adapters.transport import UpstreamTransport
from penstock.domain.profile import ModelProfile, TemplateRules
from penstock.domain.upstream import Upstream
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.conversations.context import Contexts
from penstock.gateway.conversations.summaries import Summaries
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.memory import Memory
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit
from penstock.gateway.upstreams import resolve as routing
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.upstreams.switchboard import Switchboard
from penstock.gateway.views.gauges import gauges
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
        self.draining = False
        self.notices: dict[str, str] = {}
        self.in_flight: dict[str, Exchange] = {}
        self.recorder = Recorder(settings, self._gauges)
        self.started_s = 0.0
        self.url = ""
        self.settings_path: Path | None = None
        self.origins: Mapping[tuple[str | int, ...], str] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.fleet = Fleet({})
        self.memory = Memory(self.fleet, lambda: self._changed(None))
        self.board = board or Switchboard()
        self.set_upstreams(upstreams)
        self.keeper = ProfileKeeper(
            self.fleet,
            settings=lambda: self.settings,
            token_limit=lambda: self.env.token_limit,
            on_change=self._changed,
        )
        self.contexts = Contexts(self.keeper.http, self._spawn)
        self.summaries: Summaries | None = None

    def connect(self, transport: UpstreamTransport) -> None:
        """Give the background work the way to upstreams."""
        self.summaries = Summaries(transport, self._spawn, self._begin, self.finish, self.via)

    def _begin(self, exchange: Exchange) -> None:
        exchange.id = self.request_id()
        self.in_flight[exchange.id] = exchange

    async def start(self) -> None:
        """Begin the background work."""
        self.started_s = asyncio.get_running_loop().time()
        self.keeper.start()
        self._spawn(self.memory.watch(), "machine")

    async def stop(self) -> None:
        """End the background work."""
        await self.keeper.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.contexts.aclose()
        self.recorder.log.flush()

    def set_upstreams(self, upstreams: tuple[Upstream, ...]) -> None:
        """The upstreams from now on; one whose declaration did not change keeps its state."""
        states: dict[str, UpstreamState] = {}
        for upstream in self.board.in_force(upstreams):
            if upstream.name in states:
                continue  # what is configured comes first; one that was found has to stand back
            known = self.fleet.states.get(upstream.name)
            if known is not None and known.upstream == upstream:
                states[upstream.name] = known
            else:
                limiter = Limiter(self._limit(upstream, None), self.settings.concurrency)
                states[upstream.name] = UpstreamState(upstream, limiter)
        for state in states.values():
            state.limit_is_given = self._given_limit(state.upstream) is not None
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
            state.limiter.resize(self._limit(state.upstream, state.slots))
            if state.reading is not None:
                state.learn(
                    state.reading,
                    settings=settings,
                    token_limit=self.env.token_limit,
                    now_s=state.looked_at or 0.0,
                )
            state.generation += 1
        self._changed(None)

    def request_id(self) -> str:
        """A request id: short, unique in this process and unlike that of another."""
        self._count += 1
        return f"req_{self.instance}{self._count:06x}"

    # Routing.

    async def resolve(self, model: str, *, explicit: str | None) -> routing.Resolution:
        """
        Which upstream answers for *model*.

        Raises:
            RequestError: none does.
        """
        if explicit is None and model:
            owner = self._only_owner(model)
            if owner is not None:
                return routing.Resolution(owner, model, (), "exact")
        try:
            return self._resolve(model, explicit)
        except RequestError as exc:
            # An upstream of which no model is known yet may have it: the first contact waits.
            unseen = [s for s in self.fleet if s.is_local and not s.profiles]
            if exc.code is not ErrorCode.MODEL_NOT_FOUND or not unseen:
                raise
            await asyncio.gather(*(self.keeper.look(state) for state in unseen))
            try:
                return self._resolve(model, explicit)
            except RequestError:
                absent = [s for s in unseen if not s.profiles]
                if len(self.fleet) == 1 and absent:
                    # It is not there now, but there is nobody else; the retry policy waits for it.
                    return routing.Resolution(absent[0].name, model, (), "only upstream")
                raise exc from None

    def model_now(
        self, state: UpstreamState, asked: str, explicit: str | None, otherwise: str
    ) -> str:
        """
        The id at *state* that *asked* leads to by what is known of it now.

        Args:
            asked: as the client named it.
            explicit: the upstream that the request's path names, None for none.
            otherwise: what stays when it leads elsewhere, or nowhere.
        """
        if not state.profiles:
            return otherwise
        try:
            found = self._resolve(asked, explicit)
        except RequestError:
            return otherwise
        return found.model if found.upstream == state.name else otherwise

    def profile_of(self, state: UpstreamState, model: str) -> ModelProfile:
        """What is known of *model* at *state*, or what is assumed."""
        return state.profile(model) or self.unknown_profile(state, model)

    def _only_owner(self, model: str) -> str | None:
        """The quick way: exactly one upstream lists this very id."""
        owner = None
        for state in self.fleet:
            if model in state.profiles or model in state.upstream.models:
                if owner is not None:
                    return None
                owner = state.name
        return owner

    def _resolve(self, model: str, explicit: str | None) -> routing.Resolution:
        candidates = [
            routing.Candidate(
                name=state.name,
                locality=state.verdict.locality,
                models=tuple(dict.fromkeys((*state.profiles, *state.upstream.models))),
                healthy=state.reachable is not False,
                free_slots=state.limiter.free,
                wait_s=state.limiter.expected_wait_s,
            )
            for state in self.fleet
        ]
        default = self.settings.routing.default_upstream
        if default is None and len(self.fleet) == 1:
            only = next(iter(self.fleet))
            if not only.is_local:
                default = only.name  # the only one there is was named by the user
        return routing.resolve(
            model,
            upstreams=candidates,
            aliases=self.settings.routing.aliases,
            default_upstream=default,
            explicit_upstream=explicit,
        )

    def unknown_profile(self, state: UpstreamState, model: str) -> ModelProfile:
        """The profile of a model that its upstream does not list."""
        return state.unknown_profile(model, self.settings, self.env.token_limit)

    def note_refusal(self, state: UpstreamState, model: str, window: int) -> None:
        """A refusal for length named the window: it caps what is believed until the server restarts."""
        state.refused(model, window, settings=self.settings, token_limit=self.env.token_limit)
        self._changed(state)

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

    def settings_in_force(self) -> dict[str, Any]:
        """The settings without secrets, and where each value that is no default came from."""
        return settings_view(
            self.settings,
            self.env,
            self.origins,
            self.settings_path,
            [state.upstream for state in self.fleet],
            list(self.notices.values()),
        )

    def _gauges(self) -> list[Gauge]:
        return gauges(self.fleet, self.memory.machine)

    def _given_limit(self, upstream: Upstream) -> int | None:
        """The user's number of requests at a time; None when there is none."""
        for configured in self.settings.upstreams:
            if configured.name == upstream.name and configured.max_concurrency:
                return int(configured.max_concurrency)
        return self.settings.concurrency.max_concurrency or self.env.max_concurrency

    def _limit(self, upstream: Upstream, slots: int | None) -> int:
        return resources.start_concurrency(
            available_bytes=self.memory.left_for(upstream),
            slots=slots,
            setting=self._given_limit(upstream),
        )

    def _changed(self, _: UpstreamState | None) -> None:
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
