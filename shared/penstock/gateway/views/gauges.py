"""Today's values of the gauges, read when somebody asks for the metrics."""

from __future__ import annotations

from collections.abc import Collection

from penstock import __version__
from penstock.adapters.machine import Machine
from penstock.breaker import BreakerState
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.gateway.views.metrics import Gauge

_MOST_MEMBERS = 100
_OPEN = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}


def gauges(fleet: Fleet, machine: Machine | None, keys: Collection[str] = ()) -> list[Gauge]:
    """Today's values of all gauges; *keys*: names of client keys, since labels are bounded."""
    found = [Gauge("penstock_build_info", (__version__,), 1.0)]
    if machine is not None:
        found.append(Gauge("penstock_memory_used_share", (), machine.used_share))
    for name in fleet.declared():
        states = fleet.named(name)
        found += _of_upstream(name, states, keys)
        found += _of_members(name, states)
    return found


def _of_upstream(name: str, states: list[UpstreamState], keys: Collection[str]) -> list[Gauge]:
    """Of all members together, where there are several: sums, and the worst breaker and window."""
    label = (name,)
    found = [
        Gauge("penstock_requests_in_flight", label, sum(s.limiter.running for s in states)),
        Gauge("penstock_requests_queued", label, sum(s.limiter.waiting for s in states)),
        Gauge("penstock_requests_held", label, sum(s.holding.waiting for s in states)),
        Gauge("penstock_concurrency_limit", label, sum(s.limiter.limit for s in states)),
        Gauge("penstock_ghost_requests", label, sum(s.ghosts for s in states)),
        Gauge("penstock_breaker_open", label, max(_OPEN[s.breaker.state] for s in states)),
    ]
    waiting: dict[str, int] = {}
    for state in states:
        for client, number in state.limiter.queued_by_client().items():
            shown = client if client in keys else "anonymous"
            waiting[shown] = waiting.get(shown, 0) + number
    for client, number in waiting.items():
        found.append(Gauge("penstock_client_requests_queued", (name, client), number))
    reached = [s.reachable for s in states if s.is_local and s.reachable is not None]
    if reached:
        found.append(Gauge("penstock_upstream_up", label, float(any(reached))))
    windows: dict[tuple[str, str, str], float] = {}
    for state in states:
        for profile in list(state.profiles.values())[:100]:
            labels = (name, profile.model, profile.window.source.value)
            windows[labels] = min(windows.get(labels, profile.window.tokens), profile.window.tokens)
    found += [Gauge("penstock_window_tokens", at, tokens) for at, tokens in windows.items()]
    return found


def _of_members(name: str, states: list[UpstreamState]) -> list[Gauge]:
    found = []
    for state in states[:_MOST_MEMBERS]:
        if state.upstream.member_of is not None:
            labels = (name, state.name.removeprefix(f"{name}/"))
            found.append(Gauge("penstock_member_up", labels, float(state.reachable is True)))
            found.append(Gauge("penstock_member_requests_in_flight", labels, state.limiter.running))
    return found
