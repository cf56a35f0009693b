"""
The pictures of the docs. They are taken at each run, and kept with the output of the tests; with
PENSTOCK_PICTURES=1 they replace those in docs/images.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import page_states
from gateways import RunningGateway, free_port
from tree import ROOT

MOST_BYTES = 150_000


@pytest.mark.parametrize(
    ("name", "scheme", "width", "height"),
    [("dashboard", "light", 1280, 860), ("dashboard-request", "dark", 1280, 640), ("dashboard-phone", "light", 390, 760)],
)  # fmt: skip
def test_the_pictures_show_the_page(
    page: Any, tmp_path: Path, name: str, scheme: str, width: int, height: int
) -> None:
    """Overview, what was changed in a request, and a phone: each drawn whole, and small enough for the repository."""
    image = pytest.importorskip("PIL.Image")
    dead = {"name": "box", "url": f"http://127.0.0.1:{free_port()}", "local": True}
    with RunningGateway(tmp_path / "gateway", {"upstreams": [dead]}) as gateway:
        shown = {**page_states.busy(gateway.status()), "url": "http://127.0.0.1:7367"}
        shown["uptime_s"] = 93_600.0
        body = f"event: snapshot\ndata: {json.dumps(shown)}\n\n"
        page.route("**/penstock/events*", lambda r: r.fulfill(content_type="text/event-stream", body=body))  # fmt: skip
        page.route("**/penstock/history*", lambda r: r.fulfill(json=page_states.history()))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.goto(gateway.url)
        page.locator("#charts .edge.wait[d^=M]").wait_for(state="attached")
        if name.endswith("request"):
            page.locator("#recent summary").first.click()
            page.evaluate("document.getElementById('h-conv').scrollIntoView(); scrollBy(0, -70)")
        raw, small = tmp_path / "raw.png", tmp_path / f"{name}.png"
        page.screenshot(path=raw)
    picture = image.open(raw)
    assert picture.size == (width, height)
    picture.convert("RGB").quantize(224).save(small, optimize=True)
    assert small.stat().st_size < MOST_BYTES
    if os.environ.get("PENSTOCK_PICTURES"):
        kept = ROOT / "docs" / "images"
        kept.mkdir(exist_ok=True)
        (kept / small.name).write_bytes(small.read_bytes())
