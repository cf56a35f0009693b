"""What all children share: metadata, restricted security, the hash of a pod template. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock_operator.localmodel.names import API_VERSION, KIND, TEMPLATE_HASH, labels, selector
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.localmodel.spec import Resources, Scheduling
from penstock_operator.seen import Manifest
from penstock_operator.sizing.digests import digest_of

POD_SECURITY = {
    "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
    "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def child(
    model: LocalModel,
    api: str,
    kind: str,
    name: str,
    component: str,
    *,
    owned: bool = True,
    **body: Any,
) -> Manifest:
    """A child with our labels, which goes when the LocalModel goes if it is *owned*."""
    about: dict[str, Any] = {
        "name": name, "namespace": model.namespace, "labels": labels(model.name, component),
    }  # fmt: skip
    if owned:
        about["ownerReferences"] = [
            {
                "apiVersion": API_VERSION, "kind": KIND, "name": model.name, "uid": model.uid,
                "controller": True, "blockOwnerDeletion": False,
            }
        ]  # fmt: skip
    return {"apiVersion": api, "kind": kind, "metadata": about, **body}


def said_of_pods(model: LocalModel) -> dict[str, Any]:
    """What the spec says of all pods' metadata; nothing when it says nothing."""
    said = model.spec.pod_metadata.model_dump(mode="json", exclude_defaults=True)
    return {"said": said} if said else {}


def template(
    model: LocalModel, component: str, pod: Mapping[str, Any], digest: str
) -> dict[str, Any]:
    """A pod template that carries the hash of what matters about the pod."""
    more = model.spec.pod_metadata
    return {
        "metadata": {
            "labels": labels(model.name, component, more.labels),
            "annotations": {**more.annotations, TEMPLATE_HASH: digest},
        },
        "spec": dict(pod),
    }


def deployment(
    model: LocalModel,
    name: str,
    component: str,
    pod: Mapping[str, Any],
    *,
    replicas: int | None,
    strategy: Mapping[str, Any],
    digest: str | None = None,
) -> Manifest:
    """
    A Deployment.

    Args:
        replicas: None where their number is somebody else's.
        digest: of what matters about the pod; None for all of it.
    """
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector(model.name, component)},
        "strategy": dict(strategy),
        "template": template(
            model, component, pod, digest or digest_of({**pod, **said_of_pods(model)})
        ),
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return child(model, "apps/v1", "Deployment", name, component, spec=spec)


def resources(
    asked: Resources, more: Mapping[str, Any] | None = None, memory: str | None = None
) -> dict[str, Any]:
    """As in a container; *more* are limits of GPUs, *memory* is asked for where nothing is said about it."""
    limits = {**{name: str(value) for name, value in asked.limits.items()}, **(more or {})}
    found: dict[str, Any] = {}
    requests = {name: str(value) for name, value in asked.requests.items()}
    if memory is not None:
        requests = {"memory": memory, **requests}
    if requests:
        found["requests"] = requests
    if limits:
        found["limits"] = limits
    return found


def scheduling(asked: Scheduling) -> dict[str, Any]:
    """Where a pod may run, as in a pod; nothing where nothing is said."""
    found: dict[str, Any] = {
        "nodeSelector": dict(asked.node_selector), "tolerations": list(asked.tolerations),
        "affinity": dict(asked.affinity), "topologySpreadConstraints": list(asked.topology_spread_constraints),
        "priorityClassName": asked.priority_class_name, "runtimeClassName": asked.runtime_class_name,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def pull_secrets(model: LocalModel) -> dict[str, Any]:
    """Of a pod; every pod of the model may use them."""
    named = [{"name": one.name} for one in model.spec.runtime.image_pull_secrets]
    return {"imagePullSecrets": named} if named else {}
