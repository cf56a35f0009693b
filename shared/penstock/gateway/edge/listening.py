"""The sockets that a gateway listens on: bound once, and who has the address when that fails."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from penstock.adapters import runtime_file
from penstock.errors import PenstockError, SettingsError

BACKLOG = 2048


class PortTaken(PenstockError):
    """Somebody listens there already."""


def open_sockets(host: str, port: int, unix_socket: str | None) -> list[socket.socket]:
    """
    Bind what is to be listened on.

    Raises:
        PortTaken: with who has it, when that can be told.
    """
    hosts = ["127.0.0.1", "::1"] if host == "localhost" else [host]
    sockets: list[socket.socket] = []
    try:
        for place, address in enumerate(hosts):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            if os.name != "nt":  # on Windows it would let two gateways have one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if port == 0 and sockets:
                    port = sockets[0].getsockname()[1]
                listener.bind((address.strip("[]"), port))
            except OSError as exc:
                listener.close()
                if place and address == "::1":
                    continue  # a machine without IPv6
                raise PortTaken(_why_taken(address, port, exc)) from exc
            listener.listen(BACKLOG)
            listener.setblocking(False)
            sockets.append(listener)
        if unix_socket is not None:
            sockets.append(_unix(unix_socket))
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def _unix(path: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise SettingsError(["listen.unix_socket: this platform has no Unix sockets"])
    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.5)
            probe.connect(path)
        raise PortTaken(f"Somebody listens on {path} already.")
    if Path(path).exists() and not Path(path).is_socket():
        raise SettingsError([f"listen.unix_socket: {path} exists and is no socket"])
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _why_taken(host: str, port: int, exc: OSError) -> str:
    known = runtime_file.read(port)
    if known is not None and known.is_alive:
        return (
            f"Penstock runs on port {port} already (process {known.pid}). "
            "`penstock status` shows it, `penstock stop` ends it."
        )
    return (
        f"Cannot listen on {host}:{port}: {exc.strerror or exc}. "
        "Another program may have the port; --port takes another one."
    )


def port_of(sockets: list[socket.socket]) -> int:
    for listener in sockets:
        name = listener.getsockname()
        if isinstance(name, tuple):
            return int(name[1])
    return 0


def shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::", "localhost"):  # noqa: S104 - shown, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
