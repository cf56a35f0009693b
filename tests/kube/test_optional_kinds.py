"""HTTPRoute and ServiceMonitor, by the projects' own definitions: made when the cluster knows them, and taken away again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import kube_build
import kube_parts
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import Cluster
from penstock_operator.api.sweep import Sweep
from penstock_operator.process.running import OptionalApis
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import Key

pytestmark = pytest.mark.real
OPTIONAL = ("HTTPRoute", "ServiceMonitor")
# Releases that Go 1.26 takes; what our children use of them is the same in later ones.
DEFINITIONS = (
    (
        "sigs.k8s.io/gateway-api",
        "1.5.1",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
)
SPEC: dict[str, Any] = {
    "model": {"uri": "hf://a/b/c.gguf"},
    "gateway": {"keysSecretRef": {"name": "keys"}},
    "expose": {
        "httpRoute": {
            "parentRefs": [{"name": "edge", "namespace": "edge-system"}],
            "hostnames": ["models.example.com"],
        }
    },
    "monitoring": {"serviceMonitor": True, "labels": {"release": "prometheus"}},
}


def localmodel(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": {"name": "shown"},
        "spec": spec,
    }


def looked(cluster: kube_parts.ApiServer, namespace: str) -> frozenset[str]:
    """A new operator looks once at the LocalModel. Returns the optional kinds that it knows."""

    async def once() -> frozenset[str]:
        api = await Cluster.connect(str(cluster.kubeconfig))
        try:
            cache = Cache()
            kinds = ("LocalModel", "Deployment", "Service", "ConfigMap", "NetworkPolicy")
            sweep = Sweep(api, cache, kinds, [namespace], lambda key: None)
            await sweep.first()
            apis = OptionalApis(api, sweep.look)

            async def ask(*_: Any) -> dict[str, Any]:
                return {}

            reconcile = Reconciler(
                api, cache, read, image="penstock:1", token=lambda key, uid: "t",
                ask=ask, hold=ask, resume=ask, apis=apis,
            )  # fmt: skip
            await reconcile(Key(namespace, "shown"))
            return await apis()
        finally:
            await api.close()

    return asyncio.run(once())


def condition(cluster: kube_parts.ApiServer, namespace: str, kind: str) -> dict[str, Any]:
    status = cluster.get("lm", "shown", "-n", namespace)["status"]
    return next((one for one in status["conditions"] if one["type"] == kind), {})


@pytest.fixture(scope="module")
def own_kinds(cluster: kube_parts.ApiServer) -> Iterator[list[dict[str, Any]]]:
    """The definitions, which other tests must not find."""
    found = [yaml.safe_load(kube_build.published(*one)) for one in DEFINITIONS]
    yield found
    for one in found:
        cluster.kubectl("delete", "crd", one["metadata"]["name"], "--ignore-not-found")


def test_optional_kinds_come_and_go(
    cluster: kube_parts.ApiServer, namespace: str, own_kinds: list[dict[str, Any]]
) -> None:
    """Absent definitions are said in the status; once there, route and monitor are made; taken from the spec, they go."""
    cluster.apply(localmodel(SPEC), "-n", namespace)
    assert looked(cluster, namespace) == frozenset()
    assert condition(cluster, namespace, "RouteReady")["reason"] == "GatewayAPIMissing"
    assert condition(cluster, namespace, "Monitored")["reason"] == "PrometheusOperatorMissing"

    for one in own_kinds:
        cluster.define(one)
    deadline = time.monotonic() + 60
    while looked(cluster, namespace) != set(OPTIONAL):  # a new kind's storage takes a moment
        assert time.monotonic() < deadline
    route = cluster.get("httproute", "shown", "-n", namespace)
    (rule,) = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["backendRefs"][0]["name"] == "shown"
    assert route["metadata"]["ownerReferences"][0]["kind"] == "LocalModel"
    monitor = cluster.get("servicemonitor", "shown", "-n", namespace)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    service = cluster.get("service", "shown", "-n", namespace)
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [one["name"] for one in service["spec"]["ports"]]  # fmt: skip
    assert condition(cluster, namespace, "RouteReady")["status"] == "True"
    assert condition(cluster, namespace, "Monitored")["status"] == "True"

    again = route["metadata"]["resourceVersion"]
    looked(cluster, namespace)
    assert cluster.get("httproute", "shown", "-n", namespace)["metadata"]["resourceVersion"] == again  # fmt: skip

    cluster.apply(localmodel({"model": SPEC["model"]}), "-n", namespace)
    looked(cluster, namespace)
    for kind in OPTIONAL:
        assert cluster.get(kind.lower(), "-n", namespace)["items"] == []
    assert condition(cluster, namespace, "RouteReady") == {}


def test_only_who_is_named_reaches_the_gateway(
    cluster: kube_parts.ApiServer, namespace: str
) -> None:
    """The policy admits the own namespace and that of the route's Gateway; the server's admits the gateway alone."""
    cluster.apply(localmodel(SPEC), "-n", namespace)
    looked(cluster, namespace)
    policy = cluster.get("networkpolicy", "shown", "-n", namespace)["spec"]
    edge = {"matchLabels": {"kubernetes.io/metadata.name": "edge-system"}}
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}, {"namespaceSelector": edge}]
    server = cluster.get("networkpolicy", "shown-server", "-n", namespace)["spec"]
    (peer,) = server["ingress"][0]["from"]
    gateway = cluster.get("deployment", "shown", "-n", namespace)["spec"]
    assert peer["podSelector"] == gateway["selector"], json.dumps(peer)
