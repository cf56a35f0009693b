"""Guards against failure modes that no other test holds, and the page that lists the guards against all of them."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from matrix.fronts import FRONTS, PROMPT, ask
from matrix.wires import wire_of
from penstock.domain.fault import Outcome
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.views.record import Recorder
from penstock.settings import Settings
from rawserver import Received, chunk
from scripted import Script, ScriptedLlama, gateway_here

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "failure-modes.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
MODES = (
    "Context grows", "State of one client", "A stale profile", "Two loads", "A thundering herd", "never recovers", "multiply",
    "keeps the queue full", "Half an answer", "A half-written configuration", "by accident", "grows without end", "A clock change",
)  # fmt: skip


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)), ids=lambda value: str(value))
def test_guards_have_the_tests_that_are_named(file: str, test: str) -> None:
    """A page that names a test which is gone promises what nothing holds."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert test in names


def test_page_names_tests_for_every_mode() -> None:
    """Each in a row of its own, with three tests at least."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert [mode for mode in MODES if sum(mode in row for row in rows) != 1] == []
    assert len(rows) == len(MODES)
    assert [row[:40] for row in rows if len(re.findall(r"`tests/", row)) < 3] == []


class Echo(ScriptedLlama):
    """Says what it was asked, in a few pieces."""

    def script_for(self, request: Received) -> Script:
        """The prompt, whatever the dialect of the request."""
        body = json.loads(request.body)
        asked = body.get("prompt") or body["messages"][-1]["content"]
        said = asked if isinstance(asked, str) else asked[0]["text"]
        wire = wire_of("llamacpp", "completions" if "prompt" in body else "chat")
        third = len(said) // 3
        pieces = (said[:third], said[third : 2 * third], said[2 * third :])

        async def wait(_: Any) -> None:
            await asyncio.sleep(0)

        steps = [step for piece in pieces for step in (wire.piece(piece), wait)]
        return [wire.head, *steps, wire.closing, chunk(b"")]


def test_each_client_gets_its_own_answer() -> None:
    """Hundred and twenty clients of all dialects at once, over a few connections: nobody sees a word of another."""

    async def main() -> None:
        settings = {"concurrency": {"max_concurrency": 8, "queue_length": 200}}
        async with Echo(slots=8) as server, gateway_here(server.url, settings=settings) as here:
            clients = [
                (front, streams, f"{name} {number} says {'x' * number}")
                for number in range(10)
                for name, front in FRONTS.items()
                for streams in (False, True)
            ]

            async def one(number: int) -> None:
                front, streams, words = clients[number]
                body = json.loads(
                    json.dumps(front.body).replace(json.dumps(PROMPT), json.dumps(words))
                )
                got = await ask(here.http, front._replace(body=body), "m", streams, asyncio.Event())
                assert (got.text, got.is_complete) == (words, True)

            await asyncio.gather(*(one(number) for number in range(len(clients))))

    asyncio.run(main())


def _ended(number: int) -> Exchange:
    exchange = Exchange(f"req_{number}", 0.0, 0.0, "POST", "/v1/chat/completions", "chat")
    exchange.upstream, exchange.upstream_model = "box", f"model {number}"
    exchange.outcome, exchange.ended_s = Outcome.SUCCESS, 1.0
    return exchange


def test_metrics_of_a_thousand_models_are_bounded() -> None:
    """Names of models come from clients: after a hundred the rest is one."""
    recorder = Recorder(Settings(), lambda: ())
    for number in range(1000):
        recorder.metrics.request_ended(_ended(number))
    text = recorder.metrics.render().decode()
    models = set(re.findall(r'model="([^"]*)"', text))
    assert len(models) <= 101
    assert "other" in models


def test_recent_requests_are_bounded() -> None:
    """As many are remembered as the settings say, the newest."""
    settings = Settings.model_validate(
        {"status": {"recent_requests": 10}, "log": {"requests": False}}
    )
    recorder = Recorder(settings, lambda: ())
    for number in range(100):
        recorder.finish(_ended(number))
    assert [each.id for each in recorder.recent()] == [f"req_{n}" for n in range(99, 89, -1)]
    assert recorder.find("req_3") is None
