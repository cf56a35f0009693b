"""The server's Deployment and headless Service, for each engine. Pure; words of a spec are never part of a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penstock_operator.desired.common import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    child,
    deployment,
    digest,
    resources,
)  # fmt: skip
from penstock_operator.desired.weights import FOLDER, environment, weights
from penstock_operator.localmodel.names import ASKED_HASH, SERVER, TEMPLATE_HASH, children, selector
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.seen import Manifest, Seen

PORT = 8080
CPU_CONTEXT = 8192
_IMAGES = {
    "None": "ghcr.io/ggml-org/llama.cpp:server", "NVIDIA": "ghcr.io/ggml-org/llama.cpp:server-cuda",
    "AMD": "ghcr.io/ggml-org/llama.cpp:server-rocm", "Intel": "ghcr.io/ggml-org/llama.cpp:server-intel",
}  # fmt: skip
_GPUS = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Intel": "gpu.intel.com/i915"}
# Constant; the model comes in as a variable, which the shell does not read as code.
_PULL = 'ollama serve & until ollama list >/dev/null 2>&1; do sleep 0.2; done; exec ollama pull "$MODEL"'


def server(model: LocalModel, seen: Seen) -> list[Manifest]:
    """
    Deployment and headless Service.

    An operator upgrade restarts no model pod: as long as nothing else is asked for, a server that runs keeps the
    release of our image that it has, and where this release would write its pod in another way, the pod it has.
    """
    asked = _asked(model)
    running = seen.child("Deployment", children(model.name).server)
    if running is None:
        return _made(model, seen, asked)
    template = running["spec"]["template"]
    pod = template["spec"]
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        made = _made(model, replace(seen, operator_image=container["image"]), asked)
        if _hash(made[0]["spec"]["template"]) == _hash(template):
            return made
    made = _made(model, seen, asked)
    if (running["metadata"].get("annotations") or {}).get(ASKED_HASH) == asked:
        made[0]["spec"]["template"] = template
    return made


def _asked(model: LocalModel) -> str:
    """Of what is asked for that the server's pods depend on, and of nothing that a release decides."""
    spec = model.spec
    parts = (
        spec.model, spec.runtime, spec.tuning, spec.accelerator, spec.resources, spec.scheduling,
        spec.pod_metadata,
    )  # fmt: skip
    said = [one.model_dump(mode="json", exclude_defaults=True) for one in parts]
    return digest([model.runtime, model.served_name, spec.cache.claim_name, said])


def _hash(template: Mapping[str, Any]) -> str:
    return str((template["metadata"].get("annotations") or {}).get(TEMPLATE_HASH, ""))


def _made(model: LocalModel, seen: Seen, asked: str) -> list[Manifest]:
    spec, name = model.spec, children(model.name).server
    found = weights(model, seen)
    container = {
        "name": "server", **_engine(model, seen, found.path),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources(spec.resources, _gpu(model)),
        "volumeMounts": [*found.mounts, {"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
        "securityContext": CONTAINER_SECURITY,
        **_probes(model),
    }  # fmt: skip
    container["env"] = [*container.get("env", []), *_user_environment(model)]
    first = found.fetchers
    if model.runtime == "Ollama":
        first = [
            {
                "name": "pull", "image": container["image"], "command": ["/bin/sh", "-c", _PULL],
                "env": [*_ollama(model), {"name": "MODEL", "value": found.path}],
                "volumeMounts": [*found.mounts, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                "securityContext": CONTAINER_SECURITY,
            }
        ]  # fmt: skip
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False, "enableServiceLinks": False,
        "securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 30,
        "initContainers": first, "containers": [container],
        "volumes": [*found.volumes, {"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        **_scheduling(model),
    }  # fmt: skip
    headless = {
        "clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector(model.name, SERVER),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }  # fmt: skip
    replicas = 0 if spec.suspend else spec.replicas
    made = deployment(model, name, SERVER, pod, replicas=replicas, strategy=_strategy(model))
    made["metadata"]["annotations"] = {ASKED_HASH: asked}
    return [
        made,
        child(model, "v1", "Service", name, SERVER, spec=headless),
    ]


def _engine(model: LocalModel, seen: Seen, path: str) -> dict[str, Any]:
    """Image, command or arguments, and variables."""
    spec, tuning = model.spec, model.spec.tuning
    parallel = tuning.parallel_requests or 1
    if model.runtime == "Ollama":
        return {"image": spec.runtime.image or "docker.io/ollama/ollama:latest", "args": ["serve", *spec.runtime.args], "env": _ollama(model)}  # fmt: skip
    if model.runtime == "VLLM":
        args = [
            "--model", path, "--host", "0.0.0.0", "--port", str(PORT), "--served-model-name", model.served_name,  # noqa: S104
            "--max-model-len", str(tuning.context_length or "auto"),
            "--max-num-seqs", str(tuning.parallel_requests or 16),
        ]  # fmt: skip
        if spec.accelerator.type != "None" and spec.accelerator.count > 1:
            args += ["--tensor-parallel-size", str(spec.accelerator.count)]
        if tuning.kv_cache_type == "q8_0":
            args += ["--kv-cache-dtype", "fp8"]
        own = [{"name": "HF_HOME", "value": FOLDER}, {"name": "HOME", "value": "/tmp"}]  # noqa: S108
        return {"image": spec.runtime.image or "docker.io/vllm/vllm-openai:latest", "args": [*args, *spec.runtime.args], "env": [*own, *environment(model)]}  # fmt: skip
    ours = (
        spec.accelerator.type == "None"
        and not spec.runtime.image
        and tuning.kv_cache_type is None
        and tuning.gpu_layers is None
    )
    args = ["--model", path, "--host", "0.0.0.0", "--port", str(PORT), "--alias", model.served_name, "--parallel", str(parallel), "--metrics"]  # noqa: S104  # fmt: skip
    context = tuning.context_length or (CPU_CONTEXT if spec.accelerator.type == "None" else None)
    if context is not None:
        args += ["--ctx-size", str(context * parallel)]
    if tuning.kv_cache_type is not None:
        args += ["--cache-type-k", tuning.kv_cache_type, "--cache-type-v", tuning.kv_cache_type]
    if tuning.gpu_layers is not None:
        args += ["--n-gpu-layers", str(tuning.gpu_layers)]
    args += spec.runtime.args
    if ours:
        return {"image": seen.operator_image, "command": ["penstock", "llama-server", *args]}
    return {"image": spec.runtime.image or _IMAGES[spec.accelerator.type], "args": args}


def _ollama(model: LocalModel) -> list[dict[str, Any]]:
    tuning = model.spec.tuning
    found = {"OLLAMA_HOST": f"0.0.0.0:{PORT}", "OLLAMA_MODELS": FOLDER, "HOME": "/tmp", "OLLAMA_NUM_PARALLEL": str(tuning.parallel_requests or 1)}  # noqa: S108  # fmt: skip
    if tuning.context_length is not None:
        found["OLLAMA_CONTEXT_LENGTH"] = str(tuning.context_length)
    if tuning.kv_cache_type is not None:
        found |= {"OLLAMA_KV_CACHE_TYPE": tuning.kv_cache_type, "OLLAMA_FLASH_ATTENTION": "1"}
    return [{"name": name, "value": value} for name, value in found.items()]


def _user_environment(model: LocalModel) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in model.spec.runtime.env:
        ref = one.secret_key_ref
        found.append(
            {"name": one.name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
            if ref is not None
            else {"name": one.name, "value": one.value or ""}
        )
    return found


def _gpu(model: LocalModel) -> dict[str, Any]:
    asked = model.spec.accelerator
    if asked.type == "None":
        return {}
    return {asked.resource_name or _GPUS[asked.type]: str(asked.count)}


def _probes(model: LocalModel) -> dict[str, Any]:
    """`/health` of llama.cpp and vLLM fails until the model is loaded; half an hour is left for that."""
    path = "/api/version" if model.runtime == "Ollama" else "/health"
    ask = {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}
    return {
        "startupProbe": {**ask, "periodSeconds": 5, "failureThreshold": 360},
        "readinessProbe": {**ask, "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**ask, "periodSeconds": 20, "failureThreshold": 6},
    }


def _strategy(model: LocalModel) -> dict[str, Any]:
    said = model.spec.rollout.strategy
    if said == "Auto":
        shared = "ReadWriteMany" in model.spec.cache.access_modes
        said = "RollingUpdate" if model.spec.accelerator.type == "None" and shared else "Recreate"
    return {"type": said}


def _scheduling(model: LocalModel) -> dict[str, Any]:
    asked = model.spec.scheduling
    found: dict[str, Any] = {
        "nodeSelector": dict(asked.node_selector), "tolerations": list(asked.tolerations),
        "affinity": dict(asked.affinity), "topologySpreadConstraints": list(asked.topology_spread_constraints),
        "priorityClassName": asked.priority_class_name, "runtimeClassName": asked.runtime_class_name,
        "imagePullSecrets": [{"name": one.name} for one in model.spec.runtime.image_pull_secrets],
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}
