"""
When an upstream fails or refuses: whether the request may go to another one, and to which.

Nothing of an answer has gone to the client by then but heartbeats, and all attempts together, over all upstreams,
stay within the policy's (contracts 5). A cloud gets a request only where it is named as the fallback, and only
while nothing was said to the client: its bytes pass unchanged.
"""

from __future__ import annotations

import asyncio

from penstock.domain.fault import Fault, Outcome
from penstock.domain.upstream import Locality
from penstock.errors import ERROR_TABLE, AnswerError, ErrorCode, Refused, UpstreamFault
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.resolve import Resolution

_OF_THIS_UPSTREAM = frozenset(
    {
        ErrorCode.BREAKER_OPEN, ErrorCode.QUEUE_FULL, ErrorCode.MEMORY_SHORT, ErrorCode.DRAINING,
        ErrorCode.HOLD_EXPIRED, ErrorCode.UPSTREAM_OVERLOADED, ErrorCode.UPSTREAM_LOADING,
    }
)  # fmt: skip
"""Besides the faults that speak against it: what another upstream need not share."""


def is_of_this_upstream(code: ErrorCode) -> bool:
    """Whether an error says something of the upstream, and not of the request."""
    return ERROR_TABLE[code].breaker or code in _OF_THIS_UPSTREAM


def elsewhere(
    error: AnswerError, incoming: Incoming, runtime: Runtime, tried: list[str]
) -> Resolution | None:
    """
    Where the request goes instead; None when *error* is told to the client.

    Args:
        tried: upstreams that failed or refused, the last one by *error*.
    """
    exchange, answer = incoming.exchange, incoming.answer
    if not isinstance(error, Refused | UpstreamFault) or not is_of_this_upstream(error.code):
        return None
    if answer.ended or exchange.chunks or runtime.draining:
        return None
    if len(exchange.attempts) >= runtime.settings.retry.local.attempts:
        return None
    explicit = incoming.route.upstream
    other = runtime.router.elsewhere(exchange.model, explicit, tried, exchange.prefix)
    if other is not None and _can_take(other, incoming, runtime):
        return other
    for name in tried if explicit is None else ():
        state = runtime.fleet.states.get(name)
        found = state and runtime.router.fallback(state, exchange.upstream_model, tried)
        if found and _can_take(found, incoming, runtime):
            return found
    return None


async def anew(incoming: Incoming, runtime: Runtime, state: UpstreamState) -> Resolution | None:
    """
    Where the request goes after the address of its server has vanished, or the first one of its name has come: as if
    it came now. None when that is not so, or something was told to the client.
    """
    exchange, answer = incoming.exchange, incoming.answer
    if not state.gate.is_gone or answer.ended or exchange.chunks or runtime.draining:
        return None
    if len(exchange.attempts) >= runtime.settings.retry.local.attempts:
        return None
    found = await runtime.router.resolve(
        exchange.model, explicit=incoming.route.upstream, prefix=exchange.prefix
    )
    return found if _can_take(found, incoming, runtime) else None


def move_on(exchange: Exchange, runtime: Runtime, error: AnswerError, other: Resolution) -> None:
    """
    The request leaves its upstream for *other*. The one that it leaves is judged by it as if it had ended there;
    what was found out for it there does not hold elsewhere.
    """
    exchange.ended_s, exchange.error_code = asyncio.get_running_loop().time(), error.code.value
    exchange.outcome = exchange.outcome or Outcome.IGNORED
    runtime.learn_of_upstream(exchange)
    runtime.recorder.metrics.count("penstock_failovers", (exchange.upstream, other.upstream))
    if other.how == "fallback":
        exchange.warnings.append(other.changes[0].detail)
    exchange.begin_again()


def goes_on(
    fault: Fault, incoming: Incoming, runtime: Runtime, state: UpstreamState, tried: list[str]
) -> bool:
    """Whether a request that failed by *fault* is tried again at *state*, and not at another upstream."""
    if not is_of_this_upstream(fault.code):
        return True
    explicit, exchange = incoming.route.upstream, incoming.exchange
    seen = [*tried, state.name]
    if state.gate.is_gone:
        return False
    other = runtime.router.elsewhere(exchange.model, explicit, seen, exchange.prefix)
    if other is not None and _can_take(other, incoming, runtime):
        return False
    # The fallback is for when this one has had its attempts: all but one.
    is_last = len(exchange.attempts) >= runtime.settings.retry.local.attempts - 1
    if not is_last or explicit is not None:
        return True
    named = runtime.router.fallback(state, exchange.upstream_model, seen)
    return named is None or not _can_take(named, incoming, runtime)


def _can_take(found: Resolution, incoming: Incoming, runtime: Runtime) -> bool:
    """An answer that passes unchanged cannot follow upon heartbeats."""
    if not incoming.answer.committed:
        return True
    state = runtime.fleet.get(found.upstream)
    return state.locality_of(found.model) is Locality.LOCAL and not state.gate.bypassed
