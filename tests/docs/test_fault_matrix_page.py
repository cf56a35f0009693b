"""The page of the fault matrix is what the gateway is tested against."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from matrix.owed import CODES, FAULTS, SCENES
from penstock.errors import ERROR_TABLE

DOCS = Path(__file__).resolve().parents[2] / "docs"
WRITE: dict[str, Any] = runpy.run_path(str(DOCS / "fault_matrix.py"))


def test_page_is_in_step_with_the_rules() -> None:
    """`python docs/fault_matrix.py` would change nothing."""
    written = (DOCS / "fault-matrix.md").read_text("utf-8")
    assert written == WRITE["page"](), "run python docs/fault_matrix.py"


def test_page_has_every_fault_and_every_scene() -> None:
    """None of what is tested is left unsaid."""
    written = (DOCS / "fault-matrix.md").read_text("utf-8")
    assert [fault.id for fault in FAULTS if f"\n| {fault.title}" not in written] == []
    told = [SCENES[scene] for scene in SCENES if scene != "alone"]
    assert [text for text in told if f"| {text} |" not in written] == []


def test_rules_of_the_matrix_agree_with_the_errors_of_the_gateway() -> None:
    """They are written down twice on purpose; where they differ, one of the two is wrong."""
    faults = {code.value: row for code, row in ERROR_TABLE.items() if row.blame == "upstream"}
    assert {code: (row.status, row.breaker) for code, row in faults.items()} == {
        code: (row.status, row.speaks_against) for code, row in CODES.items()
    }
