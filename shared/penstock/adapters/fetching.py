"""
Fetches a model's files: resumed where it broke off, checked by size and SHA-256, put in place whole or not at all.

A part stands beside its destination as `NAME.part`, with the validator of what it is a part of in
`NAME.part.json`: a server that has another file by now ignores `If-Range` and sends all of it, so parts of two
editions never mix. A good copy is only ever replaced by a rename. One lock per destination lets two fetchers
share a volume: the second waits, finds the file, and has nothing to do.

Sources: RFC 9110, 13.1.5 and 14.2 (ranges); Hugging Face Hub: `resolve/REVISION/PATH` answers with
`x-linked-etag` (the SHA-256 of a large file) and `x-linked-size`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import httpx

from penstock.adapters.files import write_atomically
from penstock.errors import PenstockError

HUGGING_FACE = "https://huggingface.co"
_ROOM_BYTES = 16 * 1024 * 1024
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class FetchFailed(PenstockError):
    """
    It could not be fetched.

    Attributes:
        reason: one of `BadAddress`, `NotFound`, `Unauthorized`, `Unreachable`, `ServerError`, `DiskFull`,
            `Mismatch`, `Missing`, `Unwritable`.
        is_passing: trying again may help.
    """

    def __init__(self, reason: str, message: str, *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_passing = is_passing


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in place."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Access:
    """How the server is spoken to: its credential, the CA bundle, and the Hub or its mirror."""

    token: str | None = None
    ca_file: str | None = None
    hub: str = HUGGING_FACE


Progress = Callable[[int, int | None], None]
"""Gets the bytes that are there and those of the whole file, when known."""
Failed = Callable[[FetchFailed, float], None]
"""Gets why an attempt failed, and after how many seconds there is another."""


def address_of(uri: str, hub: str = HUGGING_FACE) -> str:
    """
    The URL of an `https://`, `http://` or `hf://ORG/REPO/FILE[@REVISION]` address.

    Raises:
        FetchFailed: `BadAddress`.
    """
    if uri.startswith(("https://", "http://")):
        return uri
    if not uri.startswith("hf://"):
        raise FetchFailed(
            "BadAddress", f"{uri}: expected hf://ORG/REPO/FILE, https://... or pvc://CLAIM/FILE."
        )
    path, _, revision = uri[len("hf://") :].partition("@")
    parts = path.split("/")
    if len(parts) < 3 or not all(parts) or ".." in parts:
        raise FetchFailed("BadAddress", f"{uri}: expected hf://ORG/REPO/FILE[@REVISION].")
    org, repo, *file = parts
    return f"{hub.rstrip('/')}/{org}/{repo}/resolve/{revision or 'main'}/{'/'.join(file)}"


def fetch(
    uri: str,
    destination: Path,
    *,
    access: Access,
    sha256: str | None = None,
    progress: Progress = lambda have, size: None,
    failed: Failed = lambda why, wait_s: None,
    tries: int = 5,
    wait_s: float = 1.0,
) -> Fetched:
    """
    Bring the file at *uri* to *destination*.

    Args:
        sha256: what it must be; None takes what the Hub says, if it says it.
        tries: attempts in a row that bring nothing, after which it gives up.
        wait_s: before the second attempt; twice as long before each further one.

    Raises:
        FetchFailed: with reason and sentence; what was fetched so far stays for the next time.
    """
    url = address_of(uri, access.hub)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(destination):
            known = _known(destination, uri, sha256)
            if known is not None:
                return known
            return _until_it_is_there(
                url, uri, destination, access, sha256, progress, failed, tries, wait_s
            )
    except OSError as exc:
        reason = "DiskFull" if exc.errno == 28 else "Unwritable"
        raise FetchFailed(reason, f"{destination} cannot be written: {exc.strerror}.") from exc


def verify(path: Path, sha256: str | None) -> Fetched:
    """
    Look at a file that is there already.

    Raises:
        FetchFailed: `Missing` or `Mismatch`.
    """
    if not path.is_file():
        raise FetchFailed("Missing", f"There is no file {path}.")
    found = _digest(path)
    if sha256 is not None and found != sha256.lower():
        raise FetchFailed("Mismatch", f"{path} has the SHA-256 {found}, not {sha256}.")
    return Fetched(path, path.stat().st_size, found)


def _until_it_is_there(
    url: str, uri: str, destination: Path, access: Access, sha256: str | None,
    progress: Progress, failed: Failed, tries: int, wait_s: float,
) -> Fetched:  # fmt: skip
    part = destination.with_name(destination.name + ".part")
    headers = {"accept-encoding": "identity"}
    if access.token:
        headers["authorization"] = f"Bearer {access.token}"
    tls = ssl.create_default_context(cafile=access.ca_file) if access.ca_file else True
    failures = 0
    with httpx.Client(headers=headers, follow_redirects=True, verify=tls, timeout=60.0) as client:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                told = _attempt(client, url, part, progress)
                break
            except (httpx.HTTPError, FetchFailed) as exc:
                failure = exc if isinstance(exc, FetchFailed) else _of_the_way(url, exc)
            if not failure.is_passing:
                raise failure
            gained = part.exists() and part.stat().st_size > before
            failures = 1 if gained else failures + 1
            if failures >= tries:
                raise failure
            again_s = min(30.0, wait_s * 2 ** (failures - 1))
            failed(failure, again_s)
            time.sleep(again_s)
    found = _digest(part)
    wanted = (sha256 or told or found).lower()
    if found != wanted:
        _forget(part)
        raise FetchFailed(
            "Mismatch", f"{uri} has the SHA-256 {found}, not {wanted}; it was thrown away."
        )
    os.replace(part, destination)
    _sync_folder(destination.parent)
    _forget(part)
    size = destination.stat().st_size
    note = {"uri": uri, "sha256": found, "size": size}
    write_atomically(_note_of(destination), json.dumps(note).encode(), mode=0o644)
    return Fetched(destination, size, found)


def _attempt(client: httpx.Client, url: str, part: Path, progress: Progress) -> str | None:
    """Fetch what is missing. Returns the SHA-256 that the Hub tells, None when it tells none."""
    validator_file = part.with_name(part.name + ".json")
    have, headers = 0, {}
    try:
        have = part.stat().st_size
        validator = json.loads(validator_file.read_bytes())["validator"]
        headers = {"range": f"bytes={have}-", "if-range": validator} if have else {}
    except (OSError, ValueError, KeyError):
        have = 0
    with client.stream("GET", url, headers=headers) as answer:
        told = _told_sha256(answer)
        start, size = _extent(answer, have, url)
        if answer.status_code == 416:
            if size == have:
                return told
            _forget(part)
            raise FetchFailed("Unreachable", f"{url} has changed.", is_passing=True)
        etag = answer.headers.get("etag", "")
        validator = etag if not etag.startswith("W/") else ""
        validator = validator or answer.headers.get("last-modified", "")
        if start == 0:
            _forget(part)
            if validator:
                write_atomically(validator_file, json.dumps({"validator": validator}).encode())
        _check_room(part, size, start)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in answer.iter_bytes():
                file.write(chunk)
                progress(file.tell(), size)
            end = file.tell()
            file.flush()
            os.fsync(file.fileno())
    if size is not None and end != size:
        if end > size:
            _forget(part)
        raise FetchFailed("Unreachable", f"{url} sent {end} of {size} bytes.", is_passing=True)
    return told


def _extent(answer: httpx.Response, have: int, url: str) -> tuple[int, int | None]:
    """Where the answer begins in the file, and how long the file is."""
    status = answer.status_code
    length = answer.headers.get("content-length", "")
    if status == 200:
        return 0, int(length) if length.isdigit() else None
    if status == 206:
        span = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if span is None or int(span[1]) != have:
            raise FetchFailed("ServerError", f"{url} sent another range than asked.")
        return have, int(span[2])
    if status == 416:
        size = answer.headers.get("content-range", "").rpartition("/")[2]
        return have, int(size) if size.isdigit() else None
    if status in (401, 403):
        raise FetchFailed(
            "Unauthorized", f"{url} refused with {status}: it needs a token that may read it."
        )
    if status in (404, 410):
        raise FetchFailed("NotFound", f"{url} does not exist ({status}).")
    passing = status >= 500 or status in (408, 429)
    raise FetchFailed("ServerError", f"{url} answered with {status}.", is_passing=passing)


def _told_sha256(answer: httpx.Response) -> str | None:
    for step in (*answer.history, answer):
        found = _SHA256.fullmatch(step.headers.get("x-linked-etag", ""))
        if found is not None:
            return found[1]
    return None


def _of_the_way(url: str, exc: httpx.HTTPError) -> FetchFailed:
    return FetchFailed("Unreachable", f"{url} cannot be reached: {_why(exc)}.", is_passing=True)


def _why(exc: httpx.HTTPError) -> str:
    """What the system said below it, without numbers of errors."""
    if isinstance(exc, httpx.TimeoutException):
        return "no answer came in time"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return f"the name {_resolved(exc.request.url)} could not be resolved"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(exc).rstrip(".") or type(exc).__name__


def _resolved(url: httpx.URL) -> str:
    """Whose name is looked up on the way to that address."""
    proxies = getproxies()
    is_proxied = (url.scheme in proxies or "all" in proxies) and not proxy_bypass(url.host)
    return "of the proxy" if is_proxied else url.host


def _check_room(part: Path, size: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - have + _ROOM_BYTES > free:
        raise FetchFailed(
            "DiskFull",
            f"{size - have} bytes are missing and {part.parent} has room for {free}: make it larger.",
        )


def _known(destination: Path, uri: str, sha256: str | None) -> Fetched | None:
    """The file, if it is in place already: its note names the same address, and it is as long."""
    try:
        note = json.loads(_note_of(destination).read_bytes())
        size = destination.stat().st_size
        same = note["uri"] == uri and note["size"] == size
        if same and (sha256 is None or note["sha256"] == sha256.lower()):
            return Fetched(destination, size, str(note["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _note_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".fetched.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".json").unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Nobody else fetches this file meanwhile; the system lets go when a process dies."""
    with destination.with_name(destination.name + ".lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
