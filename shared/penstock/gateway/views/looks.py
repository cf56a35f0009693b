"""
What a person looks at besides the status: the end of a log (`GET /penstock/log`), and model servers of this machine that
are no upstream yet (`POST /penstock/detect`: it opens connections, so it is no mere reading). Both need the admin token.
What `penstock logs` and `penstock detect` are for a shell, these are for the dashboard.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from fastapi import FastAPI
from fastapi.responses import Response

from penstock.adapters.discover import discover
from penstock.adapters.log_tail import last_lines
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.runtime import Runtime

_MOST_LINES = 1000
_MOST_LOG_BYTES = 2**20


def add_looks(app: FastAPI, runtime: Runtime) -> None:
    """Give the admin app these routes."""

    @app.get("/penstock/log")
    async def log(lines: int = 200, server: str | None = None) -> Response:
        """The end of the gateway's log, or of that of a server which it runs."""
        path = _log_of(runtime, server)
        count = max(0, min(lines, _MOST_LINES))
        try:
            found = await asyncio.to_thread(last_lines, path, count, _MOST_LOG_BYTES)
        except OSError as exc:
            raise RequestError(
                ErrorCode.NOT_FOUND, f"{path} cannot be read: {exc.strerror}."
            ) from exc
        return _json({"file": str(path), "lines": found})

    @app.post("/penstock/detect")
    async def detect() -> Response:
        """Model servers of this machine that are no upstream yet."""
        ours = urlsplit(runtime.url).port
        looks, places = await discover(
            extra_ports=runtime.settings.discovery.ports,
            not_ports=() if ours is None else (ours,),
        )
        known = {_place(state.upstream.url) for state in runtime.fleet}
        found = [
            {"url": look.url, "kind": look.kind.value}
            for look in looks
            if look.kind is not None and _place(look.url) not in known
        ]
        return _json({"found": found, "looked_at": len(places)})


def _log_of(runtime: Runtime, server: str | None) -> Path:
    """
    Where the log is.

    Raises:
        RequestError: there is none.
    """
    if server is None:
        if runtime.log_path is None:
            raise RequestError(
                ErrorCode.NOT_FOUND,
                "This gateway writes no log file: it logs to its standard error.",
                hint="Set log.file to a path to have one.",
            )
        return runtime.log_path
    found = runtime.fleet.named(server)
    if not found or found[0].supervised is None:
        raise RequestError(
            ErrorCode.NOT_FOUND,
            f"The gateway runs no server that is called {server[:100]!r}, so there is no log of it.",
        )
    told = found[0].supervised.shown(asyncio.get_running_loop().time())["log_file"]
    return Path(str(told))


def _place(url: str) -> tuple[str, int | None]:
    """One machine has several names for itself."""
    parts = urlsplit(url)
    host = parts.hostname or parts.path
    return ("here" if host in ("localhost", "127.0.0.1", "::1") else host, parts.port)


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
