"""
Brings one LocalModel where it should be: look, decide, write. Level-triggered, so it can be cut off anywhere and run
again; nothing of what it does depends on which event brought it here.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from penstock_operator.api.applying import Applying
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused, Cluster, NameTaken, NotLeading
from penstock_operator.gateways import rollout
from penstock_operator.gateways.rollout import Patience, Plan, Work
from penstock_operator.localmodel.names import GATEWAY
from penstock_operator.queueing.work_queue import Done
from penstock_operator.seen import GatewayStatus, Key, Manifest, Refusal, Seen, condition, is_ready
from penstock_operator.sentences import ended, refusal
from penstock_operator.status import conditions
from penstock_operator.status.conditions import Asked
from penstock_operator.status.stuck import look_again_s, stuck

_log = logging.getLogger(__name__)
_AT_ONCE_S = 2.0  # while a gateway answers and the model does not: nothing tells when that turns
_SOON_S = 15.0  # while a gateway is there and cannot be asked, or nothing has turned for long
_PATIENT = 30.0  # a thirtieth of the time since the last turn is waited
_MEASURED_S = 120.0  # to read back what gateways measure
_SETTLING_S = 5.0  # to read it back in the first minute: gateways learn of a new server only then
_SETTLED_S = 60.0
_EVENTS_S = 25.0  # a pod's Events are not listed again; less than between two looks for its sake
_QUIET_S = 900.0  # the same Event of the same model is not written again
_NOTE_BYTES = 1024  # the API server's limit
_APIS_S = 15.0  # while it waits for a kind that the API server does not serve


@dataclass(frozen=True, slots=True)
class Read:
    """
    A LocalModel as the pure modules understand it.

    Attributes:
        children: what there should be, given what is seen; None when the spec cannot be used.
        optional: kinds among them that the API server need not serve.
        patience: how long a changed server and its clients are waited for.
    """

    asked: Asked
    children: Callable[[Seen], list[Manifest]] | None
    optional: frozenset[str] = frozenset()
    patience: Patience = field(default_factory=Patience)


class Reconciler:
    """
    Args:
        read: understands a LocalModel's body; an unusable spec is said in `Asked.refused`.
        ask: asks the model's gateway pods for their status.
        hold: has them hold new requests, and tells what still runs; resume: has them go on.
        token: the admin token of a model, from its key and uid.
        apis: the optional kinds that the API server serves now; what there is of them is in the cache then.
        admitted: peers of a NetworkPolicy that reach every gateway.
        stale: is told a kind of which something that was to be written is not as we remember it.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        read: Callable[[Manifest], Read],
        *,
        image: str,
        token: Callable[[Key, str], str],
        ask: Callable[[Key, tuple[Manifest, ...], str], Awaitable[Mapping[str, GatewayStatus]]],
        hold: Callable[[Key, Iterable[Manifest], str], Awaitable[Mapping[str, Work]]],
        resume: Callable[[Key, Iterable[Manifest], str], Awaitable[Mapping[str, str]]],
        apis: Callable[[], Awaitable[frozenset[str]]],
        admitted: tuple[Manifest, ...] = (),
        stale: Callable[[str], None] = lambda kind: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._read = read
        self._image = image
        self._token = token
        self._ask = ask
        self._hold = hold
        self._resume = resume
        self._apis = apis
        self._admitted = admitted
        self._now = now
        self._told: dict[tuple[str, str, str], datetime] = {}
        self._warnings: dict[str, tuple[datetime, list[Manifest]]] = {}  # by uid of the pod
        self._children = Applying(cluster, cache, stale=stale)

    async def __call__(self, key: Key) -> Done:
        body = self._cache.model(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._children.forget(key)
            return Done(gone=True)
        read = self._read(body)
        seen = await self._look(key, body, read.optional)
        plan, failed = Plan(), dict[Refusal, Exception]()
        wanted = self._wanted(key, read, seen, failed)
        if wanted is not None:
            plan = await self._plan(key, read, wanted, seen)
            for manifest in wanted:
                if not plan.keeps(key.name, manifest):
                    await self._apply(key, manifest, seen, failed)
            await self._children.remove(body["metadata"]["uid"], key, wanted, seen)
        seen = replace(seen, left=self._children.left(key), refused=tuple(failed))
        status = conditions.status(read.asked, seen, plan.rollout)
        await self._tell(body, status)
        if failed:
            raise next(
                iter(failed.values())
            )  # told by now, and tried again after a delay that grows
        if plan.again_s is not None:
            return Done(again_s=plan.again_s)
        return Done(again_s=_again_s(read, seen, status))

    def _wanted(
        self, key: Key, read: Read, seen: Seen, failed: dict[Refusal, Exception]
    ) -> list[Manifest] | None:
        """What there should be; None leaves alone what there is."""
        if read.children is None:
            return None
        try:
            return read.children(seen)
        except Exception as exc:  # noqa: BLE001 - a fault of ours, and the status must not stay silent about it
            _log.exception("%s: what it needs could not be thought out.", key)
            said = f"What the model needs could not be thought out, nothing was changed: {str(exc) or type(exc).__name__}"
            failed[Refusal(ended(said))] = exc
            return None

    async def _apply(
        self, key: Key, manifest: Manifest, seen: Seen, failed: dict[Refusal, Exception]
    ) -> None:
        """A child that is refused for itself holds up neither the others nor the status."""
        try:
            await self._children.apply(key, manifest, seen)
        except ApiRefused as exc:
            taken = isinstance(exc, NameTaken)
            if not taken and not _concerns_the_child(exc):
                raise
            at = str(manifest["kind"]), str(manifest["metadata"]["name"])
            said = str(exc) if taken else refusal(*at, exc.said)
            failed[Refusal(said, taken, lasting=taken or exc.status == 422)] = exc

    async def _plan(self, key: Key, read: Read, wanted: list[Manifest], seen: Seen) -> Plan:
        """What comes next of a rollout; the gateways are asked for what it needs to know of them."""

        def planned(work: Mapping[str, Work] | None = None) -> Plan:
            return rollout.plan(
                key.name, wanted, seen, read.patience, suspended=read.asked.suspended, work=work
            )

        plan = planned()
        if plan.hold:
            self._must_lead()
            plan = planned(await self._hold(key, seen.pods, seen.admin_token))
        if plan.resume:
            self._must_lead()
            chosen = [pod for pod in seen.pods if pod["metadata"]["name"] in plan.resume]
            for why in (await self._resume(key, chosen, seen.admin_token)).values():
                if why:
                    _log.warning("%s: %s; its hold ends by itself.", key, why)
        return plan

    def _must_lead(self) -> None:
        if not self._cluster.may_write():
            raise NotLeading("The gateways are left to the replica that leads.")

    async def _look(self, key: Key, body: Manifest, optional: frozenset[str]) -> Seen:
        # Before the children: it may bring some. Also when one was asked for until now, to take it away.
        said = (body.get("status") or {}).get("conditions") or ()
        had = any(one["type"] in ("RouteReady", "Monitored") for one in said)
        apis = await self._apis() if optional or had else frozenset[str]()
        pods = self._cache.pods(key)
        now = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        token = self._token(key, str(body["metadata"]["uid"]))
        return Seen(
            now=now,
            operator_image=self._image,
            admin_token=token,
            children=self._cache.children(key),
            pods=pods,
            events=await self._events(stuck(pods, now)),
            apis=apis,
            admitted=self._admitted,
            gateways=await self._ask(key, pods, token),
            before=body.get("status") or {},
        )

    async def _events(self, pods: Iterable[Manifest]) -> tuple[Manifest, ...]:
        """Warnings about those pods: asked for, once in a while, where a pod itself does not say why it does not start."""
        now = self._now()
        for uid, (at, _) in list(self._warnings.items()):
            if (now - at).total_seconds() >= _EVENTS_S:
                del self._warnings[uid]
        found: list[Manifest] = []
        for pod in pods:
            about = pod["metadata"]
            uid = str(about["uid"])
            if uid not in self._warnings:
                try:
                    told = await self._cluster.found(
                        "Event", about["namespace"], type="Warning", regarding__kind="Pod",
                        regarding__name=about["name"],
                    )  # fmt: skip
                except ApiRefused as exc:
                    _log.warning("The Events of the pod %s could not be read: %s", about["name"], exc)  # fmt: skip
                    continue
                self._warnings[uid] = now, told
            found += self._warnings[uid][1]
        return tuple(found)

    async def _tell(self, body: Manifest, status: dict[str, Any]) -> None:
        before = body.get("status") or {}
        if not conditions.differs(status, before):
            return
        metadata = body["metadata"]
        try:
            written = await self._cluster.patch_status(
                "LocalModel", metadata["namespace"], metadata["name"],
                conditions.patch(status, before), str(metadata["resourceVersion"]),
            )  # fmt: skip
        except ApiRefused as exc:
            self._children.refused(exc, "LocalModel", body)
            raise
        self._cache.heard({**written, "kind": "LocalModel"})
        for kind, reason, note in conditions.transitions(status, before):
            if self._told_lately(str(metadata["uid"]), reason, note):
                continue
            try:
                await self._cluster.create("Event", self._event(body, kind, reason, note))
            except ApiRefused as exc:
                _log.warning("An Event could not be written: %s", exc)

    def _told_lately(self, uid: str, reason: str, note: str) -> bool:
        """A container that is tried again and again turns the same way each time; once in a while is enough."""
        now = self._now()
        for at in [
            at for at, when in self._told.items() if (now - when).total_seconds() > _QUIET_S
        ]:
            del self._told[at]
        if (uid, reason, note) in self._told:
            return True
        self._told[uid, reason, note] = now
        return False

    def _event(self, body: Manifest, kind: str, reason: str, note: str) -> Manifest:
        metadata = body["metadata"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "generateName": f"{metadata['name']}-", "namespace": metadata["namespace"],
            },
            "eventTime": self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "penstock.dev/operator",
            "reportingInstance": "penstock-operator",
            "action": "Reconcile",
            "type": kind,
            "reason": reason,
            "note": note.encode()[:_NOTE_BYTES].decode(errors="ignore"),
            "regarding": {
                "apiVersion": body.get("apiVersion", "penstock.dev/v1alpha1"),
                "kind": "LocalModel",
                "name": metadata["name"], "namespace": metadata["namespace"],
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
        }  # fmt: skip


def _again_s(read: Read, seen: Seen, status: Mapping[str, Any]) -> float | None:
    """When the model is looked at again without news; None leaves it to the resync."""
    if read.asked.refused:
        return None
    if not read.optional <= seen.apis:
        return _APIS_S
    starting_s = look_again_s(seen.pods, seen.now)
    if not any(is_ready(pod) for pod in seen.pods_of(GATEWAY)):
        return starting_s  # there is nobody to ask, and what pods do is told by the watch
    if condition({"status": status}, "Ready").get("status") == "True":
        every_s = _SETTLING_S if _still_s(seen, status) < _SETTLED_S else _MEASURED_S
        return every_s * random.uniform(0.75, 1.25)
    if not seen.gateways:
        return _SOON_S
    return min(_SOON_S, max(_AT_ONCE_S, _still_s(seen, status) / _PATIENT))


def _still_s(seen: Seen, status: Mapping[str, Any]) -> float:
    """Since the model or a pod of it turned last."""
    turned = [
        str(condition(one, "Ready").get("lastTransitionTime") or "")
        for one in ({"status": status}, *seen.pods)
    ]
    times = [datetime.fromisoformat(at) for at in turned if at]
    return (datetime.fromisoformat(seen.now) - max(times)).total_seconds() if times else 0.0


def _concerns_the_child(exc: ApiRefused) -> bool:
    """
    Not the whole API server, nor a version that has moved on. A quota answers 403, a field that cannot be changed 422,
    a webhook that does not answer 500.
    """
    return exc.status == 500 or (400 <= exc.status < 500 and exc.status not in (401, 404, 409, 429))
