"""
Keeps the fleet's profiles true: learns them in the background, refreshes them on a timer, after a load,
and at the moment an answer contradicts them (behaviours A, design 4.1).

Nothing on the request path waits for a probe that has an answer, however old; only the first contact
with an upstream waits. Cloud upstreams are never probed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx

from penstock.adapters import probe
from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.settings import Settings

log = logging.getLogger("penstock.profiles")

_READY_POLL_FIRST_S = 0.1
_READY_POLL_LONGEST_S = 2.0
_SHORTEST_BETWEEN_LOOKS_S = 0.25
_TRUSTED_AFTER_RECONNECT_S = 5.0
_LOOK_AGAIN_WITHIN_S = 2.0


class ProfileKeeper:
    """
    One background task per local upstream.

    Args:
        fleet: what is kept up to date.
        settings: returns the settings in force.
        token_limit: returns the value of `LOCAL_MODEL_TOKEN_LIMIT`, None when it is not set.
        on_change: called with the upstream's state when something a client could notice changed.
        on_loading: called when an upstream says that it loads.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        settings: Callable[[], Settings],
        token_limit: Callable[[], int | None],
        on_change: Callable[[UpstreamState], None],
        on_loading: Callable[[UpstreamState], None],
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._token_limit = token_limit
        self._on_change = on_change
        self._on_loading = on_loading
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._looks: dict[UpstreamState, asyncio.Task[bool]] = {}
        self._client = probe.make_client()
        self._clients: dict[Upstream, httpx.AsyncClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin (or, after a reload, go on) with the upstreams that the fleet has now."""
        for name in list(self._tasks):
            state = self._fleet.states.get(name)
            if state is None or not state.is_local or self._tasks[name].done():
                self._tasks.pop(name).cancel()
                self._wake.pop(name, None)
        for state in self._fleet:
            if not state.is_local:
                continue
            if state.name not in self._tasks:
                self._wake[state.name] = asyncio.Event()
                self._tasks[state.name] = asyncio.create_task(
                    self._keep(state.name), name=f"profiles of {state.name}"
                )
            elif not state.first_look.is_set():
                self._wake[state.name].set()  # declared anew: another state under the same name

    async def stop(self) -> None:
        """End all tasks and close the connections."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        tasks = [*self._tasks.values(), *self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for client in (self._client, *self._clients.values()):
            await client.aclose()
        await asyncio.sleep(0)  # a socket is closed in the next round of the loop

    def contradicted(self, state: UpstreamState, why: str) -> None:
        """What is believed of *state* is wrong: look again at once, in the background."""
        wake = self._wake.get(state.name)
        if wake is not None and not wake.is_set():
            log.debug("profile contradicted", extra={"upstream": state.name, "why": why})
            wake.set()

    def new_connection(self, state: UpstreamState) -> None:
        """
        A connection had to be made: the server may have been restarted, with another window.

        Connections are made for other reasons too, so this looks only when the last look is old enough.
        """
        now = asyncio.get_running_loop().time()
        if state.looked_at is None or now - state.looked_at > _TRUSTED_AFTER_RECONNECT_S:
            self.contradicted(state, "a new connection was needed")

    def start_afresh(self) -> None:
        """The machine slept, or time jumped: connections may be dead, and what is known is old."""
        old = [self._client, *self._clients.values()]
        self._client = probe.make_client()
        self._clients = {}
        for client in old:
            closing = asyncio.get_running_loop().create_task(client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        now_s = asyncio.get_running_loop().time()
        for state in self._fleet:
            state.breaker.try_soon(now_s)  # its delay may have stood still with us
            self.contradicted(state, "time has jumped")

    async def first_contact(self, state: UpstreamState) -> None:
        """Wait until *state* was looked at once, or, while it is unknown, look now."""
        if state.kind is not None and state.reading is not None:
            return
        await self.look(state)

    async def look(self, state: UpstreamState) -> bool:
        """Look at *state* now; several callers share one look. Returns whether it was reachable."""
        running = self._looks.get(state)
        if running is None or running.done():  # one that has ended in this very moment is no news
            running = asyncio.create_task(self._look(state), name=f"look at {state.name}")
            self._looks[state] = running
            running.add_done_callback(lambda ended: self._has_looked(state, ended))
        return await asyncio.shield(running)

    def _has_looked(self, state: UpstreamState, ended: asyncio.Task[bool]) -> None:
        if self._looks.get(state) is ended:
            del self._looks[state]

    async def is_loaded(self, state: UpstreamState, model: str) -> bool:
        """Whether the server holds *model* in memory, by its word of now."""
        await self.look_again(state)
        profile = state.profile(model)
        return profile is not None and profile.reading.loaded is True

    async def look_again(self, state: UpstreamState) -> None:
        """
        Look at *state* once more, and wait for it, though not for long: an answer has just shown that what
        is believed is wrong. A look that runs already may have begun before that answer.
        """
        try:
            async with asyncio.timeout(_LOOK_AGAIN_WITHIN_S):
                await self.look_anew(state)
        except TimeoutError:
            log.debug("a second look took too long", extra={"upstream": state.name})

    async def look_anew(self, state: UpstreamState) -> bool:
        """A look that begins now, however long it takes. Returns whether the server was reachable."""
        running = self._looks.get(state)
        if running is not None:
            await asyncio.shield(running)
        return await self.look(state)

    async def wait_until_ready(self, state: UpstreamState) -> bool:
        """
        Poll until the upstream is ready, however long that takes: the caller's clock is the limit.

        Returns:
            False when nothing listens there any more and that does not mean loading for this kind.
        """
        pause_s = _READY_POLL_FIRST_S
        unreachable = 0
        while True:
            ready = await probe.ready(
                state.upstream.url,
                state.spec,
                client=self.http(state),
                api_key=state.upstream.api_key,
            )
            if ready is True:
                state.ready = True
                self.contradicted(state, "it has finished loading")
                return True
            if ready is None:
                unreachable += 1
                comes_back = state.holding.reasons or self._may_be_loading(state)
                if unreachable >= 2 and not comes_back:
                    return False
            else:
                unreachable = 0
                state.ready = False
                self._on_loading(state)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _READY_POLL_LONGEST_S)

    def _may_be_loading(self, state: UpstreamState) -> bool:
        """Whether a server that does not listen yet may be one that loads: for as long as a load may take."""
        if not state.spec.behaviour.refused_means_loading:
            return False
        since_s, load_s = state.away_since_s, self._settings().timeouts.load_s
        return since_s is None or asyncio.get_running_loop().time() - since_s < load_s

    async def busy_slots(self, state: UpstreamState) -> int | None:
        """Slots that the server says are working now, None when it does not say."""
        return await probe.busy(
            state.upstream.url, state.spec, client=self.http(state), api_key=state.upstream.api_key
        )

    async def _keep(self, name: str) -> None:
        while True:
            state = self._fleet.states.get(name)
            if state is None or not state.is_local:
                return
            try:
                await self.look(state)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("looking at an upstream failed", extra={"upstream": name})
            wake = self._wake[name]
            refresh_s = self._settings().profiles.refresh_s
            if state.reachable is False or not state.ready:
                refresh_s = min(refresh_s, 5.0)
            try:
                # Not `wait_for`: until Python 3.12 it swallows a cancellation that comes with the event.
                async with asyncio.timeout(refresh_s):
                    await wake.wait()
            except TimeoutError:
                continue
            wake.clear()
            await asyncio.sleep(_SHORTEST_BETWEEN_LOOKS_S)

    async def _look(self, state: UpstreamState) -> bool:
        settings = self._settings()
        look = await probe.look(
            state.upstream.url,
            client=self.http(state),
            api_key=state.upstream.api_key,
            kind=state.upstream.kind,
            known=state.kind,
            timeout_s=settings.profiles.probe_timeout_s,
        )
        was = (state.reachable, state.kind, state.error, state.verdict.locality)
        state.reachable, state.error = look.reachable, look.error
        now_s = asyncio.get_running_loop().time()
        if look.reachable:
            state.away_since_s = None
            if was[0] is False:
                state.breaker.try_soon(now_s)
        else:
            state.ready = True  # what died of its load loads no more
            if state.away_since_s is None:
                state.away_since_s = now_s
        changed = False
        if look.refused:
            state.forget_loaded()
        if look.reachable:
            if look.kind is not None:
                state.kind = look.kind
            if state.upstream.local is None:
                state.note_evidence(look.verdict)
            if look.reading is not None and not state.is_passing_emptiness(look.reading):
                changed = state.learn(
                    look.reading,
                    settings=settings,
                    token_limit=self._token_limit(),
                    now_s=now_s,
                )
            if not state.ready:
                self._on_loading(state)
        state.first_look.set()
        if changed or was != (state.reachable, state.kind, state.error, state.verdict.locality):
            self._on_change(state)
        return bool(look.reachable)

    def http(self, state: UpstreamState) -> httpx.AsyncClient:
        """The control-plane client for *state*: one for all plain upstreams, own ones for others."""
        upstream = state.upstream
        if not (upstream.ca_file or not upstream.verify or upstream.url.startswith("unix:")):
            return self._client
        client = self._clients.get(upstream)
        if client is None:
            client = self._clients[upstream] = probe.make_client(upstream)
        return client
