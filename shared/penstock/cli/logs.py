"""`penstock logs`."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.output import EXIT_NOTHING, fail, note
from penstock.cli.running import port_option


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option(
    "--lines", "-n", default=50, show_default=True, help="Lines to show.", type=click.IntRange(0)
)
@click.option("--server", metavar="NAME", help="Of this upstream's server, if the gateway runs it.")
@port_option
def logs(follow: bool, lines: int, server: str | None, port: int | None) -> int:
    """Show the end of the gateway's log, also of one that has ended, or of a server that it runs."""
    from penstock.adapters import log_tail

    path = _server_log(server, port) if server is not None else _gateway_log(port)
    try:
        found = log_tail.last_lines(path, lines)
    except FileNotFoundError:
        if not follow:
            fail(f"There is no log yet: {path} does not exist.", EXIT_NOTHING)
        note(f"{path} does not exist yet ...")
        found = []
    except OSError as exc:
        fail(f"{path} cannot be read: {exc.strerror}")
    for line in found:
        click.echo(line)
    for line in log_tail.follow(path) if follow else ():
        click.echo(line)
    return 0


def _gateway_log(port: int | None) -> Path:
    """The running gateway's, else that of the one that wrote last."""
    from penstock.adapters.folders import log_folder
    from penstock.client import Client, GatewayError, NoGateway
    from penstock.gateway.views.logs import default_log_path

    try:
        with Client.find(port) as client:
            told = client.status().get("log_file")
    except NoGateway:
        if port is not None:
            return default_log_path(port)
        known = list(log_folder().glob("gateway-*.log"))
        if not known:
            fail(f"No gateway runs, and none has left a log in {log_folder()}.", EXIT_NOTHING)
        return max(known, key=lambda path: path.stat().st_mtime)
    except GatewayError as exc:
        fail(str(exc))
    if told is None:
        fail(
            "That gateway writes no file: it logs to its standard error. Set log.file to a path to have one.",
            EXIT_NOTHING,
        )
    return Path(told)


def _server_log(server: str, port: int | None) -> Path:
    """Where the gateway captures what a server of its own writes; the status says it."""
    from penstock.cli.running import reach

    with reach(port) as client:
        upstreams = client.status()["upstreams"]
    found = next((u for u in upstreams if u["name"] == server), None)
    if found is None:
        names = ", ".join(u["name"] for u in upstreams) or "none"
        fail(f"No upstream is called {server}; there are: {names}.", EXIT_NOTHING)
    path = (found.get("supervised") or {}).get("log_file")
    if path is None:
        fail(f"The gateway does not run the server of {server}, so it has no log.", EXIT_NOTHING)
    return Path(path)
