"""What an upstream is: its address, its server kind, and the verdict whether it is local."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Endpoints = Literal["single", "dns"]


class ServerKind(StrEnum):
    """The model servers that Penstock knows. One file each under `penstock.servers`."""

    OLLAMA = "ollama"
    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    LMSTUDIO = "lmstudio"
    SGLANG = "sglang"
    TGI = "tgi"
    LOCALAI = "localai"
    KOBOLDCPP = "koboldcpp"
    TEXTGEN = "textgen"
    TABBYAPI = "tabbyapi"
    MLX = "mlx"
    JAN = "jan"
    DOCKERMR = "dockermr"
    LEMONADE = "lemonade"
    GENERIC = "generic"


class Locality(StrEnum):
    """Whether requests to an upstream stay with the user. Everything Penstock changes depends on it."""

    LOCAL = "local"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    One observation that spoke for a verdict, in the order in which it was weighed.

    Attributes:
        source: where it comes from: `declared`, `address`, `probe`, `port`, `name`.
        says: what it speaks for: a locality ("local", "cloud") or a server kind ("ollama").
        detail: one sentence for people.
        decisive: whether it decided (hints do not).
    """

    source: str
    says: str
    detail: str
    decisive: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Local or cloud, and why.

    Attributes:
        locality: the verdict.
        confidence: 0 to 1. 1.0 for a declaration or an address that cannot mean anything else.
        evidence: what spoke for and against, decisive first.
        suggestion: what the user may want to configure, or None.
    """

    locality: Locality
    confidence: float
    evidence: tuple[Evidence, ...] = ()
    suggestion: str | None = None

    @property
    def is_local(self) -> bool:
        """True for a local upstream."""
        return self.locality is Locality.LOCAL


@dataclass(frozen=True, slots=True)
class Upstream:
    """
    A model server or cloud API that requests go to, as configured or discovered.

    Attributes:
        name: unique among the upstreams; letters, digits, `-`, `_`, `.`.
        url: base without a trailing slash and without a trailing `/v1`
            (`http://127.0.0.1:11434`, `https://api.openai.com`, `unix:///run/ollama.sock`).
        local: the user's declaration, None where the address decides.
        kind: the user's declaration of the server kind, None where detection decides.
        api_key: credential sent upstream, None for none. Never shown.
        ca_file: CA bundle for TLS, None for the system's.
        verify: whether TLS certificates are checked.
        proxy: HTTP proxy URL, None for the environment's (cloud only; local ones never use a proxy).
        models: ids served there by declaration (needed for cloud upstreams, which are never probed).
        exclusive: this gateway is its only client, so it may choose slots.
        gateway_replicas: gateways that share its slots, this one among them.
        endpoints: `dns` where each address of the URL's name is a server of its own: requests go to its members.
        member_of: the declared upstream of which this is the server at one address, None for all others.
        found_by: `configured`, `flag`, `environment`, `discovered`, `embedded`, `supervised`,
            `state`.
    """

    name: str
    url: str
    local: bool | None = None
    kind: ServerKind | None = None
    api_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    verify: bool = True
    proxy: str | None = None
    models: tuple[str, ...] = ()
    exclusive: bool = False
    gateway_replicas: int = 1
    endpoints: Endpoints = "single"
    member_of: str | None = None
    found_by: str = "configured"

    @property
    def declared(self) -> str:
        """The name under which it is declared, asked for and switched: for a member that of the whole."""
        return self.member_of or self.name

    @property
    def awaits_address(self) -> bool:
        """Whether it stands for servers of which none is there: nothing can be sent to it."""
        return self.endpoints == "dns" and self.member_of is None


def declared_name(name: str) -> str:
    """The name under which an upstream is declared, from its own: `server` for `server/10.0.0.7`."""
    return name.partition("/")[0]
