"""
The typed client of a running gateway: what command line, tray and operator use, and the only way by which
they reach one.

It finds a gateway of this user by its runtime file and presents the admin token that stands there.

It stands on `http.client`, with a connection for each question: the tray stays in memory for weeks, and httpx alone
would cost it as much as all of its own parts. No proxy is ever asked.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import orjson

from penstock.adapters import runtime_file
from penstock.adapters.runtime_file import RuntimeFile
from penstock.dialects.sse import SseFramer, parse_event
from penstock.errors import PenstockError


class NotRunning(PenstockError):
    """No gateway of this user runs (there), or it is gone."""

    exit_code = 4  # contracts 12: nothing found


class NoGateway(NotRunning):
    """None was found: one can be started."""


class GatewayError(PenstockError):
    """The gateway answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Switched:
    """
    Something was switched.

    Attributes:
        upstreams: where.
        kept: it survives a restart of the gateway.
    """

    upstreams: tuple[str, ...]
    kept: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """
    Attributes:
        resumed: upstreams whose requests go on.
        away: those whose server is not back yet; the gateway goes on waiting for them.
    """

    resumed: tuple[str, ...]
    away: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpstreamWork:
    """
    What one upstream has to do.

    Attributes:
        running: requests that it works on, with those whose clients are gone.
        queued, held: requests that wait in front of it.
    """

    upstream: str
    running: int
    queued: int
    held: int


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """
    Attributes:
        state: `draining`; at the end `drained`, or `expired` when requests still run.
    """

    state: Literal["draining", "drained", "expired"]
    seconds: float
    upstreams: tuple[UpstreamWork, ...]

    @property
    def running(self) -> int:
        """Of all upstreams."""
        return sum(one.running for one in self.upstreams)

    @property
    def waiting(self) -> int:
        """Queued and held, of all upstreams."""
        return sum(one.queued + one.held for one in self.upstreams)


@dataclass(frozen=True, slots=True)
class AddedUpstream:
    """
    Attributes:
        upstream: what was seen there: `name`, `url`, `kind`, `reachable`, `error`, `models`.
        kept: it is there after a restart of the gateway.
    """

    upstream: dict[str, Any]
    kept: bool


class Client:
    """
    Args:
        url: of the gateway.
        token: its admin token, None for reading only.
        api_key: a client key, where the gateway wants one.
        entry: the runtime file it was found by.
        headers: more of them, for what stands between (the API server of a cluster).
        verify: whom `https` is believed; True asks the usual authorities.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        api_key: str | None = None,
        entry: RuntimeFile | None = None,
        timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        sent = dict(headers or {})
        if token:
            sent["penstock-admin-token"] = token
        if api_key:
            sent["authorization"] = f"Bearer {api_key}"
        self.url = url
        self.entry = entry
        self._headers = sent
        self._timeout_s = timeout_s
        self._verify = verify

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
            raise NoGateway(f"No Penstock gateway runs{where}.")
        if len(running) > 1:
            from penstock.settings import (
                DEFAULT_PORT,
            )  # late: its classes weigh more than this client

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
        return self._get(f"/penstock/requests/{quote(request_id, safe='')}")

    def models(self) -> list[dict[str, Any]]:
        """The models that clients see."""
        return list(self._get("/v1/models")["data"])

    def stop(self) -> None:
        """End the gateway: drain, then exit."""
        self._send("POST", "/penstock/stop")

    def reload(self) -> None:
        """Read the settings again."""
        self._send("POST", "/penstock/reload")

    def dashboard_url(self) -> str:
        """The dashboard's address for a browser; it opens once, within a minute."""
        assert self.entry is not None
        code = orjson.loads(self._send("POST", "/penstock/session"))["code"]
        return f"{self.entry.url}/penstock/session?code={code}"

    def probe(self, upstream: str | None = None) -> list[dict[str, Any]]:
        """Have all local upstreams looked at now, or one: `upstream`, `findings`, times (docs/health.md)."""
        query = "" if upstream is None else f"?upstream={quote(upstream, safe='')}"
        answer = orjson.loads(self._send("POST", f"/penstock/probe{query}"))
        return list(answer["upstreams"])

    def pause(self, upstream: str | None = None, *, refuse: bool = False) -> Switched:
        """Hold new requests for one upstream or all, or refuse them; running ones go on."""
        return _switched(self._post("/penstock/pause", upstream=upstream, refuse=refuse))

    def resume(
        self, upstream: str | None = None, *, wait_s: float = 8.0, keep_pause: bool = False
    ) -> Resumed:
        """
        End drain, and pause too unless *keep_pause*. Servers are looked at first; for one that is not back it waits
        for *wait_s*.
        """
        answer = self._post(
            "/penstock/resume", within_s=wait_s + 10.0,
            upstream=upstream, wait_s=wait_s, keep_pause=keep_pause,
        )  # fmt: skip
        return Resumed(tuple(answer["resumed"]), tuple(answer["away"]))

    def drain(
        self,
        upstream: str | None = None,
        *,
        hold: bool = False,
        timeout_s: float | None = None,
        wait: bool = True,
        release_s: float | None = None,
    ) -> Iterator[DrainProgress]:
        """
        Let running requests end, and refuse new ones, or hold them, until `resume`.

        Args:
            timeout_s: how long to wait for the end; None takes the gateway's `timeouts.drain_s`.
            wait: False returns what runs now, and does not wait for its end.
            release_s: the drain ends by itself after so long, unless it is asked for again before; None keeps it.

        Yields:
            how far it is; the last one says `drained`, or `expired` when requests still run.
        """
        fields = {
            "upstream": upstream, "hold": hold, "timeout_s": timeout_s, "wait": wait, "release_s": release_s,
        }  # fmt: skip
        silence_s = 30.0 if wait else self._timeout_s
        with self._asked("POST", "/penstock/drain", fields, silence_s) as response:
            while line := response.readline():
                value = orjson.loads(line)
                yield DrainProgress(
                    value["state"],
                    value["seconds"],
                    tuple(UpstreamWork(**one) for one in value["upstreams"]),
                )

    def bypass(self, on: bool, upstream: str | None = None) -> Switched:
        """Pass requests through unchanged, or no longer."""
        return _switched(self._post("/penstock/bypass", upstream=upstream, on=on))

    def unload(self, model: str, upstream: str | None = None) -> tuple[str, str]:
        """Have a server unload a model. Returns the upstream, and the model's name there."""
        answer = self._post("/penstock/unload", within_s=40.0, upstream=upstream, model=model)
        return answer["upstream"], answer["model"]

    def upstreams(self) -> list[dict[str, Any]]:
        """All upstreams, and where each comes from."""
        return list(self._get("/penstock/upstreams")["upstreams"])

    def add_upstream(
        self,
        url: str,
        *,
        name: str | None = None,
        local: bool | None = None,
        kind: str | None = None,
        models: Sequence[str] = (),
    ) -> AddedUpstream:
        """Add an upstream; see `UpstreamOptions` for what is said of it."""
        answer = self._post(
            "/penstock/upstreams/add", within_s=30.0,
            url=url, name=name, local=local, kind=kind, models=list(models),
        )  # fmt: skip
        return AddedUpstream(answer["upstream"], answer["kept"])

    def forget_upstream(self, name: str) -> bool:
        """Take an added or discovered upstream out. Returns whether it stays out after a restart."""
        return bool(self._post("/penstock/upstreams/forget", name=name)["kept"])

    def events(
        self, every_s: float | None = None, *, quiet: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Name and value of each event: one `snapshot`, then changes. Ends when the gateway does.

        Args:
            every_s: a snapshot comes at least as often; None leaves it to changes.
            quiet: nothing is sent and nobody wakes up while nothing changes; a gateway that hangs is not noticed then.
        """
        framer = SseFramer()
        wish = "" if every_s is None else f"?every_s={every_s}"
        if quiet:
            wish = "?quiet=true"
        within_s = None if quiet else 60.0
        with self._asked("GET", f"/penstock/events{wish}", within_s=within_s) as response:
            while chunk := response.read1(65_536):
                for raw in framer.feed(chunk):
                    event = parse_event(raw)
                    if event.data:
                        yield event.name, orjson.loads(event.data)

    def close(self) -> None:
        """Nothing is kept open between questions."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str) -> dict[str, Any]:
        value = orjson.loads(self._send("GET", path))
        assert isinstance(value, dict)
        return value

    def _post(self, path: str, *, within_s: float | None = None, **fields: Any) -> dict[str, Any]:
        value = orjson.loads(self._send("POST", path, fields, within_s))
        assert isinstance(value, dict)
        return value

    def _send(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        within_s: float | None = None,
    ) -> bytes:
        with self._asked(method, path, fields, within_s or self._timeout_s) as response:
            return response.read()

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        within_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer while it is read; *within_s* is the longest silence, None waits for ever."""
        parts = urlsplit(self.url)
        headers, body = self._headers, None
        if fields is not None:
            headers, body = {**headers, "content-type": "application/json"}, orjson.dumps(fields)
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port, within_s)
        answered = False
        try:
            connection.request(method, parts.path + path, body, headers)
            response = connection.getresponse()
            answered = True
            if response.status >= 400:
                raise _refused(response.status, response.read())
            yield response
        except (OSError, http.client.HTTPException) as exc:
            how = "is gone" if answered else "does not answer"
            raise NotRunning(
                f"The gateway at {self.url} {how}: {exc or type(exc).__name__}"
            ) from exc
        finally:
            connection.close()

    def _connection(
        self, scheme: str, host: str, port: int | None, within_s: float | None
    ) -> http.client.HTTPConnection:
        if scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=within_s)
        context = self._verify
        if not isinstance(context, ssl.SSLContext):
            context = ssl.create_default_context()
            context.check_hostname = bool(self._verify)
            context.verify_mode = ssl.CERT_REQUIRED if self._verify else ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=within_s, context=context)


def _switched(answer: dict[str, Any]) -> Switched:
    return Switched(tuple(answer["upstreams"]), answer["kept"])


def _refused(status: int, body: bytes) -> GatewayError:
    try:
        message = orjson.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"it answered {status}"
    return GatewayError(f"The gateway refused: {message}", status)
