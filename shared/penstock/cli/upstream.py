"""`penstock upstream add`, `forget` and `list`."""

from __future__ import annotations

from dataclasses import asdict

import click

from penstock.cli.output import EXIT_PROBLEM, json_option, note, print_json, table
from penstock.cli.running import port_option, reach

_FROM = {"state": "added", "flag": "--upstream", "environment": "PENSTOCK_UPSTREAM"}


@click.group()
def upstream() -> None:
    """Add, forget and list upstreams while the gateway runs. What is added or forgotten here stands in
    `state.json` in your state folder; your settings file is never rewritten, and what it says comes first."""


@upstream.command()
@click.argument("url")
@click.option("--name", help="How it is called; its address otherwise.")
@click.option(
    "--local/--cloud", "local", default=None, help="What it is, where the address does not tell."
)
@click.option("--kind", help="The kind of server; it is recognised otherwise.")
@click.option("--model", "models", multiple=True, help="A model that it serves; repeatable.")
@port_option
@json_option
def add(
    url: str,
    name: str | None,
    local: bool | None,
    kind: str | None,
    models: tuple[str, ...],
    port: int | None,
    as_json: bool,
) -> int:
    """Add the server at URL. 1 when it does not answer; it is added all the same."""
    with reach(port) as client:
        done = client.add_upstream(url, name=name, local=local, kind=kind, models=models)
    seen = done.upstream
    is_there = seen["verdict"] == "cloud" or bool(seen["reachable"])
    if as_json:
        print_json(asdict(done))
        return 0 if is_there else EXIT_PROBLEM
    count = len(seen["models"])
    told = f"{seen['kind'] or seen['verdict']}, {count} model{'' if count == 1 else 's'}"
    note(f"Added {seen['name']} ({seen['url']}): {told}.")
    if not is_there:
        note(f"It does not answer now: {seen['error'] or 'nothing is there'}")
    _tell_whether_kept(done.kept)
    return 0 if is_there else EXIT_PROBLEM


@upstream.command()
@click.argument("name")
@port_option
@json_option
def forget(name: str, port: int | None, as_json: bool) -> int:
    """Take the upstream NAME out: one that was added, or that was found by itself."""
    with reach(port) as client:
        kept = client.forget_upstream(name)
    if as_json:
        print_json({"forgotten": name, "kept": kept})
        return 0
    note(f"{name} is forgotten.")
    _tell_whether_kept(kept)
    return 0


@upstream.command("list")
@port_option
@json_option
def list_(port: int | None, as_json: bool) -> int:
    """List the upstreams, and where each comes from."""
    with reach(port) as client:
        found = client.upstreams()
    if as_json:
        print_json(found)
        return 0
    table(
        ("upstream", "url", "kind", "from", "models"),
        [
            (
                one["name"],
                one["url"],
                one["kind"] or one["verdict"],
                _FROM.get(one["found_by"], one["found_by"]),
                ", ".join(one["models"][:6]) + (" ..." if len(one["models"]) > 6 else ""),
            )
            for one in found
        ],
    )
    return 0


def _tell_whether_kept(kept: bool) -> None:
    if not kept:
        note("It lasts until the gateway ends: it was not written down.")
