"""Log lines: a constant message and pairs, as text for people or as JSON for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

from penstock.settings import LogOptions


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


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text) if " " in text and not text.startswith("[") else text


def configure(options: LogOptions) -> None:
    """Send what the settings want to standard error."""
    handler = logging.StreamHandler(sys.stderr)
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
