"""The page while hundreds of requests a second go through: nothing grows, janks or is lost."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import page as figures

RATE, LOAD_S = 200.0, 5.0
# On a busy machine the page's thread waits for a core in the middle of its work, and that counts as work.
MOST_LONG_SHARE = 0.4


def test_a_page_that_is_open_under_load_stays_calm(address: str, tmp_path: Path) -> None:
    """Heap, nodes and the gateway's memory stay; drawings are few and short; at the end it shows how things are."""
    playwright = pytest.importorskip("playwright.async_api")

    async def main() -> Any:
        async with playwright.async_playwright() as tools, figures.busy_gateway(tmp_path) as busy:
            browser = await tools.chromium.connect_over_cdp(address, timeout=60_000)
            context = await browser.new_context()
            seen = await figures.watch(await context.new_page(), busy, LOAD_S, rate=RATE)
            await context.close()
        return seen

    # In a thread of its own: Playwright's other half has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        seen = thread.submit(asyncio.run, main()).result()
    assert seen.asked == RATE * LOAD_S
    assert seen.wrong(MOST_LONG_SHARE) == []
