"""
Pods that do not start although a node has taken them, and pods that are not made at all. Pure.

Of a volume that cannot be mounted (a Secret that is missing, a disk that another node has) the pod itself says nothing
but ContainerCreating: the kubelet and the controller of volumes tell it in Events. A Deployment whose pods are refused
(a quota, Pod Security, a ServiceAccount that is missing) tells it in its condition ReplicaFailure.
Sources: k8s.io/kubernetes pkg/kubelet/events, pkg/controller/volume/attachdetach/reconciler, pkg/controller/deployment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from penstock_operator.seen import Manifest, condition, is_ready
from penstock_operator.status.failures import Failure

_STARTS_WITHIN_S = 30.0
BINDS_WITHIN_S = 60.0
_STALE_S = 240.0  # the kubelet says it again after two minutes at most
_BEFORE_START = {"ContainerCreating", "PodInitializing"}


def stuck(pods: Iterable[Manifest], now: str) -> list[Manifest]:
    """Those that a node took a while ago and that have not started: their Events say why."""
    return [pod for pod in pods if _starts(pod) and _age_s(pod, "PodScheduled", now) >= _STARTS_WITHIN_S]  # fmt: skip


def look_again_s(pods: Iterable[Manifest], now: str) -> float | None:
    """When waiting alone will have changed what is said of them; None where their news tell."""
    found: list[float] = []
    for pod in pods:
        age_s = _age_s(pod, "PodScheduled", now)
        if _starts(pod):
            left_s = _STARTS_WITHIN_S - age_s
            found.append(left_s + 1.0 if left_s > 0 else _STARTS_WITHIN_S)
        elif condition(pod, "PodScheduled").get("status") == "False" and age_s <= BINDS_WITHIN_S:
            found.append(BINDS_WITHIN_S - age_s + 1.0)
    return min(found, default=None)


def not_started(
    component: str, pods: Iterable[Manifest], events: Iterable[Manifest], now: str
) -> Iterator[Failure]:
    """Of the *pods* that are stuck, what the newest of the *events* says."""
    told: dict[str, list[Manifest]] = {}
    for event in events:
        about = event.get("regarding") or {}
        told.setdefault(str(about.get("uid") or about.get("name")), []).append(event)
    for pod in stuck(pods, now):
        about = pod["metadata"]
        said = told.get(str(about.get("uid")), []) or told.get(str(about["name"]), [])
        for event in sorted(said, key=_last, reverse=True):
            found = _of_event(component, str(about["name"]), event)
            if found is not None and _since_s(found.at, now) <= _STALE_S:
                yield found
                break


def not_made(component: str, deployment: Manifest | None) -> Iterator[Failure]:
    """What Kubernetes says of pods of that Deployment that it could not make."""
    refused = condition(deployment or {}, "ReplicaFailure")
    if deployment is not None and refused.get("status") == "True":
        said = str(refused.get("message") or refused.get("reason") or "no reason given")
        yield Failure(
            component, "", "", "PodsRefused",
            f"Kubernetes makes no pods for the Deployment {deployment['metadata']['name']}: {said}",
            at=str(refused.get("lastTransitionTime", "")),
        )  # fmt: skip


def _of_event(component: str, pod: str, event: Manifest) -> Failure | None:
    why, said = str(event.get("reason", "")), " ".join(str(event.get("note", "")).split())
    at, lower = _last(event), said.lower()
    if why == "FailedAttachVolume" and "multi-attach" in lower:
        return Failure(
            component, pod, "", "VolumeElsewhere",
            f"The volume of {pod} is in use on another node: {said}. More than one server needs a claim of "
            "ReadWriteMany, or one node for all of them.",
            at=at,
        )  # fmt: skip
    if why in ("FailedMount", "FailedAttachVolume"):
        absent = "not found" in lower or "non-existent" in lower
        reason = "VolumeNotMounted"
        if absent and "secret" in lower:
            reason = "CredentialsMissing"
        elif absent and "configmap" in lower:
            reason = "ConfigurationMissing"
        return Failure(
            component,
            pod,
            "",
            reason,
            f"A volume of {pod} cannot be mounted: {said}",
            at=at,
            said=said,
        )
    if why == "FailedCreatePodSandBox":
        return Failure(
            component, pod, "", "SandboxFailed", f"The node cannot start {pod}: {said}", at=at
        )
    return None


def _starts(pod: Manifest) -> bool:
    """A node has it, and no container was started, nor was its sandbox: for that the volumes must be mounted."""
    status = pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"] or is_ready(pod) or status.get("phase") != "Pending":
        return False
    if condition(pod, "PodScheduled").get("status") != "True":
        return False
    if condition(pod, "PodReadyToStartContainers").get("status") == "True":
        return False
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    return all(_waits_for(one) in _BEFORE_START for one in containers)


def _waits_for(container: Mapping[str, object]) -> str:
    state = container.get("state")
    waiting = state.get("waiting") if isinstance(state, dict) else None
    return str(waiting.get("reason", "")) if isinstance(waiting, dict) else ""


def _last(event: Manifest) -> str:
    """When it was told last: the kubelet counts in the deprecated fields."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"),
        event.get("eventTime"), event["metadata"].get("creationTimestamp"),
    )  # fmt: skip
    return next((str(one) for one in times if one), "")


def _age_s(pod: Manifest, kind: str, now: str) -> float:
    return _since_s(str(condition(pod, kind).get("lastTransitionTime") or ""), now)


def _since_s(at: str, now: str) -> float:
    """Without a time: just now."""
    if not at:
        return 0.0
    return (datetime.fromisoformat(now) - datetime.fromisoformat(at)).total_seconds()
