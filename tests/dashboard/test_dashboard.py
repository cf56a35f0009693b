"""The dashboard in a real Chromium, in front of a real gateway."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import page_states
import parts
from gateways import RunningGateway, free_port, until
from tree import ROOT


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With one server that is dead."""
    dead = {"name": "box", "url": f"http://127.0.0.1:{free_port()}", "local": True}
    with RunningGateway(tmp_path_factory.mktemp("gateway"), {"upstreams": [dead]}) as running:
        yield running


def enter(page: Any, gateway: RunningGateway) -> None:
    """Open the page as `penstock open` does."""
    code = gateway.admin("POST", "/penstock/session").json()["code"]
    page.goto(f"{gateway.url}/penstock/session?code={code}")
    page.locator("#upstreams .card").first.wait_for()


def play(page: Any, *events: tuple[str, Any]) -> None:
    """Have the page's stream say this, and end."""
    body = "".join(f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events)
    page.route(
        "**/penstock/events*",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


def has_no_barriers(page: Any) -> None:
    """axe finds nothing, in light and dark; nothing is wider than a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = axe.Axe().run(page, options=rules)
        assert found.violations_count == 0, found.generate_report()
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_code_opens_once_and_its_cookie_switches(gateway: RunningGateway, page: Any) -> None:
    """What `penstock open` opens may pause and resume; the code is good for one browser."""
    code = gateway.admin("POST", "/penstock/session").json()["code"]
    page.goto(f"{gateway.url}/penstock/session?code={code}")
    page.get_by_text("cannot be reached").first.wait_for()
    page.get_by_role("button", name="Pause: box").click()
    page.get_by_role("button", name="Resume: box").wait_for()
    assert gateway.upstream()["paused"] == "hold"
    page.get_by_role("button", name="Resume: box").click()
    page.get_by_role("button", name="Pause: box").wait_for()
    until(lambda: gateway.upstream()["paused"] is None, what="the end of the pause")
    assert gateway.http.get(f"/penstock/session?code={code}").status_code in (401, 403)


def test_without_a_cookie_the_page_only_shows(gateway: RunningGateway, page: Any) -> None:
    """Whoever opens the address by hand is told what is needed to switch."""
    page.goto(gateway.url)
    page.get_by_role("button", name="Pause: box").click()
    page.get_by_text("penstock open").wait_for()
    assert gateway.upstream()["paused"] is None


def test_what_matters_is_asked_and_can_be_cancelled(gateway: RunningGateway, page: Any) -> None:
    """A server is added, drained and forgotten; a cancelled question changes nothing."""
    enter(page, gateway)
    url = f"http://127.0.0.1:{free_port()}"
    page.get_by_role("button", name="Add server").first.click()
    page.locator("#add-url").fill(url)
    page.locator("#add form button").click()
    name = until(lambda: next((u["name"] for u in gateway.status()["upstreams"] if u["url"] == url), None))  # fmt: skip
    page.get_by_label(f"More: {name}").click()
    page.get_by_role("button", name=f"Forget: {name}").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name=f"Drain: {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    until(lambda: gateway.upstream(1)["drained"], what="the drain")
    page.get_by_role("button", name=f"Pass through unchanged: {name}").click()
    until(lambda: gateway.upstream(1)["bypass"], what="the bypass")
    page.get_by_role("button", name=f"Forget: {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    until(lambda: len(gateway.status()["upstreams"]) == 1, what="that it is forgotten")


def test_everything_can_be_paused_and_settings_read_again(
    gateway: RunningGateway, page: Any
) -> None:
    """All servers by one button; the settings in force stand there with their source."""
    enter(page, gateway)
    page.get_by_role("button", name="Pause all").click()
    page.get_by_role("button", name="Resume all").click()
    page.get_by_role("button", name="Pause all").wait_for()
    page.get_by_role("link", name="Settings").click()
    page.locator("#set-only").check()
    page.get_by_text("upstreams.0.url").wait_for()
    assert page.get_by_text("listen.max_body_bytes").count() == 0
    with page.expect_response("**/penstock/reload") as answer:
        page.get_by_role("button", name="Read settings again").click()
    assert answer.value.status == 200
    has_no_barriers(page)


def test_a_gateway_that_wants_a_key_says_so(gateway: RunningGateway, page: Any) -> None:
    """Not "does not answer": what is needed stands there, and a client key shows the page."""

    def keep(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"code": "unauthorized", "message": "no"}})

    page.route("**/penstock/events*", keep)
    page.goto(gateway.url)
    page.locator("#key").get_by_text("penstock open").wait_for()
    assert page.get_by_text("does not answer").count() == 0
    page.get_by_label("Client key").fill("sesame")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("heading", name="box").wait_for()
    assert page.locator("#key").is_hidden()


def test_a_busy_gateway_is_shown_whole(gateway: RunningGateway, page: Any) -> None:
    """Queue full, breaker open, each stage, and what was changed in a request and why."""
    play(page, ("snapshot", page_states.busy(gateway.status())))
    page.goto(gateway.url)
    told = (
        "98",
        "13,200 of 21,000 tokens",
        "left alone",
        "NVIDIA RTX 4090",
        "getting short",
        "65 % full",
    )
    for text in told:
        page.get_by_text(text).first.wait_for()
    page.get_by_text("100 requests wait for box already").first.wait_for()
    page.locator("#recent summary").first.click()
    page.get_by_text("What Penstock changed and why").wait_for()
    page.get_by_text("claude-sonnet is an alias of qwen3-coder:30b").wait_for()
    page.get_by_text("left out to fit 40,600").first.wait_for()
    has_no_barriers(page)
    page.get_by_role("link", name="Activity").click()
    page.locator("#errors").get_by_text("queue_full").wait_for()
    page.get_by_text("The upstream ran out of memory.").wait_for()
    for view in ("Activity", "Try it", "Connect", "Log"):
        page.get_by_role("link", name=view).click()
        has_no_barriers(page)


def test_without_a_server_the_page_says_what_to_do(gateway: RunningGateway, page: Any) -> None:
    """The first run: nothing was found, and nothing is broken."""
    play(page, ("snapshot", {**gateway.status(), "upstreams": [], "overall": "error"}))
    page.goto(gateway.url)
    page.get_by_text("No model server was found").wait_for()
    assert page.locator("#charts").is_hidden()
    has_no_barriers(page)
    page.get_by_role("link", name="Connect a client").click()
    page.get_by_text("penstock connect claude").wait_for()


def test_a_moment_of_the_past_is_shown_by_all_charts(gateway: RunningGateway, page: Any) -> None:
    """By arrow keys, with words for who does not see it, and by the mouse; what it was is shown in place of what is."""
    page.route("**/penstock/history*", lambda route: route.fulfill(json=page_states.history()))
    play(page, ("snapshot", page_states.busy(gateway.status())))
    page.goto(gateway.url)
    chart = page.get_by_role("group", name="Waiting: 98")
    page.locator("#charts .edge.wait[d^=M]").wait_for(state="attached")
    chart.focus()
    page.keyboard.press("Home")
    page.locator("#pointed", has_text="Waiting: 0, 16:00:00").wait_for(state="attached")
    page.keyboard.press("End")
    page.locator("#pointed", has_text="Waiting: 98, 16:29:55").wait_for(state="attached")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#charts .note", has_text="16:29:50").count() == 6
    page.keyboard.press("Escape")
    page.get_by_text("a new one waits 41 s", exact=True).wait_for()
    chart.locator("svg").hover(position={"x": 4, "y": 20})
    page.locator("#charts .note", has_text="16:00").nth(5).wait_for()


def test_thousands_of_requests_leave_a_bounded_page(gateway: RunningGateway, page: Any) -> None:
    """A burst is drawn in a few steps, and the page holds no more rows than it shows."""
    many = [("request", {"request": page_states.request(n)}) for n in range(3000)]
    play(page, ("snapshot", gateway.status()), *many)
    page.goto(gateway.url)
    page.locator("#recent details").nth(49).wait_for()
    nodes = page.evaluate("document.querySelectorAll('*').length")
    page.wait_for_timeout(2500)  # the stream was played again
    assert page.locator("#recent details").count() == 50
    assert page.evaluate("document.querySelectorAll('*').length") <= nodes + 20


def test_the_cookie_counts_for_its_own_origin_only(gateway: RunningGateway) -> None:
    """Another port of the same host is another origin, and may not use it."""
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
    """`penstock open --print` gives an address for another browser."""
    command = [sys.executable, "-m", "penstock", "open", "--print"]
    done = subprocess.run(
        command, check=False, env=gateway.env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert gateway.http.get(done.stdout.strip()).status_code == 303


def test_the_page_is_small() -> None:
    """All of it together stays below 60 KB compressed."""
    folder = ROOT / "shared" / "penstock" / "gateway" / "dashboard"
    files = [path for path in folder.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert len(files) > 5
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 60_000


EVIL = b"""<!doctype html><title>x</title><p id=told>nothing</p><script>
fetch("/penstock/pause", {method: "POST", credentials: "include", headers: {"content-type": "application/json"}, body: "{}"})
  .then((a) => { told.textContent = "status " + a.status; }, () => { told.textContent = "refused"; });
</script>"""


def test_a_servers_own_page_cannot_switch_the_gateway(
    browser: Any, tmp_path: Path, page_server: str
) -> None:
    """A page that a local server sends has no share in the cookie of the browser that shows it."""
    settings = {"upstreams": [{"name": "evil", "url": page_server, "local": True}]}
    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        page = browser.new_context().new_page()
        enter(page, gateway)
        answer = page.goto(f"{gateway.url}/upstream/evil/ui")
        page.locator("#told", has_not_text="nothing").wait_for()
        assert page.locator("#told").text_content() == "refused"
        assert gateway.upstream()["paused"] is None
        assert "sandbox" in answer.headers["content-security-policy"]
        page.context.close()


@pytest.fixture
def page_server(tmp_path: Path) -> Iterator[str]:
    """A server that sends a hostile page for whatever is asked."""
    script = tmp_path / "pages.py"
    port = free_port()
    script.write_text(
        "import http.server\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('content-type', 'text/html')\n"
        f"        page = {EVIL!r}\n"
        "        self.send_header('content-length', str(len(page))); self.end_headers(); self.wfile.write(page)\n"
        "    def log_message(self, *_): pass\n"
        f"http.server.ThreadingHTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, str(script)]) as process:
        until(lambda: _answers(port), what="the server of pages")
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_first_run_to_first_answer_on_real_llamacpp(page: Any, tmp_path: Path) -> None:
    """A server is found on this machine and added by a click; then its requests appear, and the page chats with it."""
    with parts.start_llamacpp(ctx_size=4096) as server:
        settings = {
            "upstreams": [
                {"name": "attic", "url": f"http://127.0.0.1:{free_port()}", "local": True}
            ],
            "discovery": {"ports": [server.port]},
            "log": {"file": str(tmp_path / "gateway.log")},
        }
        with RunningGateway(tmp_path / "gateway", settings) as gateway:
            enter(page, gateway)
            page.get_by_role("button", name="Add server").click()
            page.get_by_role("button", name=f"Add: http://127.0.0.1:{server.port}").click()
            page.get_by_text("Not every server can be reached").wait_for()
            page.get_by_text("Ready: 1 server with 1 model").wait_for()
            model = gateway.upstream(1)["models"][0]["id"]
            for _ in range(5):
                assert gateway.chat("hello", model=model, max_tokens=8).status_code == 200
            rows = page.locator("#recent details")
            rows.nth(4).wait_for()
            assert rows.count() == 5
            rows.first.locator("summary").click()
            page.get_by_text("temperature is 0.3").wait_for()
            page.locator("#conversations").get_by_text("5 requests").wait_for()
            history = gateway.http.get("/penstock/history").json()
            assert history["samples"][0]["upstreams"]["attic"][:2] == [0, 0]
            assert gateway.http.get("/penstock/history?since=1e12").json()["samples"] == []
            page.get_by_role("link", name="Try it").click()
            for question in ("Say hello.", "And again."):
                page.locator("#try-text").fill(question)
                page.get_by_role("button", name="Send").click()
                page.get_by_role("button", name="Send").wait_for()
            assert page.get_by_text("penstock-upstream").count() == 2
            first, second = (page.locator("#try-said .turn:not(.mine)").nth(i) for i in (0, 1))
            assert first.text_content()
            assert second.text_content()
            latest = gateway.status()["requests"]["recent"][0]
            assert latest["stream"]
            page.get_by_role("link", name="Log").click()
            page.locator("pre", has_text=latest["id"]).wait_for()
            page.get_by_text(str(tmp_path / "gateway.log")).wait_for()
            assert gateway.http.get("/penstock/log").status_code == 403
            page.goto("about:blank")  # a page that outlives its gateway complains of that, rightly
