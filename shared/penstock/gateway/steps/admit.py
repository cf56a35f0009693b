"""
Step 6: whether a request is sent now, later, or not at all.

    a. gate       refused or held: the upstream is paused, drained, being restarted
    b. memory     the server would take more of it than is left
    c. breaker    refused: the upstream fails again and again
    d. permit     one of the limiter's, or a place in its queue; or what the same request left that was given up

`refuse_if_left_alone` and `refuse_at_the_door` come before all that takes time.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from penstock.breaker import BreakerState, Pass
from penstock.concurrency import Ask
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.callers import caller_of
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.memory import Memory
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit, Spot, TurnedAway
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
    if state.gate.refusing is not None or state.gate.is_gone:
        state.gate.refuse(state.name, asyncio.get_running_loop().time())
    if state.holding.reasons:
        exchange.stage = "held"
        await state.holding.wait(state.name, settings.timeouts.hold_s)
        if state.gate.is_gone:
            state.gate.refuse(state.name, asyncio.get_running_loop().time())
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
            await memory.room_for(
                state.name,
                needed_bytes,
                incoming.queue_deadline_s(settings),
                in_vain=lambda: state.breaker.is_open(loop.time()),
            )
        # c. The breaker. When it opens, all who stand in the queue are turned away, and ask it again.
        passed = _pass_breaker(state, loop.time())
        try:
            # d. A permit.
            exchange.stage = "queued"
            if not needed_bytes:  # what waits for memory waits from there on
                exchange.queued_s = loop.time()
            permit = await _permit(incoming, state, limiter, ask, raw, settings, first=had_its_turn)
        except TurnedAway:
            state.breaker.taught_nothing(passed)
            await pass_gate(exchange, settings, state)
            continue
        except BaseException as exc:
            state.breaker.taught_nothing(passed)
            spot = exchange.spot
            if isinstance(exc, asyncio.CancelledError) and isinstance(spot, Spot):
                leave_behind(incoming, state, raw, spot)
            raise
        finally:
            if exchange.spot is not None:
                exchange.kept_a_slot |= exchange.spot.was_kept
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
            # What runs beside the others teaches nothing about them.
            exchange.in_flight = limiter.in_use if limiter is state.limiter else 0
            return Admission(passed, permit)
        # The hold began while it stood in the queue: when it ends, it goes before all who wait for a permit.
        permit.release()
        state.breaker.taught_nothing(passed)
        await pass_gate(exchange, settings, state)
        had_its_turn = True


def _pass_breaker(state: UpstreamState, now_s: float) -> Pass:
    passed = state.breaker.ask(now_s)
    if passed is None:
        raise _left_alone(state, now_s)
    return passed


def _left_alone(state: UpstreamState, now_s: float) -> Refused:
    after_s = state.breaker.retry_after_s(now_s)
    when = "now" if state.breaker.is_probing else f"in {after_s:.0f} s"
    return Refused(
        ErrorCode.BREAKER_OPEN,
        f"The upstream {state.name!r} is left alone for now: {state.breaker.why}",
        hint=f"One request tries it again {when}; `penstock doctor` tells more.",
        retry_after_s=after_s,
    )


def refuse_if_left_alone(state: UpstreamState) -> None:
    """
    Told before anything is asked of a server that does not answer: its kind, or how long a prompt is.

    Raises:
        Refused: `breaker_open`.
    """
    if state.breaker.state is not BreakerState.CLOSED and not state.holding.reasons:
        now_s = asyncio.get_running_loop().time()
        if state.breaker.is_open(now_s):
            raise _left_alone(state, now_s)


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
        exchange.took_over = found.kind
        try:
            return await found.inherit(deadline_s)
        except asyncio.CancelledError:
            if not found.is_over:
                leave_behind(incoming, state, raw, found)
            raise
    if found is not None:
        exchange.took_over = "place"
    is_clients = deadline_s < settings.concurrency.queue_deadline_s
    return await limiter.acquire(
        ask,
        deadline_s=deadline_s,
        away_s=0.0 if is_clients else max(settings.timeouts.load_s, settings.timeouts.hold_s),
        exchange=exchange if raw else None,
        spot=found if isinstance(found, Spot) else None,
        first=first or isinstance(found, Haunted),
    )


def _request(incoming: Incoming, raw: bytes) -> tuple[str, int]:
    return incoming.exchange.path, hash(raw)


def _limiter_for(state: UpstreamState, exchange: Exchange) -> Limiter:
    """The budget that a request counts against: that of the upstream, but for what runs beside it there."""
    if exchange.operation in state.spec.behaviour.own_budgets and state.room.runs_beside(
        exchange.upstream_model
    ):
        return state.limiter.apart()
    return state.limiter
