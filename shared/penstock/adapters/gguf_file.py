"""Reads the header of a GGUF file from disk: as much as it needs, never the weights."""

from __future__ import annotations

from pathlib import Path

from penstock.tokens.gguf import Header, MoreNeeded, read_header

_FIRST_BYTES = 1024 * 1024
_MOST_BYTES = 128 * 1024 * 1024


def read_gguf(path: Path, *, keep: frozenset[str] = frozenset()) -> Header:
    """
    The header of the file at *path*.

    Args:
        keep: see `penstock.tokens.gguf.read_header`.

    Raises:
        NotGguf: it is none, or its header is cut off or too long.
        OSError: it cannot be read.
    """
    size = _FIRST_BYTES
    with path.open("rb") as file:
        data = file.read(size)
        while True:
            try:
                return read_header(data, keep=keep)
            except MoreNeeded:
                more = file.read(min(size * 3, _MOST_BYTES - len(data)))
                if not more:
                    raise
                data += more
                size = len(data)
