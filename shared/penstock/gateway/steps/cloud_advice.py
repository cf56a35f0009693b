"""
Advice on conversations that near a cloud model's documented window: for the log, a metric and the status.

Nothing is changed, added or held up: it is thought of when the request has ended, and only when its size
alone says that it may matter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from penstock import limits, tokens
from penstock.gateway.edge.exchange import Exchange

log = logging.getLogger("penstock.cloud")

ADVISE_FROM = 0.9
_FEWEST_BYTES_PER_TOKEN = 2
"""Bodies of fewer bytes than this times the mark cannot have so many tokens, whatever is in them."""


def advice(model: str, body: Mapping[str, Any], body_bytes: int) -> str | None:
    """
    One sentence when the conversation fills 0.9 of its model's documented window; None otherwise.

    The count is estimated: a cloud is not asked, and its answer is not read.
    """
    window = limits.cloud_window(model)
    messages = body.get("messages")
    if window is None or not isinstance(messages, list):
        return None
    mark = ADVISE_FROM * window.tokens
    if body_bytes < mark * _FEWEST_BYTES_PER_TOKEN:
        return None
    known = [message for message in messages if isinstance(message, dict)]
    scale = tokens.Scale(exact=False, family=tokens.family_of(model), most_entries=2)
    estimate = scale.weigh_request(known, body).tokens
    if estimate < mark:
        return None
    share = estimate / window.tokens
    return f"about {estimate} tokens, {share:.0%} of the window of {window.tokens} that {model} is documented to have"


def advise(exchange: Exchange, body: Mapping[str, Any]) -> bool:
    """Note the advice on a request to a cloud that has ended. Returns whether there was one."""
    told = advice(exchange.upstream_model or exchange.model, body, exchange.body_bytes)
    if told is None:
        return False
    exchange.warnings.append(told)
    log.info(
        "a conversation nears its window", extra={"penstock": {"id": exchange.id, "what": told}}
    )
    return True
