"""The real model servers that all other real tests stand on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import parts

pytestmark = pytest.mark.real

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_llamacpp_divides_its_window_among_the_slots(
    llamacpp: Callable[..., parts.LlamaCpp],
) -> None:
    """Real llama.cpp with two slots reports the window of one slot, in /props and in /slots."""
    server = llamacpp(ctx_size=4096, parallel=2)
    assert server.get("/props")["default_generation_settings"]["n_ctx"] == 2048
    assert [slot["n_ctx"] for slot in server.get("/slots")] == [2048, 2048]


def test_llamacpp_restarts_on_its_port_with_another_window(
    llamacpp: Callable[..., parts.LlamaCpp],
) -> None:
    """A restart keeps the address and changes what was asked for."""
    server = llamacpp(ctx_size=1024)
    url, pid = server.url, server.pid
    server.restart(ctx_size=2048)
    assert server.url == url
    assert server.pid != pid
    assert server.get("/props")["default_generation_settings"]["n_ctx"] == 2048


def test_scripted_model_says_its_text_and_llamacpp_parses_the_call(
    llamacpp: Callable[..., parts.LlamaCpp],
) -> None:
    """A model that spells a Hermes tool call yields a parsed call from real llama.cpp."""
    server = llamacpp(says=CALL)
    answer = parts.fetch(f"{server.url}/v1/chat/completions", chat("Oslo?", tools=[WEATHER]))
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": '{"city": "Oslo"}',
    }


def test_llamacpp_embeds(llamacpp: Callable[..., parts.LlamaCpp]) -> None:
    """With pooling, real llama.cpp answers /v1/embeddings with a vector as wide as the model."""
    server = llamacpp(embedding=True, pooling="mean")
    answer = parts.fetch(f"{server.url}/v1/embeddings", {"input": ["one", "two"]})
    assert [len(entry["embedding"]) for entry in answer["data"]] == [128, 128]


def test_ollama_lists_what_it_has_loaded(ollama: Callable[..., parts.Ollama]) -> None:
    """Real Ollama names the window of a loaded model in /api/ps; nothing is loaded before."""
    server = ollama(num_ctx=1024)
    assert server.get("/api/version")["version"] == parts.OLLAMA_VERSION
    assert server.get("/api/ps")["models"] == []
    server.post("/api/chat", {"model": "tiny", **chat("hello"), "options": {"num_predict": 4}, "stream": False})  # fmt: skip
    [loaded] = server.get("/api/ps")["models"]
    assert loaded["name"] == "tiny:latest"
    assert loaded["context_length"] == 1024


def test_ollama_restarts_on_its_port_and_keeps_its_models(
    ollama: Callable[..., parts.Ollama],
) -> None:
    """A restart with another environment keeps address and models, and leaves no process behind."""
    server = ollama(num_ctx=None)
    url, pid = server.url, server.pid
    server.restart(OLLAMA_CONTEXT_LENGTH="3072")
    assert server.url == url
    server.post("/api/generate", {"model": "tiny", "prompt": "hello", "options": {"num_predict": 4}, "stream": False})  # fmt: skip
    assert server.get("/api/ps")["models"][0]["context_length"] == 3072
    runners = [child.pid for child in psutil.Process(server.pid).children(recursive=True)]
    assert runners
    server.stop()
    assert all(gone(number) for number in [pid, server.pid, *runners])


@pytest.mark.parametrize("part", ["llamacpp", "ollama"])
def test_parts_end_with_a_killed_test_run(part: str, tmp_path: Path) -> None:
    """A test run that is killed leaves no model server behind."""
    parts.ollama_binary()  # built here, not within the time limit below
    lines = (
        f"import sys, parts; server = parts.start_{part}();"
        "print(server.pid, flush=True); sys.stdin.read()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", lines],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(parts.__file__).parent), "TMPDIR": str(tmp_path)},
    )
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert psutil.pid_exists(pid)
        run.kill()
        assert gone(pid)
