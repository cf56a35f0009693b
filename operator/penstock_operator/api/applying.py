"""
Writes the children of a LocalModel, and deletes those that it no longer wants.

A child is written only when what we want or what stands there has changed since we wrote it last; the memory of that
is lost with the process, and then each child is applied once more, which changes nothing. Kinds that are not watched
(Secrets are never read, optional kinds may be absent) are applied again after a while, soon while the model is not
ready. Fields that another applier owns are left to it, and told.

An object that has the name of a child and is not ours is never touched: else it would go with the LocalModel. Where
nothing is known to be there, only a write that makes the object is carried out; refused, what stands there is looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock_operator.api.cache import Cache, digest, fingerprint
from penstock_operator.api.cluster import (
    ABSENT,
    ApiRefused,
    Cluster,
    FieldConflict,
    NameTaken,
)
from penstock_operator.api.conflicts import Conflict, sentence, without
from penstock_operator.api.resources import WATCHED
from penstock_operator.localmodel.names import MODEL
from penstock_operator.seen import Key, Manifest, Seen, condition

_KEPT = frozenset({"PersistentVolumeClaim"})  # weights outlive a change of the spec
_SOON_S, _LATER_S = 60.0, 900.0  # when what is not watched is applied again, not ready and ready
_OUTDATED = 1024  # entries; an older one only costs a refused write more before the kind is listed


@dataclass(frozen=True, slots=True)
class _Written:
    """
    What was written last.

    Attributes:
        uid: of the object.
        left: what others own of it, a sentence; empty when they own nothing.
    """

    wanted: str
    standing: str
    at_s: float
    uid: str
    left: str


class Applying:
    """
    Args:
        stale: is told a kind of which something that was to be written is not as we remember it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        *,
        stale: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._stale = stale
        self._clock = clock
        self._written: dict[Key, dict[tuple[str, str], _Written]] = {}
        self._outdated: dict[str, str] = {}  # uid to version

    async def apply(self, key: Key, manifest: Manifest, seen: Seen) -> None:
        """Bring one child where it should be."""
        at = str(manifest["kind"]), str(manifest["metadata"]["name"])
        wanted, there, now = digest(manifest), seen.child(*at), self._clock()
        watched = at[0] in WATCHED
        standing = _standing(at[0], there)
        mine = self._written.setdefault(key, {})
        last = mine.get(at)
        lasts_s = math.inf if watched else _LATER_S if _is_ready(seen) else _SOON_S
        same = last is not None and (last.wanted, last.standing) == (wanted, standing)
        if last is not None and same and now - last.at_s < lasts_s:
            return
        uid = str(there["metadata"]["uid"]) if there else last.uid if last and not watched else ""
        try:
            if watched and there:
                version = str(there["metadata"]["resourceVersion"])
                written, left = await self._write(manifest, version=version)
            elif uid:
                written, left = await self._again(manifest, uid)
            else:
                written, left = await self._first(manifest, known=bool(seen.before))
        except ApiRefused as exc:
            self.refused(exc, at[0], there)
            raise
        after = _standing(at[0], written)
        if there is not None:
            self._outdated.pop(str(there["metadata"]["uid"]), None)
        mine[at] = _Written(
            wanted,
            after,
            now,
            str(written["metadata"]["uid"]),
            sentence(*at, left) if left else "",
        )
        if at[0] != "Secret":
            self._cache.heard({**written, "kind": at[0]})

    async def _first(self, manifest: Manifest, *, known: bool) -> tuple[Manifest, list[Conflict]]:
        """
        Nothing is known to be there.

        Args:
            known: the LocalModel is not new, so that its Secret, of which nobody tells, is probably there.
        """
        found = None
        if known and manifest["kind"] == "Secret":
            found = await self._ours(manifest)
        if found is None:
            try:
                return await self._cluster.apply(manifest, version=ABSENT), []
            except ApiRefused as exc:
                if exc.reason not in ("Conflict", "FieldConflict"):
                    raise
                found = await self._ours(manifest)
                if found is None:
                    raise  # it went in between
        return await self._write(manifest, version=str(found["metadata"]["resourceVersion"]))

    async def _again(self, manifest: Manifest, uid: str) -> tuple[Manifest, list[Conflict]]:
        """It was there, and no watch tells what became of it."""
        try:
            return await self._write(manifest, uid=uid)
        except ApiRefused as exc:
            if exc.reason != "Conflict":
                raise
        return await self._first(manifest, known=False)

    async def _write(
        self, manifest: Manifest, *, version: str | None = None, uid: str | None = None
    ) -> tuple[Manifest, list[Conflict]]:
        """Write ours on what is meant, which `Cluster.apply` explains."""
        try:
            return await self._cluster.apply(manifest, version=version, uid=uid), []
        except FieldConflict as exc:
            left = [one for one in exc.found if not _is_drift(one, manifest)]
            less = without(manifest, {one.field for one in left})
            force = left != exc.found
            return await self._cluster.apply(less, version=version, uid=uid, force=force), left

    async def _ours(self, manifest: Manifest) -> Manifest | None:
        """
        What stands under that name, or None.

        Raises:
            NameTaken: it is not ours.
        """
        found = await self._cluster.standing(manifest)
        if found is None:
            return None
        about, had = manifest["metadata"], found["metadata"]
        owners = {owner["uid"] for owner in about.get("ownerReferences") or ()}
        owned = owners & {owner.get("uid") for owner in had.get("ownerReferences") or ()}
        if not owned and (had.get("labels") or {}).get(MODEL) != about["labels"][MODEL]:
            raise NameTaken(
                f"There is a {manifest['kind']} {about['name']} that does not belong to this model. It was not touched: "
                "rename or delete it, or give the LocalModel another name."
            )
        return found

    async def remove(self, uid: str, key: Key, wanted: Iterable[Manifest], seen: Seen) -> None:
        """What was made for the LocalModel with *uid* and is no longer wanted."""
        names = {(one["kind"], one["metadata"]["name"]) for one in wanted}
        for (kind, name), there in seen.children.items():
            if (kind, name) in names or kind in _KEPT:
                continue
            owners = there["metadata"].get("ownerReferences") or ()
            if any(owner.get("controller") and owner.get("uid") == uid for owner in owners):
                found = str(there["metadata"]["uid"])
                await self._cluster.delete(kind, key.namespace, name, uid=found)
                if kind not in WATCHED:
                    self._cache.lost(kind, found)
        mine = self._written.get(key, {})
        for at in mine.keys() - names:
            del mine[at]

    def refused(self, exc: ApiRefused, kind: str, there: Manifest | None) -> None:
        """
        A write that was decided from *there* was refused.

        Somebody wrote in between, and the watch will tell; refused twice from the same version, it has missed
        something, and the kind is listed.
        """
        version = str(there["metadata"]["resourceVersion"]) if there else ""
        uid = str(there["metadata"]["uid"]) if there else ""
        again = self._outdated.get(uid) == version
        if exc.status == 404 or (exc.reason == "Conflict" and again):
            self._stale(kind)
            self._outdated.pop(uid, None)
        elif exc.reason == "Conflict":
            self._outdated[uid] = version
            while len(self._outdated) > _OUTDATED:
                del self._outdated[next(iter(self._outdated))]

    def left(self, key: Key) -> tuple[str, ...]:
        """What others own of its children, a sentence for each."""
        return tuple(one.left for one in self._written.get(key, {}).values() if one.left)

    def forget(self, key: Key) -> None:
        """The LocalModel is gone."""
        self._written.pop(key, None)


def _standing(kind: str, there: Manifest | None) -> str:
    """What of an object is compared. Of optional kinds, which are listed once in a while, only whether it is there."""
    if kind in WATCHED:
        return fingerprint(there) if there else "absent"
    return "absent" if there is None and kind != "Secret" else ""


def _is_drift(found: Conflict, manifest: Manifest) -> bool:
    """What is put right: a person's edit, and replicas of what is suspended."""
    suspended = manifest.get("spec", {}).get("replicas") == 0
    return found.drift or (suspended and found.field == ".spec.replicas")


def _is_ready(seen: Seen) -> bool:
    return condition({"status": seen.before}, "Ready").get("status") == "True"
