"""The command `penstock` itself: its groups, its exit codes, its last line of defence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import click

from penstock.cli.output import EXIT_INTERRUPTED, EXIT_PROBLEM, EXIT_USAGE, fail, with_advice

# command -> the module that has it, imported when it is asked for.
_COMMANDS = {
    "serve": ("serve", "Run the gateway."),
    "detect": ("look", "Find model servers, or look at one."),
    "probe": ("look", "Ask one server everything and show what it answers."),
    "explain": ("explain", "Show what would be changed in a request, and why."),
    "doctor": ("doctor", "Check this machine, the settings and the upstreams."),
    "status": ("running", "Show what the running gateway does."),
    "stop": ("running", "End the running gateway."),
    "pause": ("controls", "Hold new requests, for one upstream or all."),
    "resume": ("controls", "End a pause or a drain."),
    "drain": ("controls", "Let running requests end, and take no new ones."),
    "bypass": ("controls", "Pass requests through unchanged."),
    "unload": ("controls", "Have a server unload a model."),
    "upstream": ("upstream", "Add, forget and list upstreams while the gateway runs."),
    "open": ("dashboard", "Open the dashboard in the browser."),
    "logs": ("logs", "Show the gateway's log, or a server's."),
    "config": ("settings", "Show the settings in force and where each comes from."),
    "connect": ("connect", "Set up a coding agent or chat app for the gateway."),
    "demo": ("demo", "See the difference on a real llama.cpp, without any download."),
    "fetch": ("fetch", "Fetch the file of a model."),
    "llama-server": ("llama", "Run the embedded llama.cpp."),
    "completion": ("shell", "Print the shell completion script."),
    "version": ("shell", "Print the version."),
}


# Commands of other packages (the operator, the tray) are found by this group; nothing here imports them.
ENTRY_POINTS = "penstock.commands"


def _added() -> dict[str, EntryPoint]:
    return {one.name: one for one in entry_points(group=ENTRY_POINTS) if one.name not in _COMMANDS}


class _Lazy(click.Group):
    """Knows its commands by name and imports them one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(_added())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        if found is None:
            added = _added().get(cmd_name)
            loaded = added.load() if added is not None else None
            return loaded if isinstance(loaded, click.Command) else None
        module = import_module(f"penstock.cli.{found[0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            rows = [(name, text) for name, (_, text) in _COMMANDS.items()]
            for name in sorted(_added()):
                command = self.get_command(ctx, name)
                if command is not None:
                    rows.append((name, command.get_short_help_str(80)))
            formatter.write_dl(rows)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.pass_context
def penstock(ctx: click.Context) -> None:
    """Penstock stands between your clients and your local model server and makes it dependable."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """
    Run one command.

    Returns:
        the exit code: 0 fine, 1 a problem was found, 2 usage or settings, 3 port taken or already
        running, 4 nothing found, 130 interrupted.
    """
    from penstock.errors import MissingPart, PenstockError, SettingsError

    try:
        result = penstock.main(list(arguments), prog_name="penstock", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return EXIT_USAGE
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_PROBLEM
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except SettingsError as exc:
        return _told("\n  ".join(["The settings cannot be used:", *exc.problems]), EXIT_USAGE)
    except MissingPart as exc:
        return _told(str(exc), EXIT_USAGE)
    except PenstockError as exc:
        return _told(with_advice(exc), getattr(exc, "exit_code", EXIT_PROBLEM))
    except Exception as exc:
        if os.environ.get("PENSTOCK_DEBUG"):
            raise
        return _told(
            f"A defect in Penstock: {type(exc).__name__}: {exc}. PENSTOCK_DEBUG=1 shows where.",
            EXIT_PROBLEM,
        )


def _told(message: str, code: int) -> int:
    try:
        fail(message, code)
    except SystemExit:
        return code
