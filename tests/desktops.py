"""
A person with a desktop, for the tests of the tray: a user without rights, a home, a session bus, a screen, a panel.

Everything of the desktop runs as that user, with nothing of the home of whoever runs the tests: where these run as root,
it is `nobody`. Penstock is installed for it from the wheel. What cannot be had here is asked for with `parts`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image, ImageGrab

import parts
from gateways import until
from tree import ROOT

WITHIN_S = 90.0
_PROGRAMS = {
    "Xvfb": "xvfb", "xdotool": "xdotool", "dbus-daemon": "dbus", "openbox": "openbox", "xfce4-panel": "xfce4-panel",
    "tint2": "tint2", "sway": "sway", "waybar": "waybar", "grim": "grim", "desktop-file-validate": "desktop-file-utils",
    "xclip": "xclip",
}  # fmt: skip


def need(*programs: str) -> None:
    """Debian's packages with these programs, by default all that the tests use."""
    if not sys.platform.startswith("linux"):
        pytest.skip("platform: a Linux desktop")
    parts.need_packages(
        sorted({_PROGRAMS[one] for one in programs or _PROGRAMS if shutil.which(one) is None})
    )


class Person:
    """
    A user without rights.

    Attributes:
        home: of its own, empty at first; `penstock` is installed in `bin`.
        shots: pictures of the screen, kept for a look (`PENSTOCK_TEST_SHOTS` names another folder).
    """

    def __init__(self, home: Path, installed: Path) -> None:
        self.home = home
        self.bin = installed / "bin"
        self.runtime = home / "run"
        self.uid, self.gid = (65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        for folder in (home, self.runtime, home / ".config", home / "tmp"):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, self.uid, self.gid)
        self.env = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "USER": "person",
            "LANG": "C.UTF-8",
            "TMPDIR": str(home / "tmp"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_CURRENT_DESKTOP": "XFCE",
            "NO_AT_BRIDGE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **_library_path(installed),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def start(
        self, *command: str, name: str = "", pass_fds: Sequence[int] = (), **env: str
    ) -> subprocess.Popen[bytes]:
        """Start a program; its output goes to `NAME.log` at home."""
        log = (self.home / f"{name or Path(command[0]).name}.log").open("ab")
        self._logs.append(log)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**self.env, **env},
            cwd=self.home, pass_fds=pass_fds, start_new_session=True, **self._as(),
        )  # fmt: skip
        self._processes.append(process)
        return process

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**self.env, **env},
            cwd=self.home, timeout=120, check=False, **self._as(),
        )  # fmt: skip

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """A file of this person's."""
        file = self.home / path
        for folder in reversed(file.relative_to(self.home).parents[:-1]):
            (self.home / folder).mkdir(exist_ok=True)
            os.chown(self.home / folder, self.uid, self.gid)
        file.write_text(text, "utf-8")
        file.chmod(mode)
        os.chown(file, self.uid, self.gid)
        return file

    def log(self, name: str) -> str:
        """What a started program said."""
        path = self.home / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _as(self) -> dict[str, Any]:
        return (
            {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )

    def end(self) -> None:
        """End what was started, the last first, and what these have started."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            end(process, gently_s=1.0)
        for left in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, 9)
        for log in self._logs:
            log.close()

    def left(self) -> list[int]:
        """Processes whose home is this one: started ones and whatever these left behind."""
        mine = f"HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mine in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def end(process: subprocess.Popen[bytes], gently_s: float = 10.0) -> None:
    """End a process, gently first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(gently_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def install(place: Path) -> Path:
    """The wheel of this checkout, installed where any user can read it, with this environment's packages lent."""
    place.chmod(0o755)
    base = _readable(
        Path(sys.base_prefix), place / "python", "site-packages", "config-*", "ensurepip"
    )
    python = base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    where = place / "penstock"
    if base == Path(sys.base_prefix):
        venv.create(where, with_pip=False, symlinks=True)
    else:
        library = os.environ.get("LD_LIBRARY_PATH", "")
        env = {**os.environ, "LD_LIBRARY_PATH": f"{base / 'lib'}:{library}"}
        command = [str(python), "-m", "venv", "--without-pip", str(where)]
        subprocess.run(command, check=True, env=env)
    packages = where / "lib" / python.name / "site-packages"
    with tempfile.TemporaryDirectory() as dist:
        built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist]
        subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
        [wheel] = Path(dist).glob("*.whl")
        pip = [
            getattr(sys, "_base_executable", sys.executable),
            "-m",
            "pip",
            "--python",
            str(where / "bin/python"),
        ]
        subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)],
            check=True, capture_output=True, env={**os.environ, **_library_path(where)},
        )  # fmt: skip
    lent = {
        str(_readable(Path(sysconfig.get_path(name)), place / name))
        for name in ("purelib", "platlib")
    }
    (packages / "lent.pth").write_text("\n".join(sorted(lent)) + "\n", "utf-8")
    return where


def _library_path(installed: Path) -> dict[str, str]:
    copied = installed.parent / "python" / "lib"
    return {"LD_LIBRARY_PATH": str(copied)} if copied.exists() else {}


def _readable(folder: Path, copy: Path, *more: str) -> Path:
    """*folder*, or a copy of hard links, without what is called *more*, where others may not go in."""
    folder = folder.resolve()
    closed = [one for one in (folder, *folder.parents) if one.stat().st_mode & 0o005 != 0o005]
    if not closed:
        return folder
    without = shutil.ignore_patterns("test", "tests", "idlelib", "share", "include", "*.a", *more)
    shutil.copytree(folder, copy, symlinks=True, ignore=without, copy_function=_link)
    return copy


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


@contextlib.contextmanager
def session_bus(person: Person, *services: str) -> Iterator[str]:
    """A private session bus that starts nothing but these *services*. Yields its address."""
    folder = person.home / "services"
    person.write("services/.keep", "")
    for service in services:
        name = f"{service}.service"
        person.write(f"services/{name}", Path("/usr/share/dbus-1/services", name).read_text())
    config = person.write(
        "bus.conf",
        f"<busconfig><type>session</type><listen>unix:path={person.home}/bus</listen>"
        f"<servicedir>{folder}</servicedir>"
        '<policy context="default"><allow send_destination="*"/><allow own="*"/><allow receive_sender="*"/></policy>'
        # Whoever runs the tests may look on.
        f'<policy context="mandatory"><allow user="*"/></policy></busconfig>',
    )
    address = f"unix:path={person.home}/bus"
    person.env["DBUS_SESSION_BUS_ADDRESS"] = address
    daemon = person.start("dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile")
    until(lambda: (person.home / "bus").exists(), WITHIN_S, "the session bus")
    try:
        yield address
    finally:
        end(daemon)


class Screen:
    """An X server without a monitor."""

    def __init__(self, person: Person, shots: Path, size: str = "1000x720") -> None:
        self._person = person
        self._shots = shots
        shots.mkdir(parents=True, exist_ok=True)
        said, says = os.pipe()
        self.process = person.start(
            "Xvfb", "-displayfd", str(says), "-screen", "0", f"{size}x24", "-nolisten", "tcp", "-ac", "-noreset",
            pass_fds=[says],
        )  # fmt: skip
        os.close(says)
        number = b""
        while not number.endswith(
            b"\n"
        ):  # written in two steps; who closes in between ends the server
            assert select.select([said], [], [], WITHIN_S)[0], person.log("Xvfb")
            read = os.read(said, 16)
            assert read, person.log("Xvfb")
            number += read
        self.display = f":{number.decode().strip()}"
        os.close(said)
        person.env["DISPLAY"] = self.display
        self._colour(0x4A6A8A)

    def _colour(self, pixel: int) -> None:
        """The desktop behind everything: pictures on black look like faults."""
        from Xlib import display

        connection = display.Display(self.display)
        root = connection.screen().root
        root.change_attributes(background_pixel=pixel)
        root.clear_area()
        connection.sync()
        connection.close()

    def picture(self) -> Image.Image:
        """What is on the screen."""
        return ImageGrab.grab(xdisplay=self.display).convert("RGB")

    def keep(self, name: str, box: tuple[int, int, int, int] | None = None) -> Path:
        """Keep a picture of the screen, or of a part."""
        path = self._shots / f"{name}.png"
        self.picture().crop(box).save(path, optimize=True)
        return path

    def find(self, colour: tuple[int, int, int]) -> tuple[int, int] | None:
        """The middle of what has this colour; None where too little has."""
        return middle_of(self.picture(), colour)

    def do(self, *arguments: str) -> str:
        """xdotool."""
        done = self._person.run("xdotool", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def click(self, place: tuple[int, int], button: int = 1) -> None:
        """With the mouse."""
        self.do("mousemove", str(place[0]), str(place[1]), "sleep", "0.2", "click", str(button))

    def windows(self, kind: str) -> list[tuple[int, int, int, int]]:
        """Where windows of this class are that can be seen: x, y, width, height."""
        found = self._person.run(
            "xdotool", "search", "--onlyvisible", "--class", kind
        ).stdout.split()
        places = []
        for number in found:
            told = self._person.run("xdotool", "getwindowgeometry", "--shell", number).stdout
            place = dict(line.split("=") for line in told.split())
            if place:  # it may be gone by now
                places.append(tuple(int(place[name]) for name in ("X", "Y", "WIDTH", "HEIGHT")))
        return places  # type: ignore[return-value]


def middle_of(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int] | None:
    """The middle of what has this colour in *picture*; None where too little has."""
    near = [
        band.point(lambda value, want=want: 255 if abs(value - want) <= 8 else 0)
        for band, want in zip(picture.split(), colour, strict=True)
    ]
    mask = Image.merge("RGB", near).convert("L").point(lambda value: 255 if value == 255 else 0)
    if mask.histogram()[255] < 12:
        return None
    box = mask.getbbox()
    return None if box is None else ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)


def wait_for(what: Callable[[], Any], name: str, tell: Callable[[], str] | None = None) -> Any:
    """Poll with the deadline of a busy machine; *tell* says more when it was in vain."""
    try:
        return until(what, WITHIN_S, name)
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {tell()}" if tell else str(exc)) from None


XFCE_PANEL = """<?xml version="1.0" encoding="UTF-8"?>
<channel name="xfce4-panel" version="1.0">
  <property name="configver" type="int" value="2"/>
  <property name="panels" type="array">
    <value type="int" value="1"/>
    <property name="dark-mode" type="bool" value="{dark}"/>
    <property name="panel-1" type="empty">
      <property name="position" type="string" value="p=10;x=0;y=0"/>
      <property name="position-locked" type="bool" value="true"/>
      <property name="length" type="uint" value="100"/>
      <property name="size" type="uint" value="32"/>
      <property name="plugin-ids" type="array">
        <value type="int" value="1"/>
      </property>
    </property>
  </property>
  <property name="plugins" type="empty">
    <property name="plugin-1" type="string" value="systray"/>
  </property>
</channel>
"""


class Xfce:
    """A real xfce4-panel with a systray, which is a StatusNotifierItem host."""

    def __init__(self, person: Person, *, dark: bool = True) -> None:
        self._person = person
        person.write(
            ".config/xfce4/xfconf/xfce-perchannel-xml/xfce4-panel.xml",
            XFCE_PANEL.format(dark="true" if dark else "false"),
        )
        self.begin()

    def begin(self) -> None:
        """Start it."""
        self.process = self._person.start("xfce4-panel", "--disable-wm-check")

    def crash(self) -> None:
        """End it as a crash would, with its plugins."""
        wrappers = [
            pid
            for pid in self._person.left()
            if b"wrapper-2.0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        for pid in (self.process.pid, *wrappers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()
