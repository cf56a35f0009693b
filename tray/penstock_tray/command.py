"""
`penstock tray` and what belongs to it. All that the menu can do, a command does, too: `serve`, `stop`, `bypass`,
`unload`, `upstream`, `connect`, `open`, `logs`, `login`, and the ones below.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from typing import TYPE_CHECKING

import click

from penstock.errors import MissingPart
from penstock_tray import preferences

if TYPE_CHECKING:
    from penstock_tray.instance import Instance

_EXIT_PROBLEM, _EXIT_USAGE = 1, 2
_ROOT = (
    "The tray belongs to a person's desktop, and root has none: it would not reach your session's bus, and would start "
    "a gateway that is not yours. Run `penstock tray` without sudo."
)


@click.group(invoke_without_command=True)
@click.option("--no-gateway", is_flag=True, help="Start no gateway where none runs.")
@click.option("--at-login", is_flag=True, hidden=True)
@click.pass_context
def tray(ctx: click.Context, no_gateway: bool, at_login: bool) -> int:
    """Show Penstock's icon and menu on your desktop, and start the gateway where none runs. If the icon is there already,
    its dashboard opens."""
    if ctx.invoked_subcommand is not None:
        return 0
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        click.echo(f"penstock: {_ROOT}", err=True)
        return _EXIT_USAGE
    for package in ("PIL", "dbus_fast" if sys.platform == "linux" else "pystray"):
        if importlib.util.find_spec(package) is None:
            raise MissingPart(
                "The tray needs the extra `tray`: pipx install 'penstock[tray]', or pip install 'penstock[tray]'"
            )
    from penstock_tray.instance import take_or_ask

    instance = take_or_ask("look" if at_login else "show")
    if isinstance(instance, int):
        click.echo(f"Penstock is in your tray already (process {instance}).", err=True)
        return 0
    try:
        return _run(instance, starts=not no_gateway)
    finally:
        instance.leave()


def _run(instance: Instance, *, starts: bool) -> int:
    from penstock_tray.backends import choose
    from penstock_tray.desk import Desk

    async def here() -> None:
        await Desk(choose, starts=starts).run(instance)

    if sys.platform == "linux":
        asyncio.run(here())
        instance.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads that wait for a panel or a stream hold nothing that matters.
        os._exit(0)
    return _in_main_thread(instance, starts=starts)


def _in_main_thread(instance: Instance, *, starts: bool) -> int:
    """Windows and macOS: the toolkit has the main thread, the event loop another one."""
    from penstock_tray.backends import Calls
    from penstock_tray.backends.toolkit import ToolkitBackend
    from penstock_tray.desk import Desk

    made: list[ToolkitBackend] = []
    ready = threading.Event()

    def choose(calls: Calls) -> ToolkitBackend:
        made.append(ToolkitBackend(calls))
        ready.set()
        return made[0]

    async def here() -> None:
        await Desk(choose, starts=starts).run(instance)

    ended: list[int] = []

    def loop() -> None:
        try:
            asyncio.run(here())
            ended.append(0)
        finally:  # a loop that died of a defect must not leave a dead icon behind
            ready.set()
            if made and not ended:
                made[0].stop()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    ready.wait()
    if made:
        made[0].main_loop()
    thread.join(10)
    return 0 if ended else _EXIT_PROBLEM


@tray.command()
@click.argument("state", type=click.Choice(["on", "off"]))
def notifications(state: str) -> int:
    """Show changes that last as notifications, or do not."""
    preferences.save(preferences.Preferences(notifications=state == "on"))
    _have_it_look()
    return 0


@tray.command("menu-entry")
@click.argument("state", type=click.Choice(["on", "off"]))
def menu_entry(state: str) -> int:
    """Put Penstock among the applications of your desktop (Linux), or take it out."""
    from penstock_tray import desktop_entry

    for path in desktop_entry.write() if state == "on" else desktop_entry.remove():
        click.echo(path)
    return 0


@tray.command("quit")
def quit_() -> int:
    """Quit the tray, and the gateway if a tray started it."""
    from penstock_tray.instance import ask

    ask("quit")
    return 0


@tray.command()
def reset() -> int:
    """Take away all that the tray and `penstock login` have written: settings, start at login, menu entry."""
    from penstock_tray import desktop_entry, login

    login.entry().remove()
    for path in desktop_entry.remove():
        click.echo(path)
    preferences.forget()
    _have_it_look()
    return 0


def _have_it_look() -> None:
    """A tray that runs shows what was chosen here."""
    from penstock_tray.instance import NoTray, TrayHangs, ask

    try:
        ask("look")
    except (NoTray, TrayHangs):
        pass
