"""`penstock connect`: sets a coding agent or chat app up for the gateway that runs, and takes it back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from penstock.cli.output import (
    EXIT_NOTHING,
    EXIT_USAGE,
    fail,
    json_option,
    note,
    print_json,
    program,
    with_advice,
)

if TYPE_CHECKING:
    from penstock.clients import ClientSpec, Connection, Setup

_ARGUMENTS = "penstock.connect.arguments"


class _Connect(click.Command):
    """Leaves everything after `--run` to the client: `-p hello` is no option of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--run" in args:
            place = args.index("--run") + 1
            rest = args[place:]
            ctx.meta[_ARGUMENTS] = tuple(rest[1:] if rest[:1] == ["--"] else rest)
            args = args[:place]
        return super().parse_args(ctx, args)


@click.command(cls=_Connect)
@click.argument("client", required=False)
@click.option("--write", is_flag=True, help="Change its settings files, backed up before.")
@click.option("--undo", is_flag=True, help="Take back what --write did.")
@click.option("--print", "show_text", is_flag=True, help="Print the text to paste, nothing else.")
@click.option(
    "--run", is_flag=True,
    help="Start it with these settings; files stay as they are. All that follows goes to the client.",
)  # fmt: skip
@click.option("--model", "-m", help="Which model; default: the first local one.")
@click.option("--url", help="The gateway; default: the one that runs here.")
@click.option("--key", envvar="PENSTOCK_API_KEY", help="A client key, where the gateway wants one.")
@click.option(
    "--file", "given", type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file of the client, where it is not the usual one.",
)  # fmt: skip
@json_option
@click.pass_context
def connect(
    ctx: click.Context, client: str | None, write: bool, undo: bool, show_text: bool, run: bool,
    model: str | None, url: str | None, key: str | None, given: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Set up CLIENT (claude, codex, opencode, qwen, cline, continue, aider, open-webui, zed, litellm, env) for the
    running gateway: address, key, model, the window as it runs, time-outs. Without --write, --run, --print or
    --undo it shows what it would change; without CLIENT it lists what is installed here."""
    from penstock.clients import CLIENTS, client_named

    if client is None:
        if write or undo or show_text or run:
            fail("Name the client, for example claude.", EXIT_USAGE)
        return _list(url, key, model, as_json)
    spec = client_named(client)
    if spec is None:
        names = ", ".join(spec.name for spec in CLIENTS)
        fail(f"There is no client {client!r}. There are: {names}.", EXIT_USAGE)
    if write + undo + show_text + run > 1:
        fail("Only one of --write, --run, --print and --undo.", EXIT_USAGE)
    if undo:
        return _undo(spec, as_json)
    connection = _connection(url, key, model)
    setup = spec.setup(connection)
    if show_text:
        return _print(spec, connection, setup)
    if run:
        return _run(spec, connection, setup, ctx.meta.get(_ARGUMENTS, ()))
    if write:
        return _write(spec, connection, setup, given, as_json)
    return _show(spec, connection, setup, given, as_json)


def _connection(url: str | None, key: str | None, wanted: str | None) -> Connection:
    """
    The gateway and its models.

    Ends the command with 4 when none runs, or with what the gateway refuses.
    """
    from penstock.client import Client, GatewayError, NotRunning
    from penstock.clients import Connection, NoModel, choose, read_models

    try:
        if url is None:
            with Client.find() as found:
                url = found.url
        url = url.rstrip("/").removesuffix("/v1")
        if "://" not in url:
            url = f"http://{url}"
        # As a client sees it, without the admin token: a key that is missing is noticed here.
        with Client(url, api_key=key, timeout_s=30.0) as asked:
            models = read_models(asked.models())
        chosen, *others = choose(models, wanted)
    except NotRunning as exc:
        fail(with_advice(exc), EXIT_NOTHING)
    except GatewayError as exc:
        hint = " Give a client key with --key or PENSTOCK_API_KEY." if exc.status == 401 else ""
        fail(f"{exc}{hint}")
    except NoModel as exc:
        fail(str(exc), EXIT_NOTHING)
    return Connection(url, chosen, (chosen, *others), key)


def _list(url: str | None, key: str | None, model: str | None, as_json: bool) -> int:
    from penstock.adapters.client_files import connected, traces_of
    from penstock.cli.connect_show import show_list
    from penstock.clients import CLIENTS

    connection, missing = None, None
    try:
        connection = _connection(url, key, model)
    except SystemExit as exc:  # the table is worth seeing all the same
        missing = exc.code
    records = {record.name: record for record in connected()}
    rows = [(spec, traces_of(spec), records.get(spec.name)) for spec in CLIENTS]
    show_list(rows, connection, as_json=as_json)
    return missing if isinstance(missing, int) else 0


def _show(
    spec: ClientSpec, connection: Connection, setup: Setup, given: Path | None, as_json: bool
) -> int:
    from penstock.adapters.client_files import plan
    from penstock.cli.connect_show import as_value, show_plan

    asks_for_file = any(file.folder is None for file in setup.files) and given is None
    planned = [] if asks_for_file else plan(spec, setup.files, given)
    if as_json:
        print_json(as_value(spec, connection, setup, planned))
    else:
        show_plan(spec, connection, setup, planned)
    return 0


def _print(spec: ClientSpec, connection: Connection, setup: Setup) -> int:
    from penstock.adapters.client_files import path_of
    from penstock.cli.connect_show import home_short
    from penstock.clients import apply, doubts
    from penstock.clients.shell import exports, shell_named

    for doubt in doubts(spec, connection):
        note(f"{click.style('!', fg='yellow')} {doubt}")
    if len(setup.files) == 1:
        (file,) = setup.files
        path = path_of(file)
        note(f"For {home_short(path) if path else 'the configuration of ' + spec.title}:")
        click.echo(apply(file.format, "", file.settings)[0], nl=False)
    elif setup.environment:
        shell = shell_named(os.environ.get("SHELL", ""), on_windows=os.name == "nt")
        click.echo(exports(setup.environment, shell), nl=False)
        if setup.files:
            note("The window stands in a file only: --write puts it there, --run gives it, too.")
    else:
        click.echo("".join(f"{step}\n" for step in setup.steps), nl=False)
    return 0


def _write(
    spec: ClientSpec, connection: Connection, setup: Setup, given: Path | None, as_json: bool
) -> int:
    from penstock.adapters.client_files import plan, write
    from penstock.cli.connect_show import as_value, show_written

    if not setup.files:
        fail(
            f"{spec.cannot_write}. `{program()} connect {spec.name} --print` shows what to set.",
            EXIT_USAGE,
        )
    planned = plan(spec, setup.files, given)
    backups = write(spec, connection, planned)
    if as_json:
        value = as_value(spec, connection, setup, planned)
        print_json({**value, "written": True, "backups": [str(path) for path in backups]})
    else:
        show_written(spec, connection, setup, planned, backups)
    return 0


def _undo(spec: ClientSpec, as_json: bool) -> int:
    from penstock.adapters.client_files import connected, undo
    from penstock.cli.connect_show import show_undone

    if spec.name not in {record.name for record in connected()}:
        if as_json:
            print_json({"client": spec.name, "undone": False, "files": []})
            return EXIT_NOTHING
        fail(f"{spec.title} is not connected: there is nothing to undo.", EXIT_NOTHING)
    done = undo(spec)
    if as_json:
        print_json({
            "client": spec.name, "undone": True,
            "files": [{"path": str(u.path), "how": u.how, "kept": list(u.kept),
                       "backup": str(u.backup) if u.backup else None} for u in done],
        })  # fmt: skip
    else:
        show_undone(spec, done)
    return 0


def _run(spec: ClientSpec, connection: Connection, setup: Setup, arguments: tuple[str, ...]) -> int:
    from penstock.adapters.client_files import run_files
    from penstock.clients import doubts

    launch = setup.launch
    if launch is None:
        fail(
            f"{spec.title} cannot be started with its settings given: {spec.cannot_write}. "
            f"`{program()} connect {spec.name} --print` shows what to set.",
            EXIT_USAGE,
        )
    if launch.program is None and not arguments:
        fail(f"Say what to start: `{program()} connect {spec.name} --run PROGRAM ...`.", EXIT_USAGE)
    name, rest = (launch.program, arguments) if launch.program else (arguments[0], arguments[1:])
    found = next((p for n in (name, *spec.traces.programs) if (p := shutil.which(n))), None)
    if found is None:
        fail(f"{name} is not installed here, or not on your PATH.", EXIT_NOTHING)
    places = run_files(spec, launch.files)

    def filled(text: str) -> str:
        for file_name, path in places.items():
            text = text.replace("{" + file_name + "}", path)
        return text

    environment = {k: v for k, v in os.environ.items() if k not in launch.unset}
    environment.update({k: filled(v) for k, v in launch.environment.items()})
    _past_proxies(environment, connection.url)
    for doubt in doubts(spec, connection):
        note(f"{click.style('!', fg='yellow')} {doubt}")
    if launch.without:
        note(launch.without + ".")
    window = f", {connection.model.window:,} tokens" if connection.model.window else ""
    note(f"{spec.title} with {connection.model.id}{window} at {connection.url}")
    command = [found, *(filled(argument) for argument in launch.arguments), *rest]
    return _start(command, environment)


def _start(command: list[str], environment: dict[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        try:
            os.execve(command[0], command, environment)  # noqa: S606 - a list, no shell
        except OSError as exc:
            fail(f"{command[0]} cannot be started: {exc.strerror or exc}.")
    done: Any = subprocess.run(command, env=environment, check=False)
    return int(done.returncode)


def _past_proxies(environment: dict[str, str], url: str) -> None:
    """A proxy for the world must not get what goes to this machine."""
    host = urlsplit(url).hostname or ""
    host = f"[{host}]" if ":" in host else host
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if not any(name.lower() in proxies for name in environment):
        return
    spellings = ("NO_PROXY", "no_proxy")
    # Programs read one spelling and not the other, so each gets what either said.
    said = next((environment[name] for name in spellings if environment.get(name)), "")
    for name in spellings:
        known = environment.get(name) or said
        is_there = host in known.split(",")
        environment[name] = known if is_there else f"{known},{host}".lstrip(",")
