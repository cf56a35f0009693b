"""
What a server has said of an answer so far, for the case that it breaks off.

The bytes are kept as they came, and read only when they are needed: nearly always they are not.
"""

from __future__ import annotations

from typing import Any

import orjson

from penstock.dialects.ndjson import NdjsonFramer
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.openai.chunks import ChunkReader
from penstock.dialects.sse import SseFramer, parse_event
from penstock.domain.chat import (
    Finished,
    PrefillProgress,
    ReasoningDelta,
    StreamEnd,
    TextDelta,
    ToolCallDelta,
)
from penstock.resume import Piece, Said

MOST_BYTES = 4 * 1024 * 1024
"""About 16,000 tokens as llama.cpp sends them; only requests with a permit have one."""
_HEAD = ("id", "created", "model")
_ENDS = (b"[DONE]", b'"done":true', b'"done": true')


class Tape:
    """
    Args:
        ndjson: lines of Ollama's instead of OpenAI's server-sent events.
    """

    __slots__ = ("_pieces", "_size", "is_full", "ndjson")

    def __init__(self, *, ndjson: bool) -> None:
        self.ndjson = ndjson
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_full = False

    def add(self, data: bytes) -> None:
        """More of the answer."""
        self._size += len(data)
        if self._size <= MOST_BYTES:
            self._pieces.append(data)
        elif not self.is_full:
            self.is_full = True
            self._pieces.clear()

    def looks_ended(self) -> bool:
        """Whether the closing event is among the last bytes."""
        tail = b"".join(self._pieces[-4:])[-600:]
        return self.is_full or any(mark in tail for mark in _ENDS)

    def cut(self) -> Said:
        """What was said in whole events; the half one at the end is forgotten."""
        framer: SseFramer | NdjsonFramer = NdjsonFramer() if self.ndjson else SseFramer()
        whole = framer.feed(b"".join(self._pieces))
        self._pieces = [b"".join(whole)]
        self._size = len(self._pieces[0])
        return read(whole, ndjson=self.ndjson)


def read(events: list[bytes], *, ndjson: bool) -> Said:
    """What whole events say."""
    text: list[str] = []
    thinking: list[str] = []
    calls = ended = False
    prompt = cached = None
    head: dict[str, Any] = {}
    for value, pieces in _read_each(events, ndjson):
        if not head and isinstance(value, dict):
            head = {name: value[name] for name in _HEAD if name in value}
        for piece in pieces:
            if isinstance(piece, TextDelta):
                text.append(piece.text)
            elif isinstance(piece, ReasoningDelta):
                thinking.append(piece.text)
            elif isinstance(piece, ToolCallDelta):
                calls = True
            elif isinstance(piece, Finished | StreamEnd):
                ended = True
            elif isinstance(piece, PrefillProgress) and prompt is None and piece.total:
                prompt, cached = piece.total, piece.cached
    return Said(
        "".join(text),
        "".join(thinking),
        len(text) + len(thinking),
        prompt,
        cached,
        calls,
        ended,
        head,
    )


def pieces_of(events: list[bytes], *, ndjson: bool) -> list[Piece]:
    """The pieces of an answer."""
    found: list[Piece] = []
    for _, pieces in _read_each(events, ndjson):
        for piece in pieces:
            if isinstance(piece, TextDelta):
                found.append(("", piece.text))
            elif isinstance(piece, ReasoningDelta):
                found.append((piece.text, ""))
    return found


def _read_each(events: list[bytes], ndjson: bool) -> list[tuple[Any, list[Any]]]:
    reader: ChatReader | ChunkReader = ChatReader("") if ndjson else ChunkReader("")
    found: list[tuple[Any, list[Any]]] = []
    for raw in events:
        data = raw.strip() if ndjson else parse_event(raw).data
        if not data or data == b"[DONE]":
            continue
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue  # a relay that could not read it has failed already
        found.append((value, reader.read(value)))
    return found
