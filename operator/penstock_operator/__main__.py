"""`python -m penstock_operator`: the same as `penstock operator`."""

import sys

import click

from penstock.errors import PenstockError
from penstock_operator.command import operator


def main() -> None:
    """Run the operator and end the process with its exit code."""
    try:
        operator.main(prog_name="python -m penstock_operator", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except PenstockError as exc:
        click.echo(f"penstock: {exc}", err=True)
        sys.exit(getattr(exc, "exit_code", 1))


if __name__ == "__main__":
    main()
