"""
`/penstock/*`: status, event stream, requests, settings in force, reload and stop; the switches stand in
`controls`. FastAPI, since nothing here is on the path of a request for a model. Access was decided before a
request gets here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from penstock import __version__
from penstock.errors import ErrorCode, RequestError, SettingsError
from penstock.gateway.dashboard import add_dashboard
from penstock.gateway.runtime import Runtime
from penstock.gateway.views.controls import add_controls
from penstock.gateway.views.looks import add_looks
from penstock.gateway.views.record import describe
from penstock.gateway.views.status import snapshot

_KEEP_ALIVE_S = 15.0
_SHORTEST_PAUSE_S = 0.1
_BUNDLE_S = 0.1
_STILL_HERE = b": still here\n\n"


class Controls(Protocol):
    """What can be done to the running process; `penstock.gateway.server` does it."""

    def request_stop(self) -> None:
        """End the gateway: drain, then exit."""

    def reload(self) -> None:
        """Read the settings again. Raises `SettingsError`; the old ones stay in force then."""


def make_admin(runtime: Runtime, controls: Controls) -> FastAPI:
    """The app for `/penstock/*`."""
    app = FastAPI(
        title="Penstock",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/penstock/openapi.json",
    )

    @app.get("/penstock/status")
    async def status() -> Response:
        """What runs here now; see docs/status.md."""
        return _json(snapshot(runtime, _now()))

    add_controls(app, runtime)
    add_dashboard(app, runtime)
    add_looks(app, runtime)

    @app.get("/penstock/events")
    async def events(
        request: Request, every_s: float = 0.0, quiet: bool = False
    ) -> StreamingResponse:
        """One snapshot, then changes, as server-sent events, ten times a second at most; with `every_s` a snapshot at
        least as often, with `quiet` snapshots only, and nothing while nothing changes."""
        return StreamingResponse(
            _events(runtime, request, every_s, quiet=quiet),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )

    @app.get("/penstock/requests/{request_id}")
    async def one_request(request_id: str) -> Response:
        """One request, running or remembered."""
        exchange = runtime.in_flight.get(request_id) or runtime.recorder.find(request_id)
        if exchange is None:
            raise RequestError(
                ErrorCode.NOT_FOUND, f"No request {request_id[:80]} is running or remembered."
            )
        return _json(describe(exchange))

    @app.get("/penstock/history")
    async def history(since: float = 0.0) -> Response:
        """The last half hour as numbers; see docs/status.md."""
        return _json(runtime.history.shown(since))

    @app.get("/penstock/settings")
    async def settings() -> Response:
        """The settings in force, without secrets, and where each came from."""
        return _json(runtime.settings_in_force())

    @app.post("/penstock/reload")
    async def reload() -> Response:
        """Read the settings again."""
        try:
            controls.reload()
        except SettingsError as exc:
            raise RequestError(
                ErrorCode.INVALID_REQUEST,
                "The settings cannot be used; the old ones stay in force. "
                + " ".join(exc.problems),
            ) from exc
        return _json({"reloaded": True})

    @app.post("/penstock/probe")
    async def probe(upstream: str | None = None) -> Response:
        """Look at all local upstreams now, or at one."""
        if upstream is not None and not runtime.fleet.named(upstream):
            raise RequestError(
                ErrorCode.NOT_FOUND, f"No upstream is called {upstream[:100]!r}.", param="upstream"
            )
        states = list(runtime.fleet) if upstream is None else runtime.fleet.named(upstream)
        return _json({"upstreams": await runtime.health.probe(states)})

    @app.post("/penstock/stop")
    async def stop() -> Response:
        """End the gateway: new requests are refused, running ones end."""
        controls.request_stop()
        return _json({"stopping": True})

    @app.exception_handler(RequestError)
    async def refused(_: Request, exc: RequestError) -> JSONResponse:
        return JSONResponse({"error": _error(exc)}, status_code=exc.status)

    @app.exception_handler(404)
    async def missing(request: Request, _: Exception) -> JSONResponse:
        exc = RequestError(ErrorCode.NOT_FOUND, f"There is no {request.url.path}.")
        return JSONResponse({"error": _error(exc)}, status_code=404)

    return app


def _error(error: RequestError) -> dict[str, Any]:
    from penstock.dialects.surfaces import error_object

    return error_object(error, None)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, default=str), media_type="application/json")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _events(
    runtime: Runtime, request: Request, every_s: float, *, quiet: bool
) -> AsyncIterator[bytes]:
    queue = runtime.recorder.subscribe(quiet=quiet)
    # `nan` and what is below the shortest are the shortest.
    pause_s = max(_SHORTEST_PAUSE_S, min(every_s, _KEEP_ALIVE_S)) if every_s else _KEEP_ALIVE_S
    due_s = _now() + pause_s
    bundle_s = 0.0 if quiet else _BUNDLE_S
    told_s = _now() - bundle_s
    try:
        yield _event("snapshot", snapshot(runtime, _now()))
        while not await request.is_disconnected():
            try:
                async with asyncio.timeout_at(None if quiet else due_s):
                    event = await queue.get()
            except TimeoutError:
                due_s = _now() + pause_s
                yield _event("snapshot", snapshot(runtime, _now())) if every_s else _STILL_HERE
                continue
            # Hundreds of requests a second would be as many pieces for both ends to handle.
            await asyncio.sleep(max(0.0, told_s + bundle_s - _now()))
            # All that waits is told together: a snapshot is newer than every "changed" before it.
            changed, told = False, []
            while event is not None:
                if event["event"] == "changed":
                    changed = True
                else:
                    told.append(_event(str(event["event"]), event))
                if queue.empty():
                    break
                event = queue.get_nowait()
            if changed:
                due_s = _now() + pause_s
                told.append(_event("snapshot", snapshot(runtime, _now())))
            if told:
                yield b"".join(told)
                told_s = _now()
            if event is None:
                return
    finally:
        runtime.recorder.unsubscribe(queue)


def _event(name: str, value: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value, default=str))
