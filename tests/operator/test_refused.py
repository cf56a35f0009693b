"""What the operator does when a child is refused, when its name is taken, and what it says of pods that do not start."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from penstock_operator.api.cluster import ApiRefused, FieldConflict
from penstock_operator.api.conflicts import Conflict
from penstock_operator.api.sweep import Sweep
from penstock_operator.localmodel.names import labels
from penstock_operator.process.running import begin, passing
from penstock_operator.queueing.work_queue import Done, WorkQueue
from penstock_operator.seen import Key, Manifest
from reconcile_world import EXTERNAL, KINDS, SMALLEST, World

LATE, EARLY = "2026-01-01T00:00:00Z", "2025-12-31T23:58:30Z"


def condition(world: World, kind: str) -> dict[str, Any]:
    return next((one for one in world.status()["conditions"] if one["type"] == kind), {})


def refusing(world: World, kind: str, exc: ApiRefused) -> None:
    """Every apply of that *kind* is refused."""
    apply: Callable[..., Any] = world.cluster.apply

    async def applied(manifest: Manifest, **more: Any) -> Manifest:
        if manifest["kind"] == kind:
            raise exc
        found: Manifest = await apply(manifest, **more)
        return found

    world.cluster.apply = applied  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("status", "stalled"), [(422, True), (403, False), (400, False), (500, False)]
)
def test_a_refused_child_holds_up_neither_the_others_nor_the_status(
    status: int, *, stalled: bool
) -> None:
    """The claim comes first: all others are made, the status has the API server's words, and then it is a failure."""
    world = World()
    key = world.model(SMALLEST)
    call = "The API server refused PATCH /api/v1/namespaces/n: "
    said = 'persistentvolumeclaims "m-weights" is forbidden: too big'
    refusing(world, "PersistentVolumeClaim", ApiRefused(call + said, status, "No", said))
    for _ in range(2):
        with pytest.raises(ApiRefused, match="too big"):
            asyncio.run(world.reconcile(key))
    assert ("Deployment", "m-server") in world.cluster.applied
    for kind in ("Applied", "Ready"):
        assert condition(world, kind)["reason"] == "Refused"
        told = "The API server refused the PersistentVolumeClaim m-weights: too big."
        assert condition(world, kind)["message"] == told
    assert bool(condition(world, "Stalled")) is stalled
    assert [(one["type"], one["reason"]) for one in world.cluster.events] == [("Warning", "Refused")]  # fmt: skip


@pytest.mark.parametrize("status", [0, 401, 409, 429, 503])
def test_an_api_server_that_is_away_is_no_refusal_of_a_child(status: int) -> None:
    """Nor is a version that has moved on: the look ends, and is made again."""
    world = World()
    key = world.model(EXTERNAL)
    refusing(world, "Service", ApiRefused("away", status, "No"))
    with pytest.raises(ApiRefused):
        asyncio.run(world.reconcile(key))
    assert "status" not in world.cluster.objects["LocalModel", "n", "m"]


def test_children_that_cannot_be_thought_out_are_told() -> None:
    """A fault of ours changes nothing in the cluster and does not keep the status silent."""
    world = World()
    key = world.model(EXTERNAL)
    read = world.reconcile._read

    def broken(body: Manifest) -> Any:
        def children(seen: Any) -> list[Manifest]:
            raise ZeroDivisionError("by nothing")

        return replace(read(body), children=children)

    world.reconcile._read = broken
    with pytest.raises(ZeroDivisionError):
        asyncio.run(world.reconcile(key))
    assert world.cluster.applied == []
    assert "by nothing" in condition(world, "Applied")["message"]


@pytest.mark.parametrize("ours", [False, True])
def test_an_object_that_is_not_ours_is_never_taken_by_force(*, ours: bool) -> None:
    """A user's Service of the model's name stays as it is; one of ours that lost its labels is put right."""
    world = World()
    key = world.model(EXTERNAL)
    uid = world.cluster.objects["LocalModel", "n", "m"]["metadata"]["uid"]
    owners = {"ownerReferences": [{"uid": uid, "controller": True}]} if ours else {}
    theirs = world.cluster.put(
        {"kind": "Service", "metadata": {"name": "m", "namespace": "n", **owners}, "spec": {"a": 1}}
    )
    apply: Callable[..., Any] = world.cluster.apply

    async def applied(manifest: Manifest, *, force: bool = False, **more: Any) -> Manifest:
        if manifest["kind"] == "Service" and not force:
            raise FieldConflict("conflict", [Conflict("kubectl", ".spec.selector", drift=True)])
        found: Manifest = await apply(manifest, force=force, **more)
        return found

    world.cluster.apply = applied  # type: ignore[method-assign]
    if ours:
        asyncio.run(world.reconcile(key))
        assert ("Service", "m") in world.cluster.applied
        return
    with pytest.raises(ApiRefused, match="does not belong to this model"):
        asyncio.run(world.reconcile(key))
    assert world.cluster.objects["Service", "n", "m"] == theirs
    assert ("Deployment", "m") in world.cluster.applied
    assert condition(world, "Ready")["reason"] == "NameTaken"
    assert condition(world, "Stalled")


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap", "Service"])
@pytest.mark.parametrize("known", [False, True], ids=["a new model", "after a restart"])
def test_an_object_without_a_field_of_ours_is_not_taken_either(kind: str, *, known: bool) -> None:
    """Nothing in it conflicts, so an apply would be carried out; labelled and owned, it would go with the model."""
    name = {"Secret": "m-admin", "ConfigMap": "m-gateway", "Service": "m"}[kind]
    world = World()
    theirs = world.cluster.put({"kind": kind, "metadata": {"name": name, "namespace": "n"}})
    key = world.model(EXTERNAL)
    if known:
        body = world.cluster.objects["LocalModel", "n", "m"]
        world.hear(world.cluster.put({**body, "status": {"phase": "Ready"}}))
    with pytest.raises(ApiRefused, match=f"There is a {kind} {name} that does not belong"):
        asyncio.run(world.reconcile(key))
    assert world.cluster.objects[kind, "n", name] == theirs
    assert (kind, name) not in world.cluster.applied
    assert condition(world, "Applied")["reason"] == "NameTaken"


def test_a_secret_of_ours_is_put_right_again_and_its_successor_is_not_taken() -> None:
    """Nobody tells of Secrets: after a restart ours is written again; one that took its place meanwhile stays as it is."""
    world = World()
    key = world.model(EXTERNAL)
    asyncio.run(world.reconcile(key))
    at = "Secret", "n", "m-admin"
    ours = world.cluster.objects[at]
    after = World()
    after.cluster.objects = world.cluster.objects
    after.cluster.objects[at] = {**ours, "stringData": {"token": "edited"}}
    after.hear(after.cluster.objects["LocalModel", "n", "m"])
    with contextlib.suppress(ApiRefused):  # of the others this cache was told nothing
        asyncio.run(after.reconcile(key))
    assert after.cluster.objects[at]["stringData"] == ours["stringData"]
    theirs = {"kind": "Secret", "metadata": {"name": "m-admin", "namespace": "n", "uid": "theirs"}}
    theirs = after.cluster.put(theirs)
    after.reconcile._children._clock = lambda: time.monotonic() + 3600.0
    with pytest.raises(ApiRefused, match="There is a Secret m-admin"):
        asyncio.run(after.reconcile(key))
    assert after.cluster.objects[at] == theirs
    del after.cluster.objects[at]
    asyncio.run(after.reconcile(key))
    assert after.cluster.objects[at]["stringData"] == ours["stringData"]


def test_a_route_that_somebody_deleted_comes_back() -> None:
    """Optional kinds are not watched; once a listing missed one, the next look makes it again."""
    world = World()

    async def apis() -> frozenset[str]:
        return frozenset({"ServiceMonitor"})

    world.reconcile._apis = apis
    key = world.model({**EXTERNAL, "monitoring": {"serviceMonitor": True}})
    asyncio.run(world.reconcile(key))
    asyncio.run(world.reconcile(key))
    assert world.cluster.applied.count(("ServiceMonitor", "m")) == 1
    del world.cluster.objects["ServiceMonitor", "n", "m"]
    sweep = Sweep(world.cluster, world.cache, KINDS, [None], lambda key: None)  # type: ignore[arg-type]
    asyncio.run(sweep.look("ServiceMonitor"))
    asyncio.run(world.reconcile(key))
    assert ("ServiceMonitor", "n", "m") in world.cluster.objects


def starting(world: World, since: str, **more: Any) -> None:
    """A server pod that a node took and that says nothing but ContainerCreating."""
    waits = {"name": "server", "image": "i", "state": {"waiting": {"reason": "ContainerCreating"}}}
    taken = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
    conditions = [taken, *more.pop("conditions", [])]
    world.server_pod(phase="Pending", conditions=conditions, containerStatuses=[waits], **more)


def event(reason: str, note: str, last: str = "2025-12-31T23:59:30Z") -> Manifest:
    return {
        "kind": "Event", "type": "Warning", "reason": reason, "note": note,
        "metadata": {"name": f"{reason}.{last}", "namespace": "n"},
        "regarding": {"kind": "Pod", "name": "m-server-0"}, "deprecatedLastTimestamp": last,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "note", "ours", "stalled"),
    [
        ("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) m-server-1', "VolumeElsewhere", False),
        ("FailedMount", 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found', "CredentialsMissing", True),
        ("FailedMount", 'MountVolume.SetUp failed for volume "keys" : references non-existent secret key: keys.yaml', "CredentialsMissing", True),
        ("FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "ca" not found', "ConfigurationMissing", False),
        ("FailedMount", "Unable to attach or mount volumes: timed out", "VolumeNotMounted", False),
        ("FailedCreatePodSandBox", "network: no addresses", "SandboxFailed", False),
    ],
)  # fmt: skip
def test_why_a_pod_does_not_start_is_read_from_its_events(
    reason: str, note: str, ours: str, *, stalled: bool
) -> None:
    """The pod itself says ContainerCreating only, as a kubelet leaves it."""
    world = World()
    key = world.model(SMALLEST)
    starting(world, EARLY)
    world.cluster.put(event(reason, note))
    world.cluster.put(event("FailedToRetrieveImagePullSecret", "harmless", LATE))
    asyncio.run(world.reconcile(key))
    assert condition(world, "Ready")["reason"] == ours
    assert note in world.status()["lastFailure"]["message"]
    assert bool(condition(world, "Stalled")) is stalled


def test_a_pod_that_starts_as_it_should_costs_no_call_and_is_looked_at_again() -> None:
    """For half a minute nothing is asked; with its volumes mounted (it pulls an image) old Events mean nothing."""
    world = World()
    key = world.model(SMALLEST)
    world.cluster.put(event("FailedMount", 'secret "keys" not found'))
    starting(world, "2025-12-31T23:59:50Z")
    done = asyncio.run(world.reconcile(key))
    assert condition(world, "Ready")["reason"] not in ("CredentialsMissing", "VolumeNotMounted")
    assert done == Done(again_s=21.0)
    sandbox = {"type": "PodReadyToStartContainers", "status": "True"}
    starting(world, EARLY, conditions=[sandbox])
    assert asyncio.run(world.reconcile(key)) == Done()
    starting(world, EARLY)
    world.cluster.objects = {at: one for at, one in world.cluster.objects.items() if at[0] != "Event"}  # fmt: skip
    world.cluster.put(event("FailedMount", 'secret "keys" not found', "2025-12-31T23:50:00Z"))
    asyncio.run(world.reconcile(key))
    assert condition(world, "Ready")["reason"] != "CredentialsMissing", "told long ago"


def test_the_events_of_a_pod_that_does_not_start_are_asked_for_once_in_a_while() -> None:
    """While a gateway is ready the model is looked at every few seconds; that is no reason to list Events as often."""
    world = World()
    key = world.model(SMALLEST)
    starting(world, EARLY)
    world.gateway(EARLY)
    found: Callable[..., Any] = world.cluster.found
    asked: list[str] = []

    async def counted(kind: str, *more: Any, **fields: Any) -> Any:
        asked.append(kind)
        return await found(kind, *more, **fields)

    world.cluster.found = counted  # type: ignore[method-assign]
    for _ in range(6):
        asyncio.run(world.reconcile(key))
        world.now += timedelta(seconds=4)
    assert asked == ["Event"]
    world.cluster.put(event("FailedMount", 'secret "keys" not found'))
    world.now += timedelta(seconds=2)
    asyncio.run(world.reconcile(key))
    assert asked == ["Event"] * 2
    assert condition(world, "ServerReady")["reason"] == "CredentialsMissing"


def test_pods_that_kubernetes_does_not_make_are_told() -> None:
    """A quota or Pod Security stands in the Deployment's condition only."""
    world = World()
    key = world.model(SMALLEST)
    asyncio.run(world.reconcile(key))
    there = world.cluster.objects["Deployment", "n", "m-server"]
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}
    world.hear(world.cluster.put({**there, "status": {"conditions": [refused]}}))
    asyncio.run(world.reconcile(key))
    assert condition(world, "Ready")["reason"] == "PodsRefused"
    assert "exceeded quota: gpus" in condition(world, "Ready")["message"]


def test_after_a_restored_etcd_a_listing_is_believed() -> None:
    """Versions begin again at lower numbers; a late listing that was asked for earlier is not believed."""
    world = World()
    about = {"name": "m", "namespace": "n", "labels": labels("m", "gateway"), "uid": "u"}
    world.hear({"kind": "Service", "metadata": {**about, "resourceVersion": "900"}, "spec": 1})
    world.cluster.put({"kind": "Service", "metadata": about, "spec": 2})
    told: list[Key] = []
    sweep = Sweep(world.cluster, world.cache, KINDS, [None], told.append)  # type: ignore[arg-type]
    asyncio.run(sweep.look("Service"))
    assert told == [Key("n", "m")]
    assert world.cache.children(Key("n", "m"))["Service", "m"]["spec"] == 2


@pytest.mark.parametrize(
    ("reason", "level", "words"),
    [
        ("Conflict", "INFO", "n/m: Somebody else wrote in between, and nothing was changed. It is looked at again in "),
        ("Invalid", "WARNING", "n/m: ApiRefused: the object has been modified; tried again in "),
    ],
)  # fmt: skip
def test_a_version_that_has_moved_on_is_no_warning(
    caplog: pytest.LogCaptureFixture, reason: str, level: str, words: str
) -> None:
    """It happens every day, and the next look settles it; of what a person may have to end it is warned."""
    failed = asyncio.Event()

    async def work(key: Key) -> Done:
        raise ApiRefused("the object has been modified", 409, reason)

    async def run() -> None:
        queue: WorkQueue[Key] = WorkQueue(
            work, workers=1, passing=passing, finished=lambda *_: failed.set()
        )
        queue.add(Key("n", "m"))
        running = asyncio.ensure_future(queue.run())
        await failed.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    with caplog.at_level("INFO"):
        asyncio.run(run())
    (said,) = caplog.records
    assert said.levelname == level
    assert said.getMessage().startswith(words)


def test_who_takes_over_looks_first_where_requests_are_held() -> None:
    """Behind a thousand models a hold would run out."""
    world = World()
    order: list[Key] = []

    async def work(key: Key) -> Done:
        order.append(key)
        return Done(gone=True)

    async def run() -> None:
        queue: WorkQueue[Key] = WorkQueue(work, workers=1)
        for number in range(5):
            body = {"kind": "LocalModel", "metadata": {"name": f"m-{number}", "namespace": "n"}}
            held = {"status": {"rollout": {"phase": "Draining"}}} if number == 3 else {}
            world.hear({**body, **held})
            queue.add(Key("n", f"m-{number}"))
        begin(world.cache, queue)
        running = asyncio.ensure_future(queue.run())
        while len(order) < 5:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert order[0] == Key("n", "m-3")


def test_a_note_fits_the_bytes_that_an_event_may_have() -> None:
    """The API server counts bytes; a letter is not cut in two."""
    world = World()
    key = world.model(EXTERNAL)
    refusing(world, "Service", ApiRefused("ä€" * 800, 422, "Invalid"))
    with pytest.raises(ApiRefused):
        asyncio.run(world.reconcile(key))
    (told,) = world.cluster.events
    assert 1020 <= len(told["note"].encode()) <= 1024
