"""
`penstock status --watch`: follows the gateway's event stream and draws what `watch` makes of each snapshot.

A gateway that goes away is waited for: it may be restarting. Without a terminal each snapshot that differs is
printed as plain text, with `--json` as a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

_EVERY_S, _PRINTED_EVERY_S, _TRY_AGAIN_S = 1.0, 2.0, 0.5


def follow(port: int | None, *, as_json: bool) -> int:
    """Show the gateway's status until interrupted; fails when none runs at the start."""
    on_terminal = sys.stdout.isatty() and not as_json
    every_s = _EVERY_S if on_terminal else _PRINTED_EVERY_S
    with _lines() if as_json else _drawing() if on_terminal else _plain() as show:
        for status, gone in snapshots(port, every_s):
            show(status, gone)
    return 0


def snapshots(
    port: int | None, every_s: float, *, pause: Callable[[float], None] = time.sleep
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """
    Each snapshot, for ever; while the gateway is away the last one, and that it is.

    Raises:
        NotRunning: there is none at the start.
        GatewayError: it refuses.
    """
    from penstock.client import Client, NotRunning

    last: dict[str, Any] | None = None
    while True:
        try:
            with Client.find(port) as client:
                for name, value in client.events(every_s):
                    if name == "snapshot":
                        last = value
                        yield value, None
        except NotRunning:
            if last is None:
                raise
        assert last is not None
        yield last, "is gone; waiting for it ..."
        pause(_TRY_AGAIN_S)


Show = Callable[[dict[str, Any], str | None], None]


@contextlib.contextmanager
def _drawing() -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live

    from penstock.cli.watch import screen

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(status: dict[str, Any], gone: str | None) -> None:
            rows = max(2, console.height - 16 - len(status.get("upstreams") or ()))
            live.update(screen(status, gone=gone, rows=rows), refresh=True)

        yield show


@contextlib.contextmanager
def _plain() -> Iterator[Show]:
    from rich.console import Console

    from penstock.cli.watch import screen

    console = Console(width=120, color_system=None)
    before = ""

    def show(status: dict[str, Any], gone: str | None) -> None:
        nonlocal before
        # How long it is up makes no snapshot another one.
        with console.capture() as captured:
            console.print(screen({**status, "uptime_s": None}, gone=gone))
        if captured.get() != before:
            before = captured.get()
            console.print(screen(status, gone=gone))
            console.print()
            sys.stdout.flush()

    yield show


@contextlib.contextmanager
def _lines() -> Iterator[Show]:
    def show(status: dict[str, Any], gone: str | None) -> None:
        value = {"running": True, **status} if gone is None else {"running": False, "error": gone}
        click.echo(json.dumps(value, default=str))
        sys.stdout.flush()

    yield show
