"""
What keeps pods from starting, told by the field of the spec that names it, where Kubernetes tells of a volume. Pure.

Sources of the words: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go, pkg/volume/secret, pkg/volume/util;
pkg/scheduler/framework/plugins/volumebinding.
"""

from __future__ import annotations

import re
from dataclasses import replace

from penstock_operator.localmodel.references import Reference, References
from penstock_operator.status.failures import Failure

_KINDS = {
    "secret": "Secret", "configmap": "ConfigMap", "config": "ConfigMap",
    "persistentvolumeclaim": "PersistentVolumeClaim",
}  # fmt: skip
_ABSENT = re.compile(
    r'\b(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', re.IGNORECASE
)
_NO_KEY = re.compile(
    r"couldn't find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?([^/\s]+)", re.IGNORECASE
)
_NO_FILE = re.compile(r"references non-existent (secret|config) key: (\S+)", re.IGNORECASE)


def is_absent(failure: Failure, names: References) -> bool:
    """Whether it is for want of an object that the spec names: nothing is on its way then."""
    return _absent(failure, names) is not None


def by_field(failure: Failure, names: References) -> Failure:
    """The same failure; where it is for want of an object that is known, the sentence says which, and what to do."""
    who = "gateway" if failure.component == "gateway" else "server"
    absent = _absent(failure, names)
    if absent is not None:
        at = f"{_called(absent)} ({names.fields(absent.kind, absent.name)})"
        return replace(failure, message=f"The {at} does not exist; make it and the {who} starts.")
    lacks = _lacks(failure, names)
    if lacks is not None:
        at = f"{_called(lacks)} ({lacks.field})"
        return replace(
            failure, message=f"The {at} has no key {lacks.key}; add it and the {who} starts."
        )
    if failure.reason == "CacheUnbindable":
        return _unbound(failure, names)
    return failure


def _unbound(failure: Failure, names: References) -> Failure:
    said = failure.said.partition(" preemption:")[0].rstrip(". ")
    theirs = [one for one in names.named if one.kind == "PersistentVolumeClaim"]
    if theirs:
        told = f"The claim {theirs[0].name} ({theirs[0].field}) has no volume: {said}. "
        advice = f"`kubectl describe pvc {theirs[0].name}` shows why."
    elif names.claim:
        told = f"The claim {names.claim} has no volume: {said}. "
        advice = (
            "Give the cluster a default storage class; or name one that it has in spec.cache.storageClassName and "
            "delete the claim, which is then made anew."
        )
    else:
        return failure
    return replace(failure, message=told + advice)


def _absent(failure: Failure, names: References) -> Reference | None:
    found = _ABSENT.search(failure.said)
    if found is None:
        return None
    kind = _KINDS[found[1].lower()]
    return next((one for one in names.named if (one.kind, one.name) == (kind, found[2])), None)


def _lacks(failure: Failure, names: References) -> Reference | None:
    """The object is there, and a key of it is not."""
    found = _NO_KEY.search(failure.said)
    if found is not None:
        wanted = _KINDS[found[2].lower()], found[3], found[1]
        return next((one for one in names.named if (one.kind, one.name, one.key) == wanted), None)
    found = _NO_FILE.search(failure.said)
    if found is None:
        return None
    kind, key = _KINDS[found[1].lower()], found[2]
    return next((one for one in names.named if (one.kind, one.key) == (kind, key)), None)


def _called(one: Reference) -> str:
    return f"{'claim' if one.kind == 'PersistentVolumeClaim' else one.kind} {one.name}"
