"""`penstock status` and `penstock stop`."""

from __future__ import annotations

import time

import click

from penstock.cli.output import (
    EXIT_NOTHING,
    EXIT_PROBLEM,
    fail,
    json_option,
    note,
    print_json,
    table,
)

port_option = click.option("--port", type=int, help="Of the gateway, when several run.")


@click.command()
@port_option
@json_option
def status(port: int | None, as_json: bool) -> int:
    """Show what the running gateway does."""
    from penstock.client import Client, NotRunning

    try:
        with Client.find(port) as client:
            value = client.status()
    except NotRunning as exc:
        if as_json:
            print_json({"running": False, "error": str(exc)})
            return EXIT_NOTHING
        fail(str(exc), EXIT_NOTHING)
    if as_json:
        print_json({"running": True, **value})
        return 0
    click.echo(
        f"Penstock {value['version']} at {click.style(value['url'], bold=True)}: {value['state']}, "
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
                upstream["state"] if number == 0 else "",
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
        if upstream["error"]:
            click.echo(f"  {upstream['name']}: {upstream['error']}")
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
    return 0


@click.command()
@port_option
@click.option(
    "--wait", "wait_s", default=40.0, show_default=True, help="Longest wait for its end, seconds."
)
def stop(port: int | None, wait_s: float) -> int:
    """End the running gateway: new requests are refused, running ones end first."""
    from penstock.client import Client, NotRunning

    try:
        client = Client.find(port)
    except NotRunning as exc:
        fail(str(exc), EXIT_NOTHING)
    entry = client.entry
    assert entry is not None
    with client:
        client.stop()
    note(f"The gateway on port {entry.port} (process {entry.pid}) is ending ...")
    deadline = time.monotonic() + wait_s
    while entry.is_alive and time.monotonic() < deadline:
        time.sleep(0.05)
    if entry.is_alive:
        fail(f"It still runs after {wait_s:g} s; requests may be running there.", EXIT_PROBLEM)
    note("It has ended.")
    return 0
