"""The tray starts a real gateway, finds it again, and Quit ends only what a tray started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateways import RunningGateway
from penstock_tray import gateway_process

NO_SERVER = ("--upstream", "http://127.0.0.1:9", "--port", "0")


def until(true: Callable[[], bool], within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(tmp_path / name))
    process = gateway_process.start(tmp_path / "gateway.log", NO_SERVER)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def test_a_started_gateway_is_detached_and_quit_ends_it(
    started: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """It has a session of its own, is found as ours, and ends with exit code 0."""
    try:
        until(lambda: gateway_process.look().gateway == "running")
    except AssertionError:
        print((started.poll(), sorted(tmp_path.rglob("*")), (tmp_path / "gateway.log").read_text()))
        raise
    assert os.getsid(started.pid) == started.pid
    assert gateway_process.look().ours
    assert gateway_process.quit_tray()
    assert started.wait(30) == 0
    assert gateway_process.look().gateway == "off"
    gateway_process.stop()  # gone already: what was wanted


def test_quit_leaves_a_gateway_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that something else started goes on serving."""
    with RunningGateway(tmp_path, flags=("--upstream", "http://127.0.0.1:9")) as gateway:
        for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(name, gateway.env[name])
        assert gateway_process.look().gateway == "running"
        assert not gateway_process.quit_tray()
        assert gateway.http.get("/readyz").status_code == 200
