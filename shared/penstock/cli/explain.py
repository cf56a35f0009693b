"""`penstock explain REQUEST.json`: the pipeline's decisions, dry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from penstock.cli.output import EXIT_USAGE, fail, json_option, print_json, table
from penstock.cli.running import port_option
from penstock.domain.strategy import Strategy


@click.command()
@click.argument("request_file", metavar="REQUEST.json", type=click.Path(path_type=Path))
@click.option("--upstream", "url", metavar="URL", help="Look at this server for the profile.")
@click.option("--kind", help="Server kind, when none is to be asked.")
@click.option("--window", type=int, help="Window, when none is to be asked.")
@click.option(
    "--strategy",
    type=click.Choice([s.value for s in Strategy]),
    help="How the conversation is made to fit, in place of the settings'.",
)
@click.option(
    "--path", default="/v1/chat/completions", show_default=True, help="Path of the request."
)
@click.option(
    "--config", "config", type=click.Path(path_type=Path), help="Settings file (penstock.yaml)."
)
@port_option
@json_option
def explain(
    request_file: Path,
    url: str | None,
    kind: str | None,
    window: int | None,
    strategy: str | None,
    path: str,
    config: Path | None,
    port: int | None,
    as_json: bool,
) -> int:
    """Show what Penstock would change in a request, and why, without sending it. `-` reads standard
    input. Without --upstream and --kind it is the server that the running gateway would send it to, else the
    first one of the settings."""
    from penstock.adapters.settings_file import load
    from penstock.cli.explain_plan import explained_plan, prepare_dry, print_plan
    from penstock.domain.profile import ModelProfile, ModelReading
    from penstock.domain.upstream import ServerKind
    from penstock.errors import AnswerError
    from penstock.gateway.edge.body import parse_object
    from penstock.gateway.edge.exchange import Exchange
    from penstock.gateway.edge.routes import route
    from penstock.gateway.steps.translate import work_of
    from penstock.gateway.steps.tune import tune
    from penstock.limits import decide_window, explicit_window
    from penstock.servers import spec

    try:
        raw = sys.stdin.buffer.read() if str(request_file) == "-" else request_file.read_bytes()
    except OSError as exc:
        fail(f"{request_file}: {exc.strerror}", EXIT_USAGE)
    loaded = load(config)
    reading = ModelReading("")
    found = ServerKind.GENERIC
    if kind is not None:
        try:
            found = ServerKind(kind)
        except ValueError:
            fail(f"--kind: expected one of {', '.join(ServerKind)}, got {kind}", EXIT_USAGE)
    else:
        url = url or _of_running(port, raw)
        if url is None and loaded.upstreams:
            url = loaded.upstreams[0].url
        if url is not None:
            found, reading = _ask(url, raw)
    try:
        body = parse_object(raw)
        where = route("POST", path)
        if where.kind != "generate":
            fail(
                f"--path: {path} takes no request for a model; it is passed on or answered as it is.",
                EXIT_USAGE,
            )
        model = str(body.get("model") or reading.model)
        decided = decide_window(
            model=model,
            explicit=window or explicit_window(model, loaded.settings.limits),
            env=loaded.env.token_limit,
            running=reading.running_window,
            running_origin=reading.window_origin,
        )
        profile = ModelProfile("explained", found, reading, decided)
        prepared = None
        exchange = Exchange("req_explained", 0.0, 0.0, "POST", path, model=model)
        work = work_of(body, raw, where, exchange, spec(found))
        if work.is_chat:
            prepared = prepare_dry(work.body, profile, loaded.settings, strategy, url)
        tuned = tune(
            work,
            upstream_model=reading.model or model,
            profile=profile,
            spec=spec(found),
            settings=loaded.settings,
            env_max_tokens=loaded.env.max_tokens,
            prepared=prepared,
        )
    except AnswerError as exc:
        if as_json:
            print_json(
                {"refused": {"code": exc.code.value, "message": exc.message, "param": exc.param}}
            )
            return 1
        fail(f"The request would be refused: {exc.message} ({exc.code.value})")
    changes = (*work.changes, *tuned.changes)
    value: dict[str, Any] = {
        "kind": found.value,
        "model": reading.model or model,
        "context_window": decided.tokens,
        "window_source": decided.source.value,
        "path": tuned.path,
        "streams": tuned.streams,
        "collects": tuned.collects,
        "plan": None if prepared is None else explained_plan(prepared),
        "changes": [
            {"step": c.step, "field": c.field, "action": c.action, "detail": c.detail}
            for c in changes
        ],
        "sent": orjson.loads(tuned.body),
    }
    if as_json:
        print_json(value)
        return 0
    click.echo(
        f"To {found.value}, {tuned.path}; window {decided.tokens} ({decided.detail or decided.source.value})"
    )
    if prepared is not None:
        print_plan(prepared)
    if tuned.collects:
        click.echo(
            "The server is asked for a stream, and the client gets one answer: a hang-up is noticed only then."
        )
    if changes:
        table(
            ("step", "field", "action", "why"),
            [(c.step, c.field, c.action, c.detail) for c in changes],
        )
    else:
        click.echo("Nothing would be changed.")
    return 0


def _of_running(port: int | None, raw: bytes) -> str | None:
    """The server to which the running gateway would send the request; None when none runs, or it has none."""
    from penstock.cli.look import is_called
    from penstock.client import Client
    from penstock.errors import PenstockError

    try:
        asked = str(orjson.loads(raw).get("model") or "")
    except (orjson.JSONDecodeError, AttributeError):
        asked = ""
    try:
        with Client.find(port) as client:
            upstreams = [u for u in client.status()["upstreams"] if u["verdict"] == "local"]
    except PenstockError:
        return None
    for upstream in upstreams:
        if any(is_called(model["id"], asked) for model in upstream["models"]):
            return str(upstream["url"])
    return str(upstreams[0]["url"]) if upstreams else None


def _ask(url: str, raw: bytes) -> tuple[Any, Any]:
    import asyncio

    from penstock.cli.look import _look
    from penstock.detection import normalise_url
    from penstock.domain.profile import ModelReading
    from penstock.domain.upstream import ServerKind

    look = asyncio.run(_look(normalise_url(url), None))
    if not look.reachable:
        fail(look.error or "nothing answered")
    try:
        asked = orjson.loads(raw).get("model")
    except (orjson.JSONDecodeError, AttributeError):
        asked = None
    models = list(look.reading.models) if look.reading is not None else []
    chosen = next((m for m in models if m.model == asked), models[0] if len(models) == 1 else None)
    return look.kind or ServerKind.GENERIC, chosen or ModelReading(asked or "")
