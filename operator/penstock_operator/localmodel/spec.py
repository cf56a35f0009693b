"""
What a person writes into a LocalModel, as frozen values: the one source of the CustomResourceDefinition, of its
documentation and of the operator's own parsing.

Fields are called in camelCase in the cluster, as all of Kubernetes' are. Engine switches are few and typed; what is
missing is said by `runtime.args`. Words that a cluster checks better than we (affinity, tolerations) pass through.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from penstock.domain.options import Options, option

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
        effect="Files below the URI, for models in several parts; the first is the one to load. Not for `ollama://`, "
        "nor for `hf://` with VLLM, which fetch all by themselves.",
        max_length=64,
    )
    sha256: str | None = option(
        None,
        effect="SHA-256 that the (first) file must have, in hexadecimal; another file is refused. An image is pinned "
        "by its digest in the URI instead.",
        pattern="^[0-9a-f]{64}$",
        max_length=256,
    )
    credentials_secret_ref: SecretName | None = option(
        None,
        effect="Secret whose key `token` is sent to `hf://` or `https://`, for gated and private models.",
    )
    ca_config_map_ref: ConfigMapKey | None = option(
        None,
        effect="ConfigMap with the certificates (PEM) of the authority that vouches for where the weights come from.",
    )
    mirror: str | None = option(
        None,
        effect="Address that stands in for `https://huggingface.co` in `hf://`, for clusters without internet.",
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
        factory=list, effect="Secrets for pulling the images of server and gateway.", max_length=8
    )
    args: list[Word] = option(
        factory=list,
        effect="More arguments of the server, one word an item; they come last and win. Ollama has none: use env.",
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
        effect="Tokens of prompt and answer of one request. Default: what the engine fits; on CPU LlamaCpp gets what the memory limit holds, up to 32768, and 8192 without a limit.",
        ge=256,
        le=10_000_000,
    )
    parallel_requests: int | None = option(
        None, effect="Requests that each server works on at a time; others wait in the gateway's queue. Default: 1, with VLLM 16.",
        ge=1, le=1024,
    )  # fmt: skip
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = option(
        None,
        effect="Type of the numbers in the attention (KV) cache: the smaller, the more context fits, at some loss of quality. "
        "Default: the engine's, mostly f16.",
    )
    gpu_layers: int | None = option(
        None,
        effect="Layers that LlamaCpp keeps on the GPU; the others run on the CPU. Default: as many as fit.",
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
        effect="Name of the node's resource where it is not the usual one, for example `nvidia.com/mig-1g.10gb`.",
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


class Scheduling(Part):
    """Where pods run; passed to them as it is."""

    node_selector: dict[str, str] = option(factory=dict, effect="Labels that a node must have.")
    tolerations: list[Passed] = option(
        factory=list, effect="Taints that are tolerated.", max_length=32
    )
    affinity: Passed = option(factory=dict, effect="Affinity, as in a pod.")
    topology_spread_constraints: list[Passed] = option(
        factory=list, effect="How pods are spread, as in a pod.", max_length=8
    )
    priority_class_name: str | None = option(None, effect="Priority class.", max_length=253)
    runtime_class_name: str | None = option(
        None, effect="Runtime class, for example `nvidia`.", max_length=253
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
    scheduling: Scheduling = option(
        factory=Scheduling,
        effect="Where the gateways run. Without constraints of yours they are spread over nodes.",
    )
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


class PodMetadata(Part):
    """Labels and annotations for all pods of the model."""

    labels: dict[str, str] = option(factory=dict, effect="Labels.")
    annotations: dict[str, str] = option(factory=dict, effect="Annotations.")


class LocalModelSpec(Part):
    """A model, the server that runs it, and the gateway that clients talk to."""

    model: Model = option(factory=Model, effect="Which weights are served, and under which name.")
    runtime: RuntimeSpec = option(
        factory=RuntimeSpec,
        effect="Which engine serves the model, and with which image, arguments and variables.",
    )
    tuning: Tuning = option(
        factory=Tuning,
        effect="Context length, parallel requests, type of the cache. What is left out, the engine decides.",
    )
    gateway: Gateway = option(
        factory=Gateway,
        effect="The gateway in front of the server: how many, their keys, their policy.",
    )
    accelerator: Accelerator = option(
        factory=Accelerator, effect="The GPUs of each server. Without it the model runs on the CPU."
    )
    resources: Resources = option(
        factory=Resources,
        effect="CPU and memory of each server, as in a pod.",
    )
    cache: Cache = option(
        factory=Cache,
        effect="The volume on which fetched weights are kept; not for `pvc://` and `oci://`, which are used in place.",
    )
    replicas: int = option(
        1,
        effect="Servers; each holds a copy of the model. Several on several nodes need a ReadWriteMany volume. Default: 1.",
        ge=0,
        le=64,
    )
    rollout: Rollout = option(factory=Rollout, effect="How a changed server is replaced.")
    expose: Expose = option(
        factory=Expose,
        effect="How clients outside of the namespace reach the model: type of the Service, a route.",
    )
    monitoring: Monitoring = option(
        factory=Monitoring, effect="Metrics for the Prometheus operator."
    )
    network_policy: NetworkPolicySpec = option(
        factory=NetworkPolicySpec,
        effect="Who may reach the gateway. Only the gateway reaches the server.",
    )
    scheduling: Scheduling = option(
        factory=Scheduling,
        effect="Where the servers run: node selector, tolerations, affinity, priority.",
    )
    pod_metadata: PodMetadata = option(
        factory=PodMetadata, effect="Labels and annotations for all pods of the model."
    )
    suspend: bool = option(
        False,
        effect="Take the pods away and keep the weights, until it is false again. Default: false.",
    )
