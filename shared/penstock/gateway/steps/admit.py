"""
Step 6: whether a request is sent now, later, or not at all.

    a. gate       refused or held: the upstream is paused, drained, being restarted
    b. permit     one of the limiter's, or a place in its queue; or what the same request left that was given up

`refuse_at_the_door` comes before all that takes time.
"""

from __future__ import annotations

import asyncio

from penstock.concurrency import Ask
from penstock.gateway.edge.callers import caller_of
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit, Spot
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings


async def pass_gate(exchange: Exchange, settings: Settings, state: UpstreamState) -> None:
    """
    Wait while requests are held in front of *state*: by a clock of its own, since waiting for a server to come
    back is not waiting behind other requests.

    Raises:
        Refused: new requests are refused there, or it was held for too long.
    """
    if state.gate.refusing is not None:
        state.gate.refuse(state.name, asyncio.get_running_loop().time())
    if state.holding.reasons:
        exchange.stage = "held"
        await state.holding.wait(state.name, settings.timeouts.hold_s)


async def admit(
    incoming: Incoming, settings: Settings, state: UpstreamState, *, ask: Ask, raw: bytes = b""
) -> Permit:
    """
    Wait until the request may be sent to *state*.

    Args:
        ask: what it asks for.
        raw: its bytes, by which a repetition is recognised; left out, it takes nothing over.

    Raises:
        Refused: it may not, and when to try again.
    """
    exchange = incoming.exchange
    loop = asyncio.get_running_loop()
    # a. The gate.
    await pass_gate(exchange, settings, state)
    limiter = _limiter_for(state, exchange)
    while True:
        # b. A permit.
        exchange.stage = "queued"
        exchange.queued_s = loop.time()
        try:
            permit = await _permit(incoming, state, limiter, ask, raw, settings)
        except asyncio.CancelledError:
            spot = exchange.spot
            if raw and isinstance(spot, Spot) and incoming.connection.disconnected:
                leave_behind(incoming, state, raw, spot)
            raise
        finally:
            exchange.spot = None
        if not state.holding.reasons:
            exchange.admitted_s = loop.time()
            return permit
        permit.release()  # the hold began while it stood in the queue
        exchange.stage = "held"
        await state.holding.wait(state.name, settings.timeouts.hold_s)


def refuse_at_the_door(incoming: Incoming, state: UpstreamState, size_bytes: int) -> None:
    """
    A request that would find the queue full is told before anything is counted or made ready for it. Who may have a
    place there from before comes in.

    Raises:
        Refused: `queue_full`.
    """
    if state.limiter.waiting and not (
        state.holding.reasons or state.left.has_of(caller_of(incoming))
    ):
        _limiter_for(state, incoming.exchange).refuse_if_full(size_bytes)


def leave_behind(
    incoming: Incoming, state: UpstreamState, raw: bytes, what: Spot | Haunted
) -> None:
    """The client hung up: what it had is there for a minute, should it ask again."""
    state.left.leave(
        caller_of(incoming), _request(incoming, raw), what, asyncio.get_running_loop().time()
    )


async def _permit(
    incoming: Incoming,
    state: UpstreamState,
    limiter: Limiter,
    ask: Ask,
    raw: bytes,
    settings: Settings,
) -> Permit:
    exchange, deadline_s = incoming.exchange, incoming.queue_deadline_s(settings)
    found = None
    if raw and len(state.left) and state.left.has_of(client := caller_of(incoming)):
        now_s = asyncio.get_running_loop().time()
        found = state.left.take(client, _request(incoming, raw), now_s)
    if isinstance(found, Haunted) and not found.is_over:
        _took_over(exchange, state, found.kind)
        try:
            return await found.inherit(deadline_s)
        except asyncio.CancelledError:
            if incoming.connection.disconnected and not found.is_over:
                leave_behind(incoming, state, raw, found)
            raise
    spot = found if isinstance(found, Spot) else None
    if spot is not None:
        _took_over(exchange, state, "place")
    return await limiter.acquire(
        ask, deadline_s=deadline_s, exchange=exchange if raw else None, spot=spot
    )


def _took_over(exchange: Exchange, state: UpstreamState, what: str) -> None:
    exchange.took_over = what
    state.taken_over[what] = state.taken_over.get(what, 0) + 1


def _request(incoming: Incoming, raw: bytes) -> tuple[str, int]:
    return incoming.exchange.path, hash(raw)


def _limiter_for(state: UpstreamState, exchange: Exchange) -> Limiter:
    """The budget that a request counts against: that of the upstream, but for what runs beside it there."""
    if exchange.operation in state.spec.behaviour.own_budgets and state.room.runs_beside(
        exchange.upstream_model
    ):
        return state.limiter.apart()
    return state.limiter
