"""
What a person writes into a LocalModel, as frozen values: the one source of the CustomResourceDefinition, of its
documentation and of the operator's own parsing.

Fields are called in camelCase in the cluster, as all of Kubernetes' are. Engine switches are few and typed; what is
missing is said by `runtime.args`. Words that a cluster checks better than we (affinity, tolerations) pass through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from penstock.domain.options import Options, option
from penstock_operator.resource.names import MOST_NAME_LENGTH
from penstock_operator.resource.policy import Policy, as_policy

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
Quantity = Annotated[
    int | Annotated[str, Field(pattern=QUANTITY)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Word = Annotated[str, Field(min_length=1, max_length=1024)]
Passed = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
Runtime = Literal["Auto", "LlamaCpp", "Ollama", "VLLM", "External"]
URI = r"^(hf|https|pvc|oci|ollama)://.+$"


class InvalidSpec(ValueError):
    """A spec that cannot be used; *path* is where, *sentence* what to do about it."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")
        self.path = path
        self.sentence = sentence


class Part(Options):
    """Base of every part of the spec."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class SecretName(Part):
    """A Secret of the same namespace."""

    name: DnsName = option(effect="The Secret's name.")


class SecretKey(SecretName):
    """One key of a Secret of the same namespace."""

    key: Word = option(effect="The key inside the Secret.")


class ConfigMapKey(Part):
    """One key of a ConfigMap of the same namespace."""

    name: DnsName = option(effect="The ConfigMap's name.")
    key: Word = option("ca.crt", effect="The key inside the ConfigMap.")


class Model(Part):
    """Which weights are served, and under which name."""

    uri: str | None = option(
        None,
        effect="Where the weights are: `hf://owner/repository/file.gguf`, `https://...`, "
        "`pvc://claim/path`, `oci://image` (mounted as a volume), or `ollama://name:tag`. "
        "Needed unless the runtime is External.",
        pattern=URI,
        max_length=2048,
    )
    name: str | None = option(
        None,
        effect="What clients call the model; by default the name of the LocalModel.",
        min_length=1,
        max_length=128,
    )
    files: list[Word] = option(
        factory=list,
        effect="Files below the URI, for models in several parts; the first is the one to load.",
        max_length=64,
    )
    sha256: str | None = option(
        None,
        effect="Checksum that the file must have; a file with another one is refused.",
        pattern="^[0-9a-f]{64}$",
    )
    credentials_secret_ref: SecretName | None = option(
        None, effect="Secret whose key `token` is sent to where the weights come from."
    )
    ca_config_map_ref: ConfigMapKey | None = option(
        None, effect="ConfigMap with the certificate authority of where the weights come from."
    )
    mirror: str | None = option(
        None,
        effect="Address that stands in for `https://huggingface.co`, for clusters without internet.",
        pattern="^https?://.+$",
        max_length=2048,
    )


class Environment(Part):
    """A variable of the server's environment."""

    name: Word = option(effect="The variable's name.")
    value: str | None = option(None, effect="Its value.", max_length=4096)
    secret_key_ref: SecretKey | None = option(None, effect="Or the key of a Secret that holds it.")


class External(Part):
    """A server that is not ours to run."""

    url: str = option(
        effect="Its address, with or without `/v1`.", pattern="^https?://.+$", max_length=2048
    )
    api_key_secret_ref: SecretKey | None = option(
        None, effect="The key of a Secret that holds the server's API key."
    )


class RuntimeSpec(Part):
    """Which engine serves the model, and how it is started."""

    type: Runtime = option(
        "Auto",
        effect="`LlamaCpp`, `Ollama`, `VLLM`, `External` (a server that runs already), or `Auto`: Ollama for "
        "`ollama://`, LlamaCpp for GGUF files, VLLM for other weights with an NVIDIA GPU. Default: Auto.",
    )
    image: str | None = option(
        None, effect="Image of the server, in place of the usual one.", min_length=1, max_length=512
    )
    image_pull_secrets: list[SecretName] = option(
        factory=list, effect="Secrets for pulling images.", max_length=8
    )
    args: list[Word] = option(
        factory=list,
        effect="More arguments of the server, one word an item; they come last and win.",
        max_length=64,
    )
    env: list[Environment] = option(
        factory=list, effect="More environment variables of the server.", max_length=64
    )
    external: External | None = option(None, effect="The server, when the runtime is External.")


class Tuning(Part):
    """What the engine is told about memory and parallel work. What is left out, it decides itself."""

    context_length: int | None = option(
        None,
        effect="Tokens of prompt and answer of one request. Default: as much as fits.",
        ge=256,
        le=10_000_000,
    )
    parallel_requests: int | None = option(
        None, effect="Requests that the server works on at a time. Default: 1 per server, 16 for VLLM.",
        ge=1, le=1024,
    )  # fmt: skip
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = option(
        None, effect="Type of the attention cache's numbers; the smaller, the longer the context."
    )
    gpu_layers: int | None = option(
        None,
        effect="Layers that LlamaCpp keeps on the GPU. Default: as many as fit.",
        ge=0,
        le=1000,
    )


class Resources(Part):
    """Requests and limits, as in a pod."""

    requests: dict[str, Quantity] = option(
        factory=dict, effect="What a pod is promised, for example `memory: 8Gi`."
    )
    limits: dict[str, Quantity] = option(factory=dict, effect="What a pod may take at most.")


class Accelerator(Part):
    """The GPU of a server."""

    type: Literal["None", "NVIDIA", "AMD", "Intel"] = option(
        "None", effect="Maker of the GPU. Default: None, which is CPU."
    )
    count: int = option(1, effect="GPUs of each server. Default: 1.", ge=1, le=64)
    resource_name: Word | None = option(
        None,
        effect="Name of the resource where it is another one, for example `nvidia.com/mig-1g.10gb`.",
    )


class Cache(Part):
    """Where fetched weights are kept."""

    size: Quantity = option("20Gi", effect="Size of the claim; it may grow. Default: 20Gi.")
    storage_class_name: str | None = option(
        None, effect="Storage class; by default the cluster's.", max_length=253
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany"]] = option(
        factory=lambda: ["ReadWriteOnce"],
        effect="Access modes; several servers on several nodes need ReadWriteMany.",
        min_length=1,
        max_length=2,
    )
    claim_name: DnsName | None = option(
        None, effect="A claim of yours in place of one that is made for you."
    )
    retention_policy: Literal["Delete", "Retain"] = option(
        "Delete", effect="Whether the claim stays when the LocalModel goes. Default: Delete."
    )


class Gateway(Part):
    """The gateway in front of the server."""

    replicas: int | None = option(
        None, effect="Gateways; leave it out where an autoscaler decides. Default: 1.", ge=1, le=32
    )
    image: str | None = option(
        None,
        effect="Image of the gateway, in place of the operator's.",
        min_length=1,
        max_length=512,
    )
    resources: Resources = option(factory=Resources, effect="Resources of a gateway.")
    keys_secret_ref: SecretName | None = option(
        None,
        effect="Secret of clients' API keys: each entry is a client, its value the key. Changes need no restart. "
        "Without it the model is open to its own namespace, and closed to others by NetworkPolicy.",
    )
    settings: dict[str, Any] = option(
        factory=dict, effect="Policy of the gateway: the groups of docs/settings.md, in camelCase."
    )


class Rollout(Part):
    """How a changed server replaces the one that runs."""

    strategy: Literal["Auto", "Recreate", "RollingUpdate"] = option(
        "Auto",
        effect="Auto: Recreate where the old server holds a GPU or the only volume, else RollingUpdate. Default: Auto.",
    )
    idle_timeout_seconds: int = option(
        300, effect="How long running answers may take before they are ended. Default: 300.", ge=0, le=3600
    )  # fmt: skip


class ServiceSpec(Part):
    """The Service that clients use."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = option(
        "ClusterIP", effect="Type of the Service. Default: ClusterIP."
    )
    annotations: dict[str, str] = option(factory=dict, effect="Annotations of the Service.")


class HttpRoute(Part):
    """A route of the Gateway API."""

    parent_refs: list[Passed] = option(
        effect="Gateways that the route is attached to.", min_length=1, max_length=8
    )
    hostnames: list[DnsName] = option(
        factory=list, effect="Host names of the route.", max_length=16
    )


class Expose(Part):
    """How clients reach the model."""

    service: ServiceSpec = option(factory=ServiceSpec, effect="The Service that clients use.")
    http_route: HttpRoute | None = option(
        None, effect="A route of the Gateway API, made when the cluster knows HTTPRoute."
    )


class Monitoring(Part):
    """What Prometheus is told."""

    service_monitor: bool = option(
        False, effect="Make a ServiceMonitor, when the cluster knows it. Default: false."
    )
    interval_seconds: int = option(30, effect="How often to scrape. Default: 30.", ge=5, le=3600)
    labels: dict[str, str] = option(factory=dict, effect="Labels by which Prometheus chooses it.")


class NetworkPolicySpec(Part):
    """Who may reach what."""

    enabled: bool = option(
        True, effect="Let only the gateway reach the server, and only the own namespace the gateway. Default: true."
    )  # fmt: skip
    allow_from: list[Passed] = option(
        factory=list,
        effect="More peers that may reach the gateway, as in a NetworkPolicy's `from`.",
        max_length=32,
    )


class Scheduling(Part):
    """Where the servers run; passed to the pods as it is."""

    node_selector: dict[str, str] = option(factory=dict, effect="Labels that a node must have.")
    tolerations: list[Passed] = option(
        factory=list, effect="Taints that are tolerated.", max_length=32
    )
    affinity: Passed = option(factory=dict, effect="Affinity, as in a pod.")
    topology_spread_constraints: list[Passed] = option(
        factory=list, effect="How servers are spread, as in a pod.", max_length=8
    )
    priority_class_name: str | None = option(None, effect="Priority class.", max_length=253)
    runtime_class_name: str | None = option(
        None, effect="Runtime class, for example `nvidia`.", max_length=253
    )


class PodMetadata(Part):
    """Labels and annotations for all pods of the model."""

    labels: dict[str, str] = option(factory=dict, effect="Labels.")
    annotations: dict[str, str] = option(factory=dict, effect="Annotations.")


class LocalModelSpec(Part):
    """A model, the server that runs it, and the gateway that clients talk to."""

    model: Model = option(factory=Model, effect="Which weights are served, and under which name.")
    runtime: RuntimeSpec = option(factory=RuntimeSpec, effect="Which engine serves the model.")
    tuning: Tuning = option(
        factory=Tuning,
        effect="Context length, parallel requests, type of the cache. What is left out, the engine decides.",
    )
    gateway: Gateway = option(factory=Gateway, effect="The gateway in front of the server.")
    accelerator: Accelerator = option(factory=Accelerator, effect="The GPU of a server.")
    resources: Resources = option(
        factory=Resources,
        effect="Resources of a server; its memory is estimated where none is given.",
    )
    cache: Cache = option(factory=Cache, effect="Where fetched weights are kept.")
    replicas: int = option(
        1, effect="Servers; each is a copy of the model. Default: 1.", ge=0, le=64
    )
    rollout: Rollout = option(factory=Rollout, effect="How a changed server is replaced.")
    expose: Expose = option(factory=Expose, effect="How clients reach the model.")
    monitoring: Monitoring = option(factory=Monitoring, effect="What Prometheus is told.")
    network_policy: NetworkPolicySpec = option(
        factory=NetworkPolicySpec, effect="Who may reach what."
    )
    scheduling: Scheduling = option(factory=Scheduling, effect="Where the servers run.")
    pod_metadata: PodMetadata = option(
        factory=PodMetadata, effect="Labels and annotations for all pods of the model."
    )
    suspend: bool = option(
        False,
        effect="Remove the pods and keep the weights, until it is false again. Default: false.",
    )


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One LocalModel; *policy* is `spec.gateway.settings` as the gateway's file says it."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: LocalModelSpec
    policy: Policy

    @property
    def served_name(self) -> str:
        """What clients call it."""
        return self.spec.model.name or self.name

    @property
    def external(self) -> bool:
        """Whether its server is not ours."""
        return self.spec.runtime.type == "External"

    @property
    def runtime(self) -> Runtime | None:
        """The engine; None when `Auto` cannot tell."""
        said = self.spec.runtime.type
        uri = (self.spec.model.uri or "").lower()
        if said != "Auto":
            return said
        if uri.startswith("ollama://"):
            return "Ollama"
        if "gguf" in uri or any(one.lower().endswith(".gguf") for one in self.spec.model.files):
            return "LlamaCpp"
        return "VLLM" if self.spec.accelerator.type == "NVIDIA" else None


def parse(body: Mapping[str, Any]) -> LocalModel:
    """
    A LocalModel from what the API server sent.

    Raises:
        InvalidSpec: with the path and a sentence.
    """
    about = body.get("metadata") or {}
    name = str(about.get("name", ""))
    if len(name) > MOST_NAME_LENGTH:
        raise InvalidSpec("metadata.name", f"expected at most {MOST_NAME_LENGTH} characters")
    try:
        spec = LocalModelSpec.model_validate(body.get("spec") or {}, by_name=False, by_alias=True)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        path = ".".join(str(one) for one in ("spec", *first["loc"]))
        raise InvalidSpec(path, str(first["msg"])) from exc
    policy = as_policy(spec.gateway.settings)
    if isinstance(policy, str):
        raise InvalidSpec("spec.gateway.settings", policy)
    model = LocalModel(
        str(about.get("namespace", "default")),
        name,
        str(about.get("uid", "")),
        int(about.get("generation", 0)),
        spec,
        policy,
    )
    _check(model)
    return model


def _check(model: LocalModel) -> None:
    """What admission checks too, for objects that are older than the rules."""
    spec = model.spec
    if model.external != (spec.runtime.external is not None):
        raise InvalidSpec(
            "spec.runtime.external", "give it if and only if runtime.type is External"
        )
    if model.external == (spec.model.uri is not None):
        raise InvalidSpec(
            "spec.model.uri", "give the weights, or an External server; one of the two"
        )
    if model.runtime is None:
        raise InvalidSpec(
            "spec.runtime.type",
            "Auto cannot tell the engine: weights that are no GGUF need runtime.type, or an NVIDIA accelerator",
        )
    if (spec.model.uri or "").startswith("ollama://") != (model.runtime == "Ollama"):
        raise InvalidSpec("spec.model.uri", "ollama:// and the runtime Ollama go together")
