"""`penstock version` and `penstock completion`."""

from __future__ import annotations

import platform

import click
from click.shell_completion import get_completion_class

from penstock import __version__
from penstock.cli.output import json_option, print_json


@click.command()
@json_option
def version(as_json: bool) -> int:
    """Print the version."""
    if as_json:
        print_json(
            {
                "penstock": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
            }
        )
    else:
        click.echo(f"penstock {__version__} (Python {platform.python_version()})")
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of SHELL. For bash: eval "$(penstock completion bash)"."""
    from penstock.cli.main import penstock

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(penstock, {}, "penstock", "_PENSTOCK_COMPLETE").source())
    return 0
