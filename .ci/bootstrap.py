"""
Make the checkout's own environment, `.venv`, from nothing but Python and pip.

Used by `python3 shared` and `python3 tests`. Only the standard library is imported. It works where the
system Python is externally managed and has no ensurepip (Debian): the environment is made without pip,
and the system's pip installs into it from outside (`pip --python`, since pip 22.3).

Whatever it installs is pinned with hashes in `requirements.lock`. A stamp of the lock and of
`pyproject.toml` makes the second run quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / ".penstock-stamp"
LOCK = ENVIRONMENT.with_name(".venv.lock")
OLDEST = (3, 11)
# Not the environment's own Python, from which this may be run and which has no pip.
BASE: str = getattr(sys, "_base_executable", None) or sys.executable


def environment_python() -> Path:
    """The environment's interpreter."""
    if os.name == "nt":
        return ENVIRONMENT / "Scripts" / "python.exe"
    return ENVIRONMENT / "bin" / "python"


def fingerprint() -> str:
    """Changes whenever the environment must be made anew."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    """Progress, on standard error: standard output belongs to the command."""
    print(f"penstock: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    """End with one clear sentence."""
    say(text)
    raise SystemExit(2)


def ensure_environment() -> Path:
    """Return the environment's Python, after making or refreshing the environment where needed."""
    if sys.version_info < OLDEST:
        fail(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {sys.version.split()[0]}."
        )
    wanted = fingerprint()
    if _is_current(wanted):
        return environment_python()
    with _alone():
        if not _is_current(wanted):
            _make(wanted)
    return environment_python()


def _is_current(wanted: str) -> bool:
    if not STAMP.is_file() or not environment_python().is_file():
        return False
    return STAMP.read_text("utf-8") == wanted


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two runs at once: the second waits. The lock goes with the process that holds it."""
    with LOCK.open("a+b") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                say("another run is making the environment; waiting for it ...")
                told = True
            time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make(wanted: str) -> None:
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not environment_python().is_file():
        say(f"making the environment in {ENVIRONMENT.name} ...")
        # Without pip: Debian's Python has no ensurepip unless python3-venv is installed.
        _run([BASE, "-m", "venv", "--without-pip", str(ENVIRONMENT)], "make the environment")
    pip = _pip()
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    say("installing what requirements.lock pins (the first time this takes a minute or two) ...")
    _run(
        [*pip, "install", *quiet, "--require-hashes", "-r", str(ROOT / "requirements.lock")],
        "install the packages",
    )
    say("installing Penstock itself ...")
    _run(
        [*pip, "install", *quiet, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        "install Penstock",
    )
    STAMP.write_text(wanted, "utf-8")
    say(f"ready after {time.monotonic() - started:.0f} s")


def _pip() -> list[str]:
    """The pip that installs into the environment: the base Python's, else one of its own."""
    inside = str(environment_python())
    if _works([BASE, "-m", "pip", "--version"]):
        return [BASE, "-m", "pip", "--python", inside]
    if _works([inside, "-m", "pip", "--version"]) or _works([inside, "-m", "ensurepip"]):
        return [inside, "-m", "pip"]
    fail(f"{BASE} has no pip; install it (Debian, Ubuntu: sudo apt-get install python3-pip).")


def _works(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode == 0


def _run(command: list[str], purpose: str) -> None:
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    # The editable build runs the environment's hatchling, so its scripts must be found first.
    environment["PATH"] = f"{environment_python().parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT)
    if done.returncode:
        fail(f"could not {purpose} (exit code {done.returncode}); the lines above say why.")
