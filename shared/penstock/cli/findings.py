"""What `penstock doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was looked at.

    Attributes:
        what: its name.
        good: True fine, False a problem, None worth knowing.
        says: what was seen.
        do: what to do about it, None for nothing.
    """

    what: str
    good: bool | None
    says: str
    do: str | None = None
