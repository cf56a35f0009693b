"""
A proxy in front of a real API server that counts what passes and makes faults on demand: for tests only.

It speaks plain HTTP, so a kubeconfig that names it needs no certificate, and passes on whatever it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

import kube_parts

_HOP = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding"}


class FaultyApi:
    """
    The way to an API server.

    Attributes:
        calls: what was sent: by `METHOD kind`, where the kind is the last collection of the path, watches apart
            as `WATCH kind`.
        unavailable: everything is answered by 503.
    """

    def __init__(self, server: kube_parts.ApiServer) -> None:
        self._to = server.url
        self._certificate = server.folder / "pki" / "apiserver.crt"
        self.calls: Counter[str] = Counter()
        self.unavailable = False
        self._watches: dict[web.StreamResponse, aiohttp.ClientResponse] = {}
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._end: asyncio.Event | None = None
        self.port = 0
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )

    def kubeconfig(self, other: Path) -> Path:
        """*other*, by this way."""
        body = json.loads(other.read_text())
        body["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        file = other.with_suffix(".faulty")
        file.write_text(json.dumps(body))
        return file

    def say(self, event: dict[str, Any]) -> int:
        """End every watch that runs with that event, as the API server ends one after an error; how many there were."""
        said = asyncio.run_coroutine_threadsafe(self._say(event), self._loop)
        return said.result(10)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        trust = ssl.create_default_context(cafile=str(self._certificate))
        # Watches last: no limits of time or number.
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._client:
            app = web.Application(client_max_size=16 * 1024**2)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._up.set()
            await self._end.wait()
            await runner.cleanup()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in ("true", "1")
        kind = _kind(request.path)
        self.calls[f"{'WATCH' if watch else request.method} {kind}"] += 1
        if self.unavailable:
            return web.json_response(_status(503, "ServiceUnavailable"), status=503)
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _HOP
        }
        body = await request.read()
        try:
            async with self._client.request(
                request.method, self._to + request.path_qs, headers=headers, data=body or None
            ) as found:
                kept = {"content-type": found.headers.get("content-type", "application/json")}
                if not watch or found.status != 200:
                    return web.Response(status=found.status, headers=kept, body=await found.read())
                answer = web.StreamResponse(status=found.status, headers=kept)
                await answer.prepare(request)
                self._watches[answer] = found
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async for line in found.content:
                        await answer.write(line)
                self._watches.pop(answer, None)
                return answer
        except aiohttp.ClientError:
            return web.json_response(_status(503, "ServiceUnavailable"), status=503)

    async def _say(self, event: dict[str, Any]) -> int:
        told = dict(self._watches)
        for answer, source in told.items():
            await answer.write(json.dumps(event).encode() + b"\n")
            source.close()
        return len(told)


def _kind(path: str) -> str:
    """`/apis/apps/v1/namespaces/n/deployments/d/status` is `deployments/status`."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    if not parts:
        return "discovery"
    return f"{parts[0]}/{parts[2]}" if len(parts) > 2 else parts[0]


def _status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": "a fault of a test",
    }  # fmt: skip


def error(code: int, reason: str) -> dict[str, Any]:
    """An error inside of a watch."""
    return {"type": "ERROR", "object": _status(code, reason)}
