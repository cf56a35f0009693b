"""What a request asks of admission, by what was made ready of it."""

from __future__ import annotations

from penstock import compress
from penstock.concurrency import Ask, Priority, estimated_work_s
from penstock.gateway.edge.callers import caller_of
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.steps.prepare import Preparation
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings

_PRIORITIES = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
_EXPECTED_OUTPUT = 256
_BYTES_PER_TOKEN = 4


def ask_of(
    incoming: Incoming,
    settings: Settings,
    state: UpstreamState,
    ready: Preparation,
    *,
    weight: int,
    size_bytes: int,
) -> Ask:
    """
    What a request asks for. Where a permit is free only that is found out that matters to those who run.

    Args:
        weight: slots that it takes.
        size_bytes: what it holds while it waits.
    """
    exchange, tuned, limiter = incoming.exchange, ready.tuned, state.limiter
    prompt = exchange.prompt_tokens_planned
    if prompt is None:
        prompt = max(size_bytes // _BYTES_PER_TOKEN, 0 if tuned is None else tuned.prompt_at_least)
    reserve = compress.reserve_tokens(exchange.window or 0, settings.context)
    limit = None if tuned is None else tuned.output_tokens
    output = reserve if limit is None else min(limit, reserve)
    if exchange.operation == "embeddings":
        output = 0
    tokens = weight * (prompt + output)
    if limiter.free and not limiter.waiting and not limiter.asks_for_conversation:
        return Ask(weight, size_bytes, tokens, model=exchange.upstream_model)
    conversation, cached = ready.conversation(), ready.expected_in_cache()
    return Ask(
        weight,
        size_bytes,
        tokens,
        estimated_work_s(
            max(1, prompt - cached),
            min(output, _EXPECTED_OUTPUT),
            prefill_tokens_per_s=state.prefill_tokens_per_s,
        ),
        caller_of(incoming),
        _PRIORITIES[exchange.priority],
        exchange.upstream_model,
        conversation,
    )
