"""
Families of vocabularies, and how many tokens each makes of what.

Thousandths of a token per sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.tokens.mix import Lane


@dataclass(frozen=True, slots=True)
class Factors:
    """
    Thousandths of a token, per letter, per word (on top of its letters), and so on.

    Attributes:
        dense: on top of the letters and digits of a dense run.
        foreign: per sign of each other script.
    """

    letter: int
    word: int
    space: int
    punctuation: int
    digit: int
    dense: int
    foreign: Mapping[Lane, int]


_UNKNOWN = Factors(
    letter=140, word=480, space=90, punctuation=620, digit=600, dense=350,
    foreign={
        Lane.LATIN: 700, Lane.HAN: 1000, Lane.KANA: 900, Lane.SYMBOLS: 1200, Lane.CYRILLIC: 450,
        Lane.SEMITIC: 650, Lane.INDIC: 1000, Lane.HANGUL: 1000, Lane.ASTRAL: 2300,
    },
)  # fmt: skip

_FAMILIES: Mapping[str, Factors] = {"": _UNKNOWN}


def factors(family: str) -> Factors:
    """The factors of a family; those of an unknown model for a name that is none."""
    return _FAMILIES.get(family, _UNKNOWN)


def family_of(model: str, architecture: str = "") -> str:
    """
    The family of a model's vocabulary, "" when its name tells none.

    Args:
        model: the id as the server lists it (`qwen3:8b`, `Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf`).
        architecture: what its file says of itself, where that is known (`qwen2`, `llama`, `gemma3`).
    """
    return ""
