"""
The vocabulary of the tiny models: byte-level BPE in the manner of GPT-2 (`bytes_to_unicode` of its published
encoder), so that any text can be tokenised.

By itself it holds the bytes and a handful of merges, which makes a token of most letters. Given a text to
read, it learns the merges that spell the text's words (byte-pair encoding, Sennrich et al. 2016), so that a
token is about as long as with the vocabularies of real models: sizes in bytes then mean what they mean there.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_MERGES = (
    ("t", "h"), ("h", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("r", "e"), ("o", "n"), ("Ġ", "t"),
    ("Ġ", "a"), ("th", "e"), ("Ġ", "the"), ("Ġ", "o"), ("in", "g"),
)  # fmt: skip
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""What GPT-2's published splitter keeps together: words, numbers, other signs, white space."""

_THINKING = re.compile(r"(\s*</?think>\s*)")


def byte_names() -> dict[int, str]:
    """A printable sign for each byte, as in GPT-2's published `bytes_to_unicode`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    names.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return names


def vocabulary(reads: str = "") -> tuple[list[str], list[str]]:
    """
    Tokens and merges.

    Args:
        reads: a text whose words become tokens of their own.

    Returns:
        `(tokens, merges)`, both in the order of their numbers.
    """
    names = byte_names()
    tokens = [names[byte] for byte in range(256)]
    known = set(tokens)
    merges = []
    for left, right in (*_MERGES, *_learned(reads)):
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    return tokens, merges


def _learned(text: str) -> list[tuple[str, str]]:
    """The merges that spell every word of *text*, the most frequent pair first."""
    names = byte_names()
    counts = Counter(_WORD.findall(text))
    words = [
        (_merged([names[byte] for byte in word.encode()], _MERGES), count)
        for word, count in sorted(counts.items())
    ]
    learned: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for signs, count in words:
            for pair in pairwise(signs):
                pairs[pair] += count
        if not pairs:
            return learned
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        words = [(_merged(signs, (best,)), count) for signs, count in words if len(signs) > 1]


def _merged(signs: list[str], merges: tuple[tuple[str, str], ...]) -> list[str]:
    for left, right in merges:
        if left not in signs:
            continue
        made: list[str] = []
        for sign in signs:
            if made and made[-1] == left and sign == right:
                made[-1] = left + right
            else:
                made.append(sign)
        signs = made
    return signs


def spelled(text: str) -> list[str]:
    """
    The tokens that a vocabulary which has read *text* makes of it, by name. The marks of thinking are tokens of
    their own, which the vocabulary has yet to get.

    Raises:
        ValueError: one occurs twice.
    """
    names = byte_names()
    found: list[str] = []
    for part in _THINKING.split(text):
        if _THINKING.fullmatch(part):
            found.append(part)  # a token that is no piece of BPE stands for itself
        else:
            found += [
                "".join(names[byte] for byte in word.encode()) for word in _WORD.findall(part)
            ]
    twice = sorted(word for word, count in Counter(found).items() if count > 1)
    if twice:
        raise ValueError(f"these tokens occur twice: {twice}")
    return found


def pieces(text: str, taken: set[str]) -> list[str]:
    """Cut *text* into tokens that occur nowhere else: three bytes each, longer where that is not new."""
    names = byte_names()
    signs = [names[byte] for byte in text.encode()]
    cut: list[str] = []
    at = 0
    while at < len(signs):
        length = 3
        while at + length < len(signs) and "".join(signs[at : at + length]) in taken:
            length += 1
        piece = "".join(signs[at : at + length])
        if piece in taken:  # the rest of the text is too short to be new: it joins its predecessor
            piece = cut.pop() + piece if cut else piece
        taken.add(piece)
        cut.append(piece)
        at += length
    return cut
