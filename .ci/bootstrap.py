"""
Make the checkout's own environment, `.venv`, from nothing but Python and pip.

Used by `python3 shared` and `python3 tests`. Only the standard library is imported. It works where the
system Python is externally managed and has no ensurepip (Debian): the environment is made without pip,
and the system's pip installs into it from outside (`pip --python`, since pip 22.3).

Whatever it installs is pinned with hashes in `requirements.lock`. A stamp of the lock and of
`pyproject.toml` makes the second run quick.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / ".penstock-stamp"
LOCK = ENVIRONMENT.with_name(".venv.lock")
OLDEST = (3, 11)


def environment_python() -> Path:
    """The environment's interpreter."""
    if os.name == "nt":
        return ENVIRONMENT / "Scripts" / "python.exe"
    return ENVIRONMENT / "bin" / "python"


def fingerprint() -> str:
    """Changes whenever the environment must be made anew."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("requirements.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    """Progress, on standard error: standard output belongs to the command."""
    print(f"penstock: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """End with one clear sentence."""
    say(text)
    raise SystemExit(2)


def ensure_environment() -> Path:
    """Return the environment's Python, after making or refreshing the environment where needed."""
    if sys.version_info < OLDEST:
        fail(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {sys.version.split()[0]}.")
    wanted = fingerprint()
    if _is_current(wanted):
        return environment_python()
    with _Alone():
        if not _is_current(wanted):
            _make(wanted)
    return environment_python()


def _is_current(wanted: str) -> bool:
    return STAMP.is_file() and STAMP.read_text() == wanted and environment_python().is_file()


class _Alone:
    """Two runs at once: the second waits. A lock whose process is gone is taken over."""

    def __enter__(self) -> None:
        told = False
        while True:
            try:
                descriptor = os.open(LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if time.time() - LOCK.stat().st_mtime > 900:
                    LOCK.unlink(missing_ok=True)
                    continue
                if not told:
                    say("another run is making the environment; waiting for it ...")
                    told = True
                time.sleep(0.5)
                continue
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
            return

    def __exit__(self, *_: object) -> None:
        LOCK.unlink(missing_ok=True)


def _make(wanted: str) -> None:
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not environment_python().is_file():
        say(f"making the environment in {ENVIRONMENT.name} ...")
        # Without pip: Debian's Python has no ensurepip unless python3-venv is installed.
        _run([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], "make the environment")
    say("installing what requirements.lock pins (the first time this takes a minute or two) ...")
    pip = [sys.executable, "-m", "pip", "--python", str(environment_python())]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    _run(
        [*pip, "install", *quiet, "--require-hashes", "-r", str(ROOT / "requirements.lock")],
        "install the packages",
    )
    say("installing Penstock itself ...")
    _run(
        [*pip, "install", *quiet, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        "install Penstock",
    )
    STAMP.write_text(wanted)
    say(f"ready after {time.monotonic() - started:.0f} s")


def _run(command: list[str], purpose: str) -> None:
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    # The editable build runs the environment's hatchling, so its scripts must be found first.
    environment["PATH"] = f"{environment_python().parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT)
    if done.returncode:
        hint = ""
        if "pip" in command and subprocess.run(
            [sys.executable, "-m", "pip", "--version"], check=False, capture_output=True
        ).returncode:
            hint = " This Python has no pip; install it (Debian: apt-get install python3-pip)."
        fail(f"could not {purpose} (exit code {done.returncode}).{hint}")
