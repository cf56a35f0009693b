"""
What a click does, besides starting and ending (`desk`): each verb of the menu's keys. All of it blocks, so it runs in
threads; what goes wrong is a sentence, never an exception.

Other programs are started through their commands (`penstock connect`, `penstock detect`): they need parts of Penstock
that a tray should not carry in memory for weeks, and so a person can do the same from a shell.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.adapters.folders import config_file, log_folder
from penstock.client import Client, GatewayError, NotRunning
from penstock_tray import login, preferences
from penstock_tray.clipboard import copy
from penstock_tray.menu import App, Desktop, Found
from penstock_tray.snapshot import Snapshot

_OPENS_WITHIN_S = 2.0
_NEW_SETTINGS = """\
# Settings of Penstock; a change is picked up while it runs. All of them: `penstock config`, and the documentation.
version: 1
"""


def act(verb: str, of: tuple[str, ...], snapshot: Snapshot, desktop: Desktop) -> str:
    """Do it. Returns how it went wrong; empty if it did not."""
    does = _VERBS.get(verb)
    if does is None:
        return ""
    try:
        return does(of, snapshot, desktop) or ""
    except subprocess.TimeoutExpired as exc:
        return f"It took longer than {exc.timeout:g} s and was ended"
    except (NotRunning, GatewayError, OSError, login.CannotSet) as exc:
        return str(exc)
    except (ValueError, LookupError, TypeError) as exc:
        return f"The answer was not understood: {exc}"


def search(snapshot: Snapshot) -> tuple[Found, ...]:
    """Model servers of this machine that are no upstream yet."""
    known = {server.url.rstrip("/") for server in snapshot.servers}
    answer = _asked("detect", "--json")
    return tuple(
        Found(one["kind"], one["url"])
        for one in answer or ()
        if one.get("kind") and not one.get("is_penstock") and one["url"].rstrip("/") not in known
    )


def apps() -> tuple[App, ...]:
    """Clients that are installed here."""
    answer = _asked("connect", "--json") or {}
    return tuple(
        App(one["client"], one["title"], one["connected"] is not None)
        for one in answer.get("clients", ())
        if one["found"] or one["connected"] is not None
    )


def open_url(url: str) -> str:
    """Show *url* in the browser. One that is still there after a moment (`$BROWSER` in the foreground) has opened it."""
    opened: list[bool] = []
    thread = threading.Thread(target=lambda: opened.append(webbrowser.open(url)), daemon=True)
    thread.start()
    thread.join(_OPENS_WITHIN_S)
    if thread.is_alive() or any(opened):
        return ""
    return f"No browser was found here. The dashboard is at {url}"


def _dashboard(of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> str:
    with Client.find() as client:
        url = client.dashboard_url()
    return open_url(f"{url}#{of[0]}" if of and of[0] != "add" else url)


def _bypass(_of: tuple[str, ...], snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.bypass(snapshot.bypass != "all")


def _resume(_of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.resume()


def _restart(of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.resume(of[0])


def _unload(of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.unload(of[1], of[0])


def _add(of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.add_upstream(of[0])


def _forget(of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> None:
    with Client.find() as client:
        client.forget_upstream(of[0])


def _copy(_of: tuple[str, ...], snapshot: Snapshot, _desktop: Desktop) -> str:
    url = f"{snapshot.url}/v1"
    return "" if copy(url) else f"The clipboard cannot be reached. The endpoint is {url}"


def _app(of: tuple[str, ...], _snapshot: Snapshot, desktop: Desktop) -> str:
    connected = next((app.connected for app in desktop.apps if app.name == of[0]), False)
    done = _penstock("connect", of[0], "--undo" if connected else "--write")
    return "" if done.returncode == 0 else _last_line(done)


def _logs(_of: tuple[str, ...], snapshot: Snapshot, _desktop: Desktop) -> str:
    path = Path(snapshot.log_file) if snapshot.log_file else _latest_log()
    if path is None:
        return f"There is no log yet in {log_folder()}"
    return open_file(path)


def _edit(_of: tuple[str, ...], _snapshot: Snapshot, _desktop: Desktop) -> str:
    path = config_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_NEW_SETTINGS, "utf-8")
    return open_file(path)


def _notifications(_of: tuple[str, ...], _snapshot: Snapshot, desktop: Desktop) -> None:
    preferences.save(preferences.Preferences(notifications=not desktop.notifications))


def _login(of: tuple[str, ...], _snapshot: Snapshot, desktop: Desktop) -> None:
    entry = login.entry()
    if desktop.login == of[0]:
        entry.remove()
    else:
        entry.write(of[0])


_VERBS: dict[str, Callable[[tuple[str, ...], Snapshot, Desktop], str | None]] = {
    "dashboard": _dashboard, "bypass": _bypass, "resume": _resume, "restart": _restart, "unload": _unload, "add": _add,
    "forget": _forget, "copy": _copy, "app": _app, "logs": _logs, "edit": _edit, "notifications": _notifications,
    "login": _login,
}  # fmt: skip


def open_file(path: Path) -> str:
    """Open a text with whatever the desktop opens such with. An editor that stays in the foreground is not waited for."""
    if sys.platform == "win32":
        os.startfile(path)  # noqa: S606 - what a double click does
        return ""
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    if shutil.which(opener) is None:
        return f"{opener} is not installed here. The file is {path}"
    process = subprocess.Popen(
        [opener, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(_OPENS_WITHIN_S)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.wait, daemon=True).start()  # nobody else collects it
        return ""
    return "" if code == 0 else f"{path} could not be opened: {opener} ended with {code}"


def _latest_log() -> Path | None:
    logs = list(log_folder().glob("*.log"))
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def _penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _asked(*arguments: str) -> Any:
    """The JSON that a command prints; None if it prints none."""
    try:
        return json.loads(_penstock(*arguments).stdout)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1].removeprefix("penstock: ") if lines else f"it ended with {done.returncode}"
