"""
The operator while things break: killed at each of its writes, its leader stopped and killed, watches that end in
errors, an API server that is away for long and has forgotten the past when it comes back.

The long outage has an API server of its own and goes on beside the other tests; the last one looks at what is left.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import kube_parts
from kube_faults import FaultyApi, error
from kube_outage import Outage
from operators import Models, Operator, account, until
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import Cluster
from penstock_operator.api.resources import WATCHED
from penstock_operator.api.sweep import Sweep
from penstock_operator.localmodel.crd import crd
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import Key, Manifest

pytestmark = [pytest.mark.real, pytest.mark.slow]
SMALLEST = {"model": {"uri": "hf://a/b/b.gguf"}, "cache": {"retentionPolicy": "Delete"}}
OUTAGE_S = 90.0


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """It begins with the first test and goes on by itself."""
    with ExitStack() as stack:
        yield Outage(tmp_path_factory.mktemp("outage"), stack, OUTAGE_S)


class Killed(BaseException):
    """The process ends here."""


class Mortal(Cluster):
    """It dies at the write number *writes_left*: before it is sent, or after it was carried out."""

    writes_left = 10**9
    carries_out = False
    writes = 0

    async def _write(self, *about: Any, **more: Any) -> Manifest:
        self.writes += 1
        self.writes_left -= 1
        if self.writes_left <= 0 and not self.carries_out:
            raise Killed
        found = await super()._write(*about, **more)
        if self.writes_left <= 0:
            raise Killed
        return found


async def life(cluster: Mortal, namespace: str, names: list[str]) -> None:
    """One life of an operator: it lists, and reconciles those; a death ends the work on one of them only."""

    async def nobody(*_: Any) -> dict[str, Any]:
        return {}

    async def none() -> frozenset[str]:
        return frozenset()

    cache = Cache()
    reconcile = Reconciler(
        cluster, cache, read, image="penstock:1",
        token=lambda key, uid: uid * 2, ask=nobody, hold=nobody, resume=nobody, apis=none,
    )  # fmt: skip
    await Sweep(cluster, cache, WATCHED, [namespace], lambda key: None).first()
    for name in names:
        await reconcile(Key(namespace, name))


@pytest.mark.usefixtures("outage")  # so that it begins
def test_killed_at_any_write_it_converges(cluster: kube_parts.ApiServer) -> None:
    """At each write of a first and of a second look, sent or not: the next life brings all where it should be, then rests."""
    models = Models(cluster, cluster.namespace())
    without = {**SMALLEST, "networkPolicy": {"enabled": False}, "gateway": {"replicas": 2}}

    async def lives(names: list[str], more: dict[str, tuple[int, bool]]) -> int:
        mortal = await Mortal.connect(str(cluster.kubeconfig))
        assert isinstance(mortal, Mortal)
        try:
            for name in names:
                mortal.writes_left, mortal.carries_out = more.get(name, (10**9, False))
                mortal.writes = 0
                try:
                    await life(mortal, models.namespace, [name])
                    assert name not in more, f"{name} ended after {mortal.writes} writes"
                except Killed:
                    assert name in more
            return mortal.writes
        finally:
            await mortal.close()

    models.make("model", **SMALLEST)
    writes = asyncio.run(lives(["model"], {}))
    made = {at.replace("model", "m") for at in models.children("model")}
    assert writes == len(made) + 2, "children, status and Event"
    deaths = {
        f"m-{at}-{'sent' if sent else 'lost'}": (at, sent)
        for at in range(1, writes + 1)
        for sent in (False, True)
    }
    items = [
        {**models.body(name, SMALLEST), "metadata": {"name": name, "namespace": models.namespace}}
        for name in deaths
    ]
    for spec, kinds in ((SMALLEST, made), (without, (made | {"PodDisruptionBudget/m"}) - {"NetworkPolicy/m", "NetworkPolicy/m-server"})):  # fmt: skip
        for item in items:
            item["spec"] = spec
        cluster.apply({"apiVersion": "v1", "kind": "List", "items": items})
        changed = {} if spec is SMALLEST else {name: (at, sent) for name, (at, sent) in deaths.items() if at <= 6}  # fmt: skip
        asyncio.run(lives(list(deaths), deaths if spec is SMALLEST else changed))
        asyncio.run(lives(list(deaths), {}))
        made_now = by_model(models)
        for body in models.get("lm")["items"]:
            about, name = body["metadata"], body["metadata"]["name"]
            if name in deaths:
                assert made_now[name] == kinds, name
                assert body["status"]["observedGeneration"] == about["generation"], name
        before = versions(models)
        asyncio.run(lives(list(deaths), {}))
        assert versions(models) == before, "applied once more by each life, which changes nothing"


def by_model(models: Models) -> dict[str, set[str]]:
    """What each has, as it would be called for one named m."""
    found: dict[str, set[str]] = {}
    for one in models.get("deploy,svc,cm,secret,pvc,netpol,pdb")["items"]:
        about = one["metadata"]
        name = (about.get("labels") or {}).get("penstock.dev/model")
        if name:
            called = str(about["name"]).removeprefix(name)
            found.setdefault(name, set()).add(f"{one['kind']}/m{called}")
    return found


def versions(models: Models) -> dict[str, str]:
    """Of the children that no controller writes to."""
    found = models.get("svc,cm,secret,netpol")["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in found
    }


def test_a_stopped_leader_does_no_harm_when_it_wakes_up_and_a_killed_one_is_followed(
    cluster: kube_parts.ApiServer, tmp_path: Path
) -> None:
    """Two replicas that want different images: what stands is always what the one that leads wants."""
    models = Models(cluster, cluster.namespace())
    place = models.namespace
    config = account(cluster, place, "operator", watched=(place,))
    models.make("m")

    def image() -> str:
        found = models.get("deployment/m")["spec"]["template"]["spec"]["containers"][0]["image"]
        return str(found)

    def start(name: str) -> Operator:
        return Operator(tmp_path / name, config, namespace=place, watched=(place,), image=name)

    with start("first") as first:
        first.wait_leads()
        until(lambda: image() == "first", "the first")
        with start("second") as second:
            second.wait_ready()
            assert second.metric("leads") == 0.0
            first.signal(signal.SIGSTOP)
            second.wait_leads()
            until(lambda: image() == "second", "the second")
            models.patch("lm/m", {"spec": {"gateway": {"replicas": 2}}})
            models.settled("m")
            settled = models.get("deployment/m")["metadata"]["generation"]
            written = second.metric("api_calls")
            first.signal(signal.SIGCONT)
            until(lambda: "no longer leads" in first.log, "the first to give way")
            models.patch("lm/m", {"spec": {"gateway": {"replicas": 3}}})
            until(lambda: models.get("deployment/m")["spec"]["replicas"] == 3, "three replicas")
            assert image() == "second"
            assert models.get("deployment/m")["metadata"]["generation"] == settled + 1
            assert second.metric("api_calls") > written
            second.signal(signal.SIGKILL)
            second.wait()
            first.wait_leads()
            until(lambda: image() == "first", "the first again")
            assert first.stop() == 0
    lease = models.get("lease/penstock-operator")["spec"]
    assert not lease.get("holderIdentity"), "given back at the end"
    assert lease["leaseTransitions"] >= 2


def test_errors_inside_of_watches_are_borne(cluster: kube_parts.ApiServer, tmp_path: Path) -> None:
    """500 ends all watches, 410 asks for a listing, 503 comes for a while: the same process goes on each time."""
    models = Models(cluster, cluster.namespace())
    place = models.namespace
    with FaultyApi(cluster) as proxy:
        config = proxy.kubeconfig(account(cluster, place, "operator", watched=(place,)))
        with Operator(tmp_path / "operator", config, namespace=place, watched=(place,)) as one:
            one.wait_leads()
            until(lambda: one.metric("watches") == len(WATCHED), "the watches")

            def goes_on(name: str) -> None:
                models.make(name)
                models.settled(name)
                assert one.get("/healthz") == (200, "ok\n")

            goes_on("m-0")
            assert proxy.say(error(410, "Expired")) == len(WATCHED)
            goes_on("m-410")
            until(lambda: one.metric("watches") == len(WATCHED), "the watches")
            assert one.metric("watch_restarts") == 0
            until(lambda: proxy.say(error(500, "InternalError")), "watches to break")
            goes_on("m-500")
            until(lambda: one.metric("watch_restarts") == 1, "a restart")
            until(lambda: one.metric("watches") == len(WATCHED), "the watches")
            proxy.unavailable = True
            models.make("m-503")
            cluster.kubectl("delete", "lm/m-0", "-n", place)
            refused = sum(proxy.calls.values())
            until(lambda: sum(proxy.calls.values()) > refused + 3, "calls in vain")
            proxy.unavailable = False
            models.settled("m-503")
            until(lambda: not models.children("m-0"), "the end of the children", 120.0)
            assert one.stop() == 0


def test_after_a_long_outage_the_same_processes_go_on(outage: Outage) -> None:
    """Ninety seconds without an API server, then one that has forgotten the past; the kubelet had no reason to act."""
    outage.over()
    outage.check()


def test_without_its_definition_it_waits_and_nothing_is_stuck(outage: Outage) -> None:
    """The definition is deleted under a running operator: LocalModels and children go, and it goes on when it is back."""
    outage.over()
    server, models = outage.server, outage.refused
    server.kubectl("delete", "crd", "localmodels.penstock.dev", "--timeout=60s")
    until(lambda: not models.children("before"), "the end of the children", 120.0)
    operator = outage.operators[0]
    until(lambda: "does not know LocalModel yet" in operator.log, "the sentence")
    server.define(crd())
    models.make("anew")
    models.settled("anew")
    for one in outage.operators:
        assert one.get("/healthz")[0] == 200
        assert one.stop() == 0
    left = json.dumps(server.get("namespace", models.namespace))
    assert "Terminating" not in left
