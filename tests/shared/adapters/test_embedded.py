"""The embedded llama.cpp as a child process: real ones, on a tiny model."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import parts
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions, ServerDied, announced
from penstock.errors import PenstockError

pytestmark = pytest.mark.real


def options(**more: object) -> LlamaServerOptions:
    values: dict[str, object] = {"model": str(parts.model()), "port": 0, "ctx_size": 512}
    return LlamaServerOptions(**{**values, **more})  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(options()) as running:
        yield running


def test_chooses_a_free_port(server: EmbeddedServer) -> None:
    """Two servers that were asked for any port listen on two."""
    with EmbeddedServer(options()) as other:
        assert other.url != server.url
        assert parts.fetch(f"{other.url}/health") == {"status": "ok"}
        assert parts.fetch(f"{server.url}/health") == {"status": "ok"}


def test_address_is_refused_before_it_is_known() -> None:
    """Whoever asks for the address too early gets an error and no guess."""
    starting = EmbeddedServer(options())
    try:
        with pytest.raises(PenstockError, match="not ready yet"):
            _ = starting.url
    finally:
        starting.stop()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"model": "/nowhere/m.gguf"}, "There is no model file", id="no such file"),
        pytest.param({"model": __file__}, "could not start", id="a file that is no model"),
    ],
)
def test_failed_start_says_why(changes: dict[str, object], said: str) -> None:
    """A server that cannot start is an error with the end of its log, at once and not at a deadline."""
    started = time.monotonic()
    with pytest.raises(ServerDied, match=said):
        EmbeddedServer(options(**changes)).wait_ready()
    assert time.monotonic() - started < 30


def test_taken_port_is_an_error(server: EmbeddedServer) -> None:
    """A port that another server has is an error; the other server is not taken for ours."""
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ServerDied, match=f"127.0.0.1:{port}"):
        EmbeddedServer(options(port=port)).wait_ready()


def test_slow_start_is_ended_at_the_deadline() -> None:
    """Whoever waits no longer leaves no process behind."""
    starting = EmbeddedServer(options())
    with pytest.raises(ServerDied, match="not ready within 0 s"):
        starting.wait_ready(0.0)
    assert not starting.alive


def test_log_can_be_read_after_the_end(server: EmbeddedServer) -> None:
    """What it wrote stays readable when it has ended, and its file is gone."""
    assert "listening" in server.log_tail()
    server.stop()
    assert "listening" in server.log_tail()


def test_killed_server_is_not_alive(server: EmbeddedServer) -> None:
    """A kill, as a crash would, is seen at once."""
    assert server.alive
    server.kill()
    assert not server.alive


def test_options_arrive(tmp_path: Path) -> None:
    """Window, slots, alias and key are those of the options, and the key shows in no process list."""
    asked = options(ctx_size=1024, parallel=2, alias="a-model", api_key="a-secret-key")
    with EmbeddedServer(asked) as running:
        assert "a-secret-key" not in " ".join(psutil.Process(running.pid).cmdline())
        with pytest.raises(OSError, match="401"):
            parts.fetch(f"{running.url}/props")
        assert "a-secret-key" not in running.log_tail()


@pytest.mark.parametrize("how", ["stdin", "terminate", "interrupt"])
def test_command_ends(how: str) -> None:
    """`penstock llama-server` ends with code 0 by SIGTERM, by SIGINT, and when its input closes."""
    if how != "stdin" and sys.platform == "win32":
        pytest.skip("platform: Windows has no such signals")
    flags = ["--port", "0", "-c", "512", "--until-stdin-closes"]
    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "llama-server", str(parts.model()), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert b"listening" in run.stdout.readline()
        if how == "stdin":
            run.stdin.close()
        elif how == "terminate":
            run.terminate()
        else:
            import signal

            run.send_signal(signal.SIGINT)
        assert run.wait(10) == 0


@pytest.mark.parametrize(
    ("log", "address"),
    [
        pytest.param(b'0.1 I srv\n{"listening": "http://127.0.0.1:1"}\n', "http://127.0.0.1:1", id="own line"),
        pytest.param(b'0.1 I {"listening": "http://127.0.0.1:1"}0.2 I srv', "http://127.0.0.1:1", id="amid others"),
        pytest.param(b'{"listening": "http://127.', None, id="half written"),
        pytest.param(b"I srv init: listening on http://127.0.0.1:1\n", None, id="the engine's own"),
    ],
)  # fmt: skip
def test_the_address_is_found_in_whatever_the_engine_logs(log: bytes, address: str | None) -> None:
    """Its threads write into the same file at the same time."""
    assert announced(log) == address
