"""
All settings in one tree. Each group of a decision lives beside that decision; what is nobody's in
particular stands here. JSON Schema, documentation and validation come from this tree; reading files and
the environment is `penstock.adapters.settings_file`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from penstock.breaker import BreakerOptions
from penstock.compress import ContextOptions
from penstock.concurrency import ConcurrencyOptions
from penstock.domain.options import Options, option
from penstock.domain.upstream import Endpoints, ServerKind
from penstock.health import HealthOptions
from penstock.limits import LimitOptions
from penstock.limits.options import Tokens
from penstock.loop_guard import LoopGuardOptions
from penstock.resume import ResumeOptions
from penstock.retry import CloudRetryPolicy, RetryPolicy
from penstock.sampling import OptimisedSampling, SamplingValues
from penstock.supervision import SupervisionOptions
from penstock.toolcalls import ToolCallOptions

DEFAULT_PORT = 7367


def _name(value: str) -> str:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    if not value or len(value) > 64 or not set(value) <= allowed:
        raise ValueError("expected a name of at most 64 letters, digits, '-', '_' and '.'")
    return value


Name = Annotated[str, AfterValidator(_name)]


class Credential(Options):
    """A secret, written here, in an environment variable, or in a file; at most one of the three."""

    api_key: str | None = option(
        None, effect="Credential that is sent to the upstream.", secret=True, repr=False
    )
    api_key_env: str | None = option(None, effect="Environment variable that holds the credential.")
    api_key_file: str | None = option(
        None, effect="File that holds the credential; read again at each reload."
    )

    @model_validator(mode="after")
    def _one(self) -> Credential:
        given = [
            n for n in ("api_key", "api_key_env", "api_key_file") if getattr(self, n) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(given)}, not several")
        return self


class UpstreamOptions(Credential):
    """A model server or cloud API that requests go to."""

    name: Name = option(effect="How it is called in answers, metrics and `upstream/model`.")
    url: str = option(
        effect="Its address, with or without a trailing `/v1`; `unix:///run/x.sock` works too."
    )
    local: bool | None = option(
        None,
        effect="Whether it is local. Decides everything that Penstock changes.",
        reason="Left out, the address decides.",
    )
    kind: ServerKind | None = option(
        None, effect="The model server it is.", reason="Left out, it is recognised."
    )
    ca_file: str | None = option(
        None, effect="CA bundle for TLS.", reason="The system's otherwise."
    )
    verify: bool = option(True, effect="Whether its TLS certificate is checked.")
    proxy: str | None = option(
        None,
        effect="HTTP proxy; `none` for none.",
        reason="The environment's otherwise, for cloud upstreams only.",
    )
    models: list[str] = option(
        factory=list, effect="Model ids that it serves; a cloud is never asked, so name them here."
    )
    window: Tokens | None = option(
        None, effect="Window of its models, in place of what it says.", unit="tokens"
    )
    max_concurrency: int | None = option(
        None, effect="Requests at a time, in place of what is found out.", ge=1, le=1024
    )
    endpoints: Endpoints = option(
        "single",
        effect="`dns`: each address that the URL's name resolves to is a server of its own.",
        reason="The pods of a headless Service: looked up every 5 s, and a conversation keeps its pod.",
    )
    gateway_replicas: int = option(
        1,
        effect="Gateways that share this server; each takes its share of the slots, at least one.",
        reason="Together they send no more than the server works on. With several, none chooses slots.",
        ge=1,
        le=1024,
    )
    exclusive: bool = option(
        False,
        effect="This gateway is the server's only client, so it may say which slot a conversation gets.",
        reason="Two clients that choose slots would take each other's.",
    )
    fallback: str | None = option(
        None,
        effect="Upstream that gets its requests when it does not answer: `NAME`, or `NAME/MODEL`.",
        reason="Never a cloud unless it is named here.",
    )
    sampling: SamplingValues = option(
        factory=dict, effect="Sampling that wins over the request, for this upstream."
    )
    sampling_defaults: SamplingValues = option(
        factory=dict, effect="Sampling for requests that do not say, for this upstream."
    )

    @model_validator(mode="after")
    def _members(self) -> UpstreamOptions:
        if self.endpoints == "dns" and self.url.startswith(("https:", "unix:")):
            raise ValueError(
                "endpoints: dns needs a URL of http://NAME:PORT: no certificate is made for an address"
            )
        return self


class ClientKey(Options):
    """A key by which a client is known. One of `key`, `key_env`, `key_file`."""

    name: Name = option(effect="How the client is called in logs and metrics.")
    key: str | None = option(None, effect="The key.", secret=True, repr=False)
    key_env: str | None = option(None, effect="Environment variable that holds the key.")
    key_file: str | None = option(None, effect="File that holds the key.")

    @model_validator(mode="after")
    def _one(self) -> ClientKey:
        given = [n for n in ("key", "key_env", "key_file") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("expected exactly one of key, key_env and key_file")
        return self


class ListenOptions(Options):
    """Where clients connect, and who may."""

    host: str = option(
        "127.0.0.1",
        effect="Address to listen on; `localhost` means 127.0.0.1 and ::1.",
        reason="Nobody else on the network can reach a gateway that was only meant for this machine.",
    )
    port: int = option(DEFAULT_PORT, effect="TCP port; 0 chooses a free one.", ge=0, le=65535)
    unix_socket: str | None = option(
        None, effect="Unix socket to listen on as well.", reason="Not on Windows."
    )
    allowed_hosts: list[str] = option(
        factory=list,
        effect="Names that may stand in `Host`, besides IP addresses and `localhost`.",
        reason="A web page that rebinds its name to 127.0.0.1 must not reach the gateway.",
    )
    origins: list[str] = option(
        factory=list,
        effect="Origins of web pages that may send requests.",
        reason="None: a page that a user merely visits must not use their models.",
    )
    client_keys: list[ClientKey] = option(
        factory=list, effect="Keys of clients; with none, any key is accepted."
    )
    client_keys_dir: str | None = option(
        None,
        effect="Folder in which each file holds the key of the client that it is named after.",
        reason="A mounted Secret: keys come, change and go without a restart.",
    )
    admin_token_file: str | None = option(
        None,
        effect="File that holds the admin token; read again when it changes.",
        reason="A new token at each start otherwise.",
    )
    accept_after_stop_s: float = option(
        0.0,
        effect="Time after SIGTERM in which requests are still taken while `/readyz` says 503.",
        unit="seconds",
        reason="In a cluster the news that a pod ends reaches its clients later than the pod.",
        ge=0,
        le=600,
    )
    allow_anonymous: bool = option(
        False,
        effect="Listen on other addresses than loopback without any client key.",
        reason="Otherwise that is refused: the API would be open to the network by accident.",
    )
    metrics_open: bool = option(
        False, effect="`/metrics` needs no key although others can reach the gateway."
    )
    tls_certificate: str | None = option(None, effect="Certificate file (PEM) for TLS.")
    tls_key: str | None = option(None, effect="Key file (PEM) for TLS.")
    max_body_bytes: int = option(
        32 * 1024 * 1024, effect="Largest request body.", unit="bytes", ge=1024
    )
    max_header_bytes: int = option(
        64 * 1024,
        effect="Largest headers of a request, in sum.",
        unit="bytes",
        ge=1024,
        le=1024 * 1024,
    )
    header_timeout_s: float = option(
        30.0, effect="Longest time for a request's headers to come.", unit="seconds", gt=0
    )
    body_timeout_s: float = option(
        30.0,
        effect="Longest time for a request's body to come, plus a second for each 16 KiB.",
        unit="seconds",
        gt=0,
    )


class RoutingOptions(Options):
    """Which upstream a model's name leads to."""

    default_upstream: Name | None = option(
        None, effect="Upstream of requests whose model no upstream lists."
    )
    aliases: dict[str, str] = option(
        factory=dict,
        effect="Other names of models: `claude-*: qwen3-coder`, or `gpt-4: upstream/model`.",
    )


class TimeoutOptions(Options):
    """Longest times. Each has its own clock."""

    connect_s: float = option(5.0, effect="Connecting to an upstream.", unit="seconds", gt=0)
    load_s: float = option(
        600.0, effect="Loading a model.", unit="seconds", reason="Large models take minutes.", gt=0
    )
    first_token_s: float = option(
        600.0,
        effect="From sending a request to its first token; each sign of progress starts it again.",
        unit="seconds",
        reason="A prefill of 100,000 tokens takes minutes on a desktop.",
        gt=0,
    )
    stall_s: float = option(
        120.0,
        effect="Between two tokens; a client that takes nothing for as long is let go.",
        unit="seconds",
        gt=0,
    )
    heartbeat_s: float = option(
        15.0,
        effect="Silence after which a streaming client gets a heartbeat.",
        unit="seconds",
        reason="Clients and proxies give up after 30 s and more without a byte.",
        gt=0,
    )
    hold_s: float = option(
        600.0,
        effect="Waiting for an upstream that is paused, drained or being restarted.",
        unit="seconds",
        reason="Replacing a server and loading its model takes minutes.",
        gt=0,
    )
    drain_s: float = option(
        30.0, effect="For running requests to end when the gateway stops.", unit="seconds", ge=0
    )
    load_grace_s: float = option(
        10.0,
        effect="How long a load goes on for others after the client that caused it hung up.",
        unit="seconds",
        ge=0,
    )


class RetryOptions(Options):
    """How often failed attempts are repeated."""

    local: RetryPolicy = option(factory=RetryPolicy, effect="Towards local upstreams.")
    cloud: CloudRetryPolicy = option(
        factory=CloudRetryPolicy, effect="Towards cloud upstreams, before the first byte only."
    )


class ProfileOptions(Options):
    """How what is known of upstreams is kept up to date."""

    refresh_s: float = option(
        60.0, effect="Between two looks at a local upstream.", unit="seconds", ge=1
    )
    probe_timeout_s: float = option(
        3.0, effect="Longest wait for an answer to a look.", unit="seconds", gt=0
    )


class DiscoveryOptions(Options):
    """Finding model servers on this machine when no upstream is named."""

    enabled: bool = option(True, effect="Look for model servers when no upstream is configured.")
    ports: list[int] = option(
        factory=list, effect="Ports on loopback to look at besides the usual ones."
    )


class LogOptions(Options):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", effect="Least severe level shown."
    )
    format: Literal["text", "json"] = option(
        "text", effect="Lines for people, or JSON for machines."
    )
    requests: bool = option(True, effect="One line for each request. Prompts are never logged.")
    file: str = option(
        "auto",
        effect="File that is written besides standard error; `none` for none, `auto` for one in your state folder.",
        reason="`penstock logs` shows it. With port 0, `auto` is none: each start would leave a file behind.",
    )
    file_bytes: int = option(
        10 * 1024 * 1024,
        effect="Size at which that file is set aside for a new one.",
        unit="bytes",
        ge=4096,
    )
    files: int = option(
        3, effect="Files that were set aside and are kept; the oldest goes.", ge=0, le=100
    )


class StatusOptions(Options):
    """What `/penstock/status` remembers."""

    recent_requests: int = option(
        200, effect="Requests that are remembered, without prompts.", ge=0, le=10_000
    )


class Settings(Options):
    """Everything that can be set."""

    version: Literal[1] = option(1, effect="Version of this file's format.")
    listen: ListenOptions = option(
        factory=ListenOptions, effect="Where clients connect, and who may."
    )
    upstreams: list[UpstreamOptions] = option(
        factory=list,
        effect="Model servers and cloud APIs that requests go to.",
        reason="With none, what runs on this machine is found by itself.",
    )
    routing: RoutingOptions = option(
        factory=RoutingOptions, effect="Which upstream a model's name leads to."
    )
    limits: LimitOptions = option(
        factory=LimitOptions, effect="Windows and output budgets of local models."
    )
    context: ContextOptions = option(
        factory=ContextOptions,
        effect="What happens to conversations that outgrow the window of a local model.",
    )
    tool_calls: ToolCallOptions = option(
        factory=ToolCallOptions, effect="What is done with tool calls of local models."
    )
    loop_guard: LoopGuardOptions = option(
        factory=LoopGuardOptions, effect="Generations of local models that repeat themselves."
    )
    resume: ResumeOptions = option(
        factory=ResumeOptions,
        effect="Answers of local models that broke off because their server died.",
    )
    sampling: SamplingValues = option(
        factory=dict,
        effect="Sampling that wins over the request, for local models (`temperature: 0.2`).",
    )
    sampling_defaults: SamplingValues = option(
        factory=dict, effect="Sampling for requests that do not say, for local models."
    )
    optimised: OptimisedSampling = option(
        factory=OptimisedSampling,
        effect="Sampling when nobody else says anything, for local models.",
    )
    timeouts: TimeoutOptions = option(factory=TimeoutOptions, effect="Longest times.")
    retry: RetryOptions = option(
        factory=RetryOptions, effect="How often failed attempts are repeated."
    )
    concurrency: ConcurrencyOptions = option(
        factory=ConcurrencyOptions, effect="How many requests at a time, and who waits."
    )
    breaker: BreakerOptions = option(
        factory=BreakerOptions, effect="When a local upstream that fails is left alone for a while."
    )
    profiles: ProfileOptions = option(factory=ProfileOptions, effect="How upstreams are looked at.")
    health: HealthOptions = option(
        factory=HealthOptions, effect="How local upstreams are looked after."
    )
    supervise: SupervisionOptions = option(
        factory=SupervisionOptions, effect="Servers that the gateway runs itself."
    )
    discovery: DiscoveryOptions = option(
        factory=DiscoveryOptions, effect="Finding model servers on this machine."
    )
    log: LogOptions = option(factory=LogOptions, effect="What is logged, and how.")
    status: StatusOptions = option(factory=StatusOptions, effect="What the status remembers.")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        names = [upstream.name for upstream in self.upstreams]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"upstreams: the name {twice[0]} is given twice")
        default = self.routing.default_upstream
        if default is not None and default not in names:
            raise ValueError(f"routing.default_upstream: no upstream is called {default}")
        for upstream in self.upstreams:
            target = (upstream.fallback or "").partition("/")[0]
            if upstream.fallback is not None and (target not in names or target == upstream.name):
                raise ValueError(
                    f"upstreams: the fallback of {upstream.name} names {target}, which is no other upstream"
                )
        if (self.listen.tls_certificate is None) != (self.listen.tls_key is None):
            raise ValueError("listen: tls_certificate and tls_key are needed together")
        return self


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `penstock.yaml`."""
    schema = Settings.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock settings",
        **{key: value for key, value in schema.items() if key != "title"},
    }
