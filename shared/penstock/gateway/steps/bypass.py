"""
Bypass: a request to a local upstream passes unchanged, and so does its answer (contracts 11).

For whoever wants to know whether the gateway is at fault, or has to do without it for a while, without
changing the addresses of all clients. Keys, routing, metrics and the limiter stay (an alias replaces the
value of `model`, as for a cloud); nothing is translated, tuned, fitted, mended, repeated or announced, there
is no heartbeat, and a stream that breaks aborts the client's connection. A hang-up is noticed as ever.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from penstock import limits
from penstock.adapters.transport import UpstreamTransport
from penstock.concurrency import Ask
from penstock.errors import UpstreamFault
from penstock.gateway.edge.callers import caller_of
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.admit import admit
from penstock.gateway.steps.cloud import pass_through, splice_model
from penstock.gateway.steps.ghost import expect_ghost, outlast
from penstock.gateway.steps.teach import teach_breaker
from penstock.gateway.steps.tune import weight_of
from penstock.gateway.upstreams.fleet import UpstreamState


async def bypass(
    incoming: Incoming,
    runtime: Runtime,
    transport: UpstreamTransport,
    state: UpstreamState,
    body: dict[str, Any],
    raw: bytes,
) -> None:
    """
    Pass one request through.

    Args:
        body: of the request, as it was read for routing; raw: its bytes.

    Raises:
        Refused: it may not be sent.
        UpstreamFault: there is no answer.
        asyncio.CancelledError: the client hung up, or the gateway stops.
    """
    exchange = incoming.exchange
    model = exchange.upstream_model
    if model and model != exchange.model:
        raw = splice_model(raw, body, model)
    if incoming.route.kind == "count":
        await pass_through(
            incoming, runtime.settings, transport, state, raw, via=runtime.via, again=False
        )
        return
    passed, permit = await admit(
        incoming,
        runtime.settings,
        state,
        ask=Ask(weight_of(body), len(raw), client=caller_of(incoming), model=model),
    )
    haunted, why = False, ""
    try:
        await pass_through(
            incoming, runtime.settings, transport, state, raw, via=runtime.via, again=False
        )
        why = exchange.warnings[-1] if exchange.error_code else f"it answered {exchange.status}"
    except asyncio.CancelledError:
        # As for all others: the slot is free when the server has really stopped.
        work = expect_ghost(
            state.spec.behaviour,
            streamed=exchange.stream,
            decoding=exchange.first_token_s is not None,
            prompt_tokens=limits.prompt_lower_bound(body),
            output_tokens=_output_tokens(body),
            prefill_tokens_per_s=state.prefill_tokens_per_s,
        )
        if exchange.attempts and work.expected_s > 0:
            at_work = partial(runtime.at_work, state)
            runtime.haunt(permit, outlast(work, state, runtime.keeper, at_work))
            haunted = True
        raise
    except UpstreamFault as fault:
        why = fault.message
        raise
    finally:
        if not haunted:
            permit.release()
        teach_breaker(runtime, state, passed, exchange, why)


def _output_tokens(body: dict[str, Any]) -> int | None:
    asked = body.get("max_completion_tokens", body.get("max_tokens"))
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0 else None
