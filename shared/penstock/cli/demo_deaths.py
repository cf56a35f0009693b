"""Scenes of `penstock demo`: a server that is killed in its answer, and one that is away for a moment."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.tiny_model import SLOW, write_model
from penstock.cli.demo_clients import Client
from penstock.cli.demo_stage import ASCII, Scene, Stage, free_port, must, running_gateway, until

# No word may occur twice: the model goes from each to the next (`tiny_model`).
_TEXT = (
    "Once upon my time there was this server that told one long story about ships in a harbour far away, where "
    "nobody slept before every lantern had been lit; children counted them while old men lied of whales as bells rang "
    "slowly over cold water until morning came at last with bread or salt for both captains: then it went well to its "
    "very end."
)
_CUT_AT = 40


def killed(folder: Path) -> Scene:
    """A server that dies in the middle of its answer, as one does that runs out of memory."""
    folder.mkdir()
    model = folder / "teller.gguf"
    write_model(model, shape=SLOW, name="teller", says=_TEXT, by_words=True)
    options = LlamaServerOptions(str(model), port=0, ctx_size=4096, parallel=2, threads=1)
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 200}
    with EmbeddedServer(options) as server:
        cut = Client(server.url, "Tell me.", **fields)
        cut.start()
        must(lambda: len(cut.text) > _CUT_AT, 30.0, "The server did not begin to answer.")
        server.kill()
        cut.join()
    command = (
        sys.executable, "-m", "penstock", "llama-server", str(model), "--port", str(free_port()),
        "--ctx-size", "4096", "--parallel", "2", "--threads", "1",
    )  # fmt: skip
    settings = {"supervise": {"first_delay_s": 0.1}, "resume": {"probe_after_s": 0.05}}
    with (
        running_gateway(folder, settings, ("--supervise", "--", *command)) as gateway,
        httpx.Client(base_url=gateway, timeout=10.0, trust_env=False) as http,
    ):

        def upstream() -> dict[str, Any]:
            return dict(http.get("/penstock/status").json()["upstreams"][0])

        must(lambda: upstream()["supervised"]["state"] == "running", 60.0, "The server did not start.")  # fmt: skip
        whole = Client(gateway, "Tell me.", **fields)
        whole.run()
        # It is tried out whether this server continues an answer; nothing is taken for granted.
        until(lambda: any(one.get("continues") for one in upstream()["models"]), 20.0)
        pid = upstream()["supervised"]["pid"]
        kept = Client(gateway, "Tell me again.", **fields)
        kept.start()
        must(lambda: len(kept.text) > _CUT_AT, 30.0, "The server did not begin to answer.")
        psutil.Process(pid).kill()
        kept.join()
        record = http.get(f"/penstock/requests/{kept.request_id}").json()
        restarts = upstream()["supervised"]["restarts"]
    same = kept.text == whole.text
    return Scene(
        "the server is killed in the middle of an answer",
        f"{_words(cut, whole)}, then {'the end' if cut.ended else cut.problem or 'nothing'}",
        f"{_words(kept, whole)}, {'the very text' if same else 'not the text'} of an uncut answer"
        + (f", then {kept.problem}" if kept.problem else "")
        + f"; server restarts: {restarts}, resumed: {record['resumed']}",
        better=same and kept.answered and record["resumed"] == 1 and not cut.ended,
    )


def _words(client: Client, whole: Client) -> str:
    return f"{len(client.text.split())} of {len(whole.text.split())} words"


def restart(stage: Stage) -> Scene:
    """A server that is away for a moment."""
    port = int(stage.server.url.rsplit(":", 1)[1])
    options = replace(stage.server.options, port=port)
    stage.server.stop()
    try:
        direct = f"{stage.chat(stage.server.url, max_tokens=4).status_code}"
    except httpx.ConnectError:
        direct = "connection refused: the client has to deal with it"
    told: list[tuple[str, bool]] = []

    def ask() -> None:
        try:
            answer = stage.chat(stage.gateway, max_tokens=4, **ASCII)
        except httpx.HTTPError as exc:
            told.append((str(exc) or type(exc).__name__, False))
        else:
            attempts = answer.headers.get("penstock-attempts", "?")
            through = f"{answer.status_code} after {attempts} attempts, by policy"
            told.append((through, answer.status_code == 200))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    # The server comes back only when the request has found it away.
    must(lambda: bool(stage.attempted()), 10.0, "The gateway did not try the server.")
    with EmbeddedServer(options):
        thread.join()
    through, answered = told[0]
    return Scene("the server restarts while a request comes in", direct, through, answered)
