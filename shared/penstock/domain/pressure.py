"""How short of memory the machine is that a server runs on (contracts 10)."""

from __future__ import annotations

from enum import StrEnum


class Pressure(StrEnum):
    """Few classes, so that what depends on them changes seldom."""

    CALM = "calm"
    PRESSURE = "pressure"
    HEAVY = "heavy"
