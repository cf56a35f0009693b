"""
Where will the server listen that a command starts? Read from the command itself, where it says so. Pure.

The flags `--host` and `--port` mean the same to llama-server, vLLM, SGLang, mlx_lm.server, TGI, KoboldCpp and others;
without them each has a port of its own. Ollama is told by OLLAMA_HOST (`envconfig/config.go`), llama-server also by
LLAMA_ARG_HOST and LLAMA_ARG_PORT (`common/arg.cpp`). What cannot be read here is found by looking at the ports on
which the processes listen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """
    Attributes:
        url: where it will listen; None when the command does not say.
        why: how that is known, or why it is not, as a part of a sentence.
    """

    url: str | None
    why: str


class _Program(NamedTuple):
    words: tuple[str, ...]
    port: int
    host_variable: str = ""
    port_variable: str = ""


_PROGRAMS = (
    _Program(("penstock", "llama-server"), 8080),
    _Program(("llama-server",), 8080, "LLAMA_ARG_HOST", "LLAMA_ARG_PORT"),
    _Program(("ollama", "serve"), 11434, "OLLAMA_HOST"),
    _Program(("vllm", "serve"), 8000),
    _Program(("vllm.entrypoints.openai.api_server",), 8000),
    _Program(("mlx_lm.server",), 8080),
    _Program(("mlx_lm", "server"), 8080),
    _Program(("sglang.launch_server",), 30000),
    _Program(("text-generation-launcher",), 3000, "HOSTNAME", "PORT"),
    _Program(("llama_cpp.server",), 8000, "HOST", "PORT"),
    _Program(("koboldcpp",), 5001),
    _Program(("koboldcpp.py",), 5001),
)
_EVERYWHERE = frozenset({"0.0.0.0", "::", "[::]", "*", ""})  # noqa: S104 (compared, not bound)
_FLAGS = {"--host": "host", "--port": "port", "--hostname": "host"}
_ELSEWHERE = frozenset(
    {"docker", "podman", "nerdctl", "ssh", "wsl", "sh", "bash", "zsh", "fish", "cmd", "make"}
)
"""Programs whose arguments mean something of their own: a port there may be another one outside."""


def address_of(command: Sequence[str], environment: Mapping[str, str]) -> Address:
    """
    Args:
        command: with its arguments.
        environment: that it will run in.
    """
    words, variables = _without_env(list(command), dict(environment))
    names = [_name(word) for word in words]
    if not names:
        return Address(None, "there is no command")
    if names[0] in _ELSEWHERE:
        return Address(None, f"the arguments of {names[0]} do not tell where the server listens")
    program = _program(names)
    flags = dict(_flags(words))
    if any(word.startswith(("--ssl-key", "--ssl-cert")) for word in words):
        return Address(None, "it serves TLS, for which its name has to be known")
    host, port, how = flags.get("host"), flags.get("port"), "its arguments"
    if host is not None and host.endswith(".sock"):
        return Address(f"unix://{host}", "its --host")
    if program is not None:
        told = variables.get(program.host_variable) if program.host_variable else None
        if host is None and told:
            told_host, told_port = _host_port(told)
            host, how = told_host, program.host_variable
            port = port or told_port
        told = variables.get(program.port_variable) if program.port_variable else None
        if port is None and told:
            port, how = told, program.port_variable
        if port is None:
            port, how = str(program.port), f"the port that {' '.join(program.words)} has by itself"
    if port is None:
        return Address(
            None,
            f"there is no --port among its arguments, and {names[0]} has no port that is known",
        )
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return Address(None, f"its port is {port}")
    return Address(f"http://{_shown(host or '127.0.0.1')}:{port}", how)


def _shown(host: str) -> str:
    if host in _EVERYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _host_port(told: str) -> tuple[str, str | None]:
    """The parts of OLLAMA_HOST: `host:port`, `:port`, `host`, with or without a scheme."""
    parts = urlsplit(told if "://" in told else f"http://{told}")
    try:
        return parts.hostname or "", None if parts.port is None else str(parts.port)
    except ValueError:
        return "", told.rpartition(":")[2]


def _name(word: str) -> str:
    name = word.replace("\\", "/").rpartition("/")[2]
    return name.lower().removesuffix(".exe")


def _program(names: list[str]) -> _Program | None:
    """The server among the first words: `nice -n 5 llama-server`, `uv run vllm serve`, `python -m mlx_lm.server`."""
    first = names[:8]
    for program in _PROGRAMS:
        size = len(program.words)
        if any(tuple(first[at : at + size]) == program.words for at in range(len(first))):
            return program
    return None


def _flags(words: list[str]) -> Iterator[tuple[str, str]]:
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in _FLAGS:
            continue
        if equals:
            yield _FLAGS[flag], value
        elif at + 1 < len(words):
            yield _FLAGS[flag], words[at + 1]


def _without_env(words: list[str], variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """`env OLLAMA_HOST=:9000 ollama serve` as the command and what it finds set."""
    if not words or _name(words[0]) != "env":
        return words, variables
    rest = words[1:]
    while rest and ("=" in rest[0] or rest[0].startswith("-")):
        name, equals, value = rest.pop(0).partition("=")
        if equals:
            variables[name] = value
    return rest, variables
