"""Where a server will listen, read from the command that starts it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.server_command import address_of


@pytest.mark.parametrize(
    ("command", "environment", "url"),
    [
        ("llama-server -m m.gguf", {}, "http://127.0.0.1:8080"),
        ("/opt/llama.cpp/llama-server -m m.gguf --port 9001", {}, "http://127.0.0.1:9001"),
        ("llama-server --host 0.0.0.0 --port=9001", {}, "http://127.0.0.1:9001"),
        ("llama-server --host 192.168.1.5", {}, "http://192.168.1.5:8080"),
        ("llama-server --host ::1 --port 9001", {}, "http://[::1]:9001"),
        ("llama-server --host /run/llama.sock", {}, "unix:///run/llama.sock"),
        ("llama-server -m m.gguf", {"LLAMA_ARG_PORT": "7000"}, "http://127.0.0.1:7000"),
        ("llama-server --port 7001", {"LLAMA_ARG_PORT": "7000"}, "http://127.0.0.1:7001"),
        ("nice -n 5 llama-server", {}, "http://127.0.0.1:8080"),
        ("C:/llama/llama-server.exe -m m.gguf", {}, "http://127.0.0.1:8080"),
        ("ollama serve", {}, "http://127.0.0.1:11434"),
        ("ollama serve", {"OLLAMA_HOST": "0.0.0.0:12000"}, "http://127.0.0.1:12000"),
        ("ollama serve", {"OLLAMA_HOST": ":12000"}, "http://127.0.0.1:12000"),
        ("ollama serve", {"OLLAMA_HOST": "http://localhost"}, "http://localhost:11434"),
        ("env OLLAMA_HOST=:12001 ollama serve", {"OLLAMA_HOST": ":1"}, "http://127.0.0.1:12001"),
        ("vllm serve Qwen/Qwen3-8B", {}, "http://127.0.0.1:8000"),
        ("uv run vllm serve Qwen/Qwen3-8B --port 8001", {}, "http://127.0.0.1:8001"),
        ("python -m vllm.entrypoints.openai.api_server", {}, "http://127.0.0.1:8000"),
        ("mlx_lm.server --model m", {}, "http://127.0.0.1:8080"),
        ("python3 -m mlx_lm server --model m --port 8081", {}, "http://127.0.0.1:8081"),
        ("python -m sglang.launch_server --model-path m", {}, "http://127.0.0.1:30000"),
        ("text-generation-launcher", {"PORT": "81"}, "http://127.0.0.1:81"),
        ("penstock llama-server m.gguf", {}, "http://127.0.0.1:8080"),
        ("my-server --port 5005", {}, "http://127.0.0.1:5005"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_the_command_tells(command: str, environment: dict[str, str], url: str) -> None:
    """Flags come before variables, and these before the port that the server has by itself."""
    assert address_of(shlex.split(command), environment).url == url


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("my-server -v", "there is no --port among its arguments, and my-server has no port"),
        ("sh -c 'llama-server --port 1'", "the arguments of sh do not tell"),
        ("docker run -p 8080:8080 vllm serve --port 8000", "the arguments of docker do not tell"),
        ("vllm serve m --ssl-keyfile k", "it serves TLS"),
        ("llama-server --port http", "its port is http"),
        ("llama-server --port 0", "its port is 0"),
    ],
)
def test_what_it_does_not_tell(command: str, why: str) -> None:
    """Nothing is guessed, and the reason is said."""
    address = address_of(shlex.split(command), {})
    assert address.url is None
    assert address.why.startswith(why)


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["--port", "--host", "env", "ollama", "serve"])
    ),
    st.text(),
)
def test_no_command_is_too_odd(command: list[str], host: str) -> None:
    """Any words get an answer."""
    address = address_of(command, {"OLLAMA_HOST": host})
    assert address.url is None or address.url.startswith(("http://", "unix://"))
