"""
The embedded llama.cpp: the real server from the wheel `xllamacpp`, always in a process of its own.

`run_server` is the body of `penstock llama-server`; `EmbeddedServer` starts that as a child, waits until
it is ready and ends it. The child ends by itself when its standard input closes, so it never outlives a
parent that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from penstock.errors import MissingPart, PenstockError

_READY_WITHIN_S = 120.0


class ServerDied(PenstockError):
    """The embedded server ended before it was ready; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class LlamaServerOptions:
    """
    What `llama-server` is started with, by its own flag names.

    Attributes:
        model: the GGUF file.
        ctx_size: tokens of all slots together (0: what the model was trained for).
        parallel: slots; each gets `ctx_size / parallel` tokens.
        n_predict: most tokens of an answer, -1 for no bound.
        kv_unified: all slots share one KV cache.
        embedding: serve embeddings (and nothing else).
        batch_size, ubatch_size: tokens that are worked on at a time.
        until_stdin_closes: end when standard input closes.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    ctx_size: int = 0
    parallel: int = 1
    n_predict: int = -1
    alias: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    n_gpu_layers: int | None = None
    kv_unified: bool = False
    embedding: bool = False
    metrics: bool = True
    slots: bool = True
    jinja: bool = True
    api_key: str | None = field(default=None, repr=False)
    until_stdin_closes: bool = False

    def as_flags(self) -> list[str]:
        """The same as command-line flags of `penstock llama-server`."""
        flags = [self.model, "--host", self.host, "--port", str(self.port)]
        for name, value in (
            ("--ctx-size", self.ctx_size or None),
            ("--parallel", self.parallel),
            ("--n-predict", self.n_predict if self.n_predict != -1 else None),
            ("--alias", self.alias),
            ("--threads", self.threads),
            ("--batch-size", self.batch_size),
            ("--ubatch-size", self.ubatch_size),
            ("--n-gpu-layers", self.n_gpu_layers),
            ("--api-key", self.api_key),
        ):
            if value is not None:
                flags += [name, str(value)]
        for name, on in (
            ("--kv-unified", self.kv_unified),
            ("--embedding", self.embedding),
            ("--no-metrics", not self.metrics),
            ("--no-slots", not self.slots),
            ("--until-stdin-closes", self.until_stdin_closes),
        ):
            if on:
                flags.append(name)
        return flags


def run_server(options: LlamaServerOptions) -> int:
    """
    Serve until SIGTERM, SIGINT, or (if asked for) the end of standard input.

    Returns:
        the exit code.

    Raises:
        MissingPart: `xllamacpp` is not installed.
    """
    try:
        import xllamacpp
    except ImportError as exc:
        raise MissingPart(
            "The embedded llama.cpp needs the extra `embedded`: pip install 'penstock[embedded]'"
        ) from exc
    if not Path(options.model).is_file():
        raise PenstockError(f"There is no model file {options.model}.")
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.port = options.port
    params.hostnames = [options.host]
    params.n_predict = options.n_predict
    params.endpoint_metrics = options.metrics
    params.endpoint_slots = options.slots
    params.use_jinja = options.jinja
    params.kv_unified = options.kv_unified
    params.embedding = options.embedding
    if options.alias:
        params.model_alias = {options.alias}
    if options.threads:
        params.cpuparams.n_threads = options.threads
        params.cpuparams_batch.n_threads = options.threads
    if options.batch_size:
        params.n_batch = options.batch_size
    if options.ubatch_size:
        params.n_ubatch = options.ubatch_size
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    if options.api_key:
        params.api_keys = [options.api_key]

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if options.until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(ended,), daemon=True).start()
    server = xllamacpp.Server(params)
    print(json.dumps({"listening": server.listening_address}), flush=True)
    ended.wait()
    # The server's threads do not always end by themselves while requests run; nothing is left to save.
    os._exit(0)


def _wait_for_end_of_input(ended: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    ended.set()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedServer:
    """
    An embedded server as a child process.

    Attributes:
        options: what it runs with; port 0 has been replaced by a free one.
        url: where it listens.
        pid: of the child.
    """

    def __init__(self, options: LlamaServerOptions) -> None:
        port = options.port or free_port()
        values = {name: getattr(options, name) for name in options.__slots__}
        self.options = LlamaServerOptions(**{**values, "port": port, "until_stdin_closes": True})
        self.url = f"http://{self.options.host}:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "llama-server", *self.options.as_flags()],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid

    def wait_ready(self, within_s: float = _READY_WITHIN_S) -> EmbeddedServer:
        """
        Wait until it answers.

        Raises:
            ServerDied: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerDied(
                    f"The embedded llama.cpp ended with code {self._process.returncode}.\n"
                    f"{self.log_tail()}"
                )
            if _is_ready(self.url):
                return self
            time.sleep(0.02)
        self.stop()
        raise ServerDied(f"The embedded llama.cpp was not ready within {within_s:g} s.")

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def log_tail(self, most_bytes: int = 4000) -> str:
        """The end of what it wrote."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - most_bytes))
        return self._log.read().decode("utf-8", "replace")

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self, within_s: float = 10.0) -> None:
        """End it and wait until it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def __enter__(self) -> EmbeddedServer:
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
