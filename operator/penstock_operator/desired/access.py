"""
Who reaches what: NetworkPolicies, HTTPRoute, ServiceMonitor. Pure.

Only a model's gateway reaches its server. The gateway is reached from its own namespace, from where the operator's
`--admit` says (the operator itself, the scraper), and from whom the spec names: `networkPolicy.allowFrom`, and the
namespaces of the Gateways that an HTTPRoute is attached to, since their proxies mostly run there.
"""

from __future__ import annotations

from typing import Any

from penstock_operator.desired.common import child
from penstock_operator.localmodel.names import GATEWAY, PORT, SERVER, children, selector
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.localmodel.spec import HttpRoute
from penstock_operator.seen import Manifest, Seen

_NO_TIMEOUT = "0s"  # the Gateway API's word for none: answers of models take minutes, and the gateway has its own


def access(model: LocalModel, seen: Seen) -> list[Manifest]:
    """What is asked for and known to the cluster."""
    spec, ours = model.spec, children(model.name)
    found: list[Manifest] = []
    if spec.network_policy.enabled:
        peers = [{"podSelector": {}}, *seen.admitted, *_proxies(spec.expose.http_route), *spec.network_policy.allow_from]  # fmt: skip
        found.append(_policy(model, ours.gateway, GATEWAY, peers))
        if not model.external:
            only = [{"podSelector": {"matchLabels": selector(model.name, GATEWAY)}}]
            found.append(_policy(model, ours.server, SERVER, only))
    if spec.expose.http_route is not None and "HTTPRoute" in seen.apis:
        found.append(_route(model, spec.expose.http_route))
    if spec.monitoring.service_monitor and "ServiceMonitor" in seen.apis:
        found.append(_monitor(model))
    return found


def _policy(model: LocalModel, name: str, component: str, admitted: list[Any]) -> Manifest:
    body = {
        "podSelector": {"matchLabels": selector(model.name, component)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": admitted, "ports": [{"port": PORT, "protocol": "TCP"}]}],
    }
    return child(model, "networking.k8s.io/v1", "NetworkPolicy", name, component, spec=body)


def _proxies(route: HttpRoute | None) -> list[dict[str, Any]]:
    """The other namespaces that the route's Gateways are in; one without a namespace is in ours."""
    named = {str(one["namespace"]) for one in (route.parent_refs if route else ()) if one.get("namespace")}  # fmt: skip
    return [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
        for name in sorted(named)
    ]


def _route(model: LocalModel, asked: HttpRoute) -> Manifest:
    name = children(model.name).gateway
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"group": "", "kind": "Service", "name": name, "port": 80, "weight": 1}],
        "timeouts": {"request": _NO_TIMEOUT, "backendRequest": _NO_TIMEOUT},
    }
    body: dict[str, Any] = {"parentRefs": list(asked.parent_refs), "rules": [rule]}
    if asked.hostnames:
        body["hostnames"] = list(asked.hostnames)
    return child(model, "gateway.networking.k8s.io/v1", "HTTPRoute", name, GATEWAY, spec=body)


def _monitor(model: LocalModel) -> Manifest:
    asked, name = model.spec.monitoring, children(model.name).gateway
    body = {
        "selector": {"matchLabels": selector(model.name, GATEWAY)},
        "endpoints": [{"port": "http", "path": "/metrics", "interval": f"{asked.interval_seconds}s"}],
    }  # fmt: skip
    made = child(model, "monitoring.coreos.com/v1", "ServiceMonitor", name, GATEWAY, spec=body)
    made["metadata"]["labels"] = {**asked.labels, **made["metadata"]["labels"]}
    return made
