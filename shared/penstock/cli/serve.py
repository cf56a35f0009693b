"""`penstock serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.output import EXIT_NOTHING, fail, note, program, working

if TYPE_CHECKING:
    from penstock.domain.upstream import Upstream


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
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
@click.option("--started-by", default="command", hidden=True)
def serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    upstreams: tuple[str, ...],
    embedded: str | None,
    ctx_size: int,
    parallel: int,
    log_level: str | None,
    log_format: str | None,
    started_by: str,
) -> int:
    """Run the gateway in front of your model servers. Without --upstream and upstreams in the settings,
    what runs on this machine is found by itself."""
    from penstock.adapters import state_file
    from penstock.adapters.settings_file import LoadedSettings, load
    from penstock.domain.upstream import Upstream
    from penstock.gateway.server import EXIT_PORT_TAKEN, PortTaken, run

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
    child = None
    if embedded is not None:
        child = _start_embedded(embedded, ctx_size, parallel)
        found = (
            *found,
            Upstream("embedded", child.url, local=True, exclusive=True, found_by="embedded"),
        )
    elif not found:
        added = state_file.read(loaded.settings.listen.port, mend=False).switches.added
        found = _discover(loaded, needed=not added)
    try:
        return run(loaded, found, reload=read, started_by=started_by, on_listening=_say_where)
    except PortTaken as exc:
        fail(str(exc), EXIT_PORT_TAKEN)
    finally:
        if child is not None:
            child.stop()


def _say_where(url: str) -> None:
    note(f"Point your client at {click.style(f'{url}/v1', bold=True)} (Ctrl-C ends the gateway).")


def _start_embedded(model: str, ctx_size: int, parallel: int) -> Any:
    from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions

    path = model or str(tiny_model())
    with working(f"Starting the embedded llama.cpp on {Path(path).name}"):
        server = EmbeddedServer(
            LlamaServerOptions(
                path, port=0, ctx_size=ctx_size, parallel=parallel, alias=Path(path).stem
            )
        )
        return server.wait_ready()


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
