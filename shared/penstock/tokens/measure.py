"""
The frozen measure: tokens of a text by a fixed factor per script and model family.

It decides where cuts lie on servers that cannot count, so it must be the same for ever and everywhere: no
calibration, whole numbers only. A text is classified in C (`bytes.translate` and `bytes.count`), a few
milliseconds for a megabyte. In UTF-8 the first byte of a sign tells its script, so one table does for all.
"""

from __future__ import annotations

from penstock.tokens.families import Factors, factors
from penstock.tokens.mix import WIDTH, Lane, Mix

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
    _DENSE_SIGN[0] if (byte < 128 and chr(byte).isalnum()) or byte in b"+/=" else 32
    for byte in range(256)
)
_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_FOREIGN = (
    Lane.HAN, Lane.LATIN, Lane.SYMBOLS, Lane.KANA, Lane.CYRILLIC, Lane.HANGUL, Lane.SEMITIC,
    Lane.INDIC, Lane.ASTRAL,
)  # fmt: skip
_FOREIGN_CLASSES = tuple((lane, 128 + int(lane), WIDTH * int(lane)) for lane in _FOREIGN)
# Plain numbers: the members of an enumeration cost more than the arithmetic.
_AT_LETTERS, _AT_SPACES, _AT_LINES = (WIDTH * n for n in (Lane.LETTERS, Lane.SPACES, Lane.LINES))
_AT_PUNCTUATION, _AT_MARKS = WIDTH * Lane.PUNCTUATION, WIDTH * Lane.MARKS
_AT_DIGITS, _AT_GROUPS, _AT_DENSE = (WIDTH * n for n in (Lane.DIGITS, Lane.GROUPS, Lane.DENSE))


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
        ascii_signs = len(raw)
        result = milli = 0
    else:
        raw = text.encode("utf-8", "surrogatepass")
        classes = raw.translate(_CLASSES, _CONTINUATION)
        foreign = classes.translate(None, _ASCII_CLASSES)
        ascii_signs = len(classes) - len(foreign)
        result, milli = _foreign(foreign, by)
    spaces = classes.count(b" ")
    lines = raw.count(b"\n") if spaces else 0
    digits = classes.count(b"0")
    letters = classes.count(b"a")
    result |= letters << _AT_LETTERS | spaces << _AT_SPACES | lines << _AT_LINES
    milli += letters * by.letter + spaces * by.space + lines * by.line
    punctuation = ascii_signs - spaces - digits - letters
    if punctuation:
        marks = punctuation - classes.count(b"..")
        result |= punctuation << _AT_PUNCTUATION | marks << _AT_MARKS
        milli += marks * by.mark
    if digits:
        groups = digits - 2 * classes.count(b"000")
        result |= digits << _AT_DIGITS | groups << _AT_GROUPS
        milli += digits * by.digit + groups * by.group
        if ascii_signs >= _DENSE_SHORTEST:
            dense = _dense(raw)
            if dense:
                result |= dense << _AT_DENSE
                milli += dense * by.dense
    return result | max(1, -(-milli // 1000))


def _foreign(leads: bytes, by: Factors) -> tuple[int, int]:
    """Amounts and thousandths of tokens of what is not ASCII: one class byte for each sign."""
    result = milli = 0
    left = len(leads)
    for lane, class_byte, at in _FOREIGN_CLASSES:
        count = leads.count(class_byte)
        if count:
            result |= count << at
            milli += count * by.foreign[lane]
            left -= count
            if not left:
                break
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
