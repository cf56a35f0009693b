"""One Chromium for all tests of the dashboard, and pages that fail their test by whatever they complain of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import browsers

# Answers that a test wants to be refused; a violated policy and an error of a script are said in other words.
_REFUSED = "Failed to load resource: the server responded with a status of 4"


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Of the debugging port of a Chromium of a user without rights."""
    with browsers.running() as address:
        yield address


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    """That Chromium, for one file: while Playwright is there, its event loop counts as running, for other tests too."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.connect_over_cdp(address, timeout=60_000)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page; whatever its console says (a violated policy among it) fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [line for line in said if not line.startswith(_REFUSED)] == []
