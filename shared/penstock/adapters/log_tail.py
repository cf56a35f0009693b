"""The end of a log file, and what is added to it, also when it is set aside meanwhile for a new one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 64 * 1024
_POLL_S = 0.2


def last_lines(path: Path, count: int, most_bytes: int | None = None) -> list[str]:
    """
    The last *count* lines.

    Args:
        most_bytes: no more is read; a line that began before is left out, unless it is the only one. None: all of it.

    Raises:
        OSError: it cannot be read.
    """
    if count <= 0:
        return []
    with path.open("rb") as file:
        at = end = file.seek(0, os.SEEK_END)
        first = 0 if most_bytes is None else max(0, end - most_bytes)
        pieces: list[bytes] = []
        ends = 0
        while at > first and ends <= count:
            size = min(_PIECE_BYTES, at - first)
            at -= size
            file.seek(at)
            pieces.append(file.read(size))
            ends += pieces[-1].count(b"\n")
    lines = b"".join(reversed(pieces)).decode("utf-8", "replace").splitlines()
    if at == first > 0 and len(lines) > 1:
        del lines[0]
    return lines[-count:]


def follow(path: Path) -> Iterator[str]:
    """
    Each line that is added from now on, for ever; one that is not complete yet waits for its end. A file
    that is not there yet is waited for.
    """
    file = _opened(path, at_end=True)
    rest = b""
    try:
        while True:
            data = file.read(_PIECE_BYTES) if file is not None else b""
            if data:
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
                continue
            if _is_another(path, file):
                if file is not None:
                    file.close()
                file, rest = _opened(path, at_end=False), b""
                continue
            time.sleep(_POLL_S)
    finally:
        if file is not None:
            file.close()


def _opened(path: Path, *, at_end: bool) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except OSError:
        return None
    if at_end:
        file.seek(0, os.SEEK_END)
    return file


def _is_another(path: Path, file: BinaryIO | None) -> bool:
    """Whether *path* names another file than the one that is read, or one that was emptied."""
    try:
        found = path.stat()
    except OSError:
        return False  # set aside, and the new one is not there yet
    if file is None:
        return True
    mine = os.fstat(file.fileno())
    return (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino) or found.st_size < file.tell()
