"""`state.json`: kept whole, for each gateway apart, and never a reason not to start."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from penstock.adapters import state_file
from penstock.switches import Added, Switch, Switches

PAUSED = Switches(pause=Switch("hold"))


def test_what_was_switched_is_found_again_and_gateways_are_told_apart(tmp_path: Path) -> None:
    """By the port that the settings name; nobody else may read it."""
    path = tmp_path / "state" / "state.json"
    assert state_file.read(1, path) == state_file.Kept(Switches())
    state_file.write(1, PAUSED, path)
    state_file.write(2, Switches(added=(Added("x", "http://127.0.0.1:3"),)), path)
    assert state_file.read(1, path).switches == PAUSED
    assert state_file.read(2, path).switches.added[0].name == "x"
    assert state_file.read(3, path).switches == Switches()
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_gateway_on_a_port_of_chance_keeps_nothing(tmp_path: Path) -> None:
    """It could never find it again."""
    path = tmp_path / "state.json"
    state_file.write(0, PAUSED, path)
    assert not path.exists()
    assert state_file.read(0, path).switches == Switches()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"version": 1, "gateways": {"1": {"pau', id="cut off"),
        pytest.param("[" * 100_000, id="nested without end"),
        pytest.param('{"version": 9, "gateways": {}}', id="of a later version"),
        pytest.param('{"version": 1, "gateways": {"1": {"pause": 7}}}', id="with a mistake"),
        pytest.param('"\\ud800', id="no text"),
    ],
)
def test_a_broken_one_is_set_aside(tmp_path: Path, text: str) -> None:
    """With a notice; the gateway starts, and what is switched next is kept again."""
    path = tmp_path / "state.json"
    path.write_text(text)
    assert "cannot be used" in (state_file.read(1, path, mend=False).notice or "")
    assert path.exists()
    kept = state_file.read(1, path)
    assert kept.switches == Switches()
    assert kept.notice is not None
    assert "state.json.broken" in kept.notice
    assert (tmp_path / "state.json.broken").read_text() == text
    state_file.write(1, PAUSED, path)
    assert state_file.read(1, path) == state_file.Kept(PAUSED)


@pytest.mark.skipif(os.name == "nt", reason="platform: folders have other rights")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """By an error that the caller turns into a notice."""
    folder = tmp_path / "not a folder"
    folder.write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        state_file.write(1, PAUSED, folder / "state.json")
    assert "cannot be read" in (state_file.read(1, folder / "state.json").notice or "")


def test_gateways_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each replaces its own part only."""
    path = tmp_path / "state.json"
    threads = [
        threading.Thread(target=state_file.write, args=(n, PAUSED, path)) for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(json.loads(path.read_text())["gateways"]) == {str(n) for n in range(1, 9)}
