"""
`<runtime folder>/<port>.json`: how command line, tray and operator find a running gateway and its admin
token (contracts 11). Readable by its user only; a file whose process is gone counts as none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from penstock.adapters.files import write_atomically
from penstock.adapters.folders import runtime_folder


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """
    A running gateway.

    Attributes:
        started_at: of its process, seconds since 1970; tells it from a later one with the same pid.
        started_by: `command`, `tray`, `operator`, `test`.
    """

    port: int
    url: str
    pid: int
    started_at: float
    version: str
    started_by: str
    token: str = field(repr=False)

    @property
    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            # One that has ended stays in the list until its parent asks for the exit code.
            ended = process.status() == psutil.STATUS_ZOMBIE
            return not ended and abs(process.create_time() - self.started_at) < 2.0
        except psutil.Error:
            return False


def process_started_at(pid: int) -> float:
    """When a process began, seconds since 1970."""
    return float(psutil.Process(pid).create_time())


def write(entry: RuntimeFile, folder: Path | None = None) -> Path:
    """Announce a running gateway."""
    path = (folder or runtime_folder()) / f"{entry.port}.json"
    write_atomically(path, json.dumps(asdict(entry)).encode())
    return path


def remove(entry: RuntimeFile, folder: Path | None = None) -> None:
    """It has ended. Another gateway's file of the same port is left alone."""
    known = read(entry.port, folder)
    if known is not None and known.pid == entry.pid:
        ((folder or runtime_folder()) / f"{entry.port}.json").unlink(missing_ok=True)


def read(port: int, folder: Path | None = None) -> RuntimeFile | None:
    """The gateway announced for *port*, alive or not; None when there is none that can be read."""
    return _load((folder or runtime_folder()) / f"{port}.json")


def alive(folder: Path | None = None) -> list[RuntimeFile]:
    """All gateways of this user that run, by port."""
    found = (_load(path) for path in sorted((folder or runtime_folder()).glob("*.json")))
    return [entry for entry in found if entry is not None and entry.is_alive]


def _load(path: Path) -> RuntimeFile | None:
    try:
        return RuntimeFile(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
