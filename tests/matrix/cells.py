"""The cells of one run of the matrix: each dialect, streaming and plain, in front of a server of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from matrix.fronts import FRONTS, Front, Got
from matrix.owed import Mode, Owed, Scene
from matrix.wires import Ollama, Stranger, Wire, wire_of
from scripted import ScriptedLlama

KINDS = ("llamacpp", "ollama")
MODES: tuple[Mode, ...] = ("plain", "stream")


@dataclass
class Sent:
    """One request of a client: what it got, and what it is owed."""

    name: str
    task: asyncio.Task[Got]
    owed: Owed
    begun: asyncio.Event


@dataclass
class Cell:
    """One dialect and mode in front of one server of one kind, in one run."""

    front: str
    mode: Mode
    kind: str
    server: ScriptedLlama
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Sent] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the cell, its upstream and its model."""
        return f"{self.front}-{self.mode}-{self.kind}"

    @property
    def verbatim(self) -> bool:
        """The server's stream is the client's."""
        is_same = self.front == "completions" or (self.front == "chat" and self.kind == "llamacpp")
        return is_same and self.mode == "stream"

    @property
    def client(self) -> Front:
        """How it asks."""
        return FRONTS[self.front]

    @property
    def wire(self) -> Wire:
        """How its server streams."""
        return wire_of(self.kind, self.front)


def cells(scene: Scene, kinds: Sequence[str]) -> list[Cell]:
    """
    All of a run. Where something else goes on, each dialect meets one kind of server, in turns: what differs between
    the kinds is looked at alone. Plain requests get no heartbeats.
    """
    made = []
    servers = {"llamacpp": ScriptedLlama, "ollama": Ollama}
    for place, (front, mode) in enumerate(itertools.product(FRONTS, MODES)):
        if scene == "heartbeat" and mode == "plain":
            continue
        turn = (place + place // len(MODES)) % len(kinds)
        for kind in kinds if scene == "alone" else kinds[turn : turn + 1]:
            server = servers.get(kind, Stranger)()
            cell = Cell(front, mode, kind, server)
            server.model = cell.name
            made.append(cell)
    return made
