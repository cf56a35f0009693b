"""
A model server that the gateway runs, as one process with its output: under a warden of its own (`warden.py`), which
ends it when the gateway is gone.

Its output goes through a pipe into a log file that stays small; the end of it is kept for error messages. A disk
that is full or slow costs lines and holds nobody up (`log_file.py`).
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from penstock.adapters import warden
from penstock.adapters.log_file import LogFile

_TAIL_CHARS = 8192
_PIECE_BYTES = 64 * 1024
_AFTER_STOP_S = 5.0
_LAST_OUTPUT_S = 1.0


class ServerProcess:
    """
    One run of a command. Made by `begin`.

    Attributes:
        pid: of the command; None when it could not be started.
        failed: why it could not be started; "" when it could.
        code: exit code, or the negative number of the signal; None while it runs, or when nobody saw it end.
    """

    def __init__(self, log: LogFile, stop_s: float) -> None:
        self._log = log
        self._stop_s = stop_s
        self._tail: deque[str] = deque()
        self._tail_chars = 0
        self._ended = asyncio.Event()
        self._warden: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.pid: int | None = None
        self.failed = ""
        self.code: int | None = None

    @classmethod
    async def begin(cls, command: Sequence[str], *, log: LogFile, stop_s: float) -> Self:
        """
        Start *command*.

        Args:
            log: where its output goes.
            stop_s: how long it may take to end before it is killed.
        """
        self = cls(log, stop_s)
        try:
            process = self._warden = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", warden.__file__, f"{stop_s:g}", *command,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                start_new_session=os.name == "posix",
            )  # fmt: skip
        except OSError as exc:
            self.failed = f"no process can be started: {exc.strerror}"
            self._ended.set()
            return self
        self._tasks = [
            asyncio.create_task(self._capture(process), name="server output"),
            asyncio.create_task(self._listen(process), name="server reports"),
        ]
        return self

    async def ended(self) -> None:
        """Wait until the command has ended; what it left behind may still be ending."""
        await self._ended.wait()

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self._ended.is_set()

    async def stop(self) -> None:
        """End it and all that belongs to it, and wait until that is done."""
        process = self._warden
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(2 * self._stop_s + _AFTER_STOP_S):
                await process.wait()
        except TimeoutError:
            self._kill(process)
            await process.wait()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_OUTPUT_S)
            for task in self._tasks:
                task.cancel()  # the pipe is open still: somebody else has inherited it
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []

    def tail(self) -> str:
        """The end of what it wrote."""
        return "".join(self._tail)[-_TAIL_CHARS:]

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Take in the warden's reports; their end without one means that it was killed."""
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                told = json.loads(line)
                self.pid = told.get("pid", self.pid)
                self.failed = told.get("failed", self.failed)
                if "ended" in told:
                    self.code = told["ended"]
                    await self._last_output()
                    self._ended.set()
            if not self._ended.is_set() and not self.failed:
                self._kill(process)
        finally:
            self._ended.set()

    async def _last_output(self) -> None:
        """What it said last may still be in the pipe, and tells why it died."""
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=0.05)

    async def _capture(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await process.stderr.read(_PIECE_BYTES):
            text = decoder.decode(data)
            if not text:
                continue
            self._log.write(text)
            self._tail.append(text)
            self._tail_chars += len(text)
            while len(self._tail) > 1 and self._tail_chars - len(self._tail[0]) >= _TAIL_CHARS:
                self._tail_chars -= len(self._tail.popleft())

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        """The warden is gone or stuck: end what it would have ended."""
        with contextlib.suppress(OSError):
            process.kill()
        if self.pid is not None and sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def listening_urls(self) -> list[str]:
        """Where its processes listen for TCP. Takes milliseconds: not for the event loop."""
        if self.pid is None:
            return []
        found: dict[str, None] = {}
        try:
            root = psutil.Process(self.pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.Error:
            return []
        for process in processes:
            look = getattr(process, "net_connections", None) or process.connections
            try:
                connections = look(kind="tcp")
            except psutil.Error:
                continue
            for connection in connections:
                if connection.status == psutil.CONN_LISTEN:
                    found[_url(connection.laddr.ip, connection.laddr.port)] = None
        return list(found)


def _url(host: str, port: int) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_name(upstream: str, port: int) -> str:
    """The file for the output of *upstream*'s server under the gateway on *port*."""
    return f"server-{Path(upstream).name}-{port or 'any'}.log"
