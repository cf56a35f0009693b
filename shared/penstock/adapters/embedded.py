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
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from penstock.errors import MissingPart, PenstockError

Pooling = Literal["none", "mean", "cls", "last", "rank"]

_READY_WITHIN_S = 120.0
_LISTENING = "listening"


def announced(log: bytes) -> str | None:
    """The address that the child has written into its *log*; the engine's own words may stand on the same line."""
    found = re.search(rb'\{"%s": "([^"]+)"\}' % _LISTENING.encode(), log)
    return found[1].decode() if found else None


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
        embedding: serve embeddings too.
        pooling: how the vectors of all tokens become one; None for what the model says (with `none`,
            the server refuses `/v1/embeddings`).
        batch_size, ubatch_size: tokens that are worked on at a time.
        until_stdin_closes: end when standard input closes.
        port: 0 for one that is free.
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
    pooling: Pooling | None = None
    metrics: bool = True
    slots: bool = True
    jinja: bool = True
    api_key: str | None = field(default=None, repr=False)
    until_stdin_closes: bool = False


def run_server(options: LlamaServerOptions) -> int:
    """
    Serve until SIGTERM, SIGINT, or (if asked for) the end of standard input.

    Returns:
        the exit code.

    Raises:
        MissingPart: `xllamacpp` is not installed.
        PenstockError: there is no such model, or llama.cpp cannot start with it.
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
    if options.pooling:
        params.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"
        )
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

    # No page in a browser talks to it: what is meant for browsers goes through the gateway.
    params.cors_origins = ""

    # While the model loads nothing of ours runs on the main thread, and there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as exc:
        raise PenstockError(
            f"llama.cpp could not start with {options.model} on {options.host}:{options.port}; "
            "the lines above say why (a port that is taken, a file that is no model, no memory)."
        ) from exc
    # llama.cpp has set handlers of its own by now; they would end its threads and not the process.
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    # In one write: the engine's threads may log into the same file.
    os.write(1, f"{json.dumps({_LISTENING: server.listening_address})}\n".encode())
    ended.wait()
    # The server's threads do not always end by themselves while requests run; nothing is left to save.
    os._exit(0)


def _end_with_input() -> None:
    with contextlib.suppress(OSError, ValueError):
        # Not through sys.stdin.buffer: its lock, held by this thread, would stop Python from ending.
        while os.read(sys.stdin.fileno(), 4096):
            pass
    os._exit(0)


class EmbeddedServer:
    """
    An embedded server as a child process.

    It leads a session of its own: Ctrl-C in a terminal is for the parent, which ends the child when it
    has drained. Blocking; call it in a thread where an event loop runs.

    Attributes:
        options: what it runs with.
        pid: of the child.
    """

    def __init__(self, options: LlamaServerOptions) -> None:
        self.options = replace(options, until_stdin_closes=True)
        self._url: str | None = None
        # Written and read through two descriptors: one shared offset would tear the log.
        descriptor, name = tempfile.mkstemp(prefix="penstock-llama-", suffix=".log")
        os.close(descriptor)
        self._log_file: Path | None = Path(name)
        self._log_end = ""
        try:
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    # The model is named for whoever reads a list of processes; what counts comes as
                    # the first line of standard input, where no key can be seen by others.
                    [sys.executable, "-m", "penstock.adapters.embedded", options.model],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=os.name == "posix",
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
        except OSError:
            self._log_file.unlink()
            raise
        self.pid = self._process.pid
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already: `wait_ready` says so
            self._process.stdin.write(json.dumps(asdict(self.options)).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def url(self) -> str:
        """Where it listens; known once `wait_ready` has returned."""
        if self._url is None:
            raise PenstockError(
                "The embedded llama.cpp is not ready yet, so its address is unknown."
            )
        return self._url

    def wait_ready(self, within_s: float = _READY_WITHIN_S) -> Self:
        """
        Wait until it answers.

        Raises:
            ServerDied: it ended, or was not ready in time; it has been ended then.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not self.alive:
                code = self._process.returncode
                self.stop()
                raise ServerDied(
                    f"The embedded llama.cpp ended with code {code} before it was ready.\n"
                    f"{self.log_tail()}"
                )
            url = self._announced()
            if url is not None and _is_ready(url):
                self._url = url
                return self
            time.sleep(0.02)
        self.stop()
        raise ServerDied(f"The embedded llama.cpp was not ready within {within_s:g} s.")

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def log_tail(self, most_bytes: int = 4000) -> str:
        """The end of what it wrote; also when it has ended."""
        if self._log_file is None:
            return self._log_end
        with self._log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - most_bytes))
            return log.read().decode("utf-8", "replace")

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self, within_s: float = 10.0) -> None:
        """End it and wait until it has ended; nothing happens when it has."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _announced(self) -> str | None:
        """The address that the child has written into its log, if it has."""
        assert self._log_file is not None
        return announced(self._log_file.read_bytes())

    def _close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._log_file is not None:
            self._log_end = self.log_tail()
            with contextlib.suppress(OSError):
                self._log_file.unlink()
            self._log_file = None

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_ready(url: str) -> bool:
    # A proxy of the environment is not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> int:
    """The child's entry: options as one line of JSON on standard input, then as `run_server`."""
    line = sys.stdin.buffer.readline()
    if not line:
        return 0  # the parent has ended before it could say anything
    try:
        return run_server(LlamaServerOptions(**json.loads(line)))
    except PenstockError as exc:
        print(f"penstock: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
