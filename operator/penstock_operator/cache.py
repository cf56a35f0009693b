"""
What the watches have told so far: LocalModels, their children and pods. Reconciling reads from here, not from the API.

Objects are kept without managedFields, which are half their size and nobody reads. A child belongs to the LocalModel
that its label names, in its own namespace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from penstock_operator.seen import Key, Manifest

MODEL_LABEL = "penstock.dev/model"


class Cache:
    """Filled by the handlers, read by `reconcile`."""

    def __init__(self) -> None:
        self._models: dict[Key, Manifest] = {}
        self._children: dict[Key, dict[tuple[str, str], Manifest]] = {}

    def heard(self, body: Mapping[str, Any], *, deleted: bool = False) -> Key | None:
        """
        An object is as *body* says, or gone.

        Returns:
            the LocalModel that it concerns; None when it concerns none.
        """
        metadata = body.get("metadata") or {}
        kind, name = str(body.get("kind", "")), str(metadata.get("name", ""))
        namespace = str(metadata.get("namespace", ""))
        if kind == "LocalModel":
            key = Key(namespace, name)
            if deleted:
                self._models.pop(key, None)
            else:
                self._models[key] = slim(body)
            return key
        owner = (metadata.get("labels") or {}).get(MODEL_LABEL)
        if not owner:
            return None
        key = Key(namespace, str(owner))
        if deleted:
            mine = self._children.get(key, {})
            mine.pop((kind, name), None)
            if not mine:
                self._children.pop(key, None)
        else:
            self._children.setdefault(key, {})[kind, name] = slim(body)
        return key

    def model(self, key: Key) -> Manifest | None:
        """The LocalModel, or None."""
        return self._models.get(key)

    def children(self, key: Key) -> dict[tuple[str, str], Manifest]:
        """Everything that carries its label, pods left out."""
        return {at: one for at, one in self._children.get(key, {}).items() if at[0] != "Pod"}

    def pods(self, key: Key) -> tuple[Manifest, ...]:
        """Its pods."""
        return tuple(one for at, one in self._children.get(key, {}).items() if at[0] == "Pod")

    def keys(self) -> Iterator[Key]:
        """All LocalModels."""
        yield from tuple(self._models)


def slim(body: Mapping[str, Any]) -> Manifest:
    """Without what nobody reads."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    return {**body, "metadata": metadata}


def fingerprint(body: Mapping[str, Any]) -> str:
    """Changes when somebody changes what was asked for, and not when a controller writes status."""
    metadata = body.get("metadata") or {}
    kept = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    kept["metadata"] = {
        key: metadata.get(key) for key in ("uid", "labels", "annotations", "ownerReferences")
    }
    return digest(kept)


def digest(value: Any) -> str:
    """Of any JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
