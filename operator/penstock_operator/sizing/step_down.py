"""
How often a server has been made smaller because it was killed for memory. Pure.

A server that is killed for memory would be killed again by the same work, so it is not started again as it was: each
kill of a pod of the present size is one step down. The count stands in the status of the LocalModel and in an annotation
of the server's Deployment; either one alone survives what takes the other (an operator that was killed between its two
writes, a Deployment that somebody deleted). Pods carry the step that they were made for, so that a kill counts once. A
change of what is asked for begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock_operator.localmodel.names import SERVER, STEPS_DOWN, children
from penstock_operator.seen import Manifest, Seen


@dataclass(frozen=True, slots=True)
class StepDown:
    """
    Attributes:
        steps: how often it was made smaller since *asked* was asked for.
        killed_at: RFC 3339 of the last kill that was seen, empty for none.
        killed_now: a pod of the present size was killed, so a further step is due.
    """

    asked: str
    steps: int = 0
    killed_at: str = ""
    killed_now: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As `status.tuning.stepDown`."""
        found = {"asked": self.asked, "steps": self.steps, "killedAt": self.killed_at}
        return {name: value for name, value in found.items() if value != ""}

    @property
    def mark(self) -> str:
        """What pods of this size carry."""
        return mark(self.asked, self.steps)


def mark(asked: str, steps: int) -> str:
    """What was asked for, and how often it was made smaller since."""
    return f"{asked}/{steps}"


def step_down(name: str, asked: str, seen: Seen) -> StepDown:
    """
    Where the server of the model *name* stands, before a further step.

    Args:
        asked: the hash of what is asked for.
    """
    before = (seen.before.get("tuning") or {}).get("stepDown") or {}
    same = before.get("asked") == asked
    steps = int(before.get("steps", 0)) if same else 0
    killed_at = str(before.get("killedAt", "")) if same else ""
    running = seen.child("Deployment", children(name).server)
    if running is not None:
        steps = max(steps, _steps(running["spec"]["template"], asked))
    kills = [
        at
        for pod in seen.pods_of(SERVER)
        if _annotation(pod) == mark(asked, steps)
        for at in _kills(pod)
    ]
    return StepDown(asked, steps, max([killed_at, *kills]), bool(kills))


def _steps(template: Mapping[str, Any], asked: str) -> int:
    of, _, steps = _annotation(template).partition("/")
    return int(steps) if of == asked and steps.isdecimal() else 0


def is_of(thing: Mapping[str, Any], asked: str) -> bool:
    """Whether a pod was made for what is asked for, of whatever size."""
    return _annotation(thing).partition("/")[0] == asked


def _annotation(thing: Mapping[str, Any]) -> str:
    return str((thing.get("metadata", {}).get("annotations") or {}).get(STEPS_DOWN, ""))


def _kills(pod: Manifest) -> Iterator[str]:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") != "server":
            continue  # injected: a smaller model would not help it
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                yield str(ended.get("finishedAt", ""))
