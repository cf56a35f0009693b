"""
The routes by which the switches are turned: `POST /penstock/pause`, `resume`, `drain`, `bypass`, `unload`,
`upstreams/add`, `upstreams/forget`, and `GET /penstock/upstreams`. Bodies and answers are JSON; a drain
answers a line of JSON for each change until nothing runs any more. docs/controls.md describes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from penstock.detection import normalise_url
from penstock.domain.upstream import ServerKind, Upstream
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.controls import Controls, Running, names_of
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.unload import unload
from penstock.switches import Added

_LARGEST_BODY_BYTES = 64 * 1024
_POLL_S = 0.05
_TELL_EVERY_S = 1.0
_LONGEST_DRAIN_S = 24 * 3600.0
_NAME_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def add_controls(app: FastAPI, runtime: Runtime) -> None:
    """Give the admin app the routes of the switches."""
    controls = Controls(runtime)

    @app.post("/penstock/pause")
    async def pause(request: Request) -> Response:
        """New requests are held, or refused."""
        body = await _body(request, upstream=str, refuse=bool)
        upstream = body.get("upstream")
        kept = await controls.pause(upstream, refuse=body.get("refuse", False))
        return _json({"upstreams": names_of(controls.states(upstream)), "kept": kept})

    @app.post("/penstock/resume")
    async def resume(request: Request) -> Response:
        """End pause and drain."""
        body = await _body(request, upstream=str, wait_s=float, keep_pause=bool)
        resumed, away = await controls.resume(
            body.get("upstream"),
            wait_s=_seconds(body, "wait_s", 8.0),
            keep_pause=body.get("keep_pause", False),
        )
        return _json({"resumed": resumed, "away": away})

    @app.post("/penstock/drain")
    async def drain(request: Request) -> Response:
        """Running requests end, new ones are refused, or held."""
        body = await _body(
            request, upstream=str, hold=bool, timeout_s=float, wait=bool, release_s=float
        )
        upstream, hold = body.get("upstream"), body.get("hold", False)
        timeout_s = _seconds(body, "timeout_s", runtime.settings.timeouts.drain_s)
        release_s = _seconds(body, "release_s", 0.0) if "release_s" in body else None
        await controls.drain(upstream, hold=hold, timeout_s=timeout_s, release_s=release_s)
        lines = _drain(controls, upstream, timeout_s if body.get("wait", True) else 0.0, hold=hold)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.post("/penstock/bypass")
    async def bypass(request: Request) -> Response:
        """Requests pass through unchanged, or no longer."""
        body = await _body(request, upstream=str, on=bool)
        if "on" not in body:
            raise _wrong("on: expected true or false.")
        upstream = body.get("upstream")
        kept = await controls.bypass(upstream, on=body["on"])
        return _json({"upstreams": names_of(controls.states(upstream)), "kept": kept})

    @app.post("/penstock/unload")
    async def unload_(request: Request) -> Response:
        """Have a server unload a model."""
        body = await _body(request, model=str, upstream=str)
        model = body.get("model")
        if not model:
            raise _wrong("model: is needed.")
        return _json(await _unload(runtime, controls, model, body.get("upstream")))

    @app.get("/penstock/upstreams")
    async def upstreams() -> Response:
        """All upstreams, and where each comes from."""
        return _json({"upstreams": [_shown(state) for state in runtime.fleet]})

    @app.post("/penstock/upstreams/add")
    async def add(request: Request) -> Response:
        """Add an upstream."""
        body = await _body(request, url=str, name=str, local=bool, kind=str, models=list)
        state, kept = await controls.add(_added(body, [s.upstream for s in runtime.fleet]))
        return _json({"upstream": _shown(state), "kept": kept})

    @app.post("/penstock/upstreams/forget")
    async def forget(request: Request) -> Response:
        """Take an upstream out."""
        body = await _body(request, name=str)
        if not body.get("name"):
            raise _wrong("name: is needed.")
        return _json({"forgotten": body["name"], "kept": await controls.forget(body["name"])})


async def _drain(
    controls: Controls, upstream: str | None, timeout_s: float, *, hold: bool
) -> AsyncIterator[bytes]:
    """A line for each change, and one at the end. Who hangs up ends the waiting, not the drain."""
    began_s = time.monotonic()
    told: list[Running] = []
    told_s = 0.0
    while True:
        now_s = time.monotonic()
        running = controls.running(upstream)
        # Who stood in the queue before the drain began is answered yet; with a hold it waits as others do.
        done = not any(one.running or (one.queued and not hold) for one in running)
        late = now_s - began_s >= timeout_s
        if done:
            controls.drained(upstream, now_s - began_s)
        if done or late or running != told or now_s - told_s >= _TELL_EVERY_S:
            told, told_s = running, now_s
            line = {
                "state": "drained" if done else "expired" if late else "draining",
                "seconds": round(now_s - began_s, 2),
                "upstreams": [asdict(one) for one in running],
            }
            yield orjson.dumps(line) + b"\n"
        if done or late:
            return
        await asyncio.sleep(_POLL_S)


async def _unload(
    runtime: Runtime, controls: Controls, model: str, upstream: str | None
) -> dict[str, Any]:
    if upstream is None:
        found = await runtime.router.resolve(model, explicit=None)
        state, model = runtime.fleet.get(found.upstream), found.model
    else:
        state = controls.states(upstream)[0]
        model = runtime.router.model_now(state, model, upstream, model)
    for one in runtime.fleet.named(state.declared):
        result = await unload(runtime.keeper, one, model)
        if not result.done:
            raise RequestError(ErrorCode.INVALID_REQUEST, result.why, status=409)
        runtime.recorder.acted(one.name, "unloaded", f"{model}, because somebody asked for it")
    return {"upstream": state.declared, "model": model, "unloaded": True}


def _shown(state: UpstreamState) -> dict[str, Any]:
    return {
        "name": state.name,
        "member_of": state.upstream.member_of,
        "url": state.upstream.url,
        "found_by": state.upstream.found_by,
        "verdict": state.verdict.locality.value,
        "kind": state.kind.value if state.kind is not None else None,
        "reachable": state.reachable,
        "error": state.error,
        "models": list(dict.fromkeys((*state.profiles, *state.upstream.models))),
    }


def _added(body: Mapping[str, Any], known: list[Upstream]) -> Added:
    """
    What is to be added.

    Raises:
        RequestError: it cannot be.
    """
    try:
        url = normalise_url(body.get("url", ""))
    except ValueError as exc:
        raise _wrong(f"url: {exc}.") from None
    kind, models = body.get("kind"), body.get("models", [])
    if kind is not None and kind not in set(ServerKind):
        raise _wrong(f"kind: expected one of {', '.join(ServerKind)}.")
    if not all(isinstance(model, str) for model in models):
        raise _wrong("models: expected names.")
    name = body.get("name") or _name_for(url, known)
    if len(name) > 64 or not set(name) <= _NAME_SIGNS:
        raise _wrong("name: expected at most 64 letters, digits, '-', '_' and '.'.")
    return Added(
        name, url, body.get("local"), None if kind is None else ServerKind(kind), tuple(models)
    )


def _name_for(url: str, known: list[Upstream]) -> str:
    """As upstreams that are given by flag are called: by their address."""
    for upstream in known:
        if upstream.url == url and upstream.found_by in ("state", "discovered"):
            return upstream.name
    host = url.partition("://")[2].split("/")[0] or "local"
    base = "".join(sign if sign in _NAME_SIGNS else "-" for sign in host)[:60] or "local"
    taken = {upstream.name for upstream in known}
    numbers = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (base, *numbers) if name not in taken)


async def _body(request: Request, **fields: type) -> dict[str, Any]:
    """
    The body: an object with these fields, all of which may be missing; none at all is an empty object.

    Raises:
        RequestError: it is something else.
    """
    raw = b""
    async for data in request.stream():
        raw += data
        if len(raw) > _LARGEST_BODY_BYTES:
            raise RequestError(ErrorCode.BODY_TOO_LARGE, "The body is larger than 64 KiB.")
    if not raw.strip():
        return {}
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise _wrong(f"The body is not JSON: {exc}.") from None
    if not isinstance(body, dict):
        raise _wrong("The body must be a JSON object.")
    for name, value in list(body.items()):
        wanted = fields.get(name)
        if wanted is None:
            raise _wrong(f"{name[:80]}: there is no such field; there are {', '.join(fields)}.")
        if value is None:
            del body[name]
        elif not _is(value, wanted):
            raise _wrong(f"{name}: expected {_WORDS[wanted]}.")
    return body


_WORDS = {str: "a string", bool: "true or false", float: "a number", list: "a list"}


def _is(value: Any, wanted: type) -> bool:
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _seconds(body: Mapping[str, Any], name: str, default: float) -> float:
    value = float(body.get(name, default))
    if not 0 <= value <= _LONGEST_DRAIN_S:
        raise _wrong(f"{name}: expected 0 to {_LONGEST_DRAIN_S:g} seconds.")
    return value


def _wrong(message: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_REQUEST, message)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, default=str), media_type="application/json")
