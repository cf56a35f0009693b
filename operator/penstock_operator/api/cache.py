"""
What the watches have told so far: LocalModels, their children and pods. Reconciling reads from here, not from the API.

Objects are kept as compressed JSON without managedFields, which are half their size and nobody reads: as Python values
a thousand LocalModels with all that is theirs would take twenty times the memory. They become values again when their
LocalModel is looked at. A child belongs to the LocalModel that its label names, in its own namespace.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from penstock_operator.localmodel.names import MODEL
from penstock_operator.seen import Key, Manifest

_LEVEL = 1  # of zlib: a higher one saves a tenth more, and takes three times as long


@dataclass(frozen=True, slots=True)
class _Kept:
    """One object."""

    uid: str
    version: int
    packed: bytes

    @classmethod
    def of(cls, body: Mapping[str, Any], uid: str, version: int) -> _Kept:
        return cls(uid, version, zlib.compress(orjson.dumps(slim(body)), _LEVEL))

    def body(self) -> Manifest:
        found: Manifest = orjson.loads(zlib.decompress(self.packed))
        return found


class Cache:
    """Filled by the handlers, read by `reconcile`."""

    def __init__(self) -> None:
        self._models: dict[Key, _Kept] = {}
        self._children: dict[Key, dict[tuple[str, str], _Kept]] = {}

    def heard(
        self, body: Mapping[str, Any], *, deleted: bool = False, rewound: bool = False
    ) -> Key | None:
        """
        An object is as *body* says, or gone; *rewound*: although its version is lower than the one that is known.

        Returns:
            the LocalModel that it concerns; None when it concerns none, or was known: what we wrote ourselves comes
            back as an event.
        """
        metadata = body.get("metadata") or {}
        kind, name = str(body.get("kind", "")), str(metadata.get("name", ""))
        namespace = str(metadata.get("namespace", ""))
        if kind == "LocalModel":
            key = Key(namespace, name)
            news = _hear(self._models, key, body, deleted=deleted, rewound=rewound)
            return key if news else None
        owner = (metadata.get("labels") or {}).get(MODEL)
        if not owner:
            return None
        key = Key(namespace, str(owner))
        mine = self._children.setdefault(key, {})
        news = _hear(mine, (kind, name), body, deleted=deleted, rewound=rewound)
        if not mine:
            del self._children[key]
        return key if news else None

    def lost(self, kind: str, uid: str) -> Key | None:
        """An object is gone, and no event told of it. The LocalModel that it concerned, if it was known."""
        if kind == "LocalModel":
            for key, one in self._models.items():
                if one.uid == uid:
                    del self._models[key]
                    return key
            return None
        for key, mine in self._children.items():
            for at, one in mine.items():
                if at[0] == kind and one.uid == uid:
                    del mine[at]
                    if not mine:
                        del self._children[key]
                    return key
        return None

    def model(self, key: Key) -> Manifest | None:
        """The LocalModel, or None."""
        found = self._models.get(key)
        return found.body() if found else None

    def children(self, key: Key) -> dict[tuple[str, str], Manifest]:
        """Everything that carries its label, pods left out."""
        mine = self._children.get(key, {})
        return {at: one.body() for at, one in mine.items() if at[0] != "Pod"}

    def pods(self, key: Key) -> tuple[Manifest, ...]:
        """Its pods."""
        return tuple(
            one.body() for at, one in self._children.get(key, {}).items() if at[0] == "Pod"
        )

    def known(self, kind: str) -> dict[str, int]:
        """The versions of everything of that kind, by uid."""
        if kind == "LocalModel":
            return {one.uid: one.version for one in self._models.values()}
        return {
            one.uid: one.version
            for mine in self._children.values()
            for at, one in mine.items()
            if at[0] == kind
        }

    def models(self) -> Iterator[Key]:
        """All LocalModels."""
        yield from tuple(self._models)


def _hear(
    kept: dict[Any, _Kept],
    at: Key | tuple[str, str],
    body: Mapping[str, Any],
    *,
    deleted: bool,
    rewound: bool,
) -> bool:
    """Whether that is news."""
    there, uid = kept.get(at), str(body["metadata"].get("uid", ""))
    if deleted:
        # The news of a deletion may come after that of its successor of the same name.
        if there is None or there.uid != uid:
            return False
        del kept[at]
        return True
    version = version_of(body)
    if there is not None and version <= there.version and version and not rewound:
        return False
    kept[at] = _Kept.of(body, uid, version)
    return True


def version_of(body: Mapping[str, Any]) -> int:
    """Versions of one kind are whole numbers that only grow (Kubernetes' own promise since 1.35); 0 for any other."""
    said = str(body["metadata"].get("resourceVersion", ""))
    return int(said) if said.isdecimal() else 0


def slim(body: Mapping[str, Any]) -> Manifest:
    """Without what nobody reads."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    return {**body, "metadata": metadata}


def fingerprint(body: Mapping[str, Any]) -> str:
    """Changes when somebody changes what was asked for, and not when a controller of Kubernetes' own does its work."""
    metadata = body.get("metadata") or {}
    kept = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    kept["metadata"] = {key: metadata.get(key) for key in ("uid", "labels", "ownerReferences")}
    kept["annotations"] = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.partition("/")[0].endswith("kubernetes.io")
    }
    return digest(kept)


def digest(value: Any) -> str:
    """Of any JSON value, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()
