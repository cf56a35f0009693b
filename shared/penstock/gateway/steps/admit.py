"""
Step 6: whether a request is sent now, later, or not at all.

    a. gate       refused or held: the upstream is paused, drained, being restarted
    b. memory     the server would take more of it than is left
    c. breaker    refused: the upstream fails again and again
    d. permit     one of the limiter's, or a place in its queue; or what the same request left that was given up

`refuse_at_the_door` comes before all that takes time.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from penstock.breaker import Pass
from penstock.concurrency import Ask
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.callers import caller_of
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.memory import Memory
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
        UpstreamFault: its server was given up.
    """
    if state.gate.refusing is not None:
        state.gate.refuse(state.name, asyncio.get_running_loop().time())
    if state.holding.reasons:
        exchange.stage = "held"
        await state.holding.wait(state.name, settings.timeouts.hold_s)
    if state.supervised is not None:
        state.supervised.refuse_if_given_up()


class Admission(NamedTuple):
    """The right to be sent: by the breaker, and by the limiter."""

    passed: Pass
    permit: Permit


async def admit(
    incoming: Incoming,
    settings: Settings,
    state: UpstreamState,
    *,
    ask: Ask,
    raw: bytes = b"",
    memory: Memory | None = None,
    needed_bytes: int = 0,
) -> Admission:
    """
    Wait until the request may be sent to *state*.

    Args:
        ask: what it asks for.
        raw: its bytes, by which a repetition is recognised; left out, it takes nothing over.
        memory: of the machine; needed_bytes: how much more of it the server takes for this request.

    Raises:
        Refused: it may not, and when to try again.
    """
    exchange = incoming.exchange
    loop = asyncio.get_running_loop()
    # a. The gate.
    await pass_gate(exchange, settings, state)
    limiter = _limiter_for(state, exchange)
    had_its_turn = False
    while True:
        # b. Memory.
        if needed_bytes and memory is not None:
            exchange.stage = "queued"
            exchange.queued_s = loop.time()
            await memory.room_for(state.name, needed_bytes, incoming.queue_deadline_s(settings))
        # c. The breaker. It may open while the request stands in the queue: then it is asked again.
        passed = _pass_breaker(state, loop.time())
        try:
            # d. A permit.
            exchange.stage = "queued"
            if not needed_bytes:  # what waits for memory waits from there on
                exchange.queued_s = loop.time()
            permit = await _permit(incoming, state, limiter, ask, raw, settings, first=had_its_turn)
        except BaseException as exc:
            state.breaker.taught_nothing(passed)
            spot = exchange.spot
            if isinstance(exc, asyncio.CancelledError) and isinstance(spot, Spot) and raw:
                leave_behind(incoming, state, raw, spot)
            raise
        finally:
            exchange.spot = None
        if not state.holding.reasons:
            if not state.breaker.is_current(passed):
                # It opened, or closed, while the request stood in the queue.
                try:
                    passed = _pass_breaker(state, loop.time())
                except Refused:
                    permit.release()
                    raise
            exchange.admitted_s = loop.time()
            exchange.in_flight = state.limiter.in_use
            return Admission(passed, permit)
        # The hold began while it stood in the queue: when it ends, it goes before all who wait for a permit.
        permit.release()
        state.breaker.taught_nothing(passed)
        await pass_gate(exchange, settings, state)
        had_its_turn = True


def _pass_breaker(state: UpstreamState, now_s: float) -> Pass:
    passed = state.breaker.ask(now_s)
    if passed is None:
        after_s = state.breaker.retry_after_s(now_s)
        raise Refused(
            ErrorCode.BREAKER_OPEN,
            f"The upstream {state.name!r} is left alone for now: {state.breaker.why}",
            hint=f"It is tried again in {after_s:.0f} s; `penstock doctor` tells more.",
            retry_after_s=after_s,
        )
    return passed


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
    """If the client hung up: what it had is there for a minute, should it ask again."""
    if incoming.connection.disconnected:
        now_s = asyncio.get_running_loop().time()
        state.left.leave(caller_of(incoming), _request(incoming, raw), what, now_s)


async def _permit(
    incoming: Incoming,
    state: UpstreamState,
    limiter: Limiter,
    ask: Ask,
    raw: bytes,
    settings: Settings,
    *,
    first: bool,
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
            if not found.is_over:
                leave_behind(incoming, state, raw, found)
            raise
    if found is not None:
        _took_over(exchange, state, "place")
    is_clients = deadline_s < settings.concurrency.queue_deadline_s
    return await limiter.acquire(
        ask,
        deadline_s=deadline_s,
        away_s=0.0 if is_clients else max(settings.timeouts.load_s, settings.timeouts.hold_s),
        exchange=exchange if raw else None,
        spot=found if isinstance(found, Spot) else None,
        first=first or isinstance(found, Haunted),
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
