"""`penstock login`: start at login, and the systemd unit for who prefers one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from penstock_tray import login as entries

_UNIT = Path(__file__).parent / "desktop" / "penstock.service"
_TELLS = {
    "off": "Nothing of Penstock starts at login.",
    "tray": "At login Penstock starts with its icon.",
    "gateway": "At login the gateway starts, without an icon.",
    "blocked": "Start at login is switched off by your desktop's settings.",
}


@click.group(invoke_without_command=True)
@click.pass_context
def login(ctx: click.Context) -> int:
    """Start Penstock when you log in. Off unless you switch it on; by itself it says what is so."""
    if ctx.invoked_subcommand is None:
        click.echo(_TELLS[entries.entry().state()])
    return 0


@login.command()
@click.argument("what", type=click.Choice(["tray", "gateway"]), required=False)
def on(what: str | None) -> int:
    """Start the icon, which starts the gateway (tray), or the gateway alone (gateway) at login. Default: the icon,
    where it is installed."""
    chosen = what or ("tray" if importlib.util.find_spec("PIL") else "gateway")
    entries.entry().write(chosen)
    click.echo(_TELLS[entries.entry().state()], err=True)
    return 0


@login.command()
def off() -> int:
    """Start nothing at login, and leave nothing behind."""
    entries.entry().remove()
    click.echo(_TELLS["off"], err=True)
    return 0


@login.command()
def unit() -> int:
    """Print a systemd user unit for the gateway, in place of the entry."""
    run = " ".join(_quoted(part) for part in entries.command("gateway"))
    click.echo(_UNIT.read_text("utf-8").replace("@COMMAND@", run), nl=False)
    return 0


def _quoted(argument: str) -> str:
    """As systemd.service(5) wants it: `%` and `$` doubled, quotes where there is a space."""
    plain = argument.replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if " " in plain else plain
