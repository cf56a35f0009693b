"""An API server in memory for the narrow interface that `reconcile` and `sweep` use: it applies, lists and deletes."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

from penstock_operator.api.cluster import ABSENT, ApiRefused

Manifest = dict[str, Any]


class FakeCluster:
    """`objects` by (kind, namespace, name)."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.events: list[Manifest] = []
        self.applied: list[tuple[str, str]] = []
        self._version = int(ABSENT)

    def may_write(self) -> bool:
        return True

    def put(self, body: Manifest) -> Manifest:
        """It is there, whoever made it."""
        about = body["metadata"]
        at = (body["kind"], about["namespace"], about["name"])
        self._version += 1
        uid = about.get("uid") or self.objects.get(at, {}).get("metadata", {}).get("uid")
        version = str(self._version)
        self.objects[at] = {
            **copy.deepcopy(body),
            "metadata": {**about, "uid": uid or f"uid-{version}", "resourceVersion": version},
        }
        return copy.deepcopy(self.objects[at])

    async def apply(
        self,
        manifest: Manifest,
        *,
        version: str | None = None,
        uid: str | None = None,
        force: bool = False,
    ) -> Manifest:
        about = manifest["metadata"]
        at = (manifest["kind"], about["namespace"], about["name"])
        there = self.objects.get(at)
        had = there["metadata"] if there else {"resourceVersion": ABSENT, "uid": ""}
        if version is not None and had["resourceVersion"] != version:
            raise ApiRefused("It is not at that version.", 409, "Conflict")
        if uid is not None and had["uid"] != uid:
            raise ApiRefused("It is another one.", 409, "Conflict")
        self.applied.append((at[0], at[2]))
        return self.put(manifest)

    async def standing(self, manifest: Manifest) -> Manifest | None:
        about = manifest["metadata"]
        return self.objects.get((manifest["kind"], about["namespace"], about["name"]))

    async def each(
        self, kind: str, namespace: str | None, labels: str = ""
    ) -> AsyncIterator[Manifest]:
        for at, one in list(self.objects.items()):
            if at[0] == kind and namespace in (None, at[1]):
                yield {name: value for name, value in one.items() if name != "kind"}

    async def found(self, kind: str, namespace: str, **fields: str) -> list[Manifest]:
        return [
            one
            for at, one in self.objects.items()
            if at[:2] == (kind, namespace)
            and all(str(_field(one, name.split("__"))) == value for name, value in fields.items())
        ]

    async def patch_status(
        self, kind: str, namespace: str, name: str, changes: Manifest, version: str
    ) -> Manifest:
        there = self.objects[kind, namespace, name]
        if there["metadata"]["resourceVersion"] != version:
            raise ApiRefused("It is not at that version.", 409, "Conflict")
        return self.put({**there, "status": merged(there.get("status") or {}, changes)})

    async def create(self, kind: str, manifest: Manifest) -> Manifest:
        self.events.append(manifest)
        return manifest

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        self.objects.pop((kind, namespace, name), None)


def _field(body: Any, path: list[str]) -> Any:
    return _field(body.get(path[0]), path[1:]) if path and body else body


def merged(there: Manifest, changes: Manifest) -> Manifest:
    """A merge patch carried out (RFC 7386)."""
    found = dict(there)
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            before = found.get(name)
            found[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            found[name] = value
    return found
