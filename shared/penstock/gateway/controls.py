"""
Turns the switches (contracts 11): pause, resume, drain, bypass, and which upstreams there are.

A hold ends only after the upstream was looked at: the server behind it may have been replaced, and what was
held is made ready anew by what is known then. `views.controls` has the routes, `upstreams.switchboard`
what is switched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.errors import ErrorCode, RequestError
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.views.record import ActName
from penstock.switches import OFF, Added, Which

_COMES_UP_WITHIN_S = 60.0
_CONFIGURED = {
    "configured": "stands in the settings file",
    "flag": "was given by --upstream",
    "environment": "was given by PENSTOCK_UPSTREAM",
    "supervised": "is the server that this gateway supervises",
    "embedded": "is the embedded server of this gateway",
}


@dataclass(frozen=True, slots=True)
class Running:
    """
    What one upstream still does.

    Attributes:
        running: requests that it works on, or that are on their way there, with those whose clients are gone.
        queued, held: requests that wait in front of it.
    """

    upstream: str
    running: int
    queued: int
    held: int


class Controls:
    """
    Args:
        runtime: whose switches are turned.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._returning: dict[UpstreamState, asyncio.Task[None]] = {}
        self._releases: dict[str | None, asyncio.TimerHandle] = {}

    def states(self, upstream: str | None) -> list[UpstreamState]:
        """
        One upstream, or all.

        Raises:
            RequestError: there is none of that name.
        """
        fleet = self._runtime.fleet
        if upstream is None:
            return list(fleet)
        found = fleet.named(upstream)
        if not found:
            names = ", ".join(fleet.declared()) or "none"
            raise RequestError(
                ErrorCode.NOT_FOUND,
                f"No upstream is called {upstream[:100]!r}; there are: {names}.",
            )
        return found

    async def pause(self, upstream: str | None, *, refuse: bool) -> bool:
        """New requests are held, or refused. Returns whether that survives a restart."""
        told = "refused" if refuse else "held"
        return await self._turn(
            "pause", upstream, "refuse" if refuse else "hold", "paused", f"new requests are {told}"
        )

    async def bypass(self, upstream: str | None, *, on: bool) -> bool:
        """Requests pass through unchanged, or no longer. Returns whether that survives a restart."""
        if on:
            return await self._turn(
                "bypass", upstream, "on", "bypassed", "requests pass through unchanged"
            )
        return await self._turn("bypass", upstream, OFF, "bypass_ended", "requests are tuned again")

    async def drain(
        self, upstream: str | None, *, hold: bool, timeout_s: float, release_s: float | None = None
    ) -> None:
        """
        Running requests end, new ones are refused, or held. Who waits for their end asks `running`.

        Args:
            release_s: the drain ends by itself after so long, unless it is asked for again: whoever drains and may
                die before it resumes leaves nothing behind. None leaves it in force.
        """
        loop, value = asyncio.get_running_loop(), "hold" if hold else "refuse"
        self._keep_until(upstream, release_s)
        switch = self._runtime.board.switches.drain
        if switch.turned(upstream, value) != switch:
            told = "held" if hold else "refused"
            await self._turn(
                "drain", upstream, value, "draining", f"running requests end, new ones are {told}"
            )
        else:
            self.states(upstream)
        by_s = loop.time() + timeout_s
        for state in self.states(upstream):
            state.gate.drained_by_s = by_s

    def _keep_until(self, upstream: str | None, release_s: float | None) -> None:
        """A drain of *upstream* begins, or is renewed, or has ended: what was to end it by itself does no more."""
        ends = list(self._releases) if upstream is None else [upstream]
        for one in ends:
            timer = self._releases.pop(one, None)
            if timer is not None:
                timer.cancel()
        if release_s is not None:
            loop = asyncio.get_running_loop()
            self._releases[upstream] = loop.call_later(release_s, self._release, upstream)

    def _release(self, upstream: str | None) -> None:
        self._releases.pop(upstream, None)
        why = "requests go on: nobody asked for the drain any more"
        self._runtime.spawn(self._end_drain(upstream, why), "end of a drain")

    async def _end_drain(self, upstream: str | None, why: str) -> None:
        try:
            states = self.states(upstream)
        except RequestError:
            return  # the upstream is gone, and its drain with it
        await self._turn("drain", upstream, OFF, "resumed", why)
        for state in states:
            self._bring_back(state)

    def drained(self, upstream: str | None, seconds: float) -> None:
        """A drain has come to its end: nothing runs there any more."""
        for state in self.states(upstream):
            state.gate.drained_by_s = None
        told = f"nothing runs there any more, after {seconds:.1f} s"
        self._runtime.recorder.acted(upstream or "", "drained", told)

    def running(self, upstream: str | None) -> list[Running]:
        """What each still does, as of now."""
        exchanges = list(self._runtime.in_flight.values())
        found = []
        for state in self.states(upstream):
            # Whatever has sent something there and has not ended, also what takes no permit.
            sent = sum(e.upstream == state.name and bool(e.attempts) for e in exchanges)
            limiter = state.limiter
            running = max(limiter.running, sent)
            found.append(Running(state.name, running, limiter.waiting, state.holding.waiting))
        return found

    async def resume(
        self, upstream: str | None, *, wait_s: float, keep_pause: bool = False
    ) -> tuple[list[str], list[str]]:
        """
        End pause and drain: each upstream is looked at first, then what was held goes on. A server of ours that
        was given up is started again.

        Args:
            wait_s: how long to wait for servers that are not back yet; they are waited for on and on in the
                background.
            keep_pause: end the drain only.

        Returns:
            upstreams that go on, and those whose server is not back yet.
        """
        states = self.states(upstream)
        for state in states:
            if state.supervised is not None:
                state.supervised.try_again()
        were = [s for s in states if s.holding.reasons or s.gate.refusing]
        self._keep_until(upstream, None)
        if not keep_pause:
            await self._turn("pause", upstream, OFF, None, "")
        await self._turn("drain", upstream, OFF, "resumed", "requests go on")
        waits = [self._bring_back(state) for state in states]
        if waits:
            await asyncio.wait(waits, timeout=wait_s)
        away = [s.name for s in states if s in self._returning]
        return [s.name for s in were if s.name not in away], away

    async def add(self, upstream: Added) -> tuple[UpstreamState, bool]:
        """
        Add an upstream, and look at it. Returns it, and whether it survives a restart.

        Raises:
            RequestError: its name is taken, or it is there already.
        """
        for state in self._runtime.fleet:
            known = state.upstream
            if known.name == upstream.name and known.found_by != "state":
                raise _conflict(f"An upstream is called {upstream.name!r} already ({known.url}).")
            if known.url == upstream.url and known.found_by not in ("state", "discovered"):
                raise _conflict(f"{upstream.url} is there already; it is called {known.name!r}.")
        board = self._runtime.board
        board.switches = board.switches.with_added(upstream)
        kept = await self._rearrange()
        state = self._runtime.fleet.get(upstream.name)
        if state.is_local:
            await self._runtime.keeper.look(state)
        self._runtime.recorder.acted(upstream.name, "upstream_added", upstream.url)
        return state, kept

    async def forget(self, upstream: str) -> bool:
        """
        Take an upstream out that was added or discovered. Returns whether it stays out after a restart.

        Raises:
            RequestError: there is none, or it is configured.
        """
        state = self.states(upstream)[0]
        told = _CONFIGURED.get(state.upstream.found_by)
        if told is not None:
            raise _conflict(f"The upstream {upstream!r} {told}; take it out there.")
        board = self._runtime.board
        board.switches = board.switches.without(state.upstream)
        kept = await self._rearrange()
        self._runtime.recorder.acted(upstream, "upstream_forgotten", state.upstream.url)
        return kept

    async def _rearrange(self) -> bool:
        runtime = self._runtime
        runtime.set_upstreams(runtime.board.others)
        runtime.keeper.start()
        return await self._keep()

    async def _turn(
        self, which: Which, upstream: str | None, value: str, act: ActName | None, why: str
    ) -> bool:
        self.states(upstream)
        runtime, board = self._runtime, self._runtime.board
        board.switches = board.switches.turned(which, upstream, value)
        board.settle(runtime.fleet)
        kept = await self._keep()
        if act is not None:
            runtime.recorder.acted(upstream or "", act, why)
        return kept

    async def _keep(self) -> bool:
        runtime, board = self._runtime, self._runtime.board
        kept = await board.keep()
        runtime.notices.pop("state", None)
        if board.notice is not None:
            runtime.notices["state"] = board.notice
        return kept

    def _bring_back(self, state: UpstreamState) -> asyncio.Task[None]:
        running = self._returning.get(state)
        if running is None:
            running = self._runtime.spawn(self._return(state), f"return of {state.name}")
            self._returning[state] = running
        return running

    async def _return(self, state: UpstreamState) -> None:
        """End the holds of one upstream, after its server was looked at."""
        try:
            if state.is_local and state.holding.reasons and not state.upstream.awaits_address:
                await self._see_who_is_there(state)
        finally:
            self._returning.pop(state, None)
            state.gate.end_holds(self._runtime.board.switches, state.declared, state.holding)

    async def _see_who_is_there(self, state: UpstreamState) -> None:
        keeper = self._runtime.keeper
        state.forget_loaded()  # it may be another process than the one that was drained
        if await keeper.look_anew(state) and state.ready:
            return
        loop = asyncio.get_running_loop()
        load_by_s = loop.time() + self._runtime.settings.timeouts.load_s
        limit_s = _COMES_UP_WITHIN_S
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    await keeper.wait_until_ready(state)
                break
            except TimeoutError:
                # One that says that it loads is waited for; one of which nothing is seen is not.
                limit_s = load_by_s - loop.time()
                if state.ready or limit_s <= 0:
                    return
        await keeper.look_anew(state)


def names_of(states: Iterable[UpstreamState]) -> list[str]:
    """What they are called."""
    return [state.name for state in states]


def _conflict(message: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_REQUEST, message, status=409)
