"""
The gateway as the tray handles it: found by its runtime file, started detached, ended when asked.

A started gateway gets a session of its own, so the tray's death ends nothing; its runtime file says `started_by:
tray`, so a later tray knows that Quit may end it. One that was found is never ended by Quit, and a port that something
else holds is left alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from penstock.adapters import runtime_file
from penstock.adapters.folders import log_folder
from penstock.client import Client, GatewayError, NoGateway, NotRunning
from penstock_tray.snapshot import Snapshot, read

UP_WITHIN_S = 60.0
_PORT_TAKEN, _NOTHING_FOUND = 3, 4


def start_log() -> Path:
    """What a gateway that the tray starts says before it has a log of its own."""
    return log_folder() / "tray-gateway.log"


def look(port: int | None = None) -> Snapshot:
    """What runs now; `off` where no gateway of this user does, `unclear` where one is there and does not say."""
    try:
        with Client.find(port) as client:
            return read(client.status())
    except NoGateway:
        return Snapshot()
    except (NotRunning, GatewayError) as exc:
        if isinstance(exc.__cause__, ConnectionError):  # it listens no more: it is about to end
            return Snapshot()
        return Snapshot("unclear", str(exc))


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
            # A console of its own would be a window that nobody asked for.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )


def wait_until_up(process: subprocess.Popen[bytes], log: Path) -> str:
    """Empty once the started gateway answers; else a sentence that says why it does not."""
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            return why(code, log)
        seen = look()
        # Where several run, that one of them is the started one says its runtime file.
        if seen.gateway == "running" or (seen.gateway == "unclear" and _is_listed(process.pid)):
            return ""
        time.sleep(0.1)
    return f"it did not answer within {UP_WITHIN_S:g} s"


def _is_listed(pid: int) -> bool:
    return any(entry.pid == pid for entry in runtime_file.alive())


def why(code: int, log: Path) -> str:
    """Why a gateway that ended with *code* did so: its own last error, in few words."""
    if code == _PORT_TAKEN:
        return "another program has its port"
    if code == _NOTHING_FOUND:
        return "no model server was found on this machine"
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    errors = [line.partition("penstock:")[2].strip() for line in lines if "penstock:" in line]
    return (errors[-1] if errors else f"it ended with {code}")[:120]


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
