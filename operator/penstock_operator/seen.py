"""
What was observed in the cluster, as values: the second half of what the pure modules decide from.

Kubernetes objects stay plain dicts as the API server sent them (without managedFields): the pure modules read
few of their fields, and a typed copy of Kubernetes' own types would be a second truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Manifest = dict[str, Any]


class Key(NamedTuple):
    """Which LocalModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """
    What one gateway pod says of itself.

    Attributes:
        status: its `/penstock/status` (docs/status.md); None when it could not be asked.
        problem: why not, a sentence; empty when it answered.
    """

    pod: str
    status: Mapping[str, Any] | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A child that could not be brought where it should be.

    Attributes:
        message: which, and in whose words why; a sentence.
        taken: an object of its name is there and not ours.
        lasting: nothing but a person ends it.
    """

    message: str
    taken: bool = False
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """
    The cluster around one LocalModel.

    Attributes:
        now: RFC 3339 with seconds, UTC; the only clock of the pure modules.
        children: objects that carry the model's label, by (kind, name); Secrets are never among them.
        pods: all pods of the model, gateways' and servers'.
        events: Warning events about pods that do not start.
        apis: optional kinds that the API server serves: `HTTPRoute`, `ServiceMonitor`.
        gateways: by pod name.
        before: the status that stands on the LocalModel.
        admin_token: of this model, for the Secret that gateways mount.
        operator_image: the image of gateway and fetcher.
        admitted: peers of a NetworkPolicy that reach every gateway: the operator, a scraper.
        left: fields of children that others own and set otherwise, a sentence for each child.
        refused: children that the API server refused just now.
    """

    now: str
    operator_image: str
    admin_token: str = ""
    children: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    pods: tuple[Manifest, ...] = ()
    events: tuple[Manifest, ...] = ()
    apis: frozenset[str] = frozenset()
    gateways: Mapping[str, GatewayStatus] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)
    admitted: tuple[Mapping[str, Any], ...] = ()
    left: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()

    def child(self, kind: str, name: str) -> Manifest | None:
        """That child, or None."""
        return self.children.get((kind, name))

    def pods_of(self, component: str) -> Iterator[Manifest]:
        """Pods of `gateway`, `server` or `weights`."""
        for pod in self.pods:
            labels = pod.get("metadata", {}).get("labels") or {}
            if labels.get("app.kubernetes.io/component") == component:
                yield pod

    def live_pods(self, component: str) -> Iterator[Manifest]:
        """Those of them that have not ended for good, as an evicted one has: its Deployment has made another."""
        for pod in self.pods_of(component):
            if not is_over(pod):
                yield pod


def is_over(pod: Mapping[str, Any]) -> bool:
    """Nothing runs in it, and nothing ever will; it stays until somebody deletes it."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Its condition of that type; empty when it has none."""
    for one in (thing.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind:
            found: Mapping[str, Any] = one
            return found
    return {}


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Its condition Ready is true, and it is not going away."""
    if "deletionTimestamp" in pod.get("metadata", {}):
        return False
    return condition(pod, "Ready").get("status") == "True"
