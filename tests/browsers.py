"""
A real Chromium for a test, as a user without rights: with a home and a profile of its own, and with its own sandbox
where the kernel lets it have one. Playwright drives it through its debugging port, since the profile that Playwright
itself makes would belong to whoever runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import parts
from gateways import until

CHROMIUM = Path("/usr/bin/chromium")
_NOBODY = 65534
_FLAGS = ("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
          "--disable-background-networking", "--disable-component-update", "--enable-precise-memory-info",
          "--force-color-profile=srgb", "--js-flags=--expose-gc", "about:blank")  # fmt: skip
_STARTS_WITHIN_S = 60.0


def need() -> None:
    """Debian's package with Chromium."""
    if not sys.platform.startswith("linux"):
        pytest.skip("platform: Debian's Chromium")
    parts.need_packages([] if CHROMIUM.exists() else ["chromium"])


@contextmanager
def running() -> Iterator[str]:
    """A browser's process; the address of its debugging port."""
    need()
    # In /tmp itself: pytest's folders let nobody but their owner in.
    home = Path(tempfile.mkdtemp(prefix="penstock-browser-"))
    process = None
    try:
        if os.geteuid() == 0:
            os.chown(home, _NOBODY, _NOBODY)
        process, port = _start(home, ())
        if process is None:
            process, port = _start(home, ("--no-sandbox",))
        assert process is not None, (home / "log").read_text(errors="replace")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, more: tuple[str, ...]) -> tuple[subprocess.Popen[bytes] | None, int]:
    """The process and its port; no process when it ends at once, as it does without a sandbox it may use."""
    rights: dict[str, Any] = {}
    if os.geteuid() == 0:
        rights = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
    told = home / "profile" / "DevToolsActivePort"
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(CHROMIUM), f"--user-data-dir={home / 'profile'}", *more, *_FLAGS],
            env={"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **rights,
        )  # fmt: skip

    def port() -> int | str:
        with suppress(OSError, IndexError, ValueError):
            return int(told.read_text().split()[0])
        return "ended" if process.poll() is not None else 0

    found = until(port, _STARTS_WITHIN_S, "the port of Chromium")
    if isinstance(found, str):
        return None, 0
    return process, found
