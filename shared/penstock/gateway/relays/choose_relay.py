"""Which relay a request's answer goes through, from what it was tuned to."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from penstock.dialects.base import AnswerWriter
from penstock.dialects.collect import collector_for
from penstock.dialects.ollama.generate import CompletionReader
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.openai.chunks import ChunkReader
from penstock.dialects.surfaces import Surface
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.relays.collecting import CollectingRelay
from penstock.gateway.relays.loop_watch import EventWatch, LoopWatch, ValueWatch
from penstock.gateway.relays.mending import EventMender, mend_completion
from penstock.gateway.relays.mending_relay import MendingRelay
from penstock.gateway.relays.relay import Late, Relay, Seen, VerbatimRelay
from penstock.gateway.relays.translating import (
    CollectingTranslator,
    Reader,
    Source,
    TranslatingRelay,
)
from penstock.gateway.steps.translate import Translation
from penstock.gateway.steps.tune import Tuned
from penstock.toolcalls.stream import Rules

_WATCHED = ("openai", "completions")


def make_relay(
    tuned: Tuned,
    exchange: Exchange,
    surface: Surface,
    late: Late,
    *,
    rules: Rules | None = None,
    guarded: bool = False,
    translation: Translation | None = None,
    begin: Callable[[AnswerWriter], AnswerWriter] = lambda writer: writer,
) -> Relay:
    """
    A fresh relay for one attempt.

    Args:
        rules: how tool calls in the answer are mended; None for requests without tools.
        guarded: an answer that repeats itself is ended.
        translation: how events become an answer in the client's dialect; None where it is the server's.
        begin: told that an answer is about to be written; returns the writer to use.
    """
    # Of several answers one may be done while another goes on: these are not watched.
    guarded = guarded and tuned.n == 1
    if translation is not None:
        return _translating(tuned, exchange, translation, late, begin, rules, guarded=guarded)
    guarded = guarded and surface.name in _WATCHED
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
    collector = collector_for(exchange.operation, exchange.dialect)

    def body() -> bytes:
        value = collector.body()
        if rules is not None:
            mend_completion(value, rules, relay.seen.mended)
        return orjson.dumps(value)

    watch = ValueWatch(chat=exchange.operation == "chat") if guarded else None
    relay = CollectingRelay(collector.add, body, watch=watch)
    return relay


def _translating(
    tuned: Tuned,
    exchange: Exchange,
    translation: Translation,
    late: Late,
    begin: Callable[[AnswerWriter], AnswerWriter],
    rules: Rules | None,
    *,
    guarded: bool,
) -> Relay:
    seen = Seen()
    speaks_ollama = tuned.chat is not None
    reader: Reader = ChunkReader(exchange.id)
    if speaks_ollama:
        reader = ChatReader(exchange.id)
    elif not tuned.is_chat:
        reader = CompletionReader()
    source = Source(
        reader,
        seen,
        ndjson=speaks_ollama,
        watch=EventWatch() if guarded else None,
        mender=EventMender(rules, seen.mended) if rules is not None else None,
    )
    if not exchange.stream:
        return CollectingTranslator(source, translation.body)
    return TranslatingRelay(source, lambda: begin(translation.writer()), late)
