"""Who reaches what: NetworkPolicies, HTTPRoute, ServiceMonitor. Pure."""

from __future__ import annotations

from typing import Any

from penstock_operator.desired.common import child
from penstock_operator.localmodel.names import GATEWAY, SERVER, children, selector
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.seen import Manifest, Seen


def access(model: LocalModel, seen: Seen) -> list[Manifest]:
    """What is asked for and known to the cluster."""
    spec, ours = model.spec, children(model.name)
    found: list[Manifest] = []
    if spec.network_policy.enabled:
        # The own namespace; the operator and a scraper by the label that the chart's values name.
        admitted: list[dict[str, Any]] = [
            {"podSelector": {}},
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "penstock-operator"}}},
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
            *spec.network_policy.allow_from,
        ]  # fmt: skip
        found.append(_policy(model, ours.gateway, GATEWAY, admitted))
        if not model.external:
            only = [{"podSelector": {"matchLabels": selector(model.name, GATEWAY)}}]
            found.append(_policy(model, ours.server, SERVER, only))
    route = spec.expose.http_route
    if route is not None and "HTTPRoute" in seen.apis:
        rule = {
            "backendRefs": [{"name": ours.gateway, "port": 80}],
            "timeouts": {"request": "0s", "backendRequest": "0s"},
        }
        body: dict[str, Any] = {"parentRefs": list(route.parent_refs), "rules": [rule]}
        if route.hostnames:
            body["hostnames"] = list(route.hostnames)
        found.append(child(model, "gateway.networking.k8s.io/v1", "HTTPRoute", ours.gateway, GATEWAY, spec=body))  # fmt: skip
    if spec.monitoring.service_monitor and "ServiceMonitor" in seen.apis:
        monitor = {
            "selector": {"matchLabels": selector(model.name, GATEWAY)},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": f"{spec.monitoring.interval_seconds}s"}],
        }  # fmt: skip
        one = child(model, "monitoring.coreos.com/v1", "ServiceMonitor", ours.gateway, GATEWAY, spec=monitor)  # fmt: skip
        one["metadata"]["labels"] = {**spec.monitoring.labels, **one["metadata"]["labels"]}
        found.append(one)
    return found


def _policy(model: LocalModel, name: str, component: str, admitted: list[Any]) -> Manifest:
    body = {
        "podSelector": {"matchLabels": selector(model.name, component)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": admitted, "ports": [{"port": 8080, "protocol": "TCP"}]}],
    }
    return child(model, "networking.k8s.io/v1", "NetworkPolicy", name, component, spec=body)
