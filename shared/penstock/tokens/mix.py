"""
What a text, a message or a whole request is made of: amounts by kind, packed into one whole number.

Each kind has a lane of 40 bits. So a mix of many messages is the plain sum of theirs, which Python adds in
C: a conversation of thousands of messages is added up in a fraction of a millisecond, and a cache holds one
number per message. The lane of tokens is the frozen measure (or the server's count); the other lanes are
what the calibration learns from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

WIDTH = 40
MASK = (1 << WIDTH) - 1


class Lane(IntEnum):
    """The kinds, the most frequent first: high lanes cost memory."""

    TOKENS = 0
    """Weight in tokens; not a part, but the sum that the parts weigh by the frozen measure."""
    MESSAGES = 1
    LETTERS = 2
    SPACES = 3
    LINES = 4
    """Ends of lines; they are spaces too."""
    PUNCTUATION = 5
    MARKS = 6
    """Punctuation, two neighbours taken as one: vocabularies join them."""
    DIGITS = 7
    GROUPS = 8
    """Digits, three neighbours taken as one: some vocabularies join them."""
    COUNTED = 9
    """Tokens that the server or the vocabulary counted."""
    CALLS = 10
    LATIN = 11
    """Letters beyond ASCII of Latin and Greek script, and combining marks."""
    HAN = 12
    KANA = 13
    SYMBOLS = 14
    """Typographic signs, arrows, mathematics, full-width forms."""
    DENSE = 15
    """Signs in long runs without a space, such as base64 and hexadecimal; they are letters and digits too."""
    CYRILLIC = 16
    SEMITIC = 17
    """Hebrew, Arabic and their neighbours."""
    INDIC = 18
    """Scripts of India and South-East Asia, Georgian, Ethiopic."""
    HANGUL = 19
    ASTRAL = 20
    """Beyond the basic plane: emoji, rare ideographs."""
    PICTURES = 21
    """Tokens that images, audio and files are taken to weigh."""
    TOOLSETS = 22
    """Requests that offer tools: the preamble that the template puts before them."""
    REQUESTS = 23
    """Whole requests: what the template adds once."""
    PLAIN = 24
    """Tokens of which nothing else is known."""
    UNCOUNTED = 25
    """Messages that the server could count and has not counted yet."""


PARTS = tuple(lane for lane in Lane if lane not in (Lane.TOKENS, Lane.UNCOUNTED))

# The most tokens that one unit of a lane can become. Vocabularies fall back to bytes, so a text has at
# most one token per byte of UTF-8; what a template adds is bounded generously.
MOST: Mapping[Lane, int] = {
    Lane.MESSAGES: 16, Lane.LETTERS: 1, Lane.SPACES: 1, Lane.LINES: 0, Lane.PUNCTUATION: 1,
    Lane.MARKS: 0, Lane.DIGITS: 1, Lane.GROUPS: 0, Lane.COUNTED: 1, Lane.CALLS: 48, Lane.LATIN: 2,
    Lane.HAN: 3, Lane.KANA: 3, Lane.SYMBOLS: 3, Lane.DENSE: 0, Lane.CYRILLIC: 2, Lane.SEMITIC: 2,
    Lane.INDIC: 3, Lane.HANGUL: 3, Lane.ASTRAL: 4, Lane.PICTURES: 4, Lane.TOOLSETS: 800,
    Lane.REQUESTS: 160, Lane.PLAIN: 6,
}  # fmt: skip

SCRIPTS = (
    Lane.LATIN, Lane.HAN, Lane.KANA, Lane.SYMBOLS, Lane.CYRILLIC, Lane.SEMITIC, Lane.INDIC, Lane.HANGUL,
    Lane.ASTRAL,
)  # fmt: skip
"""Signs beyond ASCII."""


def packed(lane: Lane, amount: int) -> int:
    """*amount* (0 to 2**40 - 1) in one lane."""
    return amount << (WIDTH * lane)


@dataclass(frozen=True, slots=True)
class Mix:
    """
    What something is made of; mixes are added with `+`.

    Attributes:
        keys: of a whole request: its tools and messages in their order, by which a request that
            continues it is recognised. Empty for anything else.
    """

    packed: int = 0
    keys: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Its weight."""
        return self.packed & MASK

    def amount(self, lane: Lane) -> int:
        """How much of one kind."""
        return (self.packed >> (WIDTH * lane)) & MASK

    def amounts(self) -> list[tuple[Lane, int]]:
        """The parts that occur."""
        rest = self.packed
        return [(lane, amount) for lane in PARTS if (amount := (rest >> (WIDTH * lane)) & MASK)]

    @property
    def most(self) -> int:
        """The most tokens that this can be: one for each byte of UTF-8, and a generous template."""
        return sum(MOST[lane] * amount for lane, amount in self.amounts())

    def __add__(self, other: Mix) -> Mix:
        return Mix(self.packed + other.packed)

    def beyond(self, part: Mix) -> Mix | None:
        """What this has beyond *part*; None where it has less of anything."""
        mine, less = self.packed, part.packed
        while less:
            if (mine & MASK) < (less & MASK):
                return None
            mine, less = mine >> WIDTH, less >> WIDTH
        return Mix(self.packed - part.packed)


def plain(tokens: int) -> Mix:
    """So many tokens of which nothing else is known."""
    return Mix(packed(Lane.TOKENS, tokens) | packed(Lane.PLAIN, tokens))
