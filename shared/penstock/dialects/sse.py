"""
Server-sent events: cutting bytes into events without changing a byte.

Lines end with LF, CRLF or CR, mixed as they like; an event ends with an empty line (WHATWG HTML, section
9.2.5 "Parsing an event stream"). An event is handed on verbatim, its empty line included, so what nobody
changed reaches the client as the server sent it. Bytes are cut at line ends only, so a UTF-8 character
that the network split is whole again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LARGEST_EVENT_BYTES = 8 * 1024 * 1024
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r(?!\n)|\n\r\n|\r\n\n|\n\r(?!\n)|\r\n\r(?!\n)")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """An event without end."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its name ("" for none), its data with lines joined by LF, its id (None for none)."""

    name: str
    data: bytes
    id: bytes | None = None


class SseFramer:
    """
    Cuts what the socket had into events.

    A CR at the very end of what has come may be half of a CRLF, so it waits for the next byte.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, verbatim."""
        buffer = self._rest + data if self._rest else data
        end = last_boundary(buffer)
        if end <= 0:
            self._rest = buffer
            self._check()
            return []
        self._rest = buffer[end:]
        self._check()
        return split_events(buffer[:end])

    def end(self) -> bytes:
        """What came after the last complete event: perhaps one without its empty line."""
        rest, self._rest = self._rest, b""
        return rest if rest.strip() else b""

    def _check(self) -> None:
        if len(self._rest) > LARGEST_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {LARGEST_EVENT_BYTES} bytes")


def last_boundary(buffer: bytes) -> int:
    """The index behind the last complete event, -1 when none is complete."""
    if buffer.endswith(b"\n\n"):
        return len(buffer)
    found = buffer.rfind(b"\n\n")
    if b"\r" not in buffer:
        return found + 2 if found >= 0 else -1
    last = -1
    for match in _END.finditer(buffer):
        # A CR at the end of the buffer may be half of a CRLF.
        if match.end() == len(buffer) and buffer.endswith(b"\r"):
            break
        last = match.end()
    return last


def split_events(batch: bytes) -> list[bytes]:
    """Cut complete events apart, verbatim. Empty lines too many go with the event before them."""
    if b"\r" not in batch:
        parts = batch.split(b"\n\n")
        events = [part + b"\n\n" for part in parts[:-1]]
        if parts[-1]:
            events.append(parts[-1])
        return events
    events = []
    start = 0
    for match in _END.finditer(batch):
        events.append(batch[start : match.end()])
        start = match.end()
    if start < len(batch):
        events.append(batch[start:])
    return events


def parse_event(raw: bytes) -> SseEvent:
    """
    The fields of one event; comments are passed over, a BOM is removed.

    An event without data has `data` b"".
    """
    if raw.startswith(b"data: ") and raw.count(b"\n") == 2 and b"\r" not in raw:
        return SseEvent("", raw[6:-2])  # the one shape that nearly all servers send
    name = ""
    data: list[bytes] = []
    identifier: bytes | None = None
    for line in _LINE.split(raw.removeprefix(b"\xef\xbb\xbf")):
        if not line or line.startswith(b":"):
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"id":
            identifier = value
    return SseEvent(name, b"\n".join(data), identifier)
