"""Documented windows of cloud models, from the table `cloud_windows.json` (its origin and date inside)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class CloudWindow:
    """A cloud model's documented limits, tokens; `output` is None where none is documented."""

    tokens: int
    output: int | None
    provider: str


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[str, CloudWindow], ...]:
    data: Any = orjson.loads(files("penstock.limits").joinpath("cloud_windows.json").read_bytes())
    rows = [
        (prefix, CloudWindow(window, output, provider))
        for provider, models in data["providers"].items()
        for prefix, window, output in models
    ]
    # The longest prefix is the most specific one.
    return tuple(sorted(rows, key=lambda row: -len(row[0])))


def cloud_window(model: str) -> CloudWindow | None:
    """
    The documented window of a cloud model.

    Args:
        model: its id, with or without a provider before a slash (`openai/gpt-4o`).

    Returns:
        None when the table does not know it.
    """
    return _short(model) if len(model) <= _LONGEST_KEPT else _look_up(model)


def _look_up(model: str) -> CloudWindow | None:
    name = model.rsplit("/", 1)[-1].lower()
    for prefix, window in _table():
        if name.startswith(prefix):
            return window
    return None


_LONGEST_KEPT = 200
_short = lru_cache(maxsize=256)(_look_up)
