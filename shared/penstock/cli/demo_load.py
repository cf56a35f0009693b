"""Scenes of `penstock demo`: many clients, a greedy one, a server that dies, a client that leaves."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.tiny_model import SLOW, write_model
from penstock.cli.demo_stage import ASCII, Scene, Stage, free_port, running_gateway, until


def many(stage: Stage) -> Scene:
    """More clients than slots: who waits, for how long, and does anybody know?"""
    direct = _crowd(stage.server.url, 12)
    most = 0

    def look() -> None:
        nonlocal most
        while not done.wait(0.02):
            status = stage.http.get(f"{stage.gateway}/penstock/status").json()
            most = max(most, status["upstreams"][0]["concurrency"]["queued"])

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    through = _crowd(stage.gateway, 12)
    done.set()
    looking.join()
    told = sum(client.places > 0 for client in through)
    return Scene(
        "twelve clients at once on two slots",
        f"{_answered(direct)} answered; the last one had its first word after {_longest(direct):.1f} s and was "
        "told nothing until then: they wait inside the server, unseen and without a limit",
        f"{_answered(through)} answered; the last one had its first word after {_longest(through):.1f} s. Up to "
        f"{most} stood in a bounded queue; {told} were told their place in it while they waited",
        _answered(through) == 12 and told > 0,
    )


class _Client(threading.Thread):
    """
    One streaming client.

    Attributes:
        first_s: seconds until its first word, None when it got none.
        text: what it got; places: how often it was told where it stands in the queue.
        problem: what went wrong, "" when nothing did.
    """

    def __init__(self, base: str, text: str, *, key: str = "demo", **fields: Any) -> None:
        super().__init__()
        self._base, self._key = base, key
        self._body = {
            "model": "demo", "stream": True, "messages": [{"role": "user", "content": text}], **fields,
        }  # fmt: skip
        self.first_s: float | None = None
        self.text = self.problem = ""
        self.places = 0
        self.ended = False

    def run(self) -> None:
        """See `threading.Thread`."""
        # So the official clients say how patient they are; heartbeats come in time for that.
        headers = {"authorization": f"Bearer {self._key}", "x-stainless-read-timeout": "1"}
        started = time.monotonic()
        try:
            with (
                httpx.Client(timeout=120.0, trust_env=False) as http,
                http.stream(
                    "POST", f"{self._base}/v1/chat/completions", json=self._body, headers=headers
                ) as answer,
            ):
                for line in answer.iter_lines():
                    self._take(line, started)
        except httpx.HTTPError as exc:
            self.problem = str(exc) or type(exc).__name__

    def _take(self, line: str, started: float) -> None:
        if line.startswith(": penstock ") and '"queue"' in line:
            self.places += 1
        if line == "data: [DONE]":
            self.ended = True
        elif line.startswith("data: "):
            value = json.loads(line[6:])
            if "error" in value:
                self.problem = value["error"]["message"]
            for choice in value.get("choices", ()):
                said = choice["delta"].get("content") or ""
                self.text += said
                if said and self.first_s is None:
                    self.first_s = time.monotonic() - started


def _crowd(base: str, count: int) -> list[_Client]:
    clients = [
        _Client(base, f"hello, said number {n}", max_tokens=1200, ignore_eos=True, **ASCII)
        for n in range(count)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


def _answered(clients: list[_Client]) -> int:
    return sum(client.ended and not client.problem for client in clients)


def _longest(clients: list[_Client]) -> float:
    return max((client.first_s or 0.0 for client in clients), default=0.0)


def laggard(stage: Stage) -> Scene:
    """A short question behind the long prompts of somebody else."""
    waited = []
    for base in (stage.server.url, stage.gateway):
        long = [
            _Client(base, f"{n} of {base}: " + "what a long and tedious story " * 15, key="greedy", max_tokens=4, **ASCII)
            for n in range(5)
        ]  # fmt: skip
        for client in long:
            client.start()
        until(lambda: stage.busy() == 2, 5.0)
        time.sleep(0.2)  # all of them are there
        short = _Client(base, f"And now, {base}?", key="modest", max_tokens=4, **ASCII)
        short.run()
        waited.append(short.first_s if short.first_s is not None else 60.0)
        for client in long:
            client.join()
    return Scene(
        "one client sends five long prompts, another asks something short",
        f"the short one waits {waited[0]:.1f} s for its first word, behind all of them",
        f"it waits {waited[1]:.1f} s: clients take turns",
        waited[1] < waited[0],
    )


_TEXT = "Once upon my time there was this server that told one long story, and it went well until its very end."


def killed(folder: Path) -> Scene:
    """A server that dies in the middle of its answer, as one does that runs out of memory."""
    folder.mkdir()
    model = folder / "teller.gguf"
    write_model(model, shape=SLOW, name="teller", says=_TEXT, by_words=True)
    options = LlamaServerOptions(str(model), port=0, ctx_size=4096, parallel=2, threads=1)
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 100}
    with EmbeddedServer(options) as server:
        cut = _Client(server.url, "Tell me.", **fields)
        cut.start()
        until(lambda: len(cut.text) > 20, 20.0)
        server.kill()
        cut.join()
    port = free_port()
    command = (
        sys.executable, "-m", "penstock", "llama-server", str(model), "--port", str(port),
        "--ctx-size", "4096", "--parallel", "2", "--threads", "1",
    )  # fmt: skip
    settings = {"supervise": {"first_delay_s": 0.1}, "resume": {"probe_after_s": 0.05}}
    with (
        running_gateway(folder, settings, ("--supervise", "--", *command)) as gateway,
        httpx.Client(base_url=gateway, timeout=10.0, trust_env=False) as http,
    ):

        def upstream() -> dict[str, Any]:
            return dict(http.get("/penstock/status").json()["upstreams"][0])

        until(lambda: upstream()["supervised"]["state"] == "running", 30.0)
        whole = _Client(gateway, "Tell me.", **fields)
        whole.run()
        # It is tried out whether this server continues an answer; nothing is taken for granted.
        until(lambda: any(model.get("continues") for model in upstream()["models"]), 20.0)
        kept = _Client(gateway, "Tell me again.", **fields)
        kept.start()
        until(lambda: len(kept.text) > 20, 20.0)
        psutil.Process(upstream()["supervised"]["pid"]).kill()
        kept.join()
        restarts = upstream()["supervised"]["restarts"]
    broken = cut.problem or ("ended" if cut.ended else "no end")
    return Scene(
        "the server is killed in the middle of an answer",
        f"{len(cut.text)} of {len(whole.text)} characters, then: {broken}",
        f"{len(kept.text)} of {len(whole.text)} characters"
        + (", the very same" if kept.text == whole.text else "")
        + f"; the server was restarted {restarts} time{'' if restarts == 1 else 's'}"
        + (f"; then: {kept.problem}" if kept.problem else ""),
        kept.text == whole.text and kept.ended and not kept.problem and not cut.ended,
    )


def restart(stage: Stage) -> Scene:
    """A server that is away for a moment."""
    port = int(stage.server.url.rsplit(":", 1)[1])
    options = replace(stage.server.options, port=port)
    stage.server.stop()
    try:
        direct = f"{stage.chat(stage.server.url, max_tokens=4).status_code}"
    except httpx.ConnectError:
        direct = "connection refused: the client has to deal with it"
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(stage.chat(stage.gateway, max_tokens=4, **ASCII))
    )
    thread.start()
    time.sleep(0.5)
    with EmbeddedServer(options):
        thread.join()
    attempts = answers[0].headers.get("penstock-attempts", "?")
    return Scene(
        "the server restarts while a request comes in",
        direct,
        f"{answers[0].status_code} after {attempts} attempts, by policy",
        answers[0].status_code == 200,
    )


def hang_up(stage: Stage) -> Scene:
    """A client that leaves before its answer is complete."""
    # The gateway first: directly, the slot computes on into whatever comes next.
    through = busy_after_hang_up(stage, stage.gateway)
    seconds = [busy_after_hang_up(stage, stage.server.url), through]
    limit = 8.0
    told = [
        f"the slot computes on for {s:.1f} s"
        if s < limit
        else f"the slot was still busy after {limit:.0f} s"
        for s in seconds
    ]
    return Scene(
        "a client leaves in the middle of a plain request",
        told[0],
        f"the slot is free after {seconds[1]:.2f} s",
        seconds[1] < seconds[0],
    )


def busy_after_hang_up(stage: Stage, base: str) -> float:
    host, port = base.removeprefix("http://").split(":")
    body = json.dumps(
        {
            "model": "demo",
            "max_tokens": 1500,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "tell me a long story"}],
        }
    ).encode()
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        until(lambda: stage.busy() == 1, 5)
        time.sleep(0.3)
    return until(lambda: stage.busy() == 0, 8.0)
