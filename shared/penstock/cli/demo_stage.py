"""What the scenes of `penstock demo` are played on: a real llama.cpp, and a real gateway in front of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.runtime_file import alive
from penstock.cli.output import fail

ASCII = {"grammar": "root ::= [a-z ]+"}
WINDOW, SLOTS = 4096, 2


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

    def queued(self) -> int:
        """Requests that wait in the gateway's queue."""
        status = self.http.get(f"{self.gateway}/penstock/status").json()
        return int(status["upstreams"][0]["concurrency"]["queued"])

    def attempted(self) -> int:
        """Attempts that the gateway has made for requests that are in work."""
        status = self.http.get(f"{self.gateway}/penstock/status").json()
        return sum(len(one["attempts"]) for one in status["requests"]["in_flight"])

    def chat(self, base: str, text: str = "hello", **fields: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post(f"{base}/v1/chat/completions", json=body)


@contextmanager
def raised(folder: Path, model: str) -> Iterator[Stage]:
    """A llama.cpp on *model* with two slots, and a gateway in front of it."""
    folder.mkdir()
    options = LlamaServerOptions(
        # One thread: for a model this small a second one would only wait for the first.
        model,
        port=0,
        ctx_size=WINDOW,
        parallel=SLOTS,
        alias="demo",
        batch_size=256,
        threads=1,
    )
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(options))
        upstreams = [{"name": "llama", "url": server.url, "local": True}]
        gateway = stack.enter_context(running_gateway(folder, {"upstreams": upstreams}))
        http = stack.enter_context(httpx.Client(timeout=60.0, trust_env=False))
        yield Stage(server, gateway, http)


@contextmanager
def running_gateway(
    folder: Path, settings: dict[str, Any], flags: tuple[str, ...] = ()
) -> Iterator[str]:
    """A gateway as a process of its own, with folders of its own; its address."""
    file = folder / "penstock.yaml"
    file.write_text(json.dumps({"version": 1, **settings}))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    log = (folder / "gateway.log").open("wb")
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "LOCAL_MODEL_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "serve", "--config", str(file), "--port", "0", *flags],
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


def until(condition: Callable[[], bool], within_s: float) -> float:
    """Seconds until *condition* holds; *within_s* when it does not by then."""
    started = time.monotonic()
    while not condition() and time.monotonic() - started < within_s:
        time.sleep(0.01)
    return time.monotonic() - started


def must(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    """Wait for what the scene cannot go on without; the command ends, saying *otherwise*, when it does not come."""
    if until(condition, within_s) >= within_s and not condition():
        fail(otherwise)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
