"""From a LocalModel as the API server sends it to its children, its status and its Events, without a cluster."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused
from penstock_operator.api.sweep import Sweep
from penstock_operator.gateways.tokens import NoMasterKey, master_key, token
from penstock_operator.seen import Key
from reconcile_world import EXTERNAL, KINDS, SMALLEST, World


@pytest.mark.parametrize(
    ("spec", "children"),
    [
        pytest.param(
            SMALLEST,
            {"Deployment/m", "Deployment/m-server", "Service/m", "Service/m-server", "ConfigMap/m-gateway",
             "Secret/m-admin", "PersistentVolumeClaim/m-weights", "NetworkPolicy/m", "NetworkPolicy/m-server"},
            id="smallest",
        ),
        pytest.param(
            EXTERNAL,
            {"Deployment/m", "Service/m", "ConfigMap/m-gateway", "Secret/m-admin", "NetworkPolicy/m"},
            id="external",
        ),
    ],
)  # fmt: skip
def test_an_example_gets_its_children_and_then_rests(
    spec: dict[str, Any], children: set[str]
) -> None:
    """The first look makes exactly these children; the second writes nothing."""
    world = World()
    key = world.model(spec)
    asyncio.run(world.reconcile(key))
    assert {f"{kind}/{name}" for kind, name in world.cluster.applied} == children
    assert world.status()["observedGeneration"] == 1
    version = world.cluster.objects["LocalModel", "n", "m"]["metadata"]["resourceVersion"]
    asyncio.run(world.reconcile(key))
    assert len(world.cluster.applied) == len(children), "nothing is written twice"
    assert world.cluster.objects["LocalModel", "n", "m"]["metadata"]["resourceVersion"] == version


def test_a_spec_that_cannot_be_used_makes_nothing_and_says_why() -> None:
    """An invalid LocalModel has no children, and a status that names the field."""
    world = World()
    asyncio.run(world.reconcile(world.model({"model": {"uri": "s3://x"}})))
    assert world.cluster.applied == []
    assert world.status()["phase"] == "Failed"
    assert "spec.model.uri" in world.status()["conditions"][0]["message"]


def test_a_fetch_that_is_tried_again_and_again_is_told_once() -> None:
    """A container that flips between running and failed writes its two Events once in a while, not each time."""
    world = World()
    key = world.model(SMALLEST)
    failed = [{"name": "fetch-0", "image": "i", "state": {"terminated": {
        "exitCode": 1, "message": '{"reason": "Unreachable", "message": "The hub is away."}'}}}]  # fmt: skip
    for _ in range(5):
        world.server_pod(initContainerStatuses=[{"name": "fetch-0", "state": {"running": {}}}])
        asyncio.run(world.reconcile(key))
        world.server_pod(initContainerStatuses=failed)
        asyncio.run(world.reconcile(key))
        world.now += timedelta(seconds=60)
    assert [one["reason"] for one in world.cluster.events] == ["Fetching", "SourceUnreachable"]
    world.now += timedelta(hours=1)
    world.server_pod(initContainerStatuses=[{"name": "fetch-0", "state": {"running": {}}}])
    asyncio.run(world.reconcile(key))
    assert world.cluster.events[-1]["reason"] == "Fetching", "after a long time it is news"
    assert len(world.cluster.events) == 3


def test_a_model_that_has_just_turned_is_read_back_soon_and_later_seldom() -> None:
    """A gateway learns of a new server a moment after that is ready, and no event tells when."""
    world = World()
    key = world.model(EXTERNAL)
    world.gateway("2026-01-01T00:00:00Z")

    def waits_s(after: timedelta) -> float:
        world.now += after
        again_s = asyncio.run(world.reconcile(key)).again_s
        assert again_s is not None
        return again_s

    soon, seldom = (3.0, 7.0), (80.0, 160.0)
    for what, after, (least, most) in (
        ("ready just now", timedelta(seconds=1), soon),
        ("in the first minute", timedelta(seconds=50), soon),
        ("settled", timedelta(seconds=30), seldom),
    ):
        assert least < waits_s(after) < most, what
    assert world.status()["phase"] == "Ready"
    world.gateway("2026-01-01T00:10:00Z")
    assert soon[0] < waits_s(timedelta(minutes=9)) < soon[1], "another pod"


def test_a_child_deleted_while_nobody_watched_comes_back() -> None:
    """No event tells of it; the sweep finds it, and the next look makes it again."""
    world = World()
    key = world.model(EXTERNAL)
    asyncio.run(world.reconcile(key))
    del world.cluster.objects["ConfigMap", "n", "m-gateway"]
    asyncio.run(world.reconcile(key))
    assert ("ConfigMap", "n", "m-gateway") not in world.cluster.objects, "the cache believes it"

    told: list[Key] = []
    asyncio.run(Sweep(world.cluster, world.cache, KINDS, [None], told.append).first())  # type: ignore[arg-type]
    assert told == [key]
    asyncio.run(world.reconcile(key))
    assert ("ConfigMap", "n", "m-gateway") in world.cluster.objects


def test_a_model_deleted_while_nobody_watched_is_forgotten() -> None:
    """Else its children would be made again for an owner that is gone."""
    world = World()
    key = world.model(EXTERNAL)
    asyncio.run(world.reconcile(key))
    world.cluster.objects.clear()
    asyncio.run(Sweep(world.cluster, world.cache, KINDS, [None], lambda key: None).first())  # type: ignore[arg-type]
    assert asyncio.run(world.reconcile(key)).gone
    assert world.cluster.objects == {}


def test_what_appeared_while_nobody_watched_is_heard_by_the_sweep() -> None:
    """The first listing fills the cache before anything is watched."""
    world, told = World(), list[Key]()
    world.model(SMALLEST)
    world.cache = Cache()
    asyncio.run(Sweep(world.cluster, world.cache, KINDS, [None], told.append).first())  # type: ignore[arg-type]
    assert told == [Key("n", "m")]
    assert world.cache.model(Key("n", "m")) is not None


def test_a_write_that_meets_another_version_twice_asks_for_a_listing() -> None:
    """The watch tells what was written in between; when it does not, the kind is listed."""
    world = World()
    key = world.model(EXTERNAL)
    asyncio.run(world.reconcile(key))
    there = world.cluster.objects["Service", "n", "m"]
    changed = {**there, "spec": {**there["spec"], "type": "NodePort"}}
    world.hear(world.cluster.put(changed))
    del world.cluster.objects["Service", "n", "m"]
    for stale in ([], ["Service"]):
        with pytest.raises(ApiRefused):
            asyncio.run(world.reconcile(key))
        assert world.stale == stale


def test_late_news_of_a_model_does_not_undo_newer() -> None:
    """A watch that tells of an older version is not believed, nor of the end of a predecessor."""
    cache = Cache()

    def body(version: str, uid: str) -> dict[str, Any]:
        about = {"name": "m", "namespace": "n", "resourceVersion": version, "uid": uid}
        return {"kind": "LocalModel", "metadata": about}

    cache.heard(body("10", "a"))
    cache.heard(body("9", "a"))
    cache.heard(body("8", "before"), deleted=True)
    found = cache.model(Key("n", "m"))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "10"
    cache.heard(body("11", "a"), deleted=True)
    assert cache.model(Key("n", "m")) is None


def test_a_token_belongs_to_one_object() -> None:
    """The same name made again gets another token, and no two keys of the operator give the same."""
    key = Key("team", "m")
    one = token(b"k" * 32, key, "uid-1")
    assert one == token(b"k" * 32, key, "uid-1")
    assert len({one, token(b"k" * 32, key, "uid-2"), token(b"l" * 32, key, "uid-1")}) == 3
    assert len(one) == 64


def test_a_short_master_key_is_refused() -> None:
    """A short master key is refused with what makes a good one."""
    assert master_key(b" " + b"k" * 32 + b"\n") == b"k" * 32
    with pytest.raises(NoMasterKey, match="openssl rand"):
        master_key(b"short\n")
