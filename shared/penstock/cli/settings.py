"""`penstock config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli.output import json_option, mark, print_json, table

_FOUND_BY = {
    "environment": "PENSTOCK_UPSTREAM",
    "flag": "--upstream",
    "embedded": "--embedded",
    "supervised": "--supervise",
}


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Settings file (penstock.yaml)."
)
@click.option("--running", is_flag=True, help="Of the running gateway, instead of the file's.")
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the settings file.")
@json_option
def config(path: Path | None, running: bool, everything: bool, schema: bool, as_json: bool) -> int:
    """Show the settings in force and where each value comes from."""
    if schema:
        from penstock.settings import json_schema

        print_json(json_schema())
        return 0
    value = _of_running() if running else _of_file(path)
    if as_json:
        print_json(value)
        return 0
    rows = [
        (name, shown, value["origins"].get(name, "default"))
        for name, shown in flat(value["settings"])
        if everything or name in value["origins"]
    ]
    click.echo(f"File: {value['file'] or 'none'}")
    for name, number in value["environment"].items():
        if number is not None:
            rows.append((name, number, "environment"))
    rows += [
        (f"upstream {upstream['name']}", upstream["url"], _FOUND_BY.get(found_by, found_by))
        for upstream in value["upstreams"]
        if (found_by := upstream["found_by"]) != "configured"
    ]
    if rows:
        table(("setting", "value", "from"), rows)
    else:
        click.echo("Nothing differs from the defaults (--all shows them).")
    for warning in value["warnings"]:
        click.echo(f"{mark(False)} {warning}")
    return 0


def flat(tree: Any, at: str = "") -> list[tuple[str, Any]]:
    """Leaves of a tree by their dotted names."""
    if isinstance(tree, dict) and tree:
        return [leaf for k, v in tree.items() for leaf in flat(v, f"{at}.{k}" if at else str(k))]
    if isinstance(tree, list) and tree:
        return [leaf for i, v in enumerate(tree) for leaf in flat(v, f"{at}.{i}")]
    return [(at, tree)]


def _of_running() -> dict[str, Any]:
    from penstock.client import Client

    with Client.find() as client:
        return client.settings()


def _of_file(path: Path | None) -> dict[str, Any]:
    from penstock.adapters.settings_file import load
    from penstock.gateway.views.settings_view import settings_view

    loaded = load(path)
    return settings_view(
        loaded.settings,
        loaded.env,
        loaded.origins,
        loaded.path,
        loaded.upstreams,
        loaded.warnings,
    )
