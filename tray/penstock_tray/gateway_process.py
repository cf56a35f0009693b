"""
The gateway as the tray handles it: found by its runtime file, started detached, ended when asked.

A started gateway gets a session of its own, so the tray's death ends nothing; its runtime file says `started_by:
tray`, so a later tray knows that Quit may end it. One that was found is never ended by Quit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock.client import Client, NotRunning
from penstock_tray.snapshot import Snapshot, read


def look(port: int | None = None) -> Snapshot:
    """What runs now; `off` where no gateway of this user does."""
    try:
        with Client.find(port) as client:
            return read(client.status())
    except NotRunning:
        return Snapshot()


def start(log: Path, flags: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start `penstock serve` detached, with its output in *log*; *flags* are added to its command."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", "serve", "--started-by", "tray", *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(port: int | None = None) -> None:
    """Have the gateway drain and end. One that is gone already is no error: that was wanted."""
    try:
        with Client.find(port) as client:
            client.stop()
    except NotRunning:
        pass


def quit_tray(port: int | None = None) -> bool:
    """End the gateway if a tray started it. Returns whether it ends."""
    ends = look(port).ours
    if ends:
        stop(port)
    return ends
