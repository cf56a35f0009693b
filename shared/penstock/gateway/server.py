"""
Runs the gateway: sockets, signals, the settings file under watch, the runtime file, the orderly end.

uvicorn serves; our own signal handling replaces its, because SIGTERM means "drain, then exit with 0" here
and SIGHUP "read the settings again" (where the platform has it).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from penstock import __version__
from penstock.adapters import runtime_file
from penstock.adapters.path_watch import PathWatch
from penstock.adapters.settings_file import LoadedSettings
from penstock.adapters.surroundings import raise_descriptor_limit
from penstock.adapters.transport import Transport
from penstock.domain.upstream import Upstream
from penstock.errors import SettingsError
from penstock.gateway.app import Gateway
from penstock.gateway.edge.access import check_bind
from penstock.gateway.edge.listening import BACKLOG, PortTaken, open_sockets, port_of, shown_host
from penstock.gateway.edge.protocol import Protocol, WireLimits, with_limits
from penstock.gateway.live_rules import LiveRules
from penstock.gateway.own_servers import OwnServers
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.supervisor import ServerToRun
from penstock.gateway.upstreams.switchboard import Switchboard
from penstock.gateway.views.logs import SINK, configure, log_path, open_file
from penstock.gateway.views.settings_view import changed_names
from penstock.resources import most_connections
from penstock.settings import Settings

log = logging.getLogger("penstock.gateway")

EXIT_FINE, EXIT_PORT_TAKEN, EXIT_INTERRUPTED = 0, 3, 130
_IDLE_CLIENT_S = 75
_WATCH_EVERY_S = 1.0
_DRAIN_POLL_S = 0.05
_AFTER_DRAIN_S = 1
"""For what outlived the drain to be told so."""


_NOT_OF_THE_FILE = ("discovered", "embedded", "supervised")
"""Where upstreams come from that a reload leaves as they are."""
_FIXED_AT_START = {
    "listen": (
        "host", "port", "unix_socket", "tls_certificate", "tls_key", "max_header_bytes", "header_timeout_s"
    ),
    "timeouts": ("drain_s",),
}  # fmt: skip


class GatewayServer:
    """
    One gateway process.

    Args:
        loaded: the settings.
        upstreams: in force; discovered ones among them.
        reload: loads the settings again, for SIGHUP, the file watch and `/penstock/reload`.
        started_by: `command`, `tray`, `operator`, `test`.
        on_listening: called with the URL once requests are taken.
        servers: model servers that it runs itself.
    """

    def __init__(
        self,
        loaded: LoadedSettings,
        upstreams: tuple[Upstream, ...],
        *,
        reload: Callable[[], LoadedSettings] | None = None,
        started_by: str = "command",
        on_listening: Callable[[str], None] | None = None,
        servers: tuple[ServerToRun, ...] = (),
    ) -> None:
        self._loaded = loaded
        self._started_with = loaded.settings
        self._bound_host = loaded.settings.listen.host
        self._upstreams = upstreams
        self._load_again = reload
        self._started_by = started_by
        self._on_listening = on_listening
        self._servers = servers
        self._own: OwnServers | None = None
        self._interrupted = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Future[None] | None = None
        self._descriptors: int | None = None
        self._server: uvicorn.Server | None = None
        self._protocol: type[Protocol] | None = None
        self.runtime: Runtime | None = None

    def run(self) -> int:
        """Serve until told to end. Returns the exit code."""
        settings = self._loaded.settings
        configure(settings.log)
        problem = check_bind(
            settings.listen.host,
            has_keys=bool(self._loaded.client_keys),
            allow_anonymous=settings.listen.allow_anonymous,
        )
        if problem is not None:
            raise SettingsError([problem])
        self._descriptors = raise_descriptor_limit()
        sockets = open_sockets(
            settings.listen.host, settings.listen.port, settings.listen.unix_socket
        )
        try:
            if sys.platform != "win32":
                with contextlib.suppress(ImportError):
                    import uvloop

                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        return runner.run(self._serve(sockets))
            with asyncio.Runner() as runner:
                return runner.run(self._serve(sockets))
        finally:
            for listener in sockets:
                listener.close()
            if settings.listen.unix_socket:
                Path(settings.listen.unix_socket).unlink(missing_ok=True)

    # Controls of the admin app.

    def request_stop(self) -> None:
        """Drain, then exit."""
        runtime = self.runtime
        if runtime is None or self._loop is None:
            if self._server is not None:
                self._server.should_exit = True
        elif not runtime.leaving:
            log.info("stopping; %d requests are let end", len(runtime.in_flight))
            runtime.leaving = True
            if self._protocol is not None:
                self._protocol.leaving = True
            still_s = self._loaded.settings.listen.accept_after_stop_s
            runtime.draining = still_s == 0
            self._loop.call_soon_threadsafe(self._leave, still_s)

    def _leave(self, still_s: float) -> None:
        """Clients that have not heard of it yet are served a little longer."""
        if still_s:
            asyncio.get_running_loop().call_later(still_s, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        """Go on listening while requests run: who comes now is told when to come again, and status tells it."""
        assert self.runtime is not None
        self.runtime.draining = True
        self.runtime.recorder.changed("state")
        for connection in list(self._server.server_state.connections) if self._server else ():
            if isinstance(connection, Protocol):
                connection.rest_no_more()
        if self.runtime.in_flight:
            self._draining = asyncio.ensure_future(self._exit_when_drained(self.runtime))
        else:
            self._exit()

    async def _exit_when_drained(self, runtime: Runtime) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._started_with.timeouts.drain_s):
                while runtime.in_flight:  # noqa: ASYNC110 (requests know of no such event)
                    await asyncio.sleep(_DRAIN_POLL_S)
        self._exit()

    def _exit(self) -> None:
        if self.runtime is not None:
            self.runtime.recorder.end_streams()
        if self._server is not None:
            self._server.should_exit = True

    def reload(self) -> None:
        """Read the settings again; the old ones stay in force when that fails."""
        if self._load_again is None or self.runtime is None:
            return
        try:
            loaded = self._load_again()
            # What is bound stays bound: the file must not take its guard away.
            problem = check_bind(
                self._bound_host,
                has_keys=bool(loaded.client_keys),
                allow_anonymous=loaded.settings.listen.allow_anonymous,
            )
            if problem is not None:
                raise SettingsError([problem])
        except SettingsError as exc:
            told = "; ".join(exc.problems)
            self.runtime.notices["settings"] = f"The changed settings are not in force: {told}"
            self.runtime.recorder.changed("settings")
            log.error("the changed settings cannot be used; the old ones stay in force: %s", told)
            raise
        self._tell_what_waits(loaded.settings)
        changed = changed_names(self._loaded.settings, loaded.settings)
        if loaded.client_keys != self._loaded.client_keys:
            changed.append("the client keys")
        fixed = [u for u in self._upstreams if u.found_by in _NOT_OF_THE_FILE]
        self._loaded = loaded
        self.runtime.notices.pop("settings", None)
        configure(loaded.settings.log)
        self.runtime.env = loaded.env
        self.runtime.origins = loaded.origins
        self._open_log_file()
        self._rules.update(loaded)
        self.runtime.reload(loaded.settings, (*loaded.upstreams, *fixed))
        if self._own is not None:
            self._own.reloaded()
        log.info("settings reloaded; changed: %s", _enumerated(changed) or "nothing")

    def _tell_what_waits(self, settings: Settings) -> None:
        """What was bound or handed to the server at the start stays; that must not go unsaid."""
        assert self.runtime is not None
        waiting = [
            f"{group}.{name}"
            for group, names in _FIXED_AT_START.items()
            for name in names
            if getattr(getattr(settings, group), name)
            != getattr(getattr(self._started_with, group), name)
        ]
        self.runtime.notices.pop("start", None)
        if waiting:
            told = f"{', '.join(waiting)}: the change takes effect at the next start."
            self.runtime.notices["start"] = told
            log.warning(told)

    async def _serve(self, sockets: list[socket.socket]) -> int:
        loaded, settings = self._loaded, self._loaded.settings
        runtime = self.runtime = Runtime(
            settings, self._upstreams, loaded.env, started_by=self._started_by,
            board=Switchboard(settings.listen.port),
        )  # fmt: skip
        if runtime.board.notice is not None:
            log.warning("%s", runtime.board.notice)
            runtime.notices["state"] = runtime.board.notice
        runtime.admin_token = loaded.admin_token or runtime.admin_token
        runtime.settings_path, runtime.origins = loaded.path, loaded.origins
        for warning in loaded.warnings:
            log.warning(warning)
            runtime.notices[warning.partition(":")[0]] = warning
        self._open_log_file()
        port = port_of(sockets)
        scheme = "https" if settings.listen.tls_certificate else "http"
        runtime.url = f"{scheme}://{shown_host(settings.listen.host)}:{port}"
        self._rules = LiveRules(runtime, loaded, self._bound_host)
        transport = Transport()
        gateway = Gateway(runtime, transport, self._rules.current, _LazyAdmin(runtime, self))
        self._rules.gateway = gateway
        server = self._server = uvicorn.Server(self._config(gateway))
        entry = runtime_file.RuntimeFile(
            port, runtime.url, os.getpid(), runtime_file.process_started_at(os.getpid()),
            __version__, self._started_by, runtime.admin_token,
        )  # fmt: skip
        watch = asyncio.create_task(self._watch_settings(), name="settings watch")
        server.capture_signals = self._no_signals  # type: ignore[method-assign]
        self._install_signals()
        try:
            runtime_file.write(entry)
        except OSError as exc:
            told = f"Its runtime file cannot be written ({exc.strerror}): other commands do not find this gateway."
            runtime.notices["runtime_file"] = told
            log.warning(told)
        self._loop = asyncio.get_running_loop()
        try:
            await runtime.start()
            own = self._own = OwnServers(runtime, self._servers, settings.listen.port)
            self._upstreams = await own.begin(self._upstreams, lambda: server.should_exit)
            announce = asyncio.create_task(self._announce(server), name="announce")
            await server.serve(sockets=sockets)
            announce.cancel()
        finally:
            watch.cancel()
            runtime_file.remove(entry)
            runtime.recorder.end_streams()
            if self._own is not None:
                await self._own.stop()
            await runtime.stop()
            await transport.aclose()
            await asyncio.gather(watch, return_exceptions=True)
            runtime.recorder.log.flush()  # of those that were cut off a moment ago
            log.info("stopped")
            SINK.close()
        return EXIT_INTERRUPTED if self._interrupted else EXIT_FINE

    def _open_log_file(self) -> None:
        assert self.runtime is not None
        log_options, port = self._loaded.settings.log, self._started_with.listen.port
        path = log_path(log_options, port)
        self.runtime.log_path = path
        open_file(log_options, path)

    def _config(self, app: Any) -> uvicorn.Config:
        listen = self._loaded.settings.listen
        limits = WireLimits(
            header_bytes=listen.max_header_bytes,
            header_timeout_s=listen.header_timeout_s,
            connections=None if self._descriptors is None else most_connections(self._descriptors),
        )
        self._protocol = with_limits(limits)
        return uvicorn.Config(
            app,
            http=self._protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_IDLE_CLIENT_S,
            timeout_graceful_shutdown=_AFTER_DRAIN_S,
            backlog=BACKLOG,
            ssl_certfile=listen.tls_certificate,
            ssl_keyfile=listen.tls_key,
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
        )

    async def _announce(self, server: uvicorn.Server) -> None:
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # Requests leave no cycles behind (tests hold that), so the collector finds nothing in them and may come
        # a fourteenth as often.
        gc.set_threshold(10_000, 20, 50)
        assert self.runtime is not None
        log.info("listening on %s", self.runtime.url)
        if self._on_listening is not None:
            self._on_listening(self.runtime.url)

    async def _watch_settings(self) -> None:
        watches = _watches(self._loaded)
        if not watches or self._load_again is None:
            return
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            changed = [watch for watch in watches if watch.changed()]  # each of them looks
            if changed:
                try:
                    self._reload_quietly()
                except Exception:
                    log.exception(
                        "the changed settings could not be read; the old ones stay in force"
                    )

    @contextlib.contextmanager
    def _no_signals(self) -> Iterator[None]:
        yield

    def _install_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # in a test's thread; whoever runs us there ends us by `request_stop`
        loop = asyncio.get_running_loop()
        if sys.platform == "win32":  # its loops know no signal handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(
                    number, lambda n, _: loop.call_soon_threadsafe(self._end_by_signal, n)
                )
            return

        def interrupted() -> None:
            self._end_by_signal(signal.SIGINT)

        loop.add_signal_handler(signal.SIGTERM, self.request_stop)
        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGHUP, self._reload_quietly)

    def _reload_quietly(self) -> None:
        with contextlib.suppress(SettingsError):
            self.reload()

    def _end_by_signal(self, number: int) -> None:
        if self._server is not None and self.runtime is not None and self.runtime.leaving:
            self._server.should_exit = self._server.force_exit = (
                True  # a second Ctrl-C does not wait
            )
        self._interrupted = number == signal.SIGINT
        self.request_stop()


def _watches(loaded: LoadedSettings) -> list[PathWatch]:
    """What a reload follows: the settings file, and the secrets that it names by file."""
    listen = loaded.settings.listen
    paths = (loaded.path, listen.admin_token_file, listen.client_keys_dir)
    return [PathWatch(Path(path).expanduser()) for path in paths if path]


def _enumerated(names: list[str], most: int = 12) -> str:
    """Names in a sentence, not too many of them."""
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


class _LazyAdmin:
    """The admin app, made on its first request: FastAPI takes a while to import."""

    def __init__(self, runtime: Runtime, controls: GatewayServer) -> None:
        self._runtime = runtime
        self._controls = controls
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from penstock.gateway.views.admin import make_admin

            self._app = make_admin(self._runtime, self._controls)
        await self._app(scope, receive, send)


def run(
    loaded: LoadedSettings,
    upstreams: tuple[Upstream, ...],
    *,
    reload: Callable[[], LoadedSettings] | None = None,
    started_by: str = "command",
    on_listening: Callable[[str], None] | None = None,
    servers: tuple[ServerToRun, ...] = (),
) -> int:
    """Run a gateway until it is told to end. Returns the exit code (contracts 12)."""
    return GatewayServer(
        loaded,
        upstreams,
        reload=reload,
        started_by=started_by,
        on_listening=on_listening,
        servers=servers,
    ).run()


__all__ = ["GatewayServer", "PortTaken", "open_sockets", "run"]
