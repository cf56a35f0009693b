"""
Texts of many lines: diffs keep headers and the heads of their hunks, logs keep errors and both ends.

A diff is known by its hunk or `diff --git` lines. A log is a text with some lines that speak of errors or
warnings; with many of them it is rather source code or prose about errors, and its middle goes like others'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_DIFF = re.compile(r"^(?:diff --git |@@ -\d+(?:,\d+)? \+\d)", re.MULTILINE)
_HUNK_LINES = (24, 16, 10, 6, 4, 2, 1, 0)
_DIFF_HEADER = (
    "diff ", "index ", "--- ", "+++ ", "@@ ", "new file", "deleted file", "rename ", "similarity ", "Binary ",
)  # fmt: skip
_TELLING = re.compile(
    r"(?<![a-z])(?:errors?|warn(?:ing)?s?|fail(?:ed|ure|ures|s)?|fatal|critical|panic(?:ked)?|[a-z]*exception"
    r"|[a-z]*error|traceback|assert(?:ion)?|segfault|killed|denied|timed out|cannot|undefined)(?![a-z])",
    re.IGNORECASE,
)
_TRACEBACK = "Traceback (most recent call last)"
_LEAST_LINES = 8
_MOST_TELLING_SHARE = 0.34
_ENDS_SHARE = 0.4
_LONGEST_LINE = 400


def telling_lines(text: str, most_bytes: int, gone: str) -> str | None:
    """The text's lines that matter in about *most_bytes*, or None where neither rule applies."""
    if text.count("\n") < _LEAST_LINES:
        return None
    lines = text.split("\n")
    if _DIFF.search(text):
        return _diff(lines, most_bytes, gone)
    return _log(lines, most_bytes, gone)


def _diff(lines: list[str], most_bytes: int, gone: str) -> str | None:
    """With as many lines of each hunk as fit, or None when the headers alone do not."""
    room_lines = most_bytes  # each line takes at least its end: more of them cannot fit
    for hunk_lines in _HUNK_LINES:
        kept: list[str] = []
        size = 0
        since_header = 0
        for line in lines:
            header = line.startswith(_DIFF_HEADER)
            since_header = 0 if header else since_header + 1
            if header or since_header <= hunk_lines:
                added = _clipped(line, gone)
            elif since_header == hunk_lines + 1:
                added = gone
            else:
                continue
            kept.append(added)
            size += _size(added) + 1
            if size > most_bytes or len(kept) > room_lines:
                break
        else:
            return "\n".join(kept)
    return None


def _log(lines: list[str], most_bytes: int, gone: str) -> str | None:
    telling = _telling(lines)
    if not telling or len(telling) > len(lines) * _MOST_TELLING_SHARE:
        return None
    mark = len(gone) + 1
    ends_room = int(most_bytes * _ENDS_SHARE)
    kept: set[int] = set()
    room = most_bytes - 2 * mark
    room -= _take(kept, lines, range(len(lines)), ends_room // 2, gone)
    room -= _take(kept, lines, range(len(lines) - 1, -1, -1), ends_room // 2, gone)
    # The first error is the cause more often than not, the last one is what was met: both ends of the list.
    room -= _take(kept, lines, telling, room // 2, gone, mark)
    _take(kept, lines, reversed(telling), room, gone, mark)
    out: list[str] = []
    before = -1
    for place in sorted(kept):
        if place != before + 1:
            out.append(gone)
        out.append(_clipped(lines[place], gone))
        before = place
    if before != len(lines) - 1:
        out.append(gone)
    return "\n".join(out)


def _telling(lines: list[str]) -> list[int]:
    """Places of lines that speak of trouble; of a Python traceback up to its last line."""
    places: list[int] = []
    inside = False
    for place, line in enumerate(lines):
        if inside:
            # Frames are indented; the first line that is not names the exception.
            inside = line.startswith((" ", "\t"))
            places.append(place)
        elif _TRACEBACK in line:
            inside = True
            places.append(place)
        elif _TELLING.search(line, 0, _LONGEST_LINE):
            places.append(place)
    return places


def _take(
    kept: set[int], lines: list[str], places: Iterable[int], room: int, gone: str, mark: int = 0
) -> int:
    """
    Keep lines in the given order until the first that has no room; the bytes that they take.

    *mark* is what each of them may need besides, where it stands alone.
    """
    taken = 0
    for place in places:
        if place in kept:
            continue
        cost = _size(_clipped(lines[place], gone)) + 1 + mark
        if taken + cost > room:
            break
        taken += cost
        kept.add(place)
    return taken


def _clipped(line: str, gone: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[: _LONGEST_LINE // 2]} {gone} {line[-_LONGEST_LINE // 4 :]}"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
