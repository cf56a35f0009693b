"""
A generation that repeats itself without end is recognised by its own text (design 4.7).

What counts is exact repetition up to the very end of what was said: the last characters are one phrase, again
and again, with nothing between. Numbered lines, code, refrains with verses between them do not repeat
exactly; rows of a table, a matrix of zeros, a dump of hexadecimal numbers may, and rightly. So it depends on
the phrase how long is too long:

    phrase                                              ends after
    running text, several words                         4,096 characters and 6 repetitions
    one word ("ha ha ha")                               8,192 characters
    white space alone                                   4,096 characters
    anything that looks like code, data, a table, or
    stands in a fence                                   24 repetitions, and 32,768 characters while the phrase
                                                        is shorter than 256

The sizes are guesses on the careful side: a loop that is ended late costs seconds, an answer that is cut
rightly-meant costs the answer. Bounded memory; each character is compared a fixed number of times.
"""

from __future__ import annotations

import re

from penstock.domain.options import Options, option

STEP = 256
"""Characters between two looks."""
LONGEST_PHRASE = 2048
PROSE_CHARS, PROSE_REPEATS = 4096, 6
WORD_CHARS = 8192
DATA_CHARS, DATA_REPEATS, DATA_PHRASE = 32_768, 24, 256

_NEEDLE = 48
_TRIES = 8
_KEPT = 2 * LONGEST_PHRASE + STEP + _NEEDLE
_CODE = re.compile(r"[{}\[\]|<>=;\t_\\$@^~+]|\w\(|\.\w|::|->|--|&&")
_NUMBERS = re.compile(r"[0-9a-fA-F]+")


class LoopGuardOptions(Options):
    """Generations of local models that repeat themselves."""

    enabled: bool = option(
        True,
        effect='A generation that repeats itself is ended with `finish_reason: "length"`.',
        reason="A model in a loop keeps a slot busy until its output limit.",
    )


class LoopGuard:
    """Follows one answer's text."""

    __slots__ = ("_fenced", "_pending", "_period", "_run", "_tail")

    def __init__(self) -> None:
        self._pending = ""
        self._tail = ""
        self._period = 0  # length of the phrase that the text ends in, 0 for none
        self._run = 0  # characters at the end that equal those one phrase before them
        self._fenced = False

    def feed(self, text: str) -> bool:
        """Take in more text. True: it loops, and nothing but the same would follow."""
        self._pending += text
        if len(self._pending) < STEP:
            return False
        pending, at = self._pending, 0
        loops = False
        while at + STEP <= len(pending) and not loops:
            loops = self._step(pending[at : at + STEP])
            at += STEP
        self._pending = pending[at:]
        return loops

    def _step(self, text: str) -> bool:
        edge = self._tail[-2:]
        if (edge + text).count("```") % 2:
            self._fenced = not self._fenced
        tail = self._tail + text
        if len(tail) > 2 * _KEPT:
            tail = tail[-_KEPT:]
        self._tail = tail
        period = self._period
        if period and tail.endswith(tail[-STEP - period : -period]):
            self._run += STEP
        else:
            self._period, self._run = _period(tail)
            if not self._period:
                return False
        return self._is_too_long(tail[-self._period :], self._run + self._period)

    def _is_too_long(self, phrase: str, covered: int) -> bool:
        if covered < PROSE_CHARS:
            return False
        if phrase.isspace():
            return True
        repeats = covered // len(phrase)
        if self._fenced or not _is_prose(phrase):
            enough = DATA_CHARS if len(phrase) < DATA_PHRASE else 0
            return covered >= enough and repeats >= DATA_REPEATS
        if _words(phrase) < 2:
            return covered >= WORD_CHARS
        return repeats >= PROSE_REPEATS


def _period(tail: str) -> tuple[int, int]:
    """The shortest phrase that *tail* ends in at least twice, and how far its repetition reaches back."""
    if len(tail) <= _NEEDLE:
        return 0, 0
    needle = tail[-_NEEDLE:]
    at = len(tail) - _NEEDLE
    for _ in range(_TRIES):
        at = tail.rfind(needle, 0, at + _NEEDLE - 1)
        period = len(tail) - _NEEDLE - at
        if at < 0 or period > LONGEST_PHRASE:
            break
        run = _reach(tail, period)
        if run >= period:
            return period, run
    return 0, 0


def _reach(tail: str, period: int) -> int:
    """How many characters at the end equal those one *period* before them."""
    low, high = 0, len(tail) - period
    while low < high:
        middle = (low + high + 1) // 2
        if tail[-middle:] == tail[-middle - period : -period]:
            low = middle
        else:
            high = middle - 1
    return low


def _turned(phrase: str) -> str:
    """The phrase from one of its own word boundaries on: where the looking began is chance."""
    for place, sign in enumerate(phrase):
        if sign.isspace():
            return phrase[place:] + phrase[:place]
    return phrase


def _is_prose(phrase: str) -> bool:
    """Whether a phrase is running text of some language, rather than code, data or a table."""
    turned = _turned(phrase)
    if _CODE.search(turned + turned[:2]) is not None:
        return False
    words = turned.split()
    if turned.isascii() and len(words) == 1 and words[0] == turned:
        return False  # no white space at all: base64, digits, a rule of dashes
    signs = sum(len(word) for word in words)
    letters = sum(1 for sign in turned if sign.isalpha() or ord(sign) > 0x2E80)
    if letters < 0.7 * signs or turned.count(",") > 0.7 * len(words):
        return False
    if any(word.isascii() and len(word) > 40 for word in words):
        return False
    if all(_NUMBERS.fullmatch(word) for word in words):
        return False
    return not turned.isupper()


def _words(phrase: str) -> int:
    """Different words; in scripts that write without spaces, different signs."""
    turned = _turned(phrase)
    words = set(turned.split())
    return len(set(turned)) if len(words) == 1 and not turned.isascii() else len(words)
