"""
A cluster in memory and in virtual time, with what a rollout needs of one: a Deployment controller that recreates, servers that
load for a while, gateways that relay streams and hold new requests when asked, and an operator that can be killed at any
effect.

What it gets wrong: gateways never fail over, a request that finds no server is counted as failed at once (a real
gateway holds it), and everything happens in steps of half a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fake_cluster import FakeCluster, Manifest
from penstock_operator.api.cache import Cache
from penstock_operator.gateways.rollout import LEASE_S, Work
from penstock_operator.localmodel.names import TEMPLATE_HASH
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import GatewayStatus, Key

STEP_S = 0.5
KEY = Key("n", "m")
SPEC: dict[str, Any] = {"model": {"uri": "hf://a/b/b.gguf"}, "rollout": {"idleTimeoutSeconds": 60}}


class Killed(Exception):
    """The operator's process ended here."""


@dataclass
class Gateway:
    """
    A gateway pod.

    Attributes:
        streams: when each running answer ends, and whether it ends at all.
        hold_until_s: while it holds new requests.
    """

    streams: list[float] = field(default_factory=list)
    waiting: int = 0
    hold_until_s: float = -1.0
    answers: bool = True

    def holds(self, now_s: float) -> bool:
        return now_s < self.hold_until_s


class World:
    """
    Attributes:
        broken: answers that ran when their server went; failed: requests that found no server.
        kill_at: the operator dies in its effect of that number (counted from 1), once; None lets it live.
        after: it dies after the effect was done and before it knows, instead of before it.
    """

    def __init__(
        self, *, gateways: int = 2, load_s: float = 4.0, stream_s: float = 6.0,
        kill_at: int | None = None, after: bool = False,
    ) -> None:  # fmt: skip
        self.cluster = FakeCluster()
        self.now_s = 0.0
        self.load_s, self.stream_s = load_s, stream_s
        self.kill_at, self.after, self.effects = kill_at, after, 0
        self.broken = self.failed = self.served = 0
        self.told: list[tuple[str, str]] = []
        self._ready_at: dict[str, float] = {}
        self._gone_at: dict[str, float] = {}
        self._number = 0
        self.gateways = {f"m-{number}": Gateway() for number in range(gateways)}
        for name in self.gateways:
            self._put_pod(name, "gateway", "", ready=True)
        self.traffic = True
        self._due_s = 0.0
        self.new_operator()

    # The operator.

    def new_operator(self) -> None:
        """A process that knows nothing but what it lists."""
        self._due_s = self.now_s
        self.cache = Cache()
        for body in self.cluster.objects.values():
            self.cache.heard(body)
        self.reconcile = Reconciler(
            _Counted(self),  # type: ignore[arg-type]
            self.cache, read, image="penstock:1", token=lambda key, uid: "t",
            ask=self._ask, hold=self._hold, resume=self._resume, apis=self._apis,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now_s),
        )  # fmt: skip

    async def _apis(self) -> frozenset[str]:
        return frozenset()

    async def _ask(self, key: Key, pods: Any, token: str) -> dict[str, GatewayStatus]:
        return {name: self._said(name, one) for name, one in self.gateways.items()}

    def _said(self, name: str, one: Gateway) -> GatewayStatus:
        if not one.answers:
            return GatewayStatus(name, None, f"The gateway {name} could not be asked.")
        drained = "hold" if one.holds(self.now_s) else None
        return GatewayStatus(name, {"upstreams": [{"state": "ok", "drained": drained}]})

    async def _hold(self, key: Key, pods: Any, token: str) -> dict[str, Work]:
        self.effect()
        found = {}
        for name, one in self.gateways.items():
            if one.answers:
                one.hold_until_s = self.now_s + LEASE_S
            said = Work(len(one.streams)) if one.answers else Work(problem=f"{name} is silent.")
            found[name] = said
        self.effect(done=True)
        return found

    async def _resume(self, key: Key, pods: Iterable[Manifest], token: str) -> dict[str, str]:
        self.effect()
        for pod in pods:
            self.gateways[pod["metadata"]["name"]].hold_until_s = -1.0
        self.effect(done=True)
        return {}

    def effect(self, *, done: bool = False) -> None:
        """The operator does something; it may die of it."""
        self.effects += not done
        if self.effects == self.kill_at and done is self.after:
            self.kill_at = None
            raise Killed

    # The cluster.

    def model(self, spec: dict[str, Any]) -> None:
        """Somebody applies this spec."""
        there = self.cluster.objects.get(("LocalModel", *KEY), {})
        about = {**there.get("metadata", {"name": "m", "namespace": "n"})}
        about["generation"] = about.get("generation", 0) + 1
        self._heard(
            self.cluster.put(
                {**there, "apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel",
                 "metadata": about, "spec": spec}
            )
        )  # fmt: skip
        self._due_s = self.now_s

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.cluster.objects["LocalModel", *KEY].get("status") or {})

    def condition(self, kind: str) -> dict[str, Any]:
        return next((one for one in self.status["conditions"] if one["type"] == kind), {})

    @property
    def reasons(self) -> list[str]:
        """Reasons of Progressing so far, without repetitions."""
        return [reason for reason, _ in self.told]

    def run(self, until_s: float) -> None:
        """Let time go by until then."""
        while self.now_s < until_s:
            self.now_s += STEP_S
            self._gateways()
            self._deployment()
            if self.now_s >= self._due_s:
                self._operator()

    def _operator(self) -> None:
        try:
            done = asyncio.run(self.reconcile(KEY))
        except Killed:
            self.new_operator()
            self._due_s = self.now_s + 3.0
            return
        self._due_s = self.now_s + (15.0 if done.again_s is None else done.again_s)
        about = self.condition("Progressing")
        if about and self.reasons[-1:] != [about["reason"]]:
            self.told.append((about["reason"], about["message"]))

    def _gateways(self) -> None:
        serves = any(self._is_ready(pod) for pod in self._servers())
        for one in self.gateways.values():
            ended = [at for at in one.streams if at <= self.now_s]
            self.served += len(ended)
            one.streams = [at for at in one.streams if at > self.now_s]
            arrives = self.traffic and self.now_s % 2.0 == 0
            if one.holds(self.now_s):
                one.waiting += arrives
            elif serves:
                one.streams += [self.now_s + self.stream_s] * (arrives + one.waiting)
                one.waiting = 0
            else:
                self.failed += arrives + one.waiting
                one.waiting = 0

    def _deployment(self) -> None:
        there = self.cluster.objects.get(("Deployment", "n", "m-server"))
        if there is None:
            return
        template = there["spec"]["template"]["metadata"]["annotations"][TEMPLATE_HASH]
        pods = self._servers()
        old = [p for p in pods if p["metadata"]["annotations"][TEMPLATE_HASH] != template]
        if not there["spec"]["replicas"]:
            old = pods
        for pod in old:
            name = pod["metadata"]["name"]
            if name not in self._gone_at:
                self._gone_at[name] = self.now_s + 1.0
                for one in self.gateways.values():
                    self.broken += len(one.streams)
                    one.streams = []
                pod["metadata"]["deletionTimestamp"] = "now"
                self._heard(self.cluster.put(pod))
            elif self.now_s >= self._gone_at[name]:
                gone = self.cluster.objects.pop(("Pod", "n", name))
                self.cache.heard(gone, deleted=True)
                self._due_s = self.now_s
        if not pods and there["spec"]["replicas"]:
            self._number += 1
            name = f"m-server-{self._number}"
            self._ready_at[name] = self.now_s + self.load_s
            self._put_pod(name, "server", template, ready=False)
        for pod in pods:
            name = pod["metadata"]["name"]
            ready = self.now_s >= self._ready_at[name] and pod not in old
            if ready and not self._is_ready(pod):
                self._put_pod(name, "server", template, ready=True)

    def _servers(self) -> list[Manifest]:
        found = [one for at, one in self.cluster.objects.items() if at[0] == "Pod"]
        live = [one for one in found if one["status"].get("phase") != "Failed"]
        return [one for one in live if one["metadata"]["name"].startswith("m-server")]

    def _is_ready(self, pod: Manifest) -> bool:
        said = pod["status"]["conditions"][0]["status"] == "True"
        return said and "deletionTimestamp" not in pod["metadata"]

    def _put_pod(self, name: str, component: str, template: str, *, ready: bool) -> None:
        about = {
            "name": name, "namespace": "n", "annotations": {TEMPLATE_HASH: template},
            "labels": {"penstock.dev/model": "m", "app.kubernetes.io/component": component},
        }  # fmt: skip
        told = [{"type": "Ready", "status": "True" if ready else "False"}]
        fetched = [{"name": "fetch-0", "state": {"terminated": {"exitCode": 0}}}]
        status = {"podIP": "10.0.0.1", "conditions": told, "initContainerStatuses": fetched}
        self._heard(self.cluster.put({"kind": "Pod", "metadata": about, "status": status}))

    def _heard(self, body: Manifest) -> None:
        if hasattr(self, "cache"):
            self.cache.heard(body)
            self._due_s = self.now_s


class _Counted:
    """The API server as the operator reaches it: each write is an effect."""

    def __init__(self, world: World) -> None:
        self._world = world

    def may_write(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._world.cluster, name)

        async def counted(*args: Any, **more: Any) -> Any:
            self._world.effect()
            found = await call(*args, **more)
            self._world.effect(done=True)
            return found

        return counted
