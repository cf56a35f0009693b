"""A rollout on real parts without a cluster: the operator's own loop, a real gateway, a real llama.cpp, constant traffic."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import parts
from fake_cluster import FakeCluster, Manifest
from gateways import RunningGateway
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused
from penstock_operator.gateways.pods import Gateways, Way
from penstock_operator.localmodel.names import TEMPLATE_HASH
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import Key
from traffic import Traffic, texts

KEY = Key("n", "m")
SAYS = " ".join(first + then + last for first in "bk" for then in "aeiou" for last in "lmnrst")
"""60 words, each of them a token: some seconds of a stream."""


class Machine:
    """
    A machine with one server, as a Deployment that recreates: the operator's loop runs beside it in a thread.

    It looks at the world every 0.2 s: where a cluster would replace a pod, the llama.cpp is restarted with the context
    that the new template says.
    """

    def __init__(self, gateway: RunningGateway, server: parts.LlamaCpp) -> None:
        self.cluster, self.cache = FakeCluster(), Cache()
        self._gateway, self._server = gateway, server
        self._stop = threading.Event()
        self._pod("m-gateway-0", "gateway", "", ready=True)
        self._running = ""
        self.reconcile = Reconciler(
            self.cluster,  # type: ignore[arg-type]
            self.cache, read, image="penstock:1", token=lambda key, uid: gateway.token,
            ask=(reach := Gateways(self._way)).ask, hold=reach.hold, resume=reach.resume, apis=self._apis,
        )  # fmt: skip
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _way(self, pod: Manifest) -> Way:
        return Way(self._gateway.url)

    async def _apis(self) -> frozenset[str]:
        return frozenset()

    def apply(self, context: int) -> None:
        """`kubectl apply`."""
        there = self.cluster.objects.get(("LocalModel", *KEY), {})
        about = dict(there.get("metadata") or {"name": "m", "namespace": "n"})
        about["generation"] = int(about.get("generation", 0)) + 1
        spec = {"model": {"uri": "hf://a/b/b.gguf"}, "tuning": {"contextLength": context}}
        kind = {"apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel"}
        self.cache.heard(self.cluster.put({**there, **kind, "metadata": about, "spec": spec}))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.cluster.objects["LocalModel", *KEY].get("status") or {})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self.reconcile(KEY)
            except ApiRefused as exc:
                if exc.reason != "Conflict":  # an apply came in between: it is looked at again
                    raise
                continue
            await self._controller()
            await asyncio.sleep(0.2)

    async def _controller(self) -> None:
        there = self.cluster.objects["Deployment", "n", "m-server"]["spec"]["template"]
        wanted = there["metadata"]["annotations"][TEMPLATE_HASH]
        if wanted == self._running:
            return
        words = there["spec"]["containers"][0]["command"]
        context = int(words[words.index("--ctx-size") + 1])
        if self._running:
            gone = self.cluster.objects.pop(("Pod", "n", f"m-server-{self._running}"))
            self.cache.heard(gone, deleted=True)
            await asyncio.to_thread(self._server.restart, ctx_size=context)
        self._running = wanted
        self._pod(f"m-server-{wanted}", "server", wanted, ready=True)

    def _pod(self, name: str, component: str, template: str, *, ready: bool) -> None:
        labels = {"penstock.dev/model": "m", "app.kubernetes.io/component": component}
        about = {"name": name, "namespace": "n", "labels": labels, "annotations": {TEMPLATE_HASH: template}}  # fmt: skip
        status = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        self.cache.heard(self.cluster.put({"kind": "Pod", "metadata": about, "status": status}))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Machine, RunningGateway]]:
    settings: dict[str, Any] = {"timeouts": {"heartbeat_s": 1.0}}
    with parts.start_llamacpp("slow", says=SAYS, by_words=True, ctx_size=2048) as server:
        upstream = {"name": "server", "url": server.url, "local": True, "kind": "llamacpp"}
        with RunningGateway(tmp_path, {**settings, "upstreams": [upstream]}) as gateway:
            yield Machine(gateway, server), gateway


def test_a_changed_context_breaks_no_stream(machine: tuple[Machine, RunningGateway]) -> None:
    """Under constant traffic: not one request fails, each stream is whole, and the new context is in force."""
    cluster, gateway = machine
    cluster.apply(2048)
    with (
        cluster,
        Traffic(f"{gateway.url}/v1", "any", streams_per_s=0.7, plain_per_s=1.0, most=5) as traffic,
    ):
        assert _until(lambda: cluster.status.get("phase") == "Ready")
        assert _until(lambda: len(traffic.report.outcomes) >= 4)
        traffic.phase = "rollout"
        cluster.apply(4096)
        assert _until(lambda: cluster.status["observedGeneration"] == 2)
        assert _until(lambda: cluster.status["phase"] == "Ready")
        traffic.phase = "after"
        assert _until(lambda: traffic.report.of("after").counted(streams=True).total() >= 2)
        report = traffic.stop()
    print(report)
    assert report.failed == [], str(report)
    assert texts(report.outcomes) == {SAYS}
    model = gateway.upstream()["models"][0]
    assert model["context_window"] == 4096
    assert gateway.upstream()["drained"] is None
    told = [event["reason"] for event in cluster.cluster.events]
    assert told[-3:] == ["Draining", "RollingOut", "RolledOut"]


def _until(condition: Any, within_s: float = 90.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
