"""The page while many requests go through: nothing grows, in it and in the gateway."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import page as figures

CLIENTS, LOAD_S = 4, 9.0


def test_nothing_grows_while_requests_go_through(address: str, tmp_path: Path) -> None:
    """Heap, nodes and the gateway's memory are at the end what they were after a third of the time."""
    playwright = pytest.importorskip("playwright.async_api")

    async def main() -> Any:
        async with playwright.async_playwright() as tools, figures.busy_gateway(tmp_path) as busy:
            browser = await tools.chromium.connect_over_cdp(address, timeout=60_000)
            context = await browser.new_context()
            seen = await figures.watch(await context.new_page(), busy[0], LOAD_S, clients=CLIENTS)
            await context.close()
        return seen

    # In a thread of its own: Playwright's other half has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        seen = thread.submit(asyncio.run, main()).result()
    assert seen.requests >= CLIENTS, "too few to show anything"
    assert seen.wrong() == []
