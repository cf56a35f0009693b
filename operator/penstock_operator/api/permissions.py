"""
What the operator may do in a cluster, and why: the one table behind the chart's roles and the preflight.

A test holds the chart's roles against it. Three scopes: `model` rows hold in each watched namespace (a ClusterRole
when all are watched, a Role in each otherwise), `own` rows only in the operator's own namespace: a namespaced install
has no rights in the cluster at all. `outside` rows hold like `model` rows for an operator that runs outside the cluster,
which the chart's does not.
No row reads a Secret: those of models are written by server-side apply (`create`, `patch`) and never read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["model", "own", "outside"]

_APPLY = ("list", "watch", "create", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Permission:
    """
    Verbs on one resource.

    Attributes:
        group: API group; empty for the core.
        resource: plural, with its subresource after a slash.
        why: what the operator does with it.
        optional: the API may be absent; the operator then goes without it.
    """

    scope: Scope
    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    optional: bool = False


PERMISSIONS: tuple[Permission, ...] = (
    Permission("model", "penstock.dev", "localmodels", ("list", "watch"), "hears of models"),
    Permission("model", "penstock.dev", "localmodels/status", ("patch",), "writes their status"),
    Permission("model", "apps", "deployments", _APPLY, "servers and gateways"),
    Permission("model", "", "services", _APPLY, "addresses of servers and gateways"),
    Permission("model", "", "configmaps", _APPLY, "the gateways' settings"),
    Permission(
        "model", "", "persistentvolumeclaims", ("list", "watch", "create", "patch"),
        "the weights; deletes none",
    ),
    Permission(
        "model", "", "secrets", ("create", "patch"),
        "writes each model's admin token; reads no Secret",
    ),
    Permission("model", "policy", "poddisruptionbudgets", _APPLY, "from two gateways"),
    Permission("model", "networking.k8s.io", "networkpolicies", _APPLY, "who reaches what"),
    Permission("model", "", "pods", ("list", "watch"), "why a pod is not ready"),
    Permission(
        "model", "events.k8s.io", "events", ("list", "create"),
        "why a pod does not start; says what turned",
    ),
    Permission(
        "model", "gateway.networking.k8s.io", "httproutes", ("list", "create", "patch", "delete"),
        "routes, where the Gateway API is installed", optional=True,
    ),
    Permission(
        "model", "monitoring.coreos.com", "servicemonitors", ("list", "create", "patch", "delete"),
        "scraping, where the Prometheus operator is installed", optional=True,
    ),
    Permission(
        "outside", "", "pods/proxy", ("get", "create"),
        "asks gateways, and has them hold requests; in the cluster their addresses lead there",
    ),
    Permission(
        "own", "coordination.k8s.io", "leases", ("get", "create", "update"), "one replica leads"
    ),
)  # fmt: skip
