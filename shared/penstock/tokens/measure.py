"""
The frozen measure: tokens of a text by a fixed factor per script and model family.

It decides where cuts lie on servers that cannot count, so it must be the same for ever and everywhere: no
calibration, whole numbers only. A text is classified in C (`bytes.translate` and `bytes.count`), a few
milliseconds for a megabyte. In UTF-8 the first byte of a sign tells its script, so one table does for all.
"""

from __future__ import annotations

from penstock.tokens.families import Factors, factors
from penstock.tokens.mix import WIDTH, Lane, Mix, packed

_LETTER, _DIGIT, _SPACE, _PUNCTUATION = b"a0 ."
_ASCII_CLASSES = bytes((_LETTER, _DIGIT, _SPACE, _PUNCTUATION))
# First byte of a sign in UTF-8 -> its script (The Unicode Standard, chapter 3.9 and the block list).
_LEADS = (
    (0xC2, 0xCF, Lane.LATIN), (0xD0, 0xD4, Lane.CYRILLIC), (0xD5, 0xDF, Lane.SEMITIC),
    (0xE0, 0xE1, Lane.INDIC), (0xE2, 0xE2, Lane.SYMBOLS), (0xE3, 0xE3, Lane.KANA),
    (0xE4, 0xE9, Lane.HAN), (0xEA, 0xED, Lane.HANGUL), (0xEE, 0xEF, Lane.SYMBOLS),
    (0xF0, 0xF7, Lane.ASTRAL),
)  # fmt: skip
_CONTINUATION = bytes(range(0x80, 0xC0))
_DENSE_SHORTEST = 40
_DENSE_SIGN = b"a"
_NEEDLE = _DENSE_SIGN * _DENSE_SHORTEST


def _classes() -> bytes:
    table = bytearray(256)
    for byte in range(128):
        sign = chr(byte)
        table[byte] = (
            _LETTER if sign.isalpha()
            else _DIGIT if sign.isdigit()
            else _SPACE if sign.isspace()
            else _PUNCTUATION
        )  # fmt: skip
    for first, last, lane in _LEADS:
        table[first : last + 1] = bytes([128 + lane]) * (last + 1 - first)
    return bytes(table)


_CLASSES = _classes()
_DENSE_TABLE = bytes(
    _DENSE_SIGN[0] if (chr(byte).isalnum() and byte < 128) or byte in b"+/=" else 32
    for byte in range(256)
)
_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_FOREIGN = (
    Lane.HAN, Lane.LATIN, Lane.SYMBOLS, Lane.KANA, Lane.CYRILLIC, Lane.HANGUL, Lane.SEMITIC,
    Lane.INDIC, Lane.ASTRAL,
)  # fmt: skip


def measure_text(text: str, family: str = "") -> int:
    """
    Tokens of *text* by the frozen measure, never 0 for a text that is not empty.

    Args:
        family: see `penstock.tokens.families.family_of`; "" for a model that is not known.
    """
    return measure_mix(text, factors(family)).tokens


def measure_mix(text: str, by: Factors) -> Mix:
    """What *text* is made of, weighed by the factors of a family."""
    return Mix(measure_packed(text, by))


def measure_packed(text: str, by: Factors) -> int:
    """`measure_mix` as its packed number."""
    if not text:
        return 0
    if text.isascii():
        raw = text.encode()
        classes = raw.translate(_CLASSES)
        result = milli = 0
    else:
        raw = text.encode("utf-8", "surrogatepass")
        classes = raw.translate(_CLASSES, _CONTINUATION)
        foreign = classes.translate(None, _ASCII_CLASSES)
        result, milli = _foreign(foreign, by)
    letters = classes.count(b"a")
    words = classes.count(b" a")
    spaces = classes.count(b" ")
    digits = classes.count(b"0")
    punctuation = classes.count(b".")
    result |= (
        letters << (WIDTH * Lane.LETTERS)
        | words << (WIDTH * Lane.WORDS)
        | spaces << (WIDTH * Lane.SPACES)
        | punctuation << (WIDTH * Lane.PUNCTUATION)
        | digits << (WIDTH * Lane.DIGITS)
    )
    milli += (
        letters * by.letter
        + words * by.word
        + spaces * by.space
        + punctuation * by.punctuation
        + digits * by.digit
    )
    if (letters >= spaces * 8 and len(raw) >= _DENSE_SHORTEST) or len(raw) >= 4 * _DENSE_SHORTEST:
        dense = _dense(raw)
        if dense:
            result |= packed(Lane.DENSE, dense)
            milli += dense * by.dense
    return result | max(1, -(-milli // 1000))


def _foreign(leads: bytes, by: Factors) -> tuple[int, int]:
    """Amounts and thousandths of tokens of what is not ASCII: one class byte for each sign."""
    result = milli = 0
    left = len(leads)
    for lane in _FOREIGN:
        if not left:
            break
        count = leads.count(128 + lane)
        if count:
            result |= count << (WIDTH * lane)
            milli += count * by.foreign[lane]
            left -= count
    return result, milli


def _dense(raw: bytes) -> int:
    """Signs in long runs of letters and digits with digits among them: base64, hexadecimal, keys."""
    signs = raw.translate(_DENSE_TABLE)
    total = 0
    start = signs.find(_NEEDLE)
    while start >= 0:
        end = signs.find(b" ", start + _DENSE_SHORTEST)
        if end < 0:
            end = len(signs)
        digits = len(raw[start:end].translate(None, _NOT_DIGITS))
        if (end - start) // 32 <= digits < (end - start):
            total += end - start
        start = signs.find(_NEEDLE, end)
    return total
