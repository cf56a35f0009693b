"""
Fields that another applier owns: who, which, and the manifest without them. Pure.

Server-side apply refuses a field that stands with another value under another manager. A person's edit (`Update`) is
drift, and is put right. Another applier (GitOps, Helm) would write its value again, and an autoscaler acts through the
subresource `scale`: these fields are left to them, all others are applied, and a condition says who has them.
Source: structured-merge-diff merge/conflict.go, apimachinery managedfields/internal/manageridentifier.go.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock_operator.seen import Manifest

_WHO = re.compile(r'^conflict with "(?P<manager>.*?)"(?P<how>.*)$')
_CHOSEN = re.compile(r"^\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Conflict:
    """
    Attributes:
        field: where, for example `.spec.type`.
        drift: somebody's edit, which is put right.
    """

    manager: str
    field: str
    drift: bool


def conflicts(answer: Mapping[str, Any]) -> list[Conflict]:
    """Those that a refusal of the API server names; none where it was refused for another reason."""
    found = []
    for cause in (answer.get("details") or {}).get("causes") or ():
        said = _WHO.match(str(cause.get("message", "")))
        if cause.get("reason") == "FieldManagerConflict" and said is not None:
            edit = " using " in said["how"] and "subresource" not in said["how"]
            found.append(Conflict(said["manager"], str(cause.get("field", "")), edit))
    return found


def without(manifest: Manifest, fields: Iterable[str]) -> Manifest:
    """*manifest* without those fields; one that cannot be found leaves it as it is."""
    less = copy.deepcopy(manifest)
    for field in fields:
        _remove(less, field)
    return less


def sentence(kind: str, name: str, left: Iterable[Conflict]) -> str:
    """What a person reads."""
    fields = " and ".join(f"{one.field} (of {one.manager})" for one in left)
    advice = "take it out of what they apply"
    if ".spec.replicas " in fields:
        advice += ", or let them scale the LocalModel instead"
    return f"{kind} {name}: {fields} is left as others set it; {advice}."


def _remove(value: Any, path: str) -> None:
    if isinstance(value, dict):
        # Keys may hold dots themselves (labels do): the longest that fits is the one.
        for key in sorted(value, key=len, reverse=True):
            step = f".{key}"
            rest = path[len(step) :]
            if path == step:
                del value[key]
                break
            if path.startswith(step) and rest[0] in ".[":
                _remove(value[key], rest)
                break
    elif isinstance(value, list):
        chosen = _CHOSEN.match(path)
        meant = [one for one in value if chosen is not None and _is(one, chosen[1])]
        if chosen is None or not meant:
            return
        rest = path[chosen.end() :]
        if rest:
            _remove(meant[0], rest)
        else:
            value.remove(meant[0])


def _is(one: Any, chosen: str) -> bool:
    """Whether *one* is the element that `name="server"`, `port=80,protocol="TCP"` or `="x"` means."""
    if chosen.startswith("="):
        return str(one) == chosen[1:].strip('"')
    if not isinstance(one, dict):
        return False
    pairs = [pair.partition("=") for pair in chosen.split(",")]
    known = [
        (key, said) for key, _, said in pairs if key in one
    ]  # the API server fills in the others
    return bool(known) and all(str(one[key]) == said.strip('"') for key, said in known)
