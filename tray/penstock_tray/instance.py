"""
One tray for each user: a lock that the system drops when the process ends, however it ends, and beside it the address
at which the holder listens, so that a second start can have the first show itself.

The address is a port on loopback and a token, in a file that only this user can read. A child does not inherit the
lock, so a gateway that outlives the tray keeps nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from penstock.adapters.files import write_atomically
from penstock.adapters.folders import runtime_folder
from penstock.errors import PenstockError

_ANSWERS_WITHIN_S = 5.0
WORDS = ("show", "look", "quit")
"""What a holder is asked: to show itself, to look at its settings again, to quit."""


class NoTray(PenstockError):
    """No tray of this user runs."""

    exit_code = 4


class TrayHangs(PenstockError):
    """One holds the lock and does not answer."""

    exit_code = 1


def _lock_path() -> Path:
    return runtime_folder() / "tray.lock"


def _address_path() -> Path:
    return runtime_folder() / "tray.address"


class Instance:
    """The lock of this process; `take` gives one, or None where another process holds it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._server: asyncio.Server | None = None

    @classmethod
    def take(cls) -> Instance | None:
        """Become the tray of this user, if nobody is."""
        path = _lock_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is(descriptor, path):  # its holder left, and took the file away, a moment ago
                os.close(descriptor)
                return cls.take()
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    async def listen(self, asked: Callable[[str], None]) -> None:
        """Have *asked* called, in the event loop, with each word that another process says."""
        token = secrets.token_hex(16)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(_ANSWERS_WITHIN_S):
                    said, _, word = (await reader.readline()).decode().strip().partition(" ")
                if secrets.compare_digest(said.encode(), token.encode()) and word in WORDS:
                    asked(word)
                    writer.write(b"ok\n")
                    await writer.drain()
            except (OSError, TimeoutError, ValueError):
                pass
            finally:
                writer.close()

        self._server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        value = {"pid": os.getpid(), "port": port, "token": token}
        write_atomically(_address_path(), json.dumps(value).encode())

    def leave(self) -> None:
        """Let another one be the tray."""
        if self._server is not None:
            self._server.close()
        _address_path().unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            _lock_path().unlink(missing_ok=True)
        os.close(self._descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def take_or_ask(word: str) -> Instance | int:
    """
    Become the tray of this user, or say *word* to the one that is. Returns the lock, or the number of its process.

    Raises:
        TrayHangs: one is there and does not answer.
    """
    while True:
        if (taken := Instance.take()) is not None:
            return taken
        # Who only asks holds the lock for a moment, too.
        with contextlib.suppress(NoTray):
            return ask(word)


def ask(word: str) -> int:
    """
    Say *word* to the tray that runs.

    Returns:
        the number of its process.

    Raises:
        NoTray: none runs.
        TrayHangs: one does and does not answer.
    """
    free = Instance.take()
    if free is not None:
        free.leave()
        raise NoTray("No Penstock tray runs.")
    pid = None
    try:
        value = json.loads(_address_path().read_bytes())
        pid = int(value["pid"])
        address = ("127.0.0.1", int(value["port"]))
        with socket.create_connection(address, timeout=_ANSWERS_WITHIN_S) as line:
            line.sendall(f"{value['token']} {word}\n".encode())
            if line.recv(16).startswith(b"ok"):
                return pid
    except (OSError, ValueError, KeyError, TypeError):
        pass
    which = f" (process {pid})" if pid else ""
    raise TrayHangs(
        f"A Penstock tray{which} is there and does not answer. End that process, then start it anew."
    )
