"""What a click does never raises, and never waits for a program that stays."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from penstock_tray import actions
from penstock_tray.menu import Desktop
from penstock_tray.snapshot import Snapshot


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(
            subprocess.TimeoutExpired("penstock", 120), "longer than 120 s", id="it hangs"
        ),
        pytest.param(OSError("no such program"), "no such program", id="it is not there"),
        pytest.param(json.JSONDecodeError("no JSON", "", 0), "not understood", id="not JSON"),
        pytest.param(KeyError("url"), "not understood", id="another answer"),
    ],
)
def test_whatever_goes_wrong_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """A click that failed is told in the menu."""

    def broken(*_arguments: str) -> Any:
        raise error

    monkeypatch.setattr(actions, "_penstock", broken)
    assert said in actions.act("app", ("codex",), Snapshot(), Desktop())


@pytest.fixture
def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`xdg-open`, a script; it writes its process number into `pid`."""
    script = tmp_path / "xdg-open"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(actions, "_OPENS_WITHIN_S", 0.5)
    return script


@pytest.mark.skipif(sys.platform != "linux", reason="platform: xdg-open")
@pytest.mark.parametrize(
    ("does", "said"),
    [
        pytest.param("exit 0", "", id="it hands over"),
        pytest.param("exit 3", "could not be opened: xdg-open ended with 3", id="it cannot"),
        pytest.param("exec sleep 20", "", id="an editor in the foreground"),
    ],
)
def test_an_opened_file_is_not_waited_for(
    opener: Path, tmp_path: Path, does: str, said: str
) -> None:
    """A program that stays is left alone and keeps no thread of the tray's few."""
    opener.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{does}\n")
    opener.chmod(0o755)
    began = time.monotonic()
    assert said in actions.open_file(tmp_path / "a.log")
    assert time.monotonic() - began < 10
    if "sleep" in does:
        subprocess.run(["kill", (tmp_path / "pid").read_text().strip()], check=True)


@pytest.mark.parametrize(
    ("opens", "said"),
    [pytest.param(True, "", id="opened"), pytest.param(False, "No browser", id="no browser")],
)
def test_where_no_browser_is_the_address_is_said(
    monkeypatch: pytest.MonkeyPatch, opens: bool, said: str
) -> None:
    """A person can open it elsewhere."""
    monkeypatch.setattr(webbrowser, "open", lambda _url: opens)
    assert said in actions.open_url("http://127.0.0.1:1/")


def test_a_browser_in_the_foreground_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$BROWSER` may be a program that ends with its last page."""
    monkeypatch.setattr(actions, "_OPENS_WITHIN_S", 0.1)
    monkeypatch.setattr(webbrowser, "open", lambda _url: time.sleep(1.0))
    began = time.monotonic()
    assert actions.open_url("http://127.0.0.1:1/") == ""
    assert time.monotonic() - began < 0.9
