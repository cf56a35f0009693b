"""
Texts of many lines: diffs keep headers and the heads of their hunks, logs keep errors and both ends.

A diff is known by its hunk or `diff --git` lines. A log is a text with some lines that speak of errors or
warnings; with many of them it is rather source code or prose about errors, and its middle goes like others'.

Words are looked for in the bytes, whose lower case has the same length, by plain searching: megabytes take
milliseconds.
"""

from __future__ import annotations

_DIFF_MARKS = ("\ndiff --git ", "\n@@ -")
_HUNK_LINES = (24, 16, 10, 6, 4, 2, 1, 0)
_DIFF_HEADER = (
    "diff ", "index ", "--- ", "+++ ", "@@ ", "new file", "deleted file", "rename ", "similarity ", "Binary ",
)  # fmt: skip
_TELLING = (
    b"error", b"warn", b"fail", b"fatal", b"critical", b"panic", b"exception", b"assert", b"segfault",
    b"killed", b"denied", b"timed out", b"cannot", b"undefined",
)  # fmt: skip
_TRACEBACK = b"Traceback (most recent call last)"
_LEAST_LINES = 8
_MOST_TELLING_SHARE = 0.34
_ENDS_SHARE = 0.2  # each
_LONGEST_LINE = 400


def telling_lines(text: str, most_bytes: int, gone: str) -> str | None:
    """The text's lines that matter in about *most_bytes*, or None where neither rule applies."""
    if text.count("\n") < _LEAST_LINES:
        return None
    if any(text.startswith(mark[1:]) or mark in text for mark in _DIFF_MARKS):
        return _diff(text.split("\n"), most_bytes, gone)
    return _log(text.encode("utf-8", "surrogatepass"), most_bytes, gone.encode())


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


def _log(data: bytes, most_bytes: int, gone: bytes) -> str | None:
    """Both ends, the first troubles and the last ones, in order; None when it is no log."""
    telling = _telling(data, int((data.count(b"\n") + 1) * _MOST_TELLING_SHARE))
    if not telling:
        return None
    mark = len(gone) + 1
    room = most_bytes - 2 * mark
    kept: dict[int, bytes] = {}  # {where the line begins: the line}
    room -= _take_ends(data, kept, int(most_bytes * _ENDS_SHARE), gone)
    # The first error is the cause more often than not, the last one is what was met: both ends of the list.
    room -= _take(data, kept, telling, room // 2, gone)
    _take(data, kept, telling[::-1], room, gone)
    out: list[bytes] = []
    following = 0
    for begin in sorted(kept):
        if begin != following:
            out.append(gone)
        out.append(kept[begin])
        following = _end(data, begin) + 1
    if following < len(data):
        out.append(gone)
    return b"\n".join(out).decode("utf-8", "surrogatepass")


def _telling(data: bytes, most: int) -> list[int]:
    """Where lines begin that speak of trouble, of Python's tracebacks all lines; none when there are too many."""
    begins: set[int] = set()
    lower = data.lower()
    for word in _TELLING:
        found = lower.find(word)
        while found >= 0:
            begins.add(data.rfind(b"\n", 0, found) + 1)
            if len(begins) > most:
                return []
            found = lower.find(word, _end(data, found))
    found = data.find(_TRACEBACK)
    while found >= 0:
        begin = data.rfind(b"\n", 0, found) + 1
        begins.add(begin)
        # Frames are indented; the first line that is not names the exception.
        while (begin := _end(data, begin) + 1) < len(data):
            begins.add(begin)
            if len(begins) > most:
                return []
            if data[begin] not in b" \t":
                break
        found = data.find(_TRACEBACK, begin)
    return sorted(begins)


def _take_ends(data: bytes, kept: dict[int, bytes], room: int, gone: bytes) -> int:
    """Keep lines of the beginning and of the end, with *room* bytes for each; the bytes that they take."""
    taken = 0
    begin = 0
    while begin < len(data):
        line = _line(data, begin, gone)
        if taken + len(line) + 1 > room:
            break
        taken += len(line) + 1
        kept[begin] = line
        begin = _end(data, begin) + 1
    first, end = taken, len(data)
    while end > begin:
        last = data.rfind(b"\n", 0, end) + 1
        line = _line(data, last, gone)
        if taken - first + len(line) + 1 > room:
            break
        if last not in kept:
            taken += len(line) + 1
            kept[last] = line
        end = last - 1
    return taken


def _take(data: bytes, kept: dict[int, bytes], begins: list[int], room: int, gone: bytes) -> int:
    """Keep lines in the given order until the first without room beside its mark; the bytes they take."""
    taken = 0
    for begin in begins:
        if begin in kept:
            continue
        line = _line(data, begin, gone)
        cost = len(line) + len(gone) + 2
        if taken + cost > room:
            break
        taken += cost
        kept[begin] = line
    return taken


def _end(data: bytes, begin: int) -> int:
    """Where the line that holds *begin* ends."""
    found = data.find(b"\n", begin)
    return found if found >= 0 else len(data)


def _line(data: bytes, begin: int, gone: bytes) -> bytes:
    """The line that begins there, a very long one without its middle."""
    end = _end(data, begin)
    if end - begin <= _LONGEST_LINE:
        return data[begin:end]
    head, tail = begin + _LONGEST_LINE // 2, end - _LONGEST_LINE // 4
    while data[head] & 0xC0 == 0x80:
        head -= 1
    while tail < end and data[tail] & 0xC0 == 0x80:
        tail += 1
    return data[begin:head] + b" " + gone + b" " + data[tail:end]


def _clipped(line: str, gone: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[: _LONGEST_LINE // 2]} {gone} {line[-_LONGEST_LINE // 4 :]}"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
