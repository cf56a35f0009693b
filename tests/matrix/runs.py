"""
The runs of the fault matrix: every pair of fault and moment that can occur, in every scene; and what servers of every
kind are known to say. A run is named by a `Key`, so that another process can play it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import fastapi.dependencies.models

import fault_cases
from matrix.cells import KINDS, MODES
from matrix.owed import BY_ID, FAULTS, Fault, Moment, Scene, Times, owed, said
from matrix.play import Run

MOMENTS_OF: dict[Scene, tuple[Moment, ...]] = {
    "heartbeat": ("headers", "first_token"),
    "queued": ("headers", "midstream"),
    "draining": ("headers", "midstream"),
    "reload": ("headers", "midstream"),
    "redeclared": ("headers", "midstream"),
    "again": ("connect", "headers", "first_token", "midstream"),
}
"""Moments at which something else can go on; `alone` has all."""
SAID: dict[str, Fault] = {
    case.id: said(case.id, case.code.value, case.status, case.body) for case in fault_cases.CASES
}
"""What servers say, by the case's id."""
_LONGEST_S = 60.0


class Key(NamedTuple):
    """One run; `kind` is that of the server, empty for one of each that the matrix knows."""

    fault: str
    moment: Moment
    times: Times
    scene: Scene = "alone"
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.fault}-{self.moment}-{self.times}"


def keys(scene: Scene) -> Iterator[Key]:
    """Every pair of fault and moment that can occur in *scene*, and whether the fault passes."""
    for fault in FAULTS:
        for moment, codes in fault.at.items():
            if scene != "alone" and moment not in MOMENTS_OF[scene]:
                continue
            if scene == "again" and not codes:
                continue  # nothing counts up
            yield Key(fault.id, moment, "always", scene)
            if scene == "again":
                continue
            ever = [owed(fault, moment, mode, "always") for mode in MODES]
            if codes and ever != [owed(fault, moment, mode, "once") for mode in MODES]:
                yield Key(fault.id, moment, "once", scene)


def said_keys() -> Iterator[Key]:
    """What servers of every kind are known to say."""
    for case in fault_cases.CASES:
        for moment in SAID[case.id].at:
            yield Key(case.id, moment, "always", "alone", case.kind.value)


def play(key: Key) -> list[str]:
    """One run. Returns what was not as owed."""
    fault = SAID[key.fault] if key.kind else BY_ID[key.fault]
    kinds = (key.kind,) if key.kind else KINDS

    async def bounded() -> list[str]:
        async with asyncio.timeout(_LONGEST_S):
            return await Run(fault, key.moment, key.times, key.scene, kinds).play()

    unseen: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda told: unseen.append(_told(told))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            problems = asyncio.run(bounded())
            _forget_apps()
            gc.collect()
    finally:
        sys.unraisablehook = before
    return problems + unseen


def _forget_apps() -> None:
    """FastAPI remembers the routes of every app that there ever was, and with them our gateways."""
    for value in vars(fastapi.dependencies.models).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def begin() -> None:
    """What a process that plays runs does first: what it has imported is no rubbish, and not looked through again."""
    gc.collect()
    gc.freeze()


def _told(told: Any) -> str:
    return f"nobody saw: {told.exc_value!r} in {told.object!r}"
