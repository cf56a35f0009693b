"""
`penstock demo`: the same things done to a real llama.cpp directly and through the gateway, side by side.

Nothing is downloaded: the models are made on the spot (they babble; what is shown is how they are served).
Each scene measures what happens on both ways; nothing printed is written down beforehand.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import httpx

from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.runtime_file import alive
from penstock.cli.output import fail, json_option, note, print_json, program, table, working

_ASCII = {"grammar": "root ::= [a-z ]+"}
_WINDOW, _SLOTS = 4096, 2
_TURNS = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """What was tried, and what happened each way; `better`: whether the gateway's way is the better one."""

    what: str
    direct: str
    through: str
    better: bool


@dataclass(slots=True)
class Stage:
    """A server, and a gateway in front of it."""

    server: EmbeddedServer
    gateway: str
    http: httpx.Client

    def busy(self) -> int:
        """Slots that the server itself says are working."""
        slots = self.http.get(f"{self.server.url}/slots").json()
        return sum(1 for slot in slots if slot["is_processing"])

    def chat(self, base: str, text: str = "hello", **fields: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post(f"{base}/v1/chat/completions", json=body)


@click.command()
@json_option
def demo(as_json: bool) -> int:
    """See the difference on a real llama.cpp: directly and through the gateway, side by side."""
    from penstock.cli.serve import tiny_model

    scenes: list[Scene] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, ExitStack() as stack:
        with working("Making two tiny models"):
            quick, slow = str(tiny_model()), str(tiny_model("slow"))
        with working("Starting llama.cpp (4,096 tokens, 2 slots) and the gateway in front of it"):
            stage = stack.enter_context(_stage(Path(folder) / "quick", quick))
        note(f"llama.cpp at {stage.server.url}, Penstock at {stage.gateway}")
        for title, scene in (
            ("Reading the window", _window),
            (f"Having a conversation of {_TURNS} turns", _long_conversation),
            ("Sending a conversation that does not fit", _too_long),
            ("Sending it in four dialects", _dialects),
            ("Asking six at once", _many),
            ("Restarting the server under a request", _restart),
        ):
            with working(title):
                scenes.append(scene(stage))
        with working("Starting a slower model, to be caught in the act"):
            stage = stack.enter_context(_stage(Path(folder) / "slow", slow))
        with working("Hanging up in the middle of a plain request"):
            scenes.append(_hang_up(stage))
    if as_json:
        print_json({"scenes": [asdict(scene) for scene in scenes]})
    else:
        click.echo()
        table(
            ("what happens", "directly", "through Penstock"),
            [(scene.what, scene.direct, scene.through) for scene in scenes],
        )
        click.echo(
            f"\nDone in {time.monotonic() - started:.0f} s. Now in front of your own server: "
            + click.style(f"{program()} serve", bold=True)
        )
    worse = [scene.what for scene in scenes if not scene.better]
    if worse:
        fail(f"The gateway was no better here: {', '.join(worse)}.")
    return 0


@contextmanager
def _stage(folder: Path, model: str) -> Iterator[Stage]:
    folder.mkdir()
    options = LlamaServerOptions(
        # One thread: for a model this small a second one would only wait for the first.
        model,
        port=0,
        ctx_size=_WINDOW,
        parallel=_SLOTS,
        alias="demo",
        batch_size=256,
        threads=1,
    )
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(options))
        gateway = stack.enter_context(_gateway(folder, server.url))
        http = stack.enter_context(httpx.Client(timeout=60.0, trust_env=False))
        yield Stage(server, gateway, http)


@contextmanager
def _gateway(folder: Path, upstream: str) -> Iterator[str]:
    """A gateway as a process of its own, with folders of its own."""
    settings = folder / "penstock.yaml"
    settings.write_text(
        json.dumps({"version": 1, "upstreams": [{"name": "llama", "url": upstream, "local": True}]})
    )
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    log = (folder / "gateway.log").open("wb")
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "LOCAL_MODEL_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "serve", "--config", str(settings), "--port", "0"],
        env={**environment, "XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(folder)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield _wait_for(process, runtime / "penstock", folder / "gateway.log")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_for(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for entry in alive(runtime):
            try:
                if httpx.get(f"{entry.url}/readyz", trust_env=False).status_code == 200:
                    return entry.url
            except httpx.HTTPError:
                pass
        time.sleep(0.02)
    fail(f"The gateway did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _until(condition: Callable[[], bool], within_s: float) -> float:
    """Seconds until *condition* holds; *within_s* when it does not by then."""
    started = time.monotonic()
    while not condition() and time.monotonic() - started < within_s:
        time.sleep(0.01)
    return time.monotonic() - started


def _window(stage: Stage) -> Scene:
    """What a client that reads `/v1/models` takes for its budget."""
    direct = stage.http.get(f"{stage.server.url}/v1/models").json()["data"][0]
    through = stage.http.get(f"{stage.gateway}/v1/models").json()["data"][0]
    told = next(
        (
            str(direct[k])
            for k in ("context_window", "context_length", "max_model_len")
            if k in direct
        ),
        None,
    )
    trained = direct.get("meta", {}).get("n_ctx_train")
    return Scene(
        "what clients can read of the window (really: 2,048 a slot)",
        told or f"in no field that clients read; trained for {trained}",
        f"{through['context_window']} in every field that clients read",
        through["context_window"] == _WINDOW // _SLOTS,
    )


def _long_conversation(stage: Stage) -> Scene:
    """A conversation that outgrows the window, as a client sends it: whole, with every turn."""
    told = []
    answered = []
    for base in (stage.server.url, stage.gateway):
        messages: list[dict[str, str]] = [
            {"role": "system", "content": "You answer shortly, in the words of the theatre."}
        ]
        count = tokens = 0
        refused = ""
        started = time.monotonic()
        for turn in range(1, _TURNS + 1):
            messages.append(
                {"role": "user", "content": f"On the other hand, what of {turn} others?"}
            )
            answer = stage.chat(base, messages=messages, max_tokens=4, temperature=0, **_ASCII)
            if answer.status_code == 200:
                count += 1
                tokens += answer.json()["timings"]["prompt_n"]
            else:
                error = answer.json()["error"]
                refused = f"; then {answer.status_code} {error.get('type')} to each"
            # Not what the model babbles: both ways are to have the same conversation.
            messages.append(
                {"role": "assistant", "content": f"There are {turn} on the other hand."}
            )
        took_s = time.monotonic() - started
        answered.append(count)
        told.append(
            f"{count} answered{refused} ({tokens:,} prompt tokens worked on, {took_s:.1f} s)"
        )
    direct, through = told
    return Scene(
        f"a conversation of {_TURNS} turns",
        direct,
        through,
        better=answered[1] == _TURNS and answered[0] < _TURNS,
    )


def _too_long(stage: Stage) -> Scene:
    """The error that an agent gets which compacts its conversation by itself."""
    text = "hello the world " * 400
    direct = stage.chat(stage.server.url, text, max_tokens=4)
    through = stage.http.post(
        f"{stage.gateway}/v1/chat/completions",
        json={"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 4},
        headers={"penstock-strategy": "client"},
    )
    errors = [answer.json()["error"] for answer in (direct, through)]
    return Scene(
        "one that is too long, of an agent that compacts by itself",
        f"{direct.status_code} {errors[0].get('type')}: {errors[0]['message']}",
        f"{through.status_code} {errors[1]['code']}: {errors[1]['message']}",
        errors[1]["code"] == "context_length_exceeded",
    )


def _dialects(stage: Stage) -> Scene:
    """A conversation that does not fit, as clients of four kinds send it."""
    turns = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": "to be or not " * 20}
        for place in range(41)
    ]
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": turns, "max_tokens": 8},
        "/v1/messages": {"messages": turns, "max_tokens": 8},
        "/v1/responses": {"input": turns, "max_output_tokens": 8},
        "/api/chat": {"messages": turns, "options": {"num_predict": 8}},
    }
    told = []
    answered = []
    for base in (stage.server.url, stage.gateway):
        statuses = [
            stage.http.post(
                f"{base}{path}", json={"model": "demo", "stream": False, **body}
            ).status_code
            for path, body in asked.items()
        ]
        answered.append(statuses.count(200))
        refused = ", ".join(str(status) for status in sorted({*statuses} - {200}))
        told.append(f"{answered[-1]} of 4 answered" + (f"; {refused}" if refused else ""))
    return Scene(
        "such a one by chat, Messages, Responses and Ollama's API",
        told[0],
        told[1],
        answered[1] == len(asked),
    )


def _many(stage: Stage) -> Scene:
    """More requests than slots: who waits, and does anybody know?"""
    waits: list[float] = []

    def ask() -> None:
        answer = stage.chat(stage.gateway, max_tokens=600, ignore_eos=True, **_ASCII)
        waits.append(float(answer.headers.get("penstock-waited", 0)))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    most = 0

    def finished() -> bool:
        nonlocal most
        status = stage.http.get(f"{stage.gateway}/penstock/status").json()
        most = max(most, status["upstreams"][0]["concurrency"]["queued"])
        return not any(thread.is_alive() for thread in threads)

    _until(finished, 60)
    return Scene(
        "six requests at once on two slots",
        "all queue inside the server, unseen and without a limit",
        f"two run, up to {most} wait in a bounded queue; longest wait {max(waits):.1f} s, announced",
        len(waits) == 6,
    )


def _restart(stage: Stage) -> Scene:
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
        target=lambda: answers.append(stage.chat(stage.gateway, max_tokens=4, **_ASCII))
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


def _hang_up(stage: Stage) -> Scene:
    """A client that leaves before its answer is complete."""
    # The gateway first: directly, the slot computes on into whatever comes next.
    through = _busy_after_hang_up(stage, stage.gateway)
    seconds = [_busy_after_hang_up(stage, stage.server.url), through]
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


def _busy_after_hang_up(stage: Stage, base: str) -> float:
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
        _until(lambda: stage.busy() == 1, 5)
        time.sleep(0.3)
    return _until(lambda: stage.busy() == 0, 8.0)
