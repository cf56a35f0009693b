"""
Golden files: what was reviewed once is what is made still.

`PENSTOCK_WRITE_GOLDEN=1 python3 tests PATH` writes them anew; the difference is then read like a change of code.
"""

from __future__ import annotations

import os
from pathlib import Path


def check(file: Path, text: str) -> None:
    """*text* is what *file* holds."""
    if os.environ.get("PENSTOCK_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    held = file.read_text("utf-8") if file.is_file() else ""
    assert text == held, f"{file.name} differs; PENSTOCK_WRITE_GOLDEN=1 writes it anew"
