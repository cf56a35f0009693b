"""The page while things happen: what a person does meanwhile is not lost. Its streams are told by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import page_states
import parts
from gateways import RunningGateway, free_port

# The page's two streams, as the test tells them: `asked` holds what was asked for, `tell` says something on one.
STREAMS = """(() => {
  const real = window.fetch, open = {};
  const places = { events: "/penstock/events", chat: "/v1/chat/completions" };
  window.asked = [];
  window.fetch = async (path, options = {}) => {
    const name = Object.keys(places).find((one) => String(path).startsWith(places[one]));
    if (!name) return real(path, options);
    const one = { name, body: options.body ?? "", aborted: false };
    const body = new ReadableStream({ start(pump) { open[name] = pump; } });
    const pump = open[name];
    options.signal?.addEventListener("abort", () => { one.aborted = true; try { pump.error(options.signal.reason); } catch {} });
    window.asked.push(one);
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
  window.tell = (name, text) => open[name].enqueue(new TextEncoder().encode(text));
})();"""
CLIPBOARD = """Object.defineProperty(navigator, "clipboard", { value: %s });"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With one server that is dead."""
    dead = {"name": "box", "url": f"http://127.0.0.1:{free_port()}", "local": True}
    with RunningGateway(tmp_path_factory.mktemp("gateway"), {"upstreams": [dead]}) as running:
        yield running


class Told:
    """A page whose event stream says what the test wants."""

    def __init__(self, page: Any, gateway: RunningGateway) -> None:
        self.page = page
        self.state = page_states.busy(gateway.status())
        self.posted: list[tuple[str, Any]] = []
        page.add_init_script(STREAMS)
        page.route("**/penstock/*", self._route)
        page.goto(gateway.url)
        page.wait_for_function("asked.length == 1")
        self.snapshot()
        page.get_by_role("heading", name="box", exact=True).wait_for()

    def _route(self, route: Any) -> None:
        if route.request.method != "POST":
            route.fallback()
            return
        self.posted.append(
            (route.request.url.partition("/penstock/")[2], route.request.post_data_json)
        )
        route.fulfill(json={})

    def say(self, *events: tuple[str, Any]) -> None:
        """Events, all at once."""
        text = "".join(f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events)
        self.page.evaluate("(text) => tell('events', text)", text)

    def snapshot(self) -> None:
        """The state as it is in the test now."""
        self.say(("snapshot", self.state))

    def wait_for(self, posted: tuple[str, Any]) -> None:
        """Until the page has asked for it."""
        for _ in range(200):
            if posted in self.posted:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{posted} is none of {self.posted}")

    @property
    def box(self) -> Any:
        """The first server."""
        return self.state["upstreams"][0]


@pytest.fixture
def told(page: Any, gateway: RunningGateway) -> Told:
    """A busy gateway's page."""
    return Told(page, gateway)


def test_a_card_stays_while_its_numbers_change(told: Told) -> None:
    """A click that began before a snapshot ends at the same button after it."""
    told.page.evaluate("document.querySelector('.server').kept = true")
    told.box["concurrency"].update(
        in_flight=1, queued=7, moved={"why": "answers became slower", "s_ago": 1.0}
    )
    told.box["health"]["ttft_ms"] = 777.0
    told.box["models"][0]["context"]["prefix"].update(reused=99, missed=1)
    told.snapshot()
    card = told.page.locator(".server").first
    for text in ("7 waiting", "0.8 s", "answers became slower", "99 % of 100"):
        card.get_by_text(text).wait_for()
    assert told.page.evaluate("document.querySelector('.server').kept") is True
    told.box["concurrency"].update(queued=0)
    told.snapshot()
    card.get_by_text("waiting").wait_for(state="hidden")


def test_the_focus_stays_when_pause_becomes_resume(told: Told) -> None:
    """Who works by keyboard stands at the same place after each switch."""
    told.page.get_by_role("button", name="Pause: box").focus()
    told.box["paused"] = "hold"
    told.snapshot()
    told.page.get_by_role("button", name="Resume: box").wait_for()
    assert told.page.evaluate("document.activeElement.textContent") == "Resume"


def test_an_opened_request_stays_until_it_is_closed(told: Told) -> None:
    """However many have ended since; the page stays bounded all the same."""
    rows = told.page.locator("#recent details")
    rows.first.locator("summary").click()
    opened = told.page.locator("#recent details[data-k=req_10]")
    opened.get_by_text("What Penstock changed and why").wait_for()
    told.say(*[("request", {"request": page_states.request(n)}) for n in range(100, 200)])
    told.page.locator("#recent details[data-k=req_199]").wait_for()
    assert opened.get_by_text("What Penstock changed and why").is_visible()
    assert rows.count() == 51
    opened.locator("summary").click()
    told.page.evaluate("document.activeElement.blur()")
    told.say(("request", {"request": page_states.request(200)}))
    opened.wait_for(state="detached")
    assert rows.count() == 50


def test_a_conversation_shows_what_is_known_now(told: Told) -> None:
    """The server's counts take the place of the planned ones."""
    one = page_states.request(50, prompt_tokens=None, completion_tokens=None, cached_tokens=None, conversation="c", age_s=1.0, answering_s=None)  # fmt: skip
    told.state["requests"] = {"in_flight": [one], "recent": []}
    told.snapshot()
    card = told.page.locator("#conversations .talk").first
    card.get_by_text("64 % full").wait_for()
    one.update(prompt_tokens=30000, cached_tokens=29000)
    told.snapshot()
    card.get_by_text("92 % full").wait_for()
    card.get_by_text("29,000").wait_for()


def test_what_runs_tells_its_first_token_and_what_is_cut(told: Told) -> None:
    """Time to the first token and pieces in a live row; more than fifty are said to be there."""
    row = told.page.locator("#live .row").nth(1)
    row.get_by_text("312 pieces, 48.0/s · first after 3.4 s").wait_for()
    told.state["requests"]["in_flight"] = [
        page_states.request(n, stage="queued", age_s=1.0, answering_s=None) for n in range(53)
    ]
    told.snapshot()
    told.page.get_by_text("3 more are running.").wait_for()


def test_a_hidden_page_leaves_its_connection(told: Told) -> None:
    """The stream ends when the page is hidden, and begins again when it is seen."""
    show = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    told.page.evaluate(show, True)
    told.page.wait_for_function("asked[0].aborted")
    assert told.page.evaluate("asked.length") == 1
    told.page.evaluate(show, False)
    told.page.wait_for_function("asked.length == 2")
    told.box["concurrency"].update(queued=55)
    told.snapshot()
    told.page.locator(".server").first.get_by_text("55 waiting").wait_for()
    assert told.page.get_by_text("does not answer").count() == 0


def test_each_action_of_a_server_asks_for_what_it_says(told: Told) -> None:
    """Look again, unload, start again, and all passed through unchanged."""
    told.box["supervised"] = {"state": "given_up", "restarts": 3, "why": "it died three times"}
    told.snapshot()
    page = told.page
    page.get_by_role("button", name="Look again: box").click()
    page.get_by_role("button", name="Start server again: box").click()
    page.get_by_label("More: box").click()
    page.get_by_role("button", name="Unload qwen3-coder:30b: box").click()
    page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    page.get_by_role("button", name="Pass all through unchanged").click()
    for wanted in (
        ("probe?upstream=box", {}),
        ("resume", {"upstream": "box"}),
        ("unload", {"upstream": "box", "model": "qwen3-coder:30b"}),
        ("bypass", {"on": True}),
    ):
        told.wait_for(wanted)
    assert len(told.posted) == 4
    told.box["unloads"] = False
    told.snapshot()
    page.get_by_role("button", name="Unload qwen3-coder:30b: box").wait_for(state="detached")


@pytest.mark.parametrize(
    ("clipboard", "said"),
    [
        pytest.param("{ writeText: async (text) => { window.got = text; } }", "Copied", id="copied"),
        pytest.param('{ writeText: () => Promise.reject(new Error("no")) }', "Selected", id="refused"),
        pytest.param("undefined", "Selected", id="plain HTTP on another machine"),
    ],
)  # fmt: skip
def test_copy_says_what_it_did(
    page: Any, gateway: RunningGateway, clipboard: str, said: str
) -> None:
    """ "Copied" only when it is; else the text is selected, for the keyboard."""
    page.add_init_script(CLIPBOARD % clipboard)
    page.goto(f"{gateway.url}/#connect")
    button = page.get_by_label("Copy: penstock connect claude")
    button.click()
    page.locator("button", has_text=said).wait_for()
    script = "window.got" if said == "Copied" else "String(getSelection())"
    assert page.evaluate(script) == "penstock connect claude"
    page.locator("button", has_text=said).wait_for(state="detached")


def test_a_stopped_answer_and_a_new_chat(told: Told) -> None:
    """Stop keeps what came; a new chat during an answer has nothing of the old one."""
    page = told.page

    def ask(text: str) -> list[Any]:
        before = page.evaluate("asked.length")
        page.locator("#try-text").fill(text)
        page.get_by_role("button", name="Send").click()
        page.wait_for_function("(before) => asked.length > before", arg=before)
        return list(json.loads(page.evaluate("asked.at(-1).body"))["messages"])

    def answer(text: str) -> None:
        piece = {"choices": [{"delta": {"content": text}}]}
        page.evaluate("(text) => tell('chat', text)", f"data: {json.dumps(piece)}\n\n")
        page.get_by_text(text).wait_for()

    page.get_by_role("link", name="Try it").click()
    assert [m["content"] for m in ask("one")] == ["one"]
    answer("half of")
    assert page.locator("#try-said").get_attribute("aria-busy") == "true"
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    assert page.evaluate("asked.at(-1).aborted") is True
    assert page.locator("#try-said").get_attribute("aria-busy") is None
    assert [m["content"] for m in ask("two")] == ["one", "half of", "two"]
    answer("the second")
    page.get_by_role("button", name="New chat").click()
    assert [m["content"] for m in ask("three")] == ["three"]
    answer("the third")
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    assert [m["content"] for m in ask("four")] == ["three", "the third", "four"]


def test_a_word_that_every_object_knows_is_no_view(page: Any, gateway: RunningGateway) -> None:
    """The overview is shown for whatever stands in the address."""
    page.goto(f"{gateway.url}/#toString")
    page.get_by_role("heading", name="box", exact=True).wait_for()


@pytest.mark.real
def test_a_running_request_is_seen_as_it_goes(
    page: Any, tmp_path: Path, llamacpp: Callable[..., parts.LlamaCpp]
) -> None:
    """A real answer of a real server: its row comes, its count grows, and it stands among those that ended."""
    server = llamacpp("slow", ctx_size=4096)
    settings = {"upstreams": [{"name": "box", "url": server.url, "local": True}]}
    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        page.goto(gateway.url)
        page.get_by_role("heading", name="box", exact=True).wait_for()
        asked = threading.Thread(
            target=lambda: gateway.chat("hello", stream=True, max_tokens=150, ignore_eos=True)
        )
        asked.start()
        page.wait_for_function(
            """() => {
                const told = document.querySelector("#live .row")?.innerText ?? "";
                const count = Number((told.match(/([0-9]+) pieces/) ?? [])[1] ?? 0);
                window.counts = [...new Set([...(window.counts ?? []), count])];
                return window.counts.filter((one) => one > 0).length > 1;
            }"""
        )
        assert page.title().startswith("(1)")
        asked.join(60.0)
        page.locator("#recent details").first.wait_for()
        page.locator("#live").get_by_text("Nothing runs.").wait_for()
