"""
Which regular expressions every grammar compiler takes, and which bring a server down.

Taken are anchored patterns of literals, dots, classes, groups, alternatives and modest repetitions. What
`json-schema-to-grammar` of llama.cpp made of anything else differs from build to build: refused ("failed to
parse grammar"), read as something else, or compiled for ever. The pattern still judges the answer, so
leaving it out of the grammar costs little.
"""

from __future__ import annotations

import re

MAX_REPETITIONS = 500
"""Of one repetition, and of those inside one another multiplied; llama.cpp's own end is 2,000."""
_MAX_CHARS = 400
_PLAIN_ESCAPES = frozenset("^$.[]{}()|*+?/\\-")
_BOUNDS = re.compile(r"\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\}")


def is_harmless(pattern: str) -> bool:
    """Whether no repetition in *pattern* asks for less than it demands: llama.cpp never returns from that."""
    return all(
        not found.group(3) or int(found.group(1)) <= int(found.group(3))
        for found in _BOUNDS.finditer(pattern)
    )


def compiles(pattern: str) -> bool:
    """Whether *pattern* is of the kind that every grammar compiler takes."""
    if len(pattern) > _MAX_CHARS or pattern[:1] != "^" or pattern[-1:] != "$" or len(pattern) < 2:
        return False
    at, end = 1, len(pattern) - 1
    # Of each open group: the largest product of repetitions in it so far, and whether `$` is in order.
    largest = [1]
    previous = 0  # the product of what stands before, 0 where nothing is to be repeated
    while at < end:
        sign = pattern[at]
        if sign == "(":
            if pattern.startswith("(?", at):
                return False
            largest.append(1)
            previous, at = 0, at + 1
        elif sign == ")":
            if len(largest) == 1:
                return False
            previous, at = largest.pop(), at + 1
            largest[-1] = max(largest[-1], previous)
        elif sign == "|":
            if len(largest) == 1:
                return False  # the anchors would bind to one side only
            previous, at = 0, at + 1
        elif sign in "*+?{":
            length, times = _repetition(pattern, at)
            if not length or not previous or previous * times > MAX_REPETITIONS:
                return False
            largest[-1] = max(largest[-1], previous * times)
            previous, at = 0, at + length
        else:
            length = _class_length(pattern, at) if sign == "[" else _literal_length(pattern, at)
            if not length or at + length > end:
                return False
            previous, at = 1, at + length
    return len(largest) == 1


def _repetition(pattern: str, at: int) -> tuple[int, int]:
    """How long the quantifier is, and how often it repeats at most by count; length 0 when it is none."""
    if pattern[at] != "{":
        return 1, 1
    found = _BOUNDS.match(pattern, at)
    if found is None:
        return 0, 0
    least, comma, most = found.groups()
    if most and int(most) < int(least):
        return 0, 0
    return found.end() - at, max(1, int(most or least) if comma else int(least))


def _literal_length(pattern: str, at: int) -> int:
    sign = pattern[at]
    if sign == "\\":
        return 2 if pattern[at + 1 : at + 2] in _PLAIN_ESCAPES else 0
    return 0 if sign in "^$]}" or sign < " " else 1


def _class_length(pattern: str, at: int) -> int:
    """How long the class that begins at *at* is; 0 when it is none that is taken everywhere."""
    begin = at
    at += 2 if pattern.startswith("[^", at) else 1
    first = at
    while at < len(pattern):
        sign = pattern[at]
        if sign == "]":
            return at + 1 - begin if at > first else 0
        if sign == "[" or sign < " ":
            return 0
        if sign == "\\":
            if pattern[at + 1 : at + 2] not in ("\\", "]", "-", "[", "^"):
                return 0
            at += 1
        at += 1
    return 0
