"""
Step 6: whether a request is sent now, later, or not at all.

    a. gate       refused or held: the upstream is paused, drained, being restarted
    b. memory     the server would take more of it than is left
    c. breaker    refused: the upstream fails again and again
    d. permit     one of the limiter's, or a place in its queue
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from penstock.breaker import Pass
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.memory import Memory
from penstock.gateway.steps.limiter import Permit
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
    weight: int,
    size_bytes: int,
    memory: Memory | None = None,
    needed_bytes: int = 0,
) -> Admission:
    """
    Wait until the request may be sent to *state*.

    Args:
        weight: slots that it takes.
        size_bytes: what it holds while it waits.
        memory: of the machine; needed_bytes: how much more of it the server takes for this request.

    Raises:
        Refused: it may not, and when to try again.
    """
    exchange = incoming.exchange
    loop = asyncio.get_running_loop()
    # a. The gate.
    await pass_gate(exchange, settings, state)
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
            exchange.queued_s = loop.time()
            permit = await state.limiter.acquire(
                weight=weight,
                size_bytes=size_bytes,
                deadline_s=incoming.queue_deadline_s(settings),
            )
        except BaseException:
            state.breaker.taught_nothing(passed)
            raise
        if state.breaker.is_current(passed) and not state.holding.reasons:
            exchange.admitted_s = loop.time()
            exchange.in_flight = state.limiter.in_use
            return Admission(passed, permit)
        permit.release()
        state.breaker.taught_nothing(passed)
        await pass_gate(exchange, settings, state)  # the hold began while it stood in the queue


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
