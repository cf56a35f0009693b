"""
Clients' settings files: found, backed up, changed and restored.

What was written is remembered in the user's state folder, one record for each client. An undo compares the
file with what was written: unchanged, the old bytes come back (or the file goes, when it was not there before);
changed since, only our settings are taken out. A backup lies beside its file and is never overwritten by a
second connect. Links are followed: the file they lead to is changed, and the link stays one. Of two that run at
once, one waits and is then told that the file is no longer what it planned for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.adapters.files import one_at_a_time, write_atomically
from penstock.adapters.folders import state_folder
from penstock.clients import (
    CannotEdit,
    ClientFile,
    ClientSpec,
    Connected,
    Connection,
    Folder,
    Undo,
    apply,
    take_back,
)
from penstock.clients.paths import MISSING, as_json, from_json
from penstock.errors import PenstockError

BACKUP_SUFFIX = ".penstock-backup"
_EXTENSION_FOLDERS = (".vscode", ".vscode-server", ".vscode-oss", ".vscode-insiders", ".cursor",
                      ".cursor-server", ".windsurf", ".trae")  # fmt: skip


class ClientFileError(PenstockError):
    """A settings file cannot be read, changed or restored; it is as it was."""


@dataclass(frozen=True, slots=True)
class Planned:
    """
    One file as it would be after `write`.

    Attributes:
        path: the file itself, links followed; it may not exist.
        old: its bytes, None when it does not exist.
        new: what would stand there.
        base: what our settings were put into: `old` without what an earlier connect had put there.
        undos: how each setting is taken back.
        exact: whether the backup of an earlier connect, or `old`, is what an undo would restore.
    """

    path: Path
    format: Any
    old: bytes | None
    new: bytes
    base: bytes | None
    undos: tuple[Undo, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of one file: `restored`, `removed`, `taken back`, `gone`; `kept` are settings that were left."""

    path: Path
    how: str
    kept: tuple[str, ...] = ()
    backup: Path | None = None


def folder_of(folder: Folder, environ: Mapping[str, str] | None = None) -> Path:
    """Where a client keeps its settings on this machine."""
    environ = os.environ if environ is None else environ
    if folder.variable and environ.get(folder.variable):
        return Path(environ[folder.variable]).expanduser().joinpath(*folder.inside)
    if sys.platform == "win32" and folder.windows is not None:
        return Path.home().joinpath(*folder.windows)
    return Path.home().joinpath(*folder.home)


def path_of(file: ClientFile, given: Path | None = None) -> Path | None:
    """The settings file, links followed; None where only its user knows."""
    if given is not None:
        return Path(os.path.realpath(given.expanduser()))
    if file.folder is None:
        return None
    places = [folder_of(file.folder) / name for name in file.names]
    return Path(os.path.realpath(next((p for p in places if p.exists()), places[0])))


def traces_of(spec: ClientSpec) -> list[str]:
    """Where the client was found on this machine; empty when it was not."""
    found = [place for name in spec.traces.programs if (place := shutil.which(name))]
    found += [str(path) for folder in spec.traces.folders if (path := folder_of(folder)).is_dir()]
    for prefix in spec.traces.extensions:
        found += sorted(str(path) for path in _extensions(prefix))[-1:]
    return found


def _extensions(prefix: str) -> Iterator[Path]:
    for name in _EXTENSION_FOLDERS:
        folder = Path.home() / name / "extensions"
        if folder.is_dir():
            yield from folder.glob(f"{prefix}*")


def plan(spec: ClientSpec, files: Sequence[ClientFile], given: Path | None = None) -> list[Planned]:
    """
    What `write` would do; nothing is changed.

    Args:
        given: the first file's place, where the user names it.

    Raises:
        ClientFileError: a file cannot be read, or cannot be changed safely.
    """
    earlier = {entry["path"]: entry for entry in (_record(spec.name) or {}).get("files", ())}
    planned = []
    for number, file in enumerate(files):
        path = path_of(file, given if number == 0 else None)
        if path is None:
            raise ClientFileError(
                f"{spec.title} has no fixed place for its settings: name the file with --file."
            )
        planned.append(_plan_one(path, file, earlier.get(str(path))))
    return planned


def _plan_one(path: Path, file: ClientFile, earlier: dict[str, Any] | None) -> Planned:
    old = _read(path)
    base, exact = old, True
    try:
        if earlier is not None:
            base, exact = _before(path, old, earlier)
        text, undos = apply(file.format, _text(base), file.settings)
    except CannotEdit as exc:
        raise ClientFileError(f"{path} is left as it is: {exc}.") from exc
    return Planned(path, file.format, old, text.encode(), base, undos, exact)


def _before(path: Path, old: bytes | None, earlier: dict[str, Any]) -> tuple[bytes | None, bool]:
    """The file as it would be without the earlier connect, and whether that is what it once was."""
    if old is None:
        return None, False
    if _sha(old) == earlier["sha256_after"]:
        if not earlier["existed"]:
            return None, True
        backup = _read(Path(earlier["backup"])) if earlier["backup"] else None
        if earlier["exact"] and backup is not None and _sha(backup) == earlier["sha256_before"]:
            return backup, True
    text, _ = take_back(earlier["format"], _text(old), _undos(earlier))
    return text.encode(), False


def write(spec: ClientSpec, connection: Connection, planned: Sequence[Planned]) -> list[Path]:
    """
    Write the planned files, each backed up before.

    Returns:
        the backups.

    Raises:
        ClientFileError: a file cannot be written, or is no longer what was planned for (the client saved it just
            now, or another connect was quicker).
    """
    with one_at_a_time(_records()):
        return _write(spec, connection, planned)


def _write(spec: ClientSpec, connection: Connection, planned: Sequence[Planned]) -> list[Path]:
    earlier = {entry["path"]: entry for entry in (_record(spec.name) or {}).get("files", ())}
    entries, backups = dict(earlier), []
    for file in planned:
        if _read(file.path) != file.old:
            raise ClientFileError(
                f"{file.path} was changed in this very moment and is left as it is: connect again."
            )
        before, made = earlier.get(str(file.path)), None
        if before is not None and (file.exact or before["backup"]):
            backup, existed = before["backup"], before["existed"]
        elif file.old is not None:
            made = _back_up(file.path, file.old)
            backup, existed = str(made), True
        else:
            backup, existed = None, False
        entries[str(file.path)] = {
            "path": str(file.path),
            "format": file.format,
            "existed": existed,
            "folders": _missing_folders(file.path) if before is None else before.get("folders", []),
            "exact": file.exact,
            "backup": backup,
            "sha256_before": _sha(file.base) if file.base is not None else None,
            "sha256_after": _sha(file.new),
            "undos": [_undo_as_json(undo) for undo in file.undos],
        }
        # Remembered before it is written: what is interrupted here can be undone.
        _remember(spec.name, connection, entries)
        try:
            _replace(file.path, file.new)
        except ClientFileError:
            entries.pop(str(file.path))
            if before is not None:
                entries[str(file.path)] = before
            _remember(spec.name, connection, entries)
            if made is not None:
                made.unlink(missing_ok=True)
            raise
        if backup:
            backups.append(Path(backup))
    return backups


def undo(spec: ClientSpec) -> list[Undone]:
    """
    Take back what `write` did.

    Raises:
        ClientFileError: it is not connected, or a file cannot be read any more.
    """
    with one_at_a_time(_records()):
        return _undo(spec)


def _undo(spec: ClientSpec) -> list[Undone]:
    record = _record(spec.name)
    if record is None:
        raise ClientFileError(f"{spec.title} is not connected: there is nothing to undo.")
    done = []
    left = list(record["files"])
    for entry in record["files"]:
        done.append(_undo_one(entry))
        left.remove(entry)
        _store(spec.name, {**record, "files": left})
    _record_path(spec.name).unlink(missing_ok=True)
    return done


def _undo_one(entry: dict[str, Any]) -> Undone:
    path = Path(entry["path"])
    backup = Path(entry["backup"]) if entry["backup"] else None
    current = _read(path)
    if current is None:
        return Undone(path, "gone", backup=backup)
    if _sha(current) == entry["sha256_after"] and not entry["existed"]:
        path.unlink()
        for folder in entry.get("folders", ()):  # ours as long as nothing of the client is in them
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        return Undone(path, "removed")
    if _sha(current) == entry["sha256_before"]:  # interrupted before it was written
        if backup is not None and entry["exact"]:
            backup.unlink(missing_ok=True)
        return Undone(path, "restored")
    if _sha(current) == entry["sha256_after"] and entry["exact"] and backup is not None:
        old = _read(backup)
        if old is not None and _sha(old) == entry["sha256_before"]:
            _replace(path, old)
            backup.unlink(missing_ok=True)
            return Undone(path, "restored")
    try:
        text, kept = take_back(entry["format"], _text(current), _undos(entry))
    except CannotEdit as exc:
        where = f" The file as it was before lies in {backup}." if backup else ""
        raise ClientFileError(f"{path} was changed and is left as it is: {exc}.{where}") from exc
    _replace(path, text.encode())
    return Undone(path, "taken back", kept, backup)


def connected() -> list[Connected]:
    """All clients of this user that are connected."""
    found = []
    for path in sorted(_records().glob("*.json")):
        record = _record(path.stem)
        if record is not None:
            found.append(Connected(path.stem, record["url"], record["model"], record["window"]))
    return found


def run_files(spec: ClientSpec, files: Mapping[str, str]) -> dict[str, str]:
    """Write files of our own that a started client is pointed to. Returns name -> path."""
    made = {}
    for name, text in files.items():
        path = state_folder() / "run" / spec.name / name
        write_atomically(path, text.encode())
        made[name] = str(path)
    return made


def _missing_folders(path: Path) -> list[str]:
    """Folders that writing *path* makes, the innermost first."""
    return [str(folder) for folder in path.parents if not folder.exists()]


def _back_up(path: Path, data: bytes) -> Path:
    """Beside the file, under a name that is free: an older backup may be all that is left of something."""
    number = 1
    while True:
        suffix = BACKUP_SUFFIX if number == 1 else f"{BACKUP_SUFFIX}-{number}"
        backup = path.with_name(path.name + suffix)
        if not backup.exists():
            break
        number += 1
    _replace(backup, data, like=path)
    return backup


def _replace(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """Write whole or not at all, with the mode and owner that the file (or *like*) has."""
    try:
        try:
            found = (like or path).stat()
        except FileNotFoundError:
            write_atomically(path, data)
        else:
            owner = (found.st_uid, found.st_gid)
            write_atomically(path, data, mode=found.st_mode & 0o7777, owner=owner)
    except OSError as exc:
        raise ClientFileError(f"{path} cannot be written: {exc.strerror or exc}.") from exc


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ClientFileError(f"{path} cannot be read: {exc.strerror or exc}.") from exc


def _text(data: bytes | None) -> str:
    try:
        return (data or b"").decode()
    except UnicodeDecodeError as exc:
        raise CannotEdit("it is no text in UTF-8") from exc


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _records() -> Path:
    return state_folder() / "connected"


def _record_path(name: str) -> Path:
    return _records() / f"{name}.json"


def _record(name: str) -> dict[str, Any] | None:
    try:
        value = json.loads(_record_path(name).read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("version") == 1 else None


def _remember(name: str, connection: Connection, entries: Mapping[str, dict[str, Any]]) -> None:
    if not entries:
        _record_path(name).unlink(missing_ok=True)
        return
    _store(
        name,
        {
            "version": 1,
            "url": connection.url,
            "model": connection.model.id,
            "window": connection.model.window,
            "files": list(entries.values()),
        },
    )


def _store(name: str, record: dict[str, Any]) -> None:
    write_atomically(_record_path(name), json.dumps(record, indent=1).encode())


def _undo_as_json(undo_: Undo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": as_json(undo_.path),
        "value": undo_.value,
        "depth": undo_.depth,
    }
    if undo_.before is not MISSING:
        found["before"] = undo_.before
    return found


def _undos(entry: dict[str, Any]) -> list[Undo]:
    return [
        Undo(from_json(u["path"]), u["value"], u.get("before", MISSING), u["depth"])
        for u in entry["undos"]
    ]
