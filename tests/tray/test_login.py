"""Start at login on three systems, and what a desktop may set; the menu entry; the commands of both."""

from __future__ import annotations

import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from desktops import need
from penstock_tray import command, desktop_entry, login, login_command, preferences
from penstock_tray.login import Autostart, CannotSet, LaunchAgent, RunKey


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of a user who has nothing yet."""
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def valid(path: Path) -> None:
    """The desktop's own checker finds nothing."""
    need("desktop-file-validate")
    done = subprocess.run(
        ["desktop-file-validate", path], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="platform: autostart files")
def test_an_autostart_file_comes_and_goes(home: Path) -> None:
    """Off by default; what is chosen starts; the desktop's checker likes the file; off leaves nothing."""
    entry = Autostart(home / "config" / "autostart")
    assert entry.state() == "off"
    for what in ("tray", "gateway"):
        entry.write(what)
        assert entry.state() == what
        valid(entry.path)
    entry.remove()
    assert entry.state() == "off"
    assert list(entry.path.parent.iterdir()) == []
    entry.remove()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("Terminal=false", "Hidden=true", id="hidden"),
        pytest.param("enabled=true", "enabled=false", id="GNOME's switch"),
    ],
)
def test_what_a_desktop_switched_off_is_off(home: Path, old: str, new: str) -> None:
    """Both ways by which desktops switch an entry off are read; a click of the user's writes it anew."""
    entry = Autostart(home / "autostart")
    entry.write("tray")
    entry.path.write_text(entry.path.read_text().replace(old, new))
    assert entry.state() == "blocked"
    entry.write("tray")
    assert entry.state() == "tray"


def test_a_broken_autostart_file_is_none(home: Path) -> None:
    """A file that is no desktop entry is as good as none."""
    entry = Autostart(home / "autostart")
    entry.path.parent.mkdir()
    entry.path.write_bytes(b"\xff\xfe no entry")
    assert entry.state() == "off"


@pytest.mark.parametrize(
    "argument",
    ["/opt/my apps/penstock", 'a"b', "a$b`c", "back\\slash", "100%", "plain"],
)
def test_exec_is_quoted_as_the_specification_says(argument: str) -> None:
    """Read back by the specification's two steps, strings first and then quotes, an argument is what it was."""
    read = re.sub(r"\\(.)", r"\1", login.quoted(argument))  # strings: an escaped sign is the sign
    if read.startswith('"'):
        read = re.sub(r"\\(.)", r"\1", read[1:-1])  # and so inside quotes
    assert read.replace("%%", "%") == argument


def test_a_launch_agent_comes_and_goes_and_honours_the_system(tmp_path: Path) -> None:
    """macOS: a property list that runs at load and is not kept alive; what System Settings switched off stays off."""
    disabled = False

    def run(command_line: Sequence[str]) -> str:
        assert command_line[:2] == ("launchctl", "print-disabled")
        word = "disabled" if disabled else "enabled"
        return (
            f'disabled services = {{\n\t"com.apple.x" => disabled\n\t"{login.APP_ID}" => {word}\n}}'
        )

    entry = LaunchAgent(tmp_path, run)
    assert entry.state() == "off"
    entry.write("gateway")
    assert entry.state() == "gateway"
    value = plistlib.loads(entry.path.read_bytes())
    assert value["RunAtLoad"] is True
    assert "KeepAlive" not in value
    assert Path(value["ProgramArguments"][0]).is_absolute()
    disabled = True
    assert entry.state() == "blocked"
    with pytest.raises(CannotSet, match="Login Items"):
        entry.write("tray")
    entry.remove()
    assert entry.state() == "off"


class FakeRegistry(dict[tuple[str, str], Any]):
    """Values below HKEY_CURRENT_USER. It knows nothing of access rights."""

    def get(self, key: str, name: Any = None) -> Any:
        return super().get((key, name))

    def set(self, key: str, name: str, value: str) -> None:
        self[key, name] = value

    def delete(self, key: str, name: str) -> None:
        self.pop((key, name), None)


def test_a_run_key_comes_and_goes_and_honours_the_task_manager() -> None:
    """Windows: one value; what the Task Manager switched off stays off, and its own value is never touched."""
    registry = FakeRegistry()
    entry = RunKey(registry)
    assert entry.state() == "off"
    entry.write("tray")
    assert entry.state() == "tray"
    registry[RunKey.APPROVED, RunKey.NAME] = b"\x03" + bytes(11)
    assert entry.state() == "blocked"
    with pytest.raises(CannotSet, match="Task Manager"):
        entry.write("tray")
    registry[RunKey.APPROVED, RunKey.NAME] = b"\x02" + bytes(11)
    assert entry.state() == "tray"
    entry.remove()
    assert entry.state() == "off"
    assert list(registry) == [(RunKey.APPROVED, RunKey.NAME)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: a Linux desktop")
def test_the_menu_entry_is_valid_and_goes_with_everything_else(home: Path) -> None:
    """`menu-entry on` writes a valid entry and its icon; `reset` leaves no file of the tray's."""
    run = CliRunner().invoke
    assert run(command.tray, ["menu-entry", "on"]).exit_code == 0
    entry = home / "data" / "applications" / f"{login.APP_ID}.desktop"
    valid(entry)
    assert "--at-login" not in entry.read_text()
    assert run(command.tray, ["notifications", "off"]).exit_code == 0
    assert not preferences.load().notifications
    assert run(login_command.login, ["on", "tray"]).exit_code == 0
    assert "with its icon" in run(login_command.login, []).output
    assert run(command.tray, ["reset"]).exit_code == 0
    left = [path for path in home.rglob("*") if path.is_file()]
    assert left == []
    assert preferences.load().notifications
    assert desktop_entry.remove() == ()


def test_the_systemd_unit_is_whole() -> None:
    """`penstock login unit` prints a unit with an absolute command that is not restarted where that cannot help."""
    text = CliRunner().invoke(login_command.login, ["unit"]).output
    [line] = [one for one in text.splitlines() if one.startswith("ExecStart=")]
    assert Path(shlex.split(line.removeprefix("ExecStart="))[0]).is_absolute()
    assert "@" not in text.replace("user@", "")
    assert "RestartPreventExitStatus=2 3" in text


@pytest.mark.skipif(sys.platform == "win32", reason="platform: root")
def test_root_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tray that runs as root would reach nobody's desktop; it says so, and what to do."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    done = CliRunner().invoke(command.tray, [], standalone_mode=False)
    assert done.return_value == 2
    assert "without sudo" in done.output
