"""Which relay a request's answer goes through, from what it was tuned to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from penstock.dialects import ollama, openai_chat
from penstock.dialects.collect import collector_for
from penstock.dialects.surfaces import Surface
from penstock.domain.chat import Event
from penstock.gateway.collecting import CollectingRelay, CollectingTranslator
from penstock.gateway.exchange import Exchange
from penstock.gateway.relay import Relay, TranslatingRelay, VerbatimRelay
from penstock.gateway.tune import Tuned

Late = Callable[[], dict[str, Any] | None]


def make_relay(tuned: Tuned, exchange: Exchange, surface: Surface, late: Late) -> Relay:
    """A fresh relay for one attempt."""
    if tuned.chat is not None:
        return _from_ollama(tuned, exchange, surface, late)
    if not tuned.collects:
        return VerbatimRelay(
            surface,
            drop_progress=tuned.asked_progress,
            drop_usage=tuned.asked_usage,
            late=late,
        )
    collector = collector_for(exchange.operation)
    return CollectingRelay(collector.add, lambda: orjson.dumps(collector.body()))


def _from_ollama(tuned: Tuned, exchange: Exchange, surface: Surface, late: Late) -> Relay:
    chat = tuned.chat
    assert chat is not None
    created = int(time.time())
    completion_id = f"chatcmpl-{exchange.id.removeprefix('req_')}"
    reader = ollama.ChatReader(completion_id)
    if tuned.collects:
        events: list[Event] = []

        def body() -> bytes:
            return orjson.dumps(
                openai_chat.render_completion(
                    events, id=completion_id, model=exchange.model, created=created
                )
            )

        return CollectingTranslator(reader.read, events.append, body)
    writer = openai_chat.ChunkWriter(
        completion_id, exchange.model, created, include_usage=chat.include_usage
    )
    return TranslatingRelay(reader.read, writer.write, late=late, announce=surface.announcement)
