"""Today's values of the gauges, read when somebody asks for the metrics."""

from __future__ import annotations

from collections.abc import Collection

from penstock import __version__
from penstock.adapters.machine import Machine
from penstock.breaker import BreakerState
from penstock.gateway.upstreams.fleet import Fleet
from penstock.gateway.views.metrics import Gauge

_OPEN = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}


def gauges(fleet: Fleet, machine: Machine | None, keys: Collection[str] = ()) -> list[Gauge]:
    """Today's values of all gauges; *keys*: names of client keys, since labels are bounded."""
    found = [Gauge("penstock_build_info", (__version__,), 1.0)]
    if machine is not None:
        found.append(Gauge("penstock_memory_used_share", (), machine.used_share))
    for state in fleet:
        name = (state.name,)
        limiter = state.limiter
        found += [
            Gauge("penstock_requests_in_flight", name, limiter.running),
            Gauge("penstock_requests_queued", name, limiter.waiting),
            Gauge("penstock_requests_held", name, state.holding.waiting),
            Gauge("penstock_concurrency_limit", name, limiter.limit),
            Gauge("penstock_ghost_requests", name, state.ghosts),
            Gauge("penstock_breaker_open", name, _OPEN[state.breaker.state]),
        ]
        waiting: dict[str, int] = {}
        for client, number in limiter.queued_by_client().items():
            shown = client if client in keys else "anonymous"
            waiting[shown] = waiting.get(shown, 0) + number
        for client, number in waiting.items():
            found.append(Gauge("penstock_client_requests_queued", (state.name, client), number))
        if state.is_local and state.reachable is not None:
            found.append(Gauge("penstock_upstream_up", name, float(state.reachable)))
        for profile in list(state.profiles.values())[:100]:
            labels = (state.name, profile.model, profile.window.source.value)
            found.append(Gauge("penstock_window_tokens", labels, profile.window.tokens))
    return found
