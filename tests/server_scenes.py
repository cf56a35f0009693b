"""
What model servers answer to probes: the scenes under `tests/fixtures/servers/KIND/`, for every test that
needs a server's answers without the server.

A scene holds the answer to each probe; `default` is what the server says to every path that the scene
does not name. `knowledge` is `recorded` (from a real server, by `record.py` beside the scenes) or
`documented` (written from its sources). The scenes of `strangers/` are no model servers at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.domain.upstream import ServerKind
from penstock.servers import SPECS
from penstock.servers.base import Answer

_FOLDER = Path(__file__).parent / "fixtures" / "servers"


@dataclass(frozen=True, slots=True)
class Scene:
    """
    One server in one state.

    Attributes:
        name: `KIND/STATE`.
        kind: None for a stranger.
        answers: by `Probe.key`; every fingerprint probe of every kind has one.
        default: the answer to every other path.
    """

    name: str
    about: str
    kind: ServerKind | None
    knowledge: str
    answers: Mapping[str, Answer]
    default: Answer


def _answer(record: Mapping[str, Any]) -> Answer:
    body = json.dumps(record["json"]) if "json" in record else record["text"]
    return Answer(record["status"], record["headers"], body.encode())


def scene(name: str) -> Scene:
    """The scene of that name."""
    record = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
    default = _answer(record.get("default", {"status": 404, "headers": {}, "text": ""}))
    keys = {probe.key for spec in SPECS.values() for probe in spec.probes}
    known = {key: _answer(value) for key, value in record["answers"].items()}
    return Scene(
        name=name,
        about=record["about"],
        kind=ServerKind(record["kind"]) if record["kind"] else None,
        knowledge=record["knowledge"],
        answers={**dict.fromkeys(keys, default), **known},
        default=default,
    )


SCENES: tuple[Scene, ...] = tuple(
    scene(f"{file.parent.name}/{file.stem}")
    for file in sorted(_FOLDER.glob("*/*.json"))
    if file.stem != "faults"
)
MODEL_SERVERS: tuple[Scene, ...] = tuple(s for s in SCENES if s.kind is not None)
STRANGERS: tuple[Scene, ...] = tuple(s for s in SCENES if s.kind is None)
