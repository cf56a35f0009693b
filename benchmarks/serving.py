"""A real llama.cpp on a tiny model, and a real gateway in front of it, for as long as a measurement takes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx

from long_conversations import vocabulary_text
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.runtime_file import alive
from penstock.adapters.tiny_model import RECURRENT, SLIDING, THINKING_TEMPLATE, TINY, write_model

Kind = Literal["full", "sliding", "recurrent", "thinking"]

SLOTS = 4
SAYS = (
    "Done. The files were read, the tests were run, and what failed was repaired; the reasons stand in the "
    "report, and the next step is to look at the cache and the queue once more."
)
_SHAPES = {"full": TINY, "sliding": SLIDING, "recurrent": RECURRENT, "thinking": TINY}


def client() -> httpx.Client:
    """An HTTP client that goes past every proxy of the environment."""
    return httpx.Client(timeout=300.0, trust_env=False)


@contextlib.contextmanager
def llamacpp(kind: Kind, window: int, folder: Path) -> Iterator[EmbeddedServer]:
    """llama.cpp with *window* tokens for each of its slots."""
    model = folder / f"{kind}.gguf"
    if not model.exists():
        write_model(
            model,
            shape=replace(_SHAPES[kind], trained_window=max(8192, window)),
            template=THINKING_TEMPLATE if kind == "thinking" else None,
            says=SAYS,
            reads=vocabulary_text(),
        )
    options = LlamaServerOptions(
        str(model), port=0, ctx_size=window * SLOTS, parallel=SLOTS, threads=1, alias="tiny"
    )
    with EmbeddedServer(options) as server:
        yield server


@contextlib.contextmanager
def gateway(upstream: str, context: dict[str, Any], *, exclusive: bool = False) -> Iterator[str]:
    """
    `penstock serve` in front of *upstream*, with folders of its own.

    Args:
        context: settings of that name; the rest is left at its defaults.
        exclusive: the gateway is the server's only client, so that it may choose slots.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        upstreams = [{"name": "tiny", "url": upstream, "local": True, "exclusive": exclusive}]
        settings = folder / "penstock.yaml"
        settings.write_text(json.dumps({"version": 1, "upstreams": upstreams, "context": context}))
        places = {f"XDG_{part}_HOME": str(folder) for part in ("STATE", "CACHE", "CONFIG")}
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PENSTOCK_", "LOCAL_MODEL_"))
        }
        log = (folder / "gateway.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "serve", "--config", str(settings), "--port", "0"],
            env={**clean, **places, "XDG_RUNTIME_DIR": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _until_ready(process, folder)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def _until_ready(process: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for entry in alive(folder / "penstock"):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{entry.url}/readyz", trust_env=False).status_code == 200:
                    return entry.url
        time.sleep(0.02)
    raise SystemExit(f"the gateway did not start:\n{(folder / 'gateway.log').read_text()[-2000:]}")


def processed_tokens(server: EmbeddedServer, http: httpx.Client) -> int:
    """Prompt tokens that the server has worked on since its start, by its own count, whoever asked for them."""
    for line in http.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith("llamacpp:prompt_tokens_total "):
            return int(float(line.split()[1]))
    raise SystemExit("llama.cpp tells no count of prompt tokens")
