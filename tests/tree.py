"""The checkout as the tests of its architecture see it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    ROOT / "shared" / "penstock",
    ROOT / "operator" / "penstock_operator",
    ROOT / "tray" / "penstock_tray",
)


@cache
def tracked_files() -> tuple[Path, ...]:
    """Everything that is or would be handed on: what Git tracks and does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listed.stdout.decode().split("\0")
    return tuple(sorted({ROOT / name for name in names if name and (ROOT / name).is_file()}))


def modules() -> Iterator[Path]:
    """The product's Python modules."""
    for package in PACKAGES:
        yield from sorted(package.rglob("*.py"))
