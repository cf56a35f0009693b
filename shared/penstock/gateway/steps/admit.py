"""
Step 6: whether a request is sent now, later, or not at all.

    a. gate       refused or held: the upstream is paused, drained, being restarted
    b. permit     one of the limiter's, or a place in its queue
"""

from __future__ import annotations

import asyncio

from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.steps.limiter import Permit
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
    incoming: Incoming, settings: Settings, state: UpstreamState, *, weight: int, size_bytes: int
) -> Permit:
    """
    Wait until the request may be sent to *state*.

    Args:
        weight: slots that it takes.
        size_bytes: what it holds while it waits.

    Raises:
        Refused: it may not, and when to try again.
    """
    exchange = incoming.exchange
    loop = asyncio.get_running_loop()
    # a. The gate.
    await pass_gate(exchange, settings, state)
    while True:
        # b. A permit.
        exchange.stage = "queued"
        exchange.queued_s = loop.time()
        permit = await state.limiter.acquire(
            weight=weight,
            size_bytes=size_bytes,
            deadline_s=incoming.queue_deadline_s(settings),
        )
        if not state.holding.reasons:
            exchange.admitted_s = loop.time()
            exchange.in_flight = state.limiter.in_use
            return permit
        permit.release()  # the hold began while it stood in the queue
        exchange.stage = "held"
        await state.holding.wait(state.name, settings.timeouts.hold_s)
