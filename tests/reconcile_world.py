"""A world for unit tests of the reconciler: an API server in memory, a cache that hears of it, gateways that say what they are told to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fake_cluster import FakeCluster
from penstock_operator.api.cache import Cache
from penstock_operator.gateways.rollout import Work
from penstock_operator.gateways.tokens import token
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import GatewayStatus, Key

EXAMPLES = Path(__file__).parents[1] / "charts/penstock/examples"
KINDS = ("LocalModel", "Deployment", "Service", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy", "Pod")  # fmt: skip


class World:
    """A cluster, a cache that hears of everything in it when `hear` is called, and the reconciler."""

    def __init__(self) -> None:
        self.cluster, self.cache = FakeCluster(), Cache()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.stale: list[str] = []
        self.gateways: dict[str, GatewayStatus] = {}
        self.reconcile = Reconciler(
            self.cluster,  # type: ignore[arg-type]
            self.cache,
            read,
            image="penstock:1",
            token=lambda key, uid: token(b"m" * 32, key, uid),
            ask=self._ask,
            hold=self._hold,
            resume=self._resume,
            apis=self._apis,
            stale=self.stale.append,
            now=lambda: self.now,
        )

    async def _ask(self, *_: Any) -> dict[str, GatewayStatus]:
        return self.gateways

    async def _hold(self, key: Key, pods: Any, token: str) -> dict[str, Work]:
        return {}

    async def _resume(self, key: Key, pods: Any, token: str) -> dict[str, str]:
        return {}

    async def _apis(self) -> frozenset[str]:
        return frozenset()

    def model(self, spec: dict[str, Any]) -> Key:
        body = {
            "apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel", "spec": spec,
            "metadata": {"name": "m", "namespace": "n", "generation": 1},
        }  # fmt: skip
        self.hear(self.cluster.put(body))
        return Key("n", "m")

    def hear(self, body: dict[str, Any]) -> None:
        self.cache.heard(body)

    def server_pod(self, **status: Any) -> None:
        labels = {"penstock.dev/model": "m", "app.kubernetes.io/component": "server"}
        about = {"name": "m-server-0", "namespace": "n", "labels": labels}
        self.hear(self.cluster.put({"kind": "Pod", "metadata": about, "status": status}))

    def gateway(self, ready_since: str) -> None:
        """A pod that is ready, and says that the model answers it."""
        labels = {"penstock.dev/model": "m", "app.kubernetes.io/component": "gateway"}
        about = {"name": "m-0", "namespace": "n", "labels": labels}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": ready_since}
        self.hear(self.cluster.put({"kind": "Pod", "metadata": about, "status": {"conditions": [ready]}}))  # fmt: skip
        self.gateways["m-0"] = GatewayStatus("m-0", {"upstreams": [{"state": "ok"}]})

    def status(self) -> dict[str, Any]:
        return self.cluster.objects["LocalModel", "n", "m"]["status"]


SMALLEST = yaml.safe_load((EXAMPLES / "smallest.yaml").read_text("utf-8"))["spec"]
EXTERNAL = yaml.safe_load((EXAMPLES / "external.yaml").read_text("utf-8"))["spec"]
