"""
The typed client of a running gateway: what command line, tray and operator use, and the only way by which
they reach one.

It finds a gateway of this user by its runtime file and presents the admin token that stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson

from penstock.adapters import runtime_file
from penstock.adapters.runtime_file import RuntimeFile
from penstock.dialects.sse import SseFramer, parse_event
from penstock.errors import PenstockError
from penstock.settings import DEFAULT_PORT


class NotRunning(PenstockError):
    """No gateway of this user runs (there)."""


class GatewayError(PenstockError):
    """The gateway answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """
    Args:
        url: of the gateway.
        token: its admin token, None for reading only.
        api_key: a client key, where the gateway wants one.
        entry: the runtime file it was found by.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        entry: RuntimeFile | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        headers = {}
        if token:
            headers["penstock-admin-token"] = token
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self.url = url
        self.entry = entry
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False)

    @classmethod
    def find(cls, port: int | None = None, *, folder: Path | None = None) -> Client:
        """
        The running gateway of this user.

        Args:
            port: which one; None takes the only one, else the one on the default port.

        Raises:
            NotRunning: there is none, or several and none of them on the default port.
        """
        running = runtime_file.alive(folder)
        if port is not None:
            running = [entry for entry in running if entry.port == port]
        if not running:
            where = f" on port {port}" if port is not None else ""
            raise NotRunning(f"No Penstock gateway runs{where}. `penstock serve` starts one.")
        if len(running) > 1:
            usual = [entry for entry in running if entry.port == DEFAULT_PORT]
            if not usual:
                urls = ", ".join(entry.url for entry in running)
                raise NotRunning(
                    f"Several gateways run ({urls}); name one, by --url for `connect`, else by --port."
                )
            running = usual
        entry = running[0]
        return cls(entry.url, token=entry.token, entry=entry)

    def status(self) -> dict[str, Any]:
        """What runs there now (docs/status.md)."""
        return self._get("/penstock/status")

    def settings(self) -> dict[str, Any]:
        """The settings in force, without secrets."""
        return self._get("/penstock/settings")

    def request(self, request_id: str) -> dict[str, Any]:
        """One request, running or remembered."""
        return self._get(f"/penstock/requests/{request_id}")

    def models(self) -> list[dict[str, Any]]:
        """The models that clients see."""
        return list(self._get("/v1/models")["data"])

    def stop(self) -> None:
        """End the gateway: drain, then exit."""
        self._send("POST", "/penstock/stop")

    def reload(self) -> None:
        """Read the settings again."""
        self._send("POST", "/penstock/reload")

    def probe(self, upstream: str | None = None) -> list[dict[str, Any]]:
        """Have all local upstreams looked at now, or one: `upstream`, `findings`, times (docs/health.md)."""
        query = "" if upstream is None else f"?upstream={quote(upstream, safe='')}"
        answer = orjson.loads(self._send("POST", f"/penstock/probe{query}").content)
        return list(answer["upstreams"])

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and value of each event: one `snapshot`, then changes. Ends when the gateway does."""
        framer = SseFramer()
        try:
            with self._http.stream("GET", "/penstock/events", timeout=60.0) as response:
                for chunk in response.iter_bytes():
                    for raw in framer.feed(chunk):
                        event = parse_event(raw)
                        if event.data:
                            yield event.name, orjson.loads(event.data)
        except httpx.HTTPError as exc:
            raise NotRunning(f"The gateway at {self.url} is gone: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str) -> dict[str, Any]:
        value = orjson.loads(self._send("GET", path).content)
        assert isinstance(value, dict)
        return value

    def _send(self, method: str, path: str) -> httpx.Response:
        try:
            response = self._http.request(method, path)
        except httpx.HTTPError as exc:
            raise NotRunning(
                f"The gateway at {self.url} does not answer: {exc or type(exc).__name__}"
            ) from exc
        if response.status_code >= 400:
            try:
                message = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = f"it answered {response.status_code}"
            raise GatewayError(f"The gateway refused: {message}", response.status_code)
        return response
