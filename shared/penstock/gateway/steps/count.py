"""
Tokens of a request that is not sent: what `/v1/messages/count_tokens` and its sisters ask for, in front of any
server. By the same counts by which conversations are made to fit, so the answer is what will be announced.
"""

from __future__ import annotations

from typing import Any

import orjson

from penstock.dialects.openai.request import validate
from penstock.domain.fault import Outcome
from penstock.domain.strategy import Strategy
from penstock.errors import ErrorCode, Refused
from penstock.gateway.conversations.context import FitRequest
from penstock.gateway.conversations.counts import ServerAway
from penstock.gateway.edge.answer import announcement_headers
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.shape import shape
from penstock.gateway.steps.translate import counted_body
from penstock.gateway.upstreams.fleet import UpstreamState


async def answer_count(
    incoming: Incoming, runtime: Runtime, state: UpstreamState, body: dict[str, Any]
) -> None:
    """
    Answer one.

    Raises:
        RequestError: the body is not of its dialect.
        Refused: the server is away, so its counts cannot be had.
    """
    exchange, settings = incoming.exchange, runtime.settings
    chat, changes = counted_body(body, incoming.route)
    validate(chat)
    exchange.changes.extend(changes)
    profile = runtime.profile_of(state, exchange.upstream_model)
    exchange.profile, exchange.window = profile, profile.window.tokens
    messages, shaped = shape(chat, profile, settings.context.nonce_patterns)
    exchange.changes.extend(shaped)
    request = FitRequest(
        body=chat,
        messages=messages,
        state=state,
        profile=profile,
        strategy=Strategy.OFF,
        settings=settings,
        pressure=runtime.memory.pressure_of(state),
        client=exchange.client,
    )
    try:
        tokens = await runtime.contexts.count(request)
    except ServerAway as away:
        raise Refused(
            ErrorCode.UPSTREAM_LOADING if away.loads else ErrorCode.UPSTREAM_UNREACHABLE,
            f"{state.name} cannot count tokens now: {away}.",
            retry_after_s=5.0,
        ) from away
    exchange.outcome = Outcome.IGNORED
    exchange.prompt_tokens_planned = tokens
    value: dict[str, Any] = {"input_tokens": tokens}
    if incoming.route.dialect == "responses":
        value["object"] = "response.input_tokens"
    headers = [*announcement_headers(exchange), (b"content-type", b"application/json")]
    await incoming.answer.whole(200, headers, orjson.dumps(value))
