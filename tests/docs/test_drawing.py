"""The drawings of the docs are what the product does."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
DRAW: dict[str, Any] = runpy.run_path(str(DOCS / "draw_replay.py"))
DRAW_LIMIT: dict[str, Any] = runpy.run_path(str(DOCS / "draw_limit.py"))


def test_drawing_is_in_step_with_the_planner() -> None:
    """`python docs/draw_replay.py` would change nothing."""
    drawn = (DOCS / "watermark-replay.svg").read_text("utf-8")
    assert drawn == DRAW["drawing"](), "run python docs/draw_replay.py"


def test_drawing_is_an_image_that_browsers_take() -> None:
    """Well-formed, with a title, and with a bar of both colours for every request."""
    root = ET.fromstring((DOCS / "watermark-replay.svg").read_text("utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}title")
    colours = [bar.get("fill") for bar in root.iter(f"{space}rect")]
    assert colours.count(DRAW["SAME"]) == colours.count(DRAW["NEW"]) > 100


def test_drawing_is_in_step_with_the_limit() -> None:
    """`python docs/draw_limit.py` would change nothing."""
    drawn = (DOCS / "limit.svg").read_text("utf-8")
    assert drawn == DRAW_LIMIT["drawing"](), "run python docs/draw_limit.py"
    root = ET.fromstring(drawn)
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == len(DRAW_LIMIT["SHOWN"])
