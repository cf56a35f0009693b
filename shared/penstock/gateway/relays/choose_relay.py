"""Which relay a request's answer goes through, from what it was tuned to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from penstock.dialects import openai_chat
from penstock.dialects.collect import collector_for
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.surfaces import Surface
from penstock.domain.chat import Event
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.relays.collecting import CollectingRelay, CollectingTranslator
from penstock.gateway.relays.loop_watch import EventWatch, LoopWatch, ValueWatch
from penstock.gateway.relays.mending import EventMender, mend_completion
from penstock.gateway.relays.mending_relay import MendingRelay
from penstock.gateway.relays.relay import Relay, TranslatingRelay, VerbatimRelay
from penstock.gateway.steps.tune import Tuned
from penstock.toolcalls.stream import Mended, Rules

Late = Callable[[], dict[str, Any] | None]

_WATCHED = ("openai", "completions")


def make_relay(
    tuned: Tuned,
    exchange: Exchange,
    surface: Surface,
    late: Late,
    *,
    rules: Rules | None = None,
    guarded: bool = False,
) -> Relay:
    """
    A fresh relay for one attempt.

    Args:
        rules: how tool calls in the answer are mended; None for requests without tools.
        guarded: an answer that repeats itself is ended.
    """
    # Of several answers one may be done while another goes on: these are not watched.
    guarded = guarded and tuned.n == 1 and surface.name in _WATCHED
    if tuned.chat is not None:
        return _from_ollama(tuned, exchange, surface, late, rules, guarded=guarded)
    if tuned.collects:
        return _collecting(exchange, rules, guarded=guarded)
    watch = LoopWatch() if guarded else None
    if rules is None or surface.name != "openai":
        return VerbatimRelay(
            surface,
            drop_progress=tuned.asked_progress,
            drop_usage=tuned.asked_usage,
            late=late,
            watch=watch,
        )
    return MendingRelay(
        surface,
        rules,
        one_choice=tuned.n == 1,
        drop_progress=tuned.asked_progress,
        drop_usage=tuned.asked_usage,
        late=late,
        watch=watch,
    )


def _collecting(exchange: Exchange, rules: Rules | None, *, guarded: bool) -> Relay:
    collector = collector_for(exchange.operation)

    def body() -> bytes:
        value = collector.body()
        if rules is not None:
            mend_completion(value, rules, relay.seen.mended)
        return orjson.dumps(value)

    watch = ValueWatch(chat=exchange.operation == "chat") if guarded else None
    relay = CollectingRelay(collector.add, body, watch=watch)
    return relay


def _from_ollama(
    tuned: Tuned,
    exchange: Exchange,
    surface: Surface,
    late: Late,
    rules: Rules | None,
    *,
    guarded: bool,
) -> Relay:
    chat = tuned.chat
    assert chat is not None
    created = int(time.time())
    completion_id = f"chatcmpl-{exchange.id.removeprefix('req_')}"
    reader = ChatReader(completion_id)
    watch = EventWatch() if guarded else None
    mended: list[Mended] = []
    mender = EventMender(rules, mended) if rules is not None and not tuned.collects else None

    def read(line: Any) -> list[Event]:
        found = reader.read(line)
        if watch is not None:
            found = watch.cut(found)
            if watch.looped:
                relay.seen.ended_by_us = "loop"
        return found if mender is None else mender.mend(found)

    relay: CollectingTranslator | TranslatingRelay
    if tuned.collects:
        events: list[Event] = []

        def body() -> bytes:
            value = openai_chat.render_completion(
                events, id=completion_id, model=exchange.model, created=created
            )
            if rules is not None:
                mend_completion(value, rules, relay.seen.mended)
            return orjson.dumps(value)

        relay = CollectingTranslator(read, events.append, body)
        return relay
    writer = openai_chat.ChunkWriter(
        completion_id, exchange.model, created, include_usage=chat.include_usage
    )
    relay = TranslatingRelay(
        read,
        writer.write,
        late=late,
        announce=surface.announcement,
        at_break=mender.broken if mender is not None else None,
    )
    relay.seen.mended = mended
    return relay
