"""`penstock pause`, `resume`, `drain`, `bypass` and `unload`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from penstock.cli.output import EXIT_PROBLEM, fail, json_option, note, print_json, program
from penstock.cli.running import port_option, reach

if TYPE_CHECKING:
    from penstock.client import DrainProgress, Switched

upstream_argument = click.argument("upstream", required=False)


@click.command()
@upstream_argument
@click.option("--refuse", is_flag=True, help="Refuse new requests (503) instead of holding them.")
@port_option
@json_option
def pause(upstream: str | None, refuse: bool, port: int | None, as_json: bool) -> int:
    """Hold new requests for UPSTREAM, or for all; running ones go on. `resume` ends it."""
    with reach(port) as client:
        done = client.pause(upstream, refuse=refuse)
    _tell(done, f"New requests are {'refused' if refuse else 'held'}", as_json)
    return 0


@click.command()
@upstream_argument
@click.option(
    "--wait",
    "wait_s",
    default=30.0,
    show_default=True,
    help="Longest wait for a server that is not back yet, seconds.",
)
@port_option
@json_option
def resume(upstream: str | None, wait_s: float, port: int | None, as_json: bool) -> int:
    """End a pause or a drain. The server is looked at first, since it may have been replaced; then what was held
    goes on. A server that the gateway runs and has given up is started again."""
    with reach(port) as client:
        done = client.resume(upstream, wait_s=wait_s)
    if as_json:
        print_json(asdict(done))
    else:
        for name in done.resumed:
            note(f"{name}: requests go on.")
        for name in done.away:
            note(f"{name}: its server is not back yet; requests are held until it is, for a while.")
        if not done.resumed and not done.away:
            note("Nothing was paused or drained.")
    return EXIT_PROBLEM if done.away else 0


@click.command()
@upstream_argument
@click.option(
    "--hold", is_flag=True, help="Hold new requests instead of refusing them (503), until `resume`."
)
@click.option(
    "--timeout", "timeout_s", type=float, help="Longest wait for running requests, seconds."
)
@port_option
@json_option
def drain(
    upstream: str | None, hold: bool, timeout_s: float | None, port: int | None, as_json: bool
) -> int:
    """Let the running requests of UPSTREAM end, or of all, and take no new ones. Returns when nothing runs
    there any more; 1 when something still does. `resume` ends it."""
    last: DrainProgress | None = None
    shown = ""
    with reach(port) as client:
        try:
            for last in client.drain(upstream, hold=hold, timeout_s=timeout_s):
                told = f"{last.running} running, {last.waiting} {'held' if hold else 'queued'}"
                if told != shown and not as_json:
                    shown = told
                    _progress(told)
        except KeyboardInterrupt:
            _end_progress()
            note(f"The drain stays in force; `{program()} resume` ends it.")
            raise
    _end_progress()
    if last is None or last.state == "draining":
        fail("The gateway went away before it was drained.", EXIT_PROBLEM)
    drained = last.state == "drained"
    if as_json:
        print_json({"drained": drained, **asdict(last)})
    elif drained:
        held = f"; {last.waiting} are held" if last.waiting else ""
        note(f"Drained in {last.seconds:.1f} s: nothing runs there any more{held}.")
        note(f"`{program()} resume{f' {upstream}' if upstream else ''}` ends the drain.")
    else:
        still = ", ".join(f"{one.upstream}: {one.running}" for one in last.upstreams if one.running)
        note(f"Requests still run after {last.seconds:.0f} s ({still}). The drain stays in force.")
    return 0 if drained else EXIT_PROBLEM


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]))
@upstream_argument
@port_option
@json_option
def bypass(state: str, upstream: str | None, port: int | None, as_json: bool) -> int:
    """Pass requests for UPSTREAM through unchanged, or for all; `off` ends it. Keys, routing, metrics and the
    limit on requests at a time stay."""
    with reach(port) as client:
        done = client.bypass(state == "on", upstream)
    told = "Requests pass through unchanged" if state == "on" else "Requests are tuned again"
    _tell(done, told, as_json)
    return 0


@click.command()
@click.argument("model")
@upstream_argument
@port_option
@json_option
def unload(model: str, upstream: str | None, port: int | None, as_json: bool) -> int:
    """Have the server of MODEL unload it. Ollama and LM Studio can, and llama.cpp as a router."""
    with reach(port) as client:
        where, name = client.unload(model, upstream)
    if as_json:
        print_json({"upstream": where, "model": name, "unloaded": True})
    else:
        note(f"{where} has unloaded {name}.")
    return 0


def _tell(done: Switched, what: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(done))
        return
    note(f"{what}: {', '.join(done.upstreams) or 'there is no upstream yet'}.")
    if not done.kept:
        note("It lasts until the gateway ends: it was not written down.")


def _progress(told: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{told}", err=True, nl=False)
    else:
        note(told)


def _end_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
