"""How commands speak: tables and colour for people on a terminal, JSON for machines, one clear error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

EXIT_FINE, EXIT_PROBLEM, EXIT_USAGE, EXIT_PORT_TAKEN, EXIT_NOTHING, EXIT_INTERRUPTED = (
    0,
    1,
    2,
    3,
    4,
    130,
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def program() -> str:
    """How the user calls this program: `penstock` where it is installed, else as from a checkout."""
    if Path(sys.argv[0]).stem.lower() == "penstock":
        return "penstock"
    root = Path(__file__).resolve().parents[3]
    return "python3 shared" if (root / ".ci" / "bootstrap.py").is_file() else "penstock"


def with_advice(error: Exception) -> str:
    """What an error says, and how a gateway is started where none was found."""
    from penstock.client import NoGateway

    return (
        f"{error} `{program()} serve` starts one." if isinstance(error, NoGateway) else str(error)
    )


def print_json(value: Any) -> None:
    """One JSON value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def fail(message: str, code: int = EXIT_PROBLEM) -> NoReturn:
    """End with one sentence on standard error."""
    click.echo(f"{click.style('penstock:', fg='red', bold=True)} {message}", err=True)
    raise SystemExit(code)


def note(message: str) -> None:
    """A remark on standard error, which leaves standard output to the result."""
    click.echo(message, err=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None
) -> None:
    """A table as wide as the terminal; plain text when it is not one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(
            *(
                cell if isinstance(cell, Text) else Text("" if cell is None else str(cell))
                for cell in row
            )
        )
    console.print(made)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something is going on, on a terminal."""
    if not sys.stderr.isatty():
        note(f"{what} ...")
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def mark(good: bool | None) -> str:
    """`ok`, `!!` or `--`, in colour."""
    if good is None:
        return click.style("--", fg="yellow")
    return click.style("ok", fg="green") if good else click.style("!!", fg="red", bold=True)
