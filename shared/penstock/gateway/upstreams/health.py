"""
Looks after local upstreams: every 30 s, when a person asks, when memory runs short, and after a request that ran
out of memory. What is found and what may be done about it is decided by `penstock.health`; here it is read and done.

Clouds are never asked. Each act goes through `Recorder.acted`: logged, counted, remembered, shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock import health, resources
from penstock.adapters import probe
from penstock.domain.fault import Outcome
from penstock.domain.pressure import Pressure
from penstock.errors import ErrorCode
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.memory import Memory
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.upstreams.unload import unload
from penstock.gateway.views.record import ActName, Recorder
from penstock.settings import Settings

log = logging.getLogger("penstock.health")

_ANSWER_WITHIN_S = 5.0
_LOAD_WITHIN_S = 30.0
_CHECK_WITHIN_S = 60.0
_AGAIN_AFTER_ACT_S = 10.0
_SHORTEST_PAUSE_S = 1.0
_SHRUNK_FOR_S = 600.0
_ACT_NAMES: dict[health.ActKind, ActName] = {
    "unload": "unloaded",
    "shrink": "window_reduced",
    "load": "model_reloaded",
    "restart": "restart_ordered",
}


class HealthMonitor:
    """
    Args:
        fleet: whose local upstreams are looked after.
        settings: returns the settings in force.
        in_flight: requests that run, by id.
    """

    def __init__(
        self,
        fleet: Fleet,
        keeper: ProfileKeeper,
        memory: Memory,
        recorder: Recorder,
        *,
        settings: Callable[[], Settings],
        in_flight: Mapping[str, Exchange],
    ) -> None:
        self._fleet = fleet
        self._keeper = keeper
        self._memory = memory
        self._recorder = recorder
        self._settings = settings
        self._in_flight = in_flight
        self._wake = asyncio.Event()
        self._checks: dict[UpstreamState, asyncio.Task[None]] = {}

    def ended(self, exchange: Exchange) -> None:
        """A client's request has ended."""
        state = self._fleet.states.get(exchange.upstream)
        if state is None or not exchange.upstream_model or exchange.ended_s is None:
            return
        outcome = exchange.outcome
        state.vitals.ended(
            exchange.upstream_model,
            exchange.ended_s,
            failed=None if outcome is Outcome.IGNORED else outcome is Outcome.DROPPED,
            ttft_s=exchange.ttft_s,
        )
        if exchange.error_code == ErrorCode.OUT_OF_MEMORY.value:
            state.vitals.note_out_of_memory(exchange.upstream_model, exchange.ended_s)
            self.wake()

    def wake(self) -> None:
        """Something happened that should not wait for the next check."""
        self._wake.set()

    async def watch(self) -> None:
        """Check all again and again, until cancelled."""
        while True:
            acted = await self._check_all(list(self._fleet))
            pause_s = self._settings().health.every_s
            if acted:
                pause_s = min(pause_s, _AGAIN_AFTER_ACT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake.clear()
                await asyncio.sleep(_SHORTEST_PAUSE_S)  # several have the same cause

    async def probe(self, states: Iterable[UpstreamState]) -> list[dict[str, Any]]:
        """Look at *states* now, for somebody who asks; what was found."""
        asked = [state for state in states if state.is_local]
        await asyncio.gather(*(self._keeper.look_again(state) for state in asked))
        await self._check_all(asked)
        now_s = asyncio.get_running_loop().time()
        return [shown(state, now_s) for state in asked]

    async def _check_all(self, states: Iterable[UpstreamState]) -> bool:
        """Check *states* at once; several callers share a check. Returns whether anything was done."""
        asked = [
            s
            for s in states
            if s.is_local
            and not s.upstream.awaits_address
            and (s.kind is not None or s.first_look.is_set())
        ]
        before = {state: len(state.vitals.done) for state in asked}
        results = await asyncio.gather(
            *(self._shared_check(state) for state in asked), return_exceptions=True
        )
        for state, result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                log.error("checking an upstream failed: %s", state.name, exc_info=result)
        return any(len(state.vitals.done) > before[state] for state in asked)

    async def _shared_check(self, state: UpstreamState) -> None:
        running = self._checks.get(state)
        if running is None:
            running = asyncio.create_task(self._check(state), name=f"health of {state.name}")
            self._checks[state] = running
            running.add_done_callback(lambda _: self._checks.pop(state, None))
        # A restart may take as long as a load: nobody waits so long for it, and the others are looked after.
        await asyncio.wait({running}, timeout=_CHECK_WITHIN_S)
        if running.done() and not running.cancelled():
            running.result()

    async def stop(self) -> None:
        """End checks that run."""
        running = list(self._checks.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _check(self, state: UpstreamState) -> None:
        options, vitals = self._settings().health, state.vitals
        found = await probe.pulse(
            state.upstream.url,
            state.spec,
            client=self._keeper.http(state),
            api_key=state.upstream.api_key,
            timeout_s=_ANSWER_WITHIN_S,
        )
        if not found.asked:
            return
        now_s = asyncio.get_running_loop().time()
        vitals.checked(now_s, response_s=found.response_s, refused=found.refused)
        answered = found.response_s is not None
        if state.reachable is not None and answered is not state.reachable:
            self._keeper.contradicted(state, "a health check saw something else")
        if answered and self._is_short(state):
            await self._keeper.look_again(
                state
            )  # what is unloaded, or not, is decided by what is loaded now
        reading = self.reading(state, ready=found.ready, now_s=now_s)
        before = vitals.findings
        vitals.findings = health.find(reading, options)
        vitals.error_share = reading.error_share
        if [f.name for f in before] != [f.name for f in vitals.findings]:
            told = "; ".join(f.detail for f in vitals.findings) or "all is well again"
            log.info("health", extra={"penstock": {"upstream": state.name, "found": told}})
            self._recorder.changed()
        proposed = health.propose(reading, self._offers(state), options)
        for act in health.within_bounds(proposed, vitals.done, now_s, options):
            vitals.done.append(health.Done(act.kind, act.model, now_s))
            await self._do(state, act)

    def reading(self, state: UpstreamState, *, ready: bool, now_s: float) -> health.Reading:
        """What is known of *state* now, as `penstock.health` judges it."""
        options, vitals, memory = self._settings().health, state.vitals, self._memory
        requests, errors = vitals.requests(now_s - options.errors_window_s)
        machine = memory.machine if memory.speaks_for(state) else None
        busy = [e for e in self._in_flight.values() if e.upstream == state.name]
        return health.Reading(
            answered=vitals.response_s is not None,
            refused_checks=vitals.refused_checks,
            silent_checks=vitals.silent_checks,
            ready=ready,
            away=bool(state.holding.reasons or state.gate.refusing),
            response_s=vitals.response_s,
            requests=requests,
            errors=errors,
            pressure=memory.pressure_of(state),
            used_share=None if machine is None else machine.used_share,
            memory_wanted=bool(memory.waiting.get(state.name)),
            ran_out_of_memory=resources.is_recent(state.last_out_of_memory_s, now_s),
            at_work=state.ghosts + sum(e.stage in ("prefilling", "streaming") for e in busy),
            models=tuple(
                health.Seen(
                    model,
                    status=profile.reading.status,
                    window=profile.window.tokens,
                    window_is_fixed=profile.window.is_users_word,
                    requests=sum(e.upstream_model == model for e in busy),
                    rested_s=None if (used := vitals.used_s(model)) is None else now_s - used,
                    memory_bytes=None if machine and machine.unified_memory
                    else profile.reading.memory_bytes,
                    ran_out=resources.is_recent(vitals.ran_out.get(model), now_s),
                )
                for model, profile in state.profiles.items()
                if not profile.is_remote
            ),
        )  # fmt: skip

    def _is_short(self, state: UpstreamState) -> bool:
        pressure = self._memory.pressure_of(state)
        return pressure is not Pressure.CALM or bool(self._memory.waiting.get(state.name))

    def _offers(self, state: UpstreamState) -> health.Offers:
        spec = state.spec
        return health.Offers(
            unload=spec.unload is not None,
            load=spec.load is not None,
            smaller_window=spec.smaller_window,
            restart=state.restart is not None,
        )

    async def _do(self, state: UpstreamState, act: health.Act) -> None:
        """Do one act, and say so; one that fails is told as well, and counts for the bounds."""
        problem: str | None = None
        if act.kind == "unload":
            result = await unload(self._keeper, state, act.model)
            problem = None if result.done else result.why
            self._memory.look_soon()
        elif act.kind == "shrink":
            assert act.window is not None
            now_s = asyncio.get_running_loop().time()
            state.vitals.shrink(act.model, act.window, now_s + _SHRUNK_FOR_S)
            state.generation += 1
        elif act.kind == "load":
            problem = await self._load(state, act.model)
        else:
            assert state.restart is not None
            problem = None if await state.restart(act.why) else "the server did not come back"
        what = act.model + (f" to {act.window} tokens" if act.window else "")
        if problem is None:
            why = f"{what}: {act.why}" if what else act.why
            self._recorder.acted(state.name, _ACT_NAMES[act.kind], why)
            return
        log.warning(
            "could not %s",
            act.kind,
            extra={"penstock": {"upstream": state.name, "what": what, "why": problem}},
        )

    async def _load(self, state: UpstreamState, model: str) -> str | None:
        """Have a failed model loaded again. Returns what went wrong."""
        assert state.spec.load is not None
        answer = await probe.ask(
            state.upstream.url,
            state.spec.load(model),
            client=self._keeper.http(state),
            api_key=state.upstream.api_key,
            timeout_s=_LOAD_WITHIN_S,
        )
        self._keeper.contradicted(state, "a model was loaded again")
        if answer is None:
            return "the server did not answer"
        return None if answer.ok else f"the server answered {answer.status}"


def shown(state: UpstreamState, now_s: float) -> dict[str, Any]:
    """The health of *state* for `/penstock/probe`."""
    return {"upstream": state.name, "reachable": state.reachable, **vitals_shown(state, now_s)}


def vitals_shown(state: UpstreamState, now_s: float) -> dict[str, Any]:
    """The health of *state* as the status has it."""
    vitals = state.vitals
    ttft_s = vitals.ttft_s(now_s - 300.0)
    return {
        "checked_s_ago": None if vitals.checked_s is None else round(now_s - vitals.checked_s, 1),
        "response_ms": None if vitals.response_s is None else round(vitals.response_s * 1000, 1),
        "ttft_ms": None if ttft_s is None else round(ttft_s * 1000, 1),
        "error_share": None if vitals.error_share is None else round(vitals.error_share, 3),
        "loaded": [m for m, p in state.profiles.items() if p.reading.loaded],
        "findings": [{"name": f.name, "detail": f.detail} for f in vitals.findings],
    }
