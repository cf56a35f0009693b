"""The dashboard in a real Chromium, in front of a real gateway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import parts
from gateways import RunningGateway, free_port, until

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With one server that is dead."""
    dead = {"name": "box", "url": f"http://127.0.0.1:{free_port()}", "local": True}
    with RunningGateway(tmp_path_factory.mktemp("gateway"), {"upstreams": [dead]}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as tools:
        # The sandbox needs a user that is not root.
        chromium = tools.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_a_code_opens_once_and_its_cookie_switches(
    gateway: RunningGateway, browser: Any, tmp_path: Path
) -> None:
    code = gateway.admin("POST", "/penstock/session").json()["code"]
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{gateway.url}/penstock/session?code={code}")
    page.get_by_text("cannot be reached").first.wait_for()
    page.get_by_role("button", name="Pause: box").click()
    page.get_by_role("button", name="Resume: box").wait_for()
    assert gateway.upstream()["paused"] == "hold"
    page.get_by_role("button", name="Resume: box").click()
    page.get_by_role("button", name="Pause: box").wait_for()
    until(lambda: gateway.upstream()["paused"] is None, what="the end of the pause")
    for scheme in ("light", "dark"):
        for width in (390, 1280):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=tmp_path / f"{scheme}-{width}.png")
    assert said == []
    assert gateway.http.get(f"/penstock/session?code={code}").status_code in (401, 403)


def test_without_a_cookie_the_page_only_shows(gateway: RunningGateway, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.goto(gateway.url)
    page.get_by_role("button", name="Pause: box").click()
    page.get_by_text("penstock open").wait_for()
    assert gateway.upstream()["paused"] is None


def test_the_cookie_counts_for_its_own_origin_only(gateway: RunningGateway) -> None:
    code = gateway.admin("POST", "/penstock/session").json()["code"]
    entered = gateway.http.get(f"/penstock/session?code={code}")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    pair = cookie.split(";")[0]
    for headers, wanted in (({}, 200), ({"origin": "http://127.0.0.1:1"}, 403)):
        answer = httpx.post(
            f"{gateway.url}/penstock/reload", headers={"cookie": pair, **headers}, trust_env=False
        )
        assert answer.status_code == wanted


def test_the_command_prints_an_address_that_opens(gateway: RunningGateway) -> None:
    command = [sys.executable, "-m", "penstock", "open", "--print"]
    done = subprocess.run(
        command, check=False, env=gateway.env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert gateway.http.get(done.stdout.strip()).status_code == 303


def test_a_request_to_real_llamacpp_is_shown_live(browser: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with parts.start_llamacpp(ctx_size=4096) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url, "local": True}]}
        with RunningGateway(tmp_path / "gateway", settings) as gateway:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            said: list[str] = []
            page.on("console", lambda line: said.append(line.text))
            page.goto(gateway.url)
            page.get_by_text("All is well").wait_for()
            for _ in range(5):
                assert gateway.chat("hello", max_tokens=8).status_code == 200
            rows = page.locator("#recent tbody tr")
            rows.nth(4).wait_for()
            assert rows.count() == 5
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                found = axe.Axe().run(page)
                assert found.violations_count == 0, found.generate_report()
            page.screenshot(path=tmp_path / "live.png")
            assert said == []
