"""
Start at login: an entry of the user's own, written only when the user says so, gone without a trace when taken back.

Linux has autostart files (XDG), macOS launch agents, Windows values of a registry key. Each system lets its users switch
such an entry off elsewhere; that is read, shown as `blocked`, and not undone behind their back: on Linux a click writes
the file anew, for there the file is all there is; on Windows and macOS a sentence says where to switch it on.

An entry starts what was chosen: `tray` (the icon, which starts the gateway where none runs) or `gateway` alone.

Sources: Desktop Application Autostart Specification and Desktop Entry Specification 1.5 (freedesktop.org);
launchd.plist(5), launchctl(1); Microsoft Learn, "Run and RunOnce Registry Keys"; how Windows' Task Manager writes
`StartupApproved\\Run` is known from observation only.
"""

from __future__ import annotations

import configparser
import os
import plistlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from penstock.errors import PenstockError

APP_ID = "dev.penstock.Penstock"
State = Literal["off", "tray", "gateway", "blocked"]
_WHAT = {"tray": ("tray", "--at-login"), "gateway": ("serve", "--started-by", "login")}


class CannotSet(PenstockError):
    """The system keeps the entry off, or cannot write it."""

    exit_code = 1


class Entry(Protocol):
    """The entry of one system."""

    def state(self) -> State:
        """What starts at login now."""

    def write(self, what: str) -> None:
        """Have *what* (`tray` or `gateway`) start at login."""

    def remove(self) -> None:
        """Start nothing, and leave nothing."""


def entry() -> Entry:
    """That of this system and user."""
    if sys.platform == "win32":
        return RunKey(_registry())
    if sys.platform == "darwin":
        return LaunchAgent(Path.home() / "Library" / "LaunchAgents")
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Autostart(Path(config) / "autostart")


def command(what: str) -> tuple[str, ...]:
    """The absolute command that starts *what*, from this installation."""
    program = Path(sys.executable).with_name("penstock.exe" if os.name == "nt" else "penstock")
    windowless = Path(sys.executable).with_name("pythonw.exe")
    if os.name == "nt" and windowless.exists():
        return (str(windowless), "-m", "penstock", *_WHAT[what])
    if program.exists():
        return (str(program), *_WHAT[what])
    return (sys.executable, "-m", "penstock", *_WHAT[what])


def _what(arguments: Sequence[str]) -> State:
    return "gateway" if "serve" in arguments else "tray"


class Autostart:
    """
    Linux.

    Args:
        folder: `~/.config/autostart`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{APP_ID}.desktop"

    def state(self) -> State:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(self.path.read_text("utf-8"))
            known = parser["Desktop Entry"]
        except (OSError, configparser.Error, KeyError, UnicodeDecodeError):
            return "off"
        hidden = known.get("hidden", "false").strip().lower() == "true"
        enabled = known.get("x-gnome-autostart-enabled", "true").strip().lower() != "false"
        if hidden or not enabled:
            return "blocked"
        return _what(known.get("exec", "").split())

    def write(self, what: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        run = command(what)
        self.path.write_text(
            "[Desktop Entry]\n"
            "Type=Application\n"
            "Name=Penstock\n"
            "Comment=Makes your local language models dependable\n"
            f"Exec={' '.join(quoted(part) for part in run)}\n"
            f"TryExec={_escaped(run[0])}\n"
            f"Icon={APP_ID}\n"
            "Terminal=false\n"
            "X-GNOME-Autostart-enabled=true\n",
            "utf-8",
        )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def quoted(argument: str) -> str:
    """An argument of `Exec`, by the Desktop Entry Specification's rules for quoting, and then for strings."""
    plain = argument.replace("%", "%%")
    if plain and all(sign.isalnum() or sign in "/._-+:%@," for sign in plain):
        return plain
    for sign in ("\\", '"', "`", "$"):
        plain = plain.replace(sign, f"\\{sign}")
    return _escaped(f'"{plain}"')


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")


class LaunchAgent:
    """
    macOS.

    Args:
        folder: `~/Library/LaunchAgents`.
        run: runs a command and returns what it prints.
    """

    def __init__(self, folder: Path, run: Callable[[Sequence[str]], str] | None = None) -> None:
        self.path = folder / f"{APP_ID}.plist"
        self._run = run or _printed

    def state(self) -> State:
        try:
            arguments = plistlib.loads(self.path.read_bytes())["ProgramArguments"]
        except (OSError, plistlib.InvalidFileException, ValueError, KeyError):
            return "off"
        return "blocked" if self._is_disabled() else _what(arguments)

    def write(self, what: str) -> None:
        if self._is_disabled():
            raise CannotSet(
                "macOS keeps Penstock from starting at login. Allow it in System Settings, General, Login Items."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        value = {
            "Label": APP_ID,
            "ProgramArguments": list(command(what)),
            "RunAtLoad": True,
            "ProcessType": "Interactive",
        }
        self.path.write_bytes(plistlib.dumps(value))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _is_disabled(self) -> bool:
        number = os.getuid() if hasattr(os, "getuid") else 0
        printed = self._run(("launchctl", "print-disabled", f"gui/{number}"))
        ends = ("=> disabled", "=> true")
        return any(
            f'"{APP_ID}"' in line and line.strip().endswith(ends) for line in printed.splitlines()
        )


def _printed(command_line: Sequence[str]) -> str:
    try:
        done = subprocess.run(command_line, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


class Registry(Protocol):
    """Values below HKEY_CURRENT_USER; a value that is not there is None."""

    def get(self, key: str, name: str) -> Any:
        """Read one."""

    def set(self, key: str, name: str, value: str) -> None:
        """Write a string."""

    def delete(self, key: str, name: str) -> None:
        """Remove one, if it is there."""


class RunKey:
    """Windows."""

    RUN = r"Software\Microsoft\Windows\CurrentVersion\Run"
    APPROVED = r"Software\Microsoft\Windows\CurrentVersion\Explorer\StartupApproved\Run"
    NAME = "Penstock"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def state(self) -> State:
        value = self._registry.get(self.RUN, self.NAME)
        if not isinstance(value, str):
            return "off"
        return "blocked" if self._is_disabled() else _what(value.split())

    def write(self, what: str) -> None:
        if self._is_disabled():
            raise CannotSet(
                "Windows keeps Penstock from starting at login. Enable it in the Task Manager, Startup apps."
            )
        self._registry.set(self.RUN, self.NAME, subprocess.list2cmdline(command(what)))

    def remove(self) -> None:
        self._registry.delete(self.RUN, self.NAME)

    def _is_disabled(self) -> bool:
        # Twelve bytes; the first is even while the entry is enabled, odd once a person switched it off.
        value = self._registry.get(self.APPROVED, self.NAME)
        return isinstance(value, bytes) and bool(value) and value[0] % 2 == 1


def _registry() -> Registry:
    """This user's own."""
    if sys.platform != "win32":
        raise CannotSet("This system has no registry.")
    import winreg

    class User:
        """Values below HKEY_CURRENT_USER."""

        def get(self, key: str, name: str) -> Any:
            try:
                with winreg.OpenKey(winreg.HKEY_CURRENT_USER, key) as opened:
                    return winreg.QueryValueEx(opened, name)[0]
            except FileNotFoundError:
                return None

        def set(self, key: str, name: str, value: str) -> None:
            with winreg.CreateKey(winreg.HKEY_CURRENT_USER, key) as opened:
                winreg.SetValueEx(opened, name, 0, winreg.REG_SZ, value)

        def delete(self, key: str, name: str) -> None:
            try:
                with winreg.OpenKey(
                    winreg.HKEY_CURRENT_USER, key, access=winreg.KEY_SET_VALUE
                ) as opened:
                    winreg.DeleteValue(opened, name)
            except FileNotFoundError:
                pass

    return User()
