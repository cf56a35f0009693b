"""`penstock status` and `penstock stop`, and how commands reach the running gateway."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import (
    EXIT_NOTHING,
    EXIT_PROBLEM,
    EXIT_USAGE,
    fail,
    json_option,
    note,
    print_json,
    table,
)
from penstock.cli.wording import state_of, troubles_of

if TYPE_CHECKING:
    from penstock.client import Client

port_option = click.option("--port", type=int, help="Of the gateway, when several run.")
_EXIT_BY_STATUS = {400: EXIT_USAGE, 404: EXIT_NOTHING}


@contextlib.contextmanager
def reach(port: int | None) -> Iterator[Client]:
    """The running gateway; what it refuses ends the command, with the exit code that fits."""
    from penstock.client import Client, GatewayError

    with Client.find(port) as client:
        try:
            yield client
        except GatewayError as exc:
            fail(str(exc), _EXIT_BY_STATUS.get(exc.status, EXIT_PROBLEM))


@click.command()
@port_option
@click.option("--watch", "-w", is_flag=True, help="Go on showing it, until Ctrl-C.")
@json_option
def status(port: int | None, watch: bool, as_json: bool) -> int:
    """Show what the running gateway does."""
    from penstock.client import NotRunning

    if watch:
        from penstock.cli.live import follow

        return follow(port, as_json=as_json)
    try:
        with reach(port) as client:
            value = client.status()
    except NotRunning as exc:
        if not as_json:
            raise
        print_json({"running": False, "error": str(exc)})
        return EXIT_NOTHING
    if as_json:
        print_json({"running": True, **value})
        return 0
    _show(value)
    return 0


def _show(value: dict[str, Any]) -> None:
    overall = value["overall"] if value["state"] == "ok" else value["state"]
    click.echo(
        f"Penstock {value['version']} at {click.style(value['url'], bold=True)}: {overall}, "
        f"up {value['uptime_s']:.0f} s, process {value['pid']}"
    )
    for notice in value["notices"].values():
        click.echo(f"  {click.style('notice:', fg='yellow')} {notice}")
    table(
        ("upstream", "kind", "state", "running", "queued", "limit", "model", "window", "from"),
        [
            (
                upstream["name"] if number == 0 else "",
                (upstream["kind"] or upstream["verdict"]) if number == 0 else "",
                state_of(upstream) if number == 0 else "",
                upstream["concurrency"]["in_flight"] if number == 0 else "",
                upstream["concurrency"]["queued"] if number == 0 else "",
                upstream["concurrency"]["limit"] if number == 0 else "",
                model.get("id", ""),
                model.get("context_window", ""),
                model.get("window_source", ""),
            )
            for upstream in value["upstreams"]
            for number, model in enumerate(upstream["models"] or [{}])
        ],
    )
    for upstream in value["upstreams"]:
        if told := switched(upstream):
            click.echo(f"  {upstream['name']}: {told}")
        for told in troubles_of(upstream):
            click.echo(f"  {upstream['name']}: {told}")
    recent = value["requests"]["recent"][:8]
    if recent:
        click.echo()
        table(
            ("request", "model", "status", "outcome", "s", "first token", "prompt", "output"),
            [
                (r["id"], r["model"], r["status"], r["error_code"] or r["outcome"], r["duration_s"],
                 r["ttft_s"], r["prompt_tokens"], r["completion_tokens"])
                for r in recent
            ],
        )  # fmt: skip


def switched(upstream: dict[str, Any]) -> str:
    """What is switched at an upstream, and how many requests wait for that; empty for nothing."""
    told = []
    for switch, begins in (("paused", "paused"), ("drained", "drained")):
        value = upstream.get(switch)
        if value:
            told.append(f"{begins}, new requests are {'held' if value == 'hold' else 'refused'}")
    if upstream.get("bypass"):
        told.append("bypassed, requests pass through unchanged")
    held = upstream.get("concurrency", {}).get("held", 0)
    if held:
        told.append(f"{held} held")
    return "; ".join(told)


@click.command()
@port_option
@click.option(
    "--wait", "wait_s", default=40.0, show_default=True, help="Longest wait for its end, seconds."
)
def stop(port: int | None, wait_s: float) -> int:
    """End the running gateway: new requests are refused, running ones end first."""
    with reach(port) as client:
        entry = client.entry
        client.stop()
    assert entry is not None
    note(f"The gateway on port {entry.port} (process {entry.pid}) is ending ...")
    deadline = time.monotonic() + wait_s
    while entry.is_alive and time.monotonic() < deadline:
        time.sleep(0.05)
    if entry.is_alive:
        fail(f"It still runs after {wait_s:g} s; requests may be running there.", EXIT_PROBLEM)
    note("It has ended.")
    return 0
