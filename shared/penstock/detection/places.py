"""Where to look for model servers on this machine (behaviours A6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from penstock.detection.address import judge, normalise_url
from penstock.servers import SPECS

# What clients and servers read to find a model server, in the order of how surely it means one.
_VARIABLES = (
    "OLLAMA_HOST",
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "LLAMA_ARG_PORT",
    "LMSTUDIO_BASE_URL",
    "LM_STUDIO_API_BASE",
    "VLLM_API_BASE",
    "LOCALAI_BASE_URL",
)
_DOCKER_HOST = "host.docker.internal"


@dataclass(frozen=True, slots=True)
class Place:
    """A place where a model server may be, and why it is looked at."""

    url: str
    why: str


def places(
    environ: Mapping[str, str],
    *,
    extra_ports: Collection[int] = (),
    in_container: bool = False,
) -> tuple[Place, ...]:
    """
    All places to look at, each once.

    Args:
        environ: the process's environment.
        extra_ports: on loopback, from the settings.
        in_container: the Docker host is looked at as well.
    """
    found: dict[str, str] = {}
    for name in _VARIABLES:
        url = _from_variable(name, environ.get(name, "").strip())
        if url is not None and judge(url).is_local:
            found.setdefault(url, f"{name} names it")
    ports: dict[int, str] = dict.fromkeys(extra_ports, "discovery.ports")
    for spec in SPECS.values():
        for port in spec.ports:
            ports.setdefault(port, f"the usual port of {spec.title}")
    for port, why in ports.items():
        found.setdefault(f"http://127.0.0.1:{port}", why)
    if in_container:
        for port, why in ports.items():
            found.setdefault(f"http://{_DOCKER_HOST}:{port}", f"{why}, on the Docker host")
    return tuple(Place(url, why) for url, why in found.items())


def _from_variable(name: str, value: str) -> str | None:
    if not value:
        return None
    if name == "LLAMA_ARG_PORT":
        value = f"http://127.0.0.1:{value}"
    if name == "OLLAMA_HOST":
        value = _ollama_host(value)
    try:
        return normalise_url(value)
    except ValueError:
        return None


def _ollama_host(value: str) -> str:
    """
    The address that Ollama's own client would use (envconfig/config.go, `Host`).

    The variable is often an address to listen on, and often without a port: 11434, but 80 and 443 where a
    scheme is named.
    """
    scheme, mark, rest = value.rpartition("://")
    if scheme == "unix":
        return value
    default_port = {"http": "80", "https": "443"}.get(scheme.lower(), "11434")
    authority, slash, path = rest.partition("/")
    if authority.count(":") > 1 and not authority.startswith("["):
        authority = f"[{authority}]"
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, ""
    if host in ("", "0.0.0.0", "[::]"):  # noqa: S104 - read, never bound
        host = "127.0.0.1"
    return f"{scheme if mark else 'http'}://{host}:{port or default_port}{slash}{path}"
