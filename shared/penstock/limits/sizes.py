"""
A model's size, read from its name as a person would.

The first size token wins over later mentions: `qwen3-30b-a3b` has 30 billion parameters (3 of them
active), `mixtral-8x7b` 8 times 7. Versions (`v2`, `3.1`), quantisations (`4bit`, `q4_K_M`, `int8`, `fp16`)
and windows (`128k`) are no sizes.
"""

from __future__ import annotations

import re

# A size stands alone between separators: `7b`, `0.5b`, `270m`, `8x7b`, `8x22B`, `1t`, `e4b` (Gemma 3n).
_SIZE = re.compile(
    r"(?:^|[^a-z0-9.])(?:e)?(?:(?P<times>\d{1,3})x)?(?P<number>\d{1,4}(?:\.\d{1,3})?)"
    r"(?P<unit>b|m|t)(?=$|[^a-z0-9])",
    re.IGNORECASE,
)
_BILLIONS = {"b": 1.0, "m": 1e-3, "t": 1e3}

# Families whose names carry a word instead of a number; the size is the one their makers publish.
_WORDS: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), size)
    for pattern, size in (
        (r"phi-?4-mini", 3.8),
        (r"phi-?3(?:\.5)?-mini", 3.8),
        (r"phi-?3(?:\.5)?-moe", 42.0),
        (r"phi-?3-medium", 14.0),
        (r"phi-?3-small", 7.0),
        (r"phi-?4(?![\d.-])|phi-?4(?=[-:](?:q|latest|reasoning))", 14.0),
        (r"phi-?2(?![\d.])", 2.7),
        (r"tinyllama", 1.1),
        (r"smollm2?(?![\d.])", 1.7),
        (r"mistral-nemo", 12.0),
        (r"mistral-small", 24.0),
        (r"mistral-large", 123.0),
        (r"mistral(?![-a-z]*\d)", 7.0),
        (r"mixtral(?![-a-z]*\d)", 47.0),
        (r"codestral", 22.0),
        (r"command-r-plus", 104.0),
        (r"command-r", 35.0),
    )
)

# Classes by total parameters (contracts 6).
_CLASSES = ((60.0, "70B"), (25.0, "30B"), (10.0, "13B"), (5.0, "7B"), (0.0, "3B"))


def parameter_count(name: str) -> float | None:
    """
    Billions of parameters, in total.

    Args:
        name: a model id, with or without owner and tag (`hf.co/Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M`).

    Returns:
        None when the name does not tell.
    """
    for found in _SIZE.finditer(name):
        number = float(found.group("number"))
        unit = found.group("unit").lower()
        if unit == "m" and number < 10:  # `1m` is a window of a million
            continue
        if unit == "t" and number > 10:
            continue
        size = number * _BILLIONS[unit] * float(found.group("times") or 1)
        if 0 < size <= 20_000:
            return size
    for pattern, size in _WORDS:
        if pattern.search(name):
            return size
    return None


def size_class(billions: float | None) -> str:
    """`70B`, `30B`, `13B`, `7B`, `3B`, or `unknown`."""
    if billions is None:
        return "unknown"
    return next(name for least, name in _CLASSES if billions >= least)
