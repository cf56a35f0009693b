"""The worked examples of the page about sizing are what the code computes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES: dict[str, Any] = runpy.run_path(str(DOCS / "sizing_examples.py"))


def test_the_page_has_the_tables() -> None:
    """`python docs/sizing_examples.py` prints what the page has, and its examples say numbers of the tables."""
    page = (DOCS / "kubernetes-sizing.md").read_text(encoding="utf-8")
    for table in (EXAMPLES["fits"](), EXAMPLES["steps"]()):
        assert "\n".join(table) in page, "run python docs/sizing_examples.py"
    assert "8 GiB hold: 20,992 tokens" in page
    assert "20,992 (Memory)" in EXAMPLES["fits"]()[3]
    assert "need 13,327 MiB" in page
    assert "13,327 MiB" in EXAMPLES["steps"]()[2]
