"""What `penstock connect` shows to people: a table of clients, the diff of each file, what was done."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import note, print_json, program, table

if TYPE_CHECKING:
    from penstock.adapters.client_files import Planned, Undone
    from penstock.clients import ClientSpec, Connected, Connection, Setup

Row = tuple["ClientSpec", list[str], "Connected | None"]


def home_short(path: Path | str) -> str:
    """A path with `~` for the home folder."""
    try:
        return f"~/{Path(path).relative_to(Path.home()).as_posix()}"
    except ValueError:
        return str(path)


def as_value(
    spec: ClientSpec, connection: Connection, setup: Setup, planned: Sequence[Planned]
) -> dict[str, Any]:
    """For machines: what it would get."""
    from penstock.clients import doubts
    from penstock.clients.paths import shown

    return {
        "client": spec.name,
        "gateway": connection.url,
        "model": connection.model.id,
        "window": connection.model.window,
        "output": connection.model.output_tokens,
        "environment": dict(setup.environment),
        "files": [
            {
                "path": str(plan.path),
                "exists": plan.old is not None,
                "changes": plan.old != plan.new,
                "settings": [
                    {"path": shown(s.path), "value": s.value, "why": s.why} for s in file.settings
                ],
            }
            for plan, file in zip(planned, setup.files, strict=False)
        ],
        "steps": list(setup.steps),
        "notes": list(setup.notes),
        "warnings": list(doubts(spec, connection)),
        "cannot_write": spec.cannot_write,
        "cannot_prevent": list(spec.cannot_prevent),
        "sources": list(spec.sources),
    }


def show_list(rows: Sequence[Row], connection: Connection | None, *, as_json: bool) -> None:
    """All clients: what is here first."""
    if as_json:
        print_json(
            {
                "gateway": connection.url if connection else None,
                "model": connection.model.id if connection else None,
                "window": connection.model.window if connection else None,
                "clients": [
                    {"client": spec.name, "title": spec.title, "found": traces,
                     "would_get": _would_get(spec, connection),
                     "connected": {"url": record.url, "model": record.model, "window": record.window}
                     if record else None}
                    for spec, traces, record in rows
                ],
            }
        )  # fmt: skip
        return
    here = [row for row in rows if row[1] or row[2]]
    if here:
        table(
            ("client", "name", "found here", "would get", "connected with"),
            [
                (spec.title, spec.name, "\n".join(home_short(t) for t in traces) or "-",
                 _would_get(spec, connection), _told(record))
                for spec, traces, record in here
            ],
        )  # fmt: skip
    else:
        click.echo("None of the clients that Penstock knows was found here.")
    rest = [
        spec for spec, traces, record in rows if not traces and not record and spec.name != "env"
    ]
    click.echo()
    if rest:
        click.echo(f"Not found here: {', '.join(spec.title for spec in rest)}.")
    click.echo(f"Anything else: {program()} connect env --print")
    if connection is not None:
        click.echo(
            f"\nThe gateway at {connection.url} has {_model(connection)}.\n"
            f"{program()} connect NAME shows what it would change; --write does it, --run starts the client so."
        )


def _would_get(spec: ClientSpec, connection: Connection | None) -> str:
    if spec.cannot_write:
        return (
            "variables (--print, --run)" if spec.name != "cline" else "steps to type in (--print)"
        )
    from penstock.adapters.client_files import path_of
    from penstock.clients import Connection as Made
    from penstock.clients import Model

    some = Model("-")
    setup = spec.setup(connection or Made("http://127.0.0.1", some, (some,)))
    places = [path_of(file) for file in setup.files]
    return "\n".join(home_short(p) if p else "the file you name (--file)" for p in places)


def _told(record: Connected | None) -> str:
    if record is None:
        return ""
    return record.model + (f", {record.window:,}" if record.window is not None else "")


def _model(connection: Connection) -> str:
    model = connection.model
    if model.window is None:
        return f"{model.id}, whose window nobody tells"
    return f"{model.id} with a window of {model.window:,} tokens ({model.source or 'known'})"


def show_plan(
    spec: ClientSpec, connection: Connection, setup: Setup, planned: Sequence[Planned]
) -> None:
    """What would be changed."""
    _head(spec, connection)
    for plan in planned:
        click.echo()
        _diff(plan, connection.key)
    if setup.environment and not setup.files:
        click.echo()
        for name, value in setup.environment.items():
            click.echo(f"  {name}={_masked(value, connection.key)}")
    if setup.files and not planned:
        click.echo(f"\n  {program()} connect {spec.name} --print prints what belongs into its file; "
                   "--write --file FILE puts it there.")  # fmt: skip
    _by_hand(setup, connection.key)
    _remarks(spec, connection, setup)
    click.echo()
    ways = []
    if planned and any(plan.old != plan.new for plan in planned):
        ways.append(("--write", "change it so; --undo takes it back"))
    if setup.launch is not None:
        ways.append(("--run", "start it so, its files stay as they are"))
    ways.append(("--print", "only the text, to paste"))
    for flag, text in ways:
        click.echo(f"  {program()} connect {spec.name} {flag:8} {text}")


def _head(spec: ClientSpec, connection: Connection) -> None:
    click.echo(f"{click.style(spec.title, bold=True)} to {connection.url}, speaking {spec.dialect}")
    click.echo(f"  model   {connection.model.id}")
    others = [model.id for model in connection.models[1:]]
    if others:
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        click.echo(f"          (there are also {', '.join(others[:4])}{more}: --model)")
    model = connection.model
    if model.window is not None:
        click.echo(f"  window  {model.window:,} tokens ({model.source or 'known'}), answers up to "
                   f"{model.output_tokens:,}")  # fmt: skip


def _diff(plan: Planned, key: str | None) -> None:
    name = home_short(plan.path)
    if plan.old == plan.new:
        click.echo(f"{name} has all of it already.")
        return
    old = (plan.old or b"").decode(errors="replace").splitlines()
    new = plan.new.decode(errors="replace").splitlines()
    kind = "new file" if plan.old is None else "as it is"
    for line in difflib.unified_diff(old, new, f"{name}  ({kind})", name, lineterm="", n=2):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        is_head = line.startswith(("+++", "---"))
        click.echo(click.style(_masked(line, key), fg=None if is_head else colour, bold=is_head))


def _masked(text: str, key: str | None) -> str:
    return text.replace(key, f"{key[:3]}***") if key else text


def _by_hand(setup: Setup, key: str | None) -> None:
    if setup.steps:
        click.echo("\nBy hand:")
        for number, step in enumerate(setup.steps, 1):
            click.echo(f"  {number}. {_masked(step, key)}")


def _remarks(spec: ClientSpec, connection: Connection, setup: Setup) -> None:
    from penstock.clients import doubts

    texts = [(click.style("!", fg="yellow", bold=True), d) for d in doubts(spec, connection)]
    texts += [("-", text) for text in setup.notes]
    texts += [("-", f"{spec.title} {text}.") for text in spec.cannot_prevent]
    if texts:
        click.echo()
    for sign, text in texts:
        click.echo(f"{sign} {_masked(text, connection.key)}")


def show_written(
    spec: ClientSpec, connection: Connection, setup: Setup, planned: Sequence[Planned],
    backups: Sequence[Path],
) -> None:  # fmt: skip
    """What was changed, and how it is taken back."""
    click.echo(
        f"{click.style(spec.title, bold=True)} is connected to {connection.url}: {_model(connection)}."
    )
    for plan in planned:
        word = "made" if plan.old is None else "changed" if plan.old != plan.new else "as before"
        click.echo(f"  {word:9} {home_short(plan.path)}")
        if connection.key and os.name != "nt" and plan.path.stat().st_mode & 0o077:
            sign = click.style("!", fg="yellow", bold=True)
            click.echo(
                f"  {sign} others on this machine can read it, and your key stands in it: chmod 600"
            )
    for backup in backups:
        click.echo(f"  {'backup':9} {home_short(backup)}")
    _by_hand(setup, connection.key)
    _remarks(spec, connection, setup)
    note(f"\n{program()} connect {spec.name} --undo takes it back.")


def show_undone(spec: ClientSpec, done: Sequence[Undone]) -> None:
    """What became of each file."""
    texts = {
        "restored": "as it was before, byte for byte",
        "removed": "removed: it was not there before",
        "taken back": "changed by somebody else since: only Penstock's settings were taken out",
        "gone": "is not there any more",
    }
    click.echo(f"{click.style(spec.title, bold=True)} is no longer connected.")
    for undone in done:
        click.echo(f"  {home_short(undone.path)}: {texts[undone.how]}")
        if undone.kept:
            click.echo(
                f"    left, because their values are not Penstock's any more: {', '.join(undone.kept)}"
            )
        if undone.backup is not None and undone.backup.exists():
            click.echo(f"    as it was before the connect: {home_short(undone.backup)}")
