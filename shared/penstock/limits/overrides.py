"""Token counts as people write them, in settings and in `LOCAL_MODEL_*`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_LARGEST = 100_000_000
_WRITTEN = re.compile(
    r"^([0-9]+(?:[.,_][0-9]+)*(?:e\+?[0-9]+)?)\s*(k|m|ki|mi)?(?:\s*tokens?)?$", re.IGNORECASE
)
# 16k is 16,384: windows are made in powers of two (contracts 6).
_UNITS = {"": 1, "k": 1024, "ki": 1024, "m": 1024 * 1024, "mi": 1024 * 1024}


def parse_tokens(value: object) -> int:
    """
    A count of tokens.

    Args:
        value: 16384, "16384", "16k" (16,384), "1e5", "0.5m".

    Raises:
        ValueError: with a sentence that says what was expected.
    """
    expected = f"expected a count of tokens above 0 such as 16384 or 16k, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if isinstance(value, int) and value > _LARGEST:  # also what no float can hold
        raise ValueError(f"{expected[:200]}; at most {_LARGEST:,} are taken")
    if isinstance(value, str):
        found = _WRITTEN.match(value.strip())
        if found is None:
            raise ValueError(expected)
        digits = found.group(1).replace("_", "")
        if "," in digits:
            if not re.fullmatch(r"\d{1,3}(?:,\d{3})+", digits):
                raise ValueError(expected)
            digits = digits.replace(",", "")
        if digits.count(".") > 1:
            raise ValueError(expected)
        number = float(digits) * _UNITS[(found.group(2) or "").lower()]
    else:
        number = float(value)
    if not math.isfinite(number) or number < 1:
        raise ValueError(expected)
    if number > _LARGEST:
        raise ValueError(f"{expected}; at most {_LARGEST:,} are taken")
    if abs(number - round(number)) > 1e-6:
        raise ValueError(f"{expected}; a whole number is needed")
    return round(number)


@dataclass(frozen=True, slots=True)
class LocalModelEnvironment:
    """
    What `LOCAL_MODEL_TOKEN_LIMIT`, `LOCAL_MODEL_MAX_TOKENS` and `LOCAL_MODEL_MAX_CONCURRENCY` say.

    They never touch cloud upstreams. None where a variable is not set, or was refused.
    """

    token_limit: int | None = None
    max_tokens: int | None = None
    max_concurrency: int | None = None

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> tuple[LocalModelEnvironment, tuple[str, ...]]:
        """
        Read the variables.

        Returns:
            what they say, and a sentence for each that was refused and does not take effect.
        """
        problems: list[str] = []

        def read(name: str, largest: int | None = None) -> int | None:
            written = environ.get(name, "").strip()
            if not written:
                return None
            try:
                number = parse_tokens(written)
            except ValueError as exc:
                problems.append(f"{name}: {exc}; it does not take effect")
                return None
            if largest is not None and number > largest:
                problems.append(
                    f"{name}: expected at most {largest}, got {written!r}; it does not take effect"
                )
                return None
            return number

        values = cls(
            token_limit=read("LOCAL_MODEL_TOKEN_LIMIT"),
            max_tokens=read("LOCAL_MODEL_MAX_TOKENS"),
            max_concurrency=read("LOCAL_MODEL_MAX_CONCURRENCY", 1024),
        )
        return values, tuple(problems)
