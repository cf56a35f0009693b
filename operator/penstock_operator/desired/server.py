"""The server's Deployment and headless Service, for each engine. Pure; words of a spec are never part of a script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.tokens.memory_fit import USUAL_TOKENS
from penstock_operator.desired.common import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    child,
    deployment,
    pull_secrets,
    resources,
    said_of_pods,
    scheduling,
)  # fmt: skip
from penstock_operator.desired.weights import FOLDER, Weights, environment, weights
from penstock_operator.localmodel.images import image
from penstock_operator.localmodel.names import (
    APPLIED,
    ASKED_HASH,
    PORT,
    SERVER,
    STEPS_DOWN,
    TEMPLATE_HASH,
    children,
    selector,
)
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.localmodel.spec import Tuning
from penstock_operator.seen import Manifest, Seen
from penstock_operator.sizing.digests import digest_of
from penstock_operator.sizing.size import Sizing, memory_request, sizing, told

_LOADS_WITHIN_S = 1800
_FETCHES_AND_LOADS_WITHIN_S = 4 * 3600  # where the engine fetches while it starts
_GPUS = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Intel": "gpu.intel.com/i915"}
# Constant; the model comes in as a variable, which the shell does not read as code.
_PULL = (
    "ollama serve & until ollama list >/dev/null 2>&1; do kill -0 $! 2>/dev/null || exit 1; sleep 0.2; done; "
    'exec ollama pull -- "$MODEL"'
)
_LAST_WORDS = {"terminationMessagePolicy": "FallbackToLogsOnError"}
"""Of containers that do not write their end themselves: the status then tells what stood last in their log."""


def server(model: LocalModel, seen: Seen) -> list[Manifest]:
    """
    Deployment and headless Service.

    An operator upgrade restarts no model pod: a server that runs keeps the images that it has, as long as nothing
    else about its pod changes, and the pod that it has, where only this release would write it in another way. What
    it has is what was applied, which is written down beside it: what others changed of the running one is put right.
    """
    spec, name, size = model.spec, children(model.name).server, sizing(model, seen)
    found = weights(model, seen)
    container = {
        "name": "server", **_engine(model, seen, found.path, size),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources(spec.resources, _gpu(model), memory_request(model, size)),
        "volumeMounts": [*found.mounts, {"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
        "securityContext": CONTAINER_SECURITY, **_LAST_WORDS,
        **_probes(model, found),
    }  # fmt: skip
    container["env"] = [*container.get("env", []), *_user_environment(model)]
    first = found.fetchers
    if model.runtime == "Ollama":
        more = [*environment(model), *_user_environment(model)]
        first = [
            {
                "name": "pull", "image": container["image"], "command": ["/bin/sh", "-c", _PULL],
                "env": [*_ollama(told(model, size)), *more, {"name": "MODEL", "value": found.path}],
                "volumeMounts": [*found.mounts, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                "securityContext": CONTAINER_SECURITY, **_LAST_WORDS,
            }
        ]  # fmt: skip
    chosen = [*first, container]
    for one in chosen:
        one["image"] = _named_image(model, one, found) or one["image"]
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False, "enableServiceLinks": False,
        "securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 30,
        "initContainers": first, "containers": [container],
        "volumes": [*found.volumes, {"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        **scheduling(spec.scheduling), **pull_secrets(model),
    }  # fmt: skip
    headless = {
        "clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector(model.name, SERVER),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }  # fmt: skip
    ours = [one for one in chosen if not _named_image(model, one, found)]
    # Neither images of a release nor an estimate of the memory are a reason for another pod.
    asked = resources(spec.resources, _gpu(model))
    matters = digest_of({**pod, **said_of_pods(model), "initContainers": [_without_image(one, ours) for one in first], "containers": [{**_without_image(container, ours), "resources": asked}]})  # fmt: skip
    applied = _applied(seen.child("Deployment", name))
    _keep_what_runs(container, ours, applied, matters, asked)
    replicas = 0 if spec.suspend else spec.replicas
    made = deployment(
        model, name, SERVER, pod, replicas=replicas, strategy=_strategy(model), digest=matters
    )
    made["spec"]["template"]["metadata"]["annotations"][STEPS_DOWN] = size.step.mark
    _keep_pod(made, applied, seen.child("Deployment", name), matters, size.step.mark)
    return [made, child(model, "v1", "Service", name, SERVER, spec=headless)]


def _applied(running: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pod template as we applied it; what runs where that is not known; empty where nothing does."""
    if running is None:
        return {}
    template: dict[str, Any] = running["spec"]["template"]
    try:
        told = json.loads((running["metadata"].get("annotations") or {}).get(APPLIED) or "{}")
    except ValueError:
        told = None
    usable = isinstance(told, dict) and {"metadata", "spec"} <= told.keys()
    return told if usable else template


def _keep_pod(
    made: Manifest,
    applied: dict[str, Any],
    running: Mapping[str, Any] | None,
    matters: str,
    asked: str,
) -> None:
    was = ((running or {}).get("metadata", {}).get("annotations") or {}).get(ASKED_HASH)
    if applied and _hash(applied) != matters and was == asked:
        made["spec"]["template"] = applied
    told = json.dumps(made["spec"]["template"], sort_keys=True, separators=(",", ":"))
    made["metadata"]["annotations"] = {ASKED_HASH: asked, APPLIED: told}


def _named_image(model: LocalModel, container: Mapping[str, Any], found: Weights) -> str:
    """The image that the spec names for that container; empty where the release decides."""
    fetches = any(one["name"] == container["name"] for one in found.fetchers)
    return (model.spec.gateway.image if fetches else model.spec.runtime.image) or ""


def _without_image(container: Mapping[str, Any], ours: list[dict[str, Any]]) -> dict[str, Any]:
    return {**container, "image": ""} if container in ours else dict(container)


def _keep_what_runs(
    container: dict[str, Any],
    ours: list[dict[str, Any]],
    applied: dict[str, Any],
    matters: str,
    asked: dict[str, Any],
) -> None:
    """Images that the release decides, and the memory that is asked for without a person's word, stay."""
    if not applied or _hash(applied) != matters:
        return
    pod = applied["spec"]
    there = {one["name"]: one for one in [*pod.get("initContainers", ()), *pod["containers"]]}
    for one in ours:
        one["image"] = there[one["name"]]["image"]
    requests = asked.get("requests", {})
    if "memory" in requests or "memory" in asked.get("limits", {}):
        return
    kept = (there[container["name"]].get("resources", {}).get("requests") or {}).get("memory")
    requests = {"memory": kept, **requests} if kept else requests
    container["resources"] = {**asked, "requests": requests} if requests else asked


def _hash(template: Mapping[str, Any]) -> str:
    return str((template["metadata"].get("annotations") or {}).get(TEMPLATE_HASH, ""))


def _engine(model: LocalModel, seen: Seen, path: str, size: Sizing) -> dict[str, Any]:
    """Image, command or arguments, and variables."""
    spec, tuning = model.spec, told(model, size)
    parallel = tuning.parallel_requests or 1
    theirs = image(model.runtime or "", spec.accelerator.type)
    if model.runtime == "Ollama":
        return {
            "image": theirs,
            "args": ["serve", *spec.runtime.args],
            "env": [*_ollama(tuning), *environment(model)],
        }
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
        # PyTorch asks for the user's name, which a number has only by the environment.
        own = {"HF_HOME": FOLDER, "HOME": "/tmp", "USER": "penstock"}  # noqa: S108
        variables = [{"name": name, "value": value} for name, value in own.items()]
        return {
            "image": theirs,
            "args": [*args, *spec.runtime.args],
            "env": [*variables, *environment(model)],
        }
    ours = (
        spec.accelerator.type == "None"
        and not spec.runtime.image
        and tuning.kv_cache_type is None
        and tuning.gpu_layers is None
    )
    args = ["--model", path, "--host", "0.0.0.0", "--port", str(PORT), "--alias", model.served_name, "--parallel", str(parallel), "--metrics"]  # noqa: S104  # fmt: skip
    context = tuning.context_length or (USUAL_TOKENS if spec.accelerator.type == "None" else None)
    if size.fits_itself:
        args.append("--fit")
        if size.step.steps:
            args += ["--steps-down", str(size.step.steps)]
    elif context is not None:
        args += ["--ctx-size", str(context * parallel)]
    if tuning.kv_cache_type is not None:
        args += ["--cache-type-k", tuning.kv_cache_type, "--cache-type-v", tuning.kv_cache_type]
    if tuning.gpu_layers is not None:
        args += ["--n-gpu-layers", str(tuning.gpu_layers)]
    args += spec.runtime.args
    if ours:
        return {"image": seen.operator_image, "command": ["penstock", "llama-server", *args]}
    return {"image": theirs, "args": args}


def _ollama(tuning: Tuning) -> list[dict[str, Any]]:
    found = {"OLLAMA_HOST": f"0.0.0.0:{PORT}", "OLLAMA_MODELS": FOLDER, "HOME": "/tmp", "OLLAMA_NUM_PARALLEL": str(tuning.parallel_requests or 1), "OLLAMA_KEEP_ALIVE": "-1"}  # noqa: S108  # fmt: skip
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


def _probes(model: LocalModel, found: Weights) -> dict[str, Any]:
    """
    A server has started when a token can be made: `/health` of llama.cpp and vLLM fails until the model is loaded.

    Ollama answers without a model, so its start is over when `ollama run` has loaded it, which it then keeps.
    """
    path = "/api/version" if model.runtime == "Ollama" else "/health"
    ask = {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}
    started: dict[str, Any] = {**ask, "periodSeconds": 2, "failureThreshold": _LOADS_WITHIN_S // 2}
    if model.runtime == "Ollama":
        # An attempt that is cut off would begin the load anew; that of a server that does not listen yet ends at once.
        load = ["ollama", "run", "--", found.path, ""]
        started = {"exec": {"command": load}, "timeoutSeconds": _LOADS_WITHIN_S, "periodSeconds": 5, "failureThreshold": 60}  # fmt: skip
    elif not found.fetchers and found.is_fetched:
        started["failureThreshold"] = _FETCHES_AND_LOADS_WITHIN_S // 2
    return {
        "startupProbe": started,
        "readinessProbe": {**ask, "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**ask, "periodSeconds": 20, "failureThreshold": 6},
    }


def _strategy(model: LocalModel) -> dict[str, Any]:
    said = model.spec.rollout.strategy
    if said == "Auto":
        # What an image holds is on every node by itself.
        from_image = (model.spec.model.uri or "").lower().startswith("oci://")
        shared = from_image or "ReadWriteMany" in model.spec.cache.access_modes
        said = "RollingUpdate" if model.spec.accelerator.type == "None" and shared else "Recreate"
    return {"type": said}
