"""Log lines: a constant message and pairs, as text for people or as JSON for machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from penstock.adapters.folders import log_folder
from penstock.adapters.log_file import LogFile
from penstock.settings import LogOptions

_BATCH_S = 0.1


class TextFormat(logging.Formatter):
    """`12:30:01 request id=req_1 status=200 ...`"""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f" {record.levelname.lower()}:"
        pairs = getattr(record, "penstock", None)
        told = "".join(f" {name}={_shown(value)}" for name, value in (pairs or {}).items())
        line = f"{at}{level} {record.getMessage()}{told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormat(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        value: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(getattr(record, "penstock", None) or {}),
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(value, default=str).decode()


@lru_cache(maxsize=4)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text) if " " in text and not text.startswith("[") else text


class RequestLog:
    """
    One line for each request, written in batches.

    The logging machinery costs more than the rest of a small request's record, and a write for each line
    as much again. So requests are kept as they are and made into lines when the next batch is due.

    Args:
        describe: a request as pairs.
        write: takes text.
    """

    def __init__(
        self, describe: Callable[[Any], dict[str, Any]], write: Callable[[str], object]
    ) -> None:
        self._describe = describe
        self._write = write
        self._waiting: list[tuple[float, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.as_json = False

    def add(self, exchange: Any, now_s: float) -> None:
        """Note a request that has ended; *now_s* is wall-clock time."""
        self._waiting.append((now_s, exchange))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_BATCH_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._write("".join(self._line(now_s, exchange) for now_s, exchange in waiting))

    def _line(self, now_s: float, exchange: Any) -> str:
        pairs = self._describe(exchange)
        if self.as_json:
            head = {"time": round(now_s, 3), "level": "info", "logger": "penstock.requests"}
            value = {**head, "message": "request", **pairs}
            return orjson.dumps(value, default=str).decode() + "\n"
        told = "".join([f" {name}={value}" for name, value in pairs.items()])
        if told.count(" ") != len(pairs):  # a value holds a space
            told = "".join([f" {name}={_shown(value)}" for name, value in pairs.items()])
        return f"{_clock(int(now_s))} request{told}\n"


class Sink:
    """
    Where log lines go: standard error, and a file where there is one.

    Attributes:
        file: None for none.
    """

    def __init__(self) -> None:
        self.file: LogFile | None = None

    def write(self, text: str) -> None:
        """Lines with their ends. Standard error may be closed (a detached gateway): that costs nobody a request."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(text)
        if self.file is not None:
            self.file.write(text)

    def flush(self) -> None:
        """See logging."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()

    def close(self) -> None:
        """No more file."""
        file, self.file = self.file, None
        if file is not None:
            file.close()


SINK = Sink()
"""The process's: logging has one place of its own, too."""


def log_path(options: LogOptions, port: int) -> Path | None:
    """
    The file that is written, None for none.

    Args:
        port: as the settings name it.
    """
    if options.file == "none":
        return None
    if options.file != "auto":
        return Path(options.file).expanduser()
    # A port of chance would leave a file behind each time.
    return None if port == 0 else default_log_path(port)


def default_log_path(port: int) -> Path:
    """Where the log of the gateway on *port* is, unless the settings say otherwise."""
    return log_folder() / f"gateway-{port}.log"


def open_file(options: LogOptions, path: Path | None) -> None:
    """Write to *path* from now on, besides standard error."""
    known = SINK.file
    if known is not None and known.path == path:
        known.bounds(most_bytes=options.file_bytes, keep=options.files)
        return
    SINK.close()
    if path is not None:
        SINK.file = LogFile(path, most_bytes=options.file_bytes, keep=options.files)


def configure(options: LogOptions) -> None:
    """Send what the settings want to standard error, and to the file that is open."""
    handler = logging.StreamHandler(SINK)
    handler.setFormatter(JsonFormat() if options.format == "json" else TextFormat())
    root = logging.getLogger("penstock")
    root.handlers[:] = [handler]
    root.setLevel(options.level.upper())
    root.propagate = False
    for name in ("uvicorn", "uvicorn.error"):
        foreign = logging.getLogger(name)
        foreign.handlers[:] = [handler]
        foreign.setLevel(logging.WARNING)
        foreign.propagate = False
