"""`penstock open`: the dashboard in the browser, with the right to switch."""

from __future__ import annotations

import webbrowser

import click

from penstock.cli.output import note
from penstock.cli.running import port_option, reach


@click.command("open")
@click.option("--print", "only_print", is_flag=True, help="Print the address; open nothing.")
@port_option
def open_dashboard(only_print: bool, port: int | None) -> int:
    """Open the dashboard in the browser. The address works once, and for a minute."""
    with reach(port) as client:
        url = client.dashboard_url()
    if only_print:
        click.echo(url)
    elif not webbrowser.open(url):
        note(f"No browser was found here. Open {url} within a minute.")
    return 0


open = open_dashboard
