"""The kinds that the operator deals with: where each lives in the API, and which are watched. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind lives in the API."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", part: str = "") -> str:
        """The path of the collection, an object or a subresource; None for all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        rest = "".join(f"/{quote(one, safe='')}" for one in (name, part) if one)
        return f"{root}{place}/{self.plural}{rest}"


RESOURCES: Mapping[str, Resource] = {
    "LocalModel": Resource("penstock.dev", "v1alpha1", "localmodels"),
    "Deployment": Resource("apps", "v1", "deployments"),
    "Service": Resource("", "v1", "services"),
    "ConfigMap": Resource("", "v1", "configmaps"),
    "Secret": Resource("", "v1", "secrets"),
    "PersistentVolumeClaim": Resource("", "v1", "persistentvolumeclaims"),
    "Pod": Resource("", "v1", "pods"),
    "Event": Resource("events.k8s.io", "v1", "events"),
    "PodDisruptionBudget": Resource("policy", "v1", "poddisruptionbudgets"),
    "NetworkPolicy": Resource("networking.k8s.io", "v1", "networkpolicies"),
    "ServiceMonitor": Resource("monitoring.coreos.com", "v1", "servicemonitors"),
    "HTTPRoute": Resource("gateway.networking.k8s.io", "v1", "httproutes"),
    "Lease": Resource("coordination.k8s.io", "v1", "leases"),
}

WATCHED = (
    "LocalModel", "Deployment", "Service", "ConfigMap", "PersistentVolumeClaim",
    "PodDisruptionBudget", "NetworkPolicy", "Pod",
)  # fmt: skip
