"""`penstock serve`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import EXIT_NOTHING, fail, note, program, working
from penstock.errors import MissingPart

if TYPE_CHECKING:
    from penstock.domain.upstream import Upstream
    from penstock.gateway.upstreams.supervisor import ServerToRun


@click.command()
@click.option(
    "--config", "config", type=click.Path(path_type=Path), help="Settings file (penstock.yaml)."
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 chooses one.")
@click.option(
    "--upstream", "upstreams", multiple=True, metavar="URL", help="Model server; repeatable."
)
@click.option(
    "--embedded",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[MODEL.gguf]",
    help="Run a llama.cpp of our own, with this model, or with a tiny one that only babbles.",
)
@click.option(
    "--ctx-size",
    type=int,
    default=8192,
    show_default=True,
    help="Window of --embedded, all slots together.",
)
@click.option("--parallel", type=int, default=2, show_default=True, help="Slots of --embedded.")
@click.option(
    "--supervise",
    is_flag=True,
    help="Run the server that COMMAND starts, and start it again when it ends; --upstream says where it "
    "listens, if COMMAND does not.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
@click.option("--started-by", default="command", hidden=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    upstreams: tuple[str, ...],
    embedded: str | None,
    ctx_size: int,
    parallel: int,
    supervise: bool,
    log_level: str | None,
    log_format: str | None,
    started_by: str,
    command: tuple[str, ...],
) -> int:
    """Run the gateway in front of your model servers. Without --upstream and upstreams in the settings,
    what runs on this machine is found by itself.

    With --supervise, COMMAND is a model server that the gateway starts, watches and ends:

        penstock serve --supervise -- llama-server -m MODEL.gguf --port 8080
    """
    from penstock.adapters import state_file
    from penstock.adapters.settings_file import LoadedSettings, load
    from penstock.domain.upstream import Upstream
    from penstock.gateway.server import EXIT_PORT_TAKEN, PortTaken, run

    if supervise and not command:
        raise click.UsageError(
            "--supervise needs the COMMAND of a server: penstock serve --supervise -- COMMAND"
        )
    if command and not supervise:
        raise click.UsageError(f"What is {command[0]!r} for? A server's COMMAND needs --supervise.")
    given, upstreams = upstreams, upstreams[1:] if supervise else upstreams
    flags: dict[tuple[str | int, ...], Any] = {}
    for path, value in (
        (("listen", "host"), host),
        (("listen", "port"), port),
        (("log", "level"), log_level),
        (("log", "format"), log_format),
    ):
        if value is not None:
            flags[path] = value

    def read() -> LoadedSettings:
        return load(config, flags=flags, upstream_urls=upstreams)

    loaded = read()
    found: tuple[Upstream, ...] = loaded.upstreams
    servers: list[ServerToRun] = []
    names = {upstream.name for upstream in found}
    if supervise:
        server = _supervised(_free_name("supervised", names), command, given[:1])
        servers.append(server)
        if server.url is not None:
            found = (Upstream(server.name, server.url, local=True, found_by="supervised"), *found)
    if embedded is not None:
        server = _embedded(_free_name("embedded", names), embedded, ctx_size, parallel)
        servers.append(server)
        assert server.url is not None
        found = (
            *found,
            Upstream(server.name, server.url, local=True, exclusive=True, found_by="embedded"),
        )
    elif not found and not servers:
        added = state_file.read(loaded.settings.listen.port, mend=False).switches.added
        found = _discover(loaded, needed=not added)
    try:
        return run(
            loaded,
            found,
            reload=read,
            started_by=started_by,
            on_listening=_say_where,
            servers=tuple(servers),
        )
    except PortTaken as exc:
        fail(str(exc), EXIT_PORT_TAKEN)


def _say_where(url: str) -> None:
    note(f"Point your client at {click.style(f'{url}/v1', bold=True)} (Ctrl-C ends the gateway).")


def _supervised(name: str, command: tuple[str, ...], told: tuple[str, ...]) -> ServerToRun:
    """The server of the user's own; its address as it was *told*, or as the command says it."""
    from penstock.gateway.upstreams.supervisor import ServerToRun
    from penstock.server_command import address_of

    if told:
        given = told[0] if "://" in told[0] or told[0].startswith("unix:") else f"http://{told[0]}"
        url = given.rstrip("/").removesuffix("/v1")
        return ServerToRun(name, command, url, "--upstream")
    address = address_of(command, os.environ)
    if address.url is None:
        note(
            f"Where {Path(command[0]).name} will listen is not known ({address.why}): its ports will tell."
        )
    else:
        note(f"{Path(command[0]).name} is expected at {address.url} (by {address.why}).")
    return ServerToRun(name, command, address.url, address.why)


def _embedded(name: str, model: str, ctx_size: int, parallel: int) -> ServerToRun:
    from penstock.gateway.upstreams.supervisor import ServerToRun

    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingPart(
            "The embedded llama.cpp needs the extra `embedded`: pip install 'penstock[embedded]'"
        )
    path = Path(model) if model else tiny_model()
    if not path.is_file():
        fail(f"There is no model file {path}.")
    note(f"Starting the embedded llama.cpp on {path.name}.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = (
        sys.executable, "-m", "penstock", "llama-server", str(path), "--port", str(port), "--ctx-size", str(ctx_size),
        "--parallel", str(parallel), "--alias", path.stem, "--api-key", "",
    )  # fmt: skip
    return ServerToRun(name, command, f"http://127.0.0.1:{port}", "its port", must_start=True)


def _free_name(name: str, names: set[str]) -> str:
    """*name*, or one like it that nobody has."""
    number = 1
    while (found := name if number == 1 else f"{name}-{number}") in names:
        number += 1
    names.add(found)
    return found


def tiny_model(name: str = "tiny", says: str | None = None) -> Path:
    """A tiny model in the cache folder, made when it is not there yet."""
    from penstock.adapters.folders import cache_folder
    from penstock.adapters.tiny_model import SLOW, TINY, write_model

    folder = cache_folder() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"penstock-{name}.gguf"
    if not path.is_file() or says is not None:
        write_model(
            path, shape=SLOW if name == "slow" else TINY, name=f"penstock-{name}", says=says
        )
    return path


def _discover(loaded: Any, *, needed: bool) -> tuple[Upstream, ...]:
    """What runs on this machine; with *needed* the command ends when there is nothing."""
    from penstock.adapters.discover import discover
    from penstock.domain.upstream import Upstream

    options = loaded.settings.discovery
    if not options.enabled:
        if not needed:
            return ()
        fail(
            "No upstream is configured and discovery.enabled is false. Name one with --upstream URL.",
            EXIT_NOTHING,
        )
    with working("Looking for model servers on this machine"):
        looks, tried = asyncio.run(
            discover(extra_ports=options.ports, not_ports=(loaded.settings.listen.port,))
        )
    upstreams: list[Upstream] = []
    for look in looks:
        assert look.kind is not None
        names = {u.name for u in upstreams}
        name = look.kind.value
        if name in names:
            name = f"{name}-{look.url.rsplit(':', 1)[-1]}"
        upstreams.append(Upstream(name, look.url, found_by="discovered"))
        note(
            f"Found {look.kind.value} at {look.url} ({len(look.reading.models) if look.reading else 0} models)."
        )
    if not upstreams and needed:
        places = ", ".join(sorted({place.url.removeprefix("http://") for place in tried}))
        fail(
            f"No model server was found. Looked at {places}.\n"
            "  Start one (for example `ollama serve` or `llama-server -m MODEL.gguf`) and try again,\n"
            f"  or name it: {program()} serve --upstream http://HOST:PORT,\n"
            f"  or try Penstock without one: {program()} serve --embedded",
            EXIT_NOTHING,
        )
    return tuple(upstreams)
