"""Newline-delimited JSON: cutting bytes into lines without changing a byte."""

from __future__ import annotations

from penstock.dialects.sse import LARGEST_EVENT_BYTES, EventTooLarge


class NdjsonFramer:
    """Cuts what the socket had into lines, their line ends included."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, verbatim."""
        buffer = self._rest + data if self._rest else data
        end = buffer.rfind(b"\n") + 1
        self._rest = buffer[end:]
        if len(self._rest) > LARGEST_EVENT_BYTES:
            raise EventTooLarge(f"a line of more than {LARGEST_EVENT_BYTES} bytes")
        return split_lines(buffer[:end]) if end else []

    def end(self) -> bytes:
        """A last line without its line end."""
        rest, self._rest = self._rest, b""
        return rest if rest.strip() else b""


def split_lines(batch: bytes) -> list[bytes]:
    """Lines, verbatim; LF alone ends one, for CR may stand nowhere in JSON but before it."""
    lines = [line + b"\n" for line in batch.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
