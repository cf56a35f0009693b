"""docs/dialects.md lists the scenarios that the official SDKs are really put through."""

from __future__ import annotations

import ast
import re

from tree import ROOT


def test_the_table_has_every_scenario_and_no_other() -> None:
    """Each test of the SDKs has its row."""
    source = (ROOT / "tests" / "real" / "test_sdks.py").read_text("utf-8")
    scenarios = {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    page = (ROOT / "docs" / "dialects.md").read_text("utf-8")
    rows = re.findall(r"^\| `(test_\w+)` \|", page, flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == scenarios
