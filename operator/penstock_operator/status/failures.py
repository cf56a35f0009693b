"""
Why a pod does not do what it should, in a stable reason and a sentence. Pure.

The kubelet and the scheduler say it in several places and words: conditions of the pod, waiting and terminated
states of its containers, now and last. The worst that is known wins, and a healthy pod has none.
Sources: k8s.io/kubernetes pkg/kubelet/images/types.go, pkg/kubelet/container/sync_result.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock_operator.seen import Manifest, condition, is_ready

_IMAGE = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
    "RegistryUnavailable", "ImageInspectError",
}  # fmt: skip
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
# Reasons in the termination message of `penstock fetch` (penstock.adapters.fetching), and ours for them.
_FETCH = {
    "NotFound": "ModelNotFound",
    "Missing": "ModelNotFound",
    "BadAddress": "ModelNotFound",
    "Unauthorized": "CredentialsRefused",
    "Mismatch": "ChecksumMismatch",
    "DiskFull": "DiskFull",
    "Unwritable": "VolumeUnwritable",
    "Unreachable": "SourceUnreachable",
    "ServerError": "SourceUnreachable",
}
# What a person does about what the fetcher says; the rest is tried again by itself.
_ADVICE = {
    "ModelNotFound": "Correct spec.model.",
    "CredentialsRefused": "Check the key `token` of the Secret in spec.model.credentialsSecretRef, and whether the "
    "model's licence was accepted at its source.",
    "ChecksumMismatch": "Correct spec.model.sha256, or mistrust the source.",
    "DiskFull": "Raise spec.cache.size.",
    "VolumeUnwritable": "The claim must be writable for the group 65532.",
}
# Nothing but a person ends these.
FOR_A_PERSON = frozenset(
    {"ModelNotFound", "CredentialsMissing", "CredentialsRefused", "ChecksumMismatch", "DiskFull",
     "VolumeUnwritable", "CacheUnbindable"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Attributes:
        reason: stable, CamelCase, documented.
        message: a sentence: what happened, who refused, what to do.
        said: Kubernetes' own words; empty where there are none.
        at: RFC 3339 of when it happened, empty where Kubernetes does not say.
    """

    component: str
    pod: str
    container: str
    reason: str
    message: str
    exit_code: int | None = None
    at: str = ""
    said: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As `status.lastFailure`."""
        fields = {
            "component": self.component, "pod": self.pod, "container": self.container,
            "reason": self.reason, "message": self.message, "exitCode": self.exit_code,
            "time": self.at,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value not in (None, "")}


def failures(component: str, pods: Iterable[Manifest]) -> Iterator[Failure]:
    """Of those pods, one each at most; none of a pod that is ready."""
    for pod in pods:
        found = _of_pod(component, pod)
        if found is not None:
            yield found


def _of_pod(component: str, pod: Manifest) -> Failure | None:
    if is_ready(pod) or "deletionTimestamp" in pod.get("metadata", {}):
        return None
    name = pod.get("metadata", {}).get("name", "")
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        said = str(scheduled.get("message", ""))
        unbound = "persistent volumes to bind" in said and "Insufficient" not in said
        claim = unbound or "persistentvolumeclaim" in said.lower()
        return Failure(
            component, name, "",
            "CacheUnbindable" if claim else "Unschedulable",
            f"No node takes the pod {name}: {said or 'the scheduler does not say why'}",
            at=str(scheduled.get("lastTransitionTime", "")), said=said,
        )  # fmt: skip
    status = pod.get("status") or {}
    for container in [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]:
        found = _of_container(component, name, container)
        if found is not None:
            return found
    if status.get("phase") == "Failed":
        said = str(status.get("message") or status.get("reason") or "no reason given")
        reason = "Evicted" if status.get("reason") == "Evicted" else "PodFailed"
        return Failure(component, name, "", reason, f"The pod {name} failed: {said}")
    return None


def _of_container(component: str, pod: str, container: Mapping[str, Any]) -> Failure | None:
    name = str(container.get("name", ""))
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    why = str(waiting.get("reason", ""))
    said = str(waiting.get("message", ""))
    if why in _IMAGE:
        return Failure(
            component, pod, name, "ImagePullFailed",
            f"The image {container.get('image', '')} of {pod} cannot be pulled: {said or why}. Check its name and "
            "spec.runtime.imagePullSecrets.",
        )  # fmt: skip
    if why in _CONFIG:
        reason = "CredentialsMissing" if "secret" in said.lower() else "ConfigurationMissing"
        return Failure(
            component,
            pod,
            name,
            reason,
            f"A container of {pod} cannot be made: {said or why}",
            said=said,
        )
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    code = ended.get("exitCode")
    if not ended or code == 0:
        return None
    at = str(ended.get("finishedAt", ""))
    if ended.get("reason") == "OOMKilled":
        return Failure(
            component, pod, name, "OOMKilled",
            f"The container {name} of {pod} used more memory than its limit and was killed. Raise its memory limit, or "
            "lower spec.tuning.contextLength.",
            code, at,
        )  # fmt: skip
    told = _told(str(ended.get("message", "")))
    if told is not None:
        return Failure(component, pod, name, told[0], told[1], code, at)
    reason = "CrashLooping" if int(container.get("restartCount", 0)) > 1 else "ContainerFailed"
    text = str(ended.get("message", "")).strip()
    return Failure(
        component, pod, name, reason,
        f"The container {name} of {pod} ended with exit code {code}"
        + (f": {text[-400:]}" if text else f"; `kubectl logs {pod} -c {name} -p` shows why."),
        code, at,
    )  # fmt: skip


def _told(message: str) -> tuple[str, str] | None:
    """The fetcher's own words, from its termination message of one JSON line."""
    try:
        value = json.loads(message)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        return None
    said = value.get("reason")
    reason = _FETCH[said] if said in _FETCH else "DownloadFailed"  # noqa: SIM401 - a test reads reasons here
    advice = _ADVICE.get(reason, "It is tried again.")
    return reason, f"{value['message']} {advice}"
