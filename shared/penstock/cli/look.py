"""`penstock detect` and `penstock probe`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from penstock.cli.output import (
    EXIT_NOTHING,
    EXIT_PROBLEM,
    EXIT_USAGE,
    fail,
    json_option,
    note,
    print_json,
    program,
    table,
    working,
)


@click.command()
@click.argument("url", required=False)
@click.option("--model", "-m", help="Show this model only.")
@click.option("--api-key", envvar="PENSTOCK_API_KEY", help="Key, where the server wants one.")
@json_option
def detect(url: str | None, model: str | None, api_key: str | None, as_json: bool) -> int:
    """Tell whether URL is local and what serves there; without URL, find what runs on this machine."""
    from penstock.detection import normalise_url

    if url is None:
        return _discover(model, as_json)
    try:
        clean = normalise_url(url)
    except ValueError as exc:
        if as_json:
            print_json(_refused(url, str(exc)))
            return EXIT_USAGE
        fail(f"{url}: {exc}", EXIT_USAGE)
    look = asyncio.run(_look(clean, api_key))
    value = as_value(look, model)
    if as_json:
        print_json(value)
    else:
        _show(value)
    return 0 if value["reachable"] or value["verdict"] == "cloud" else EXIT_NOTHING


@click.command()
@click.argument("url")
@click.option("--api-key", envvar="PENSTOCK_API_KEY", help="Key, where the server wants one.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Write each answer as JSON into this folder."
)
@json_option
def probe(url: str, api_key: str | None, record: Path | None, as_json: bool) -> int:
    """Ask the server at URL everything that Penstock ever asks, and show what it answers: for bug
    reports, and for recording a new kind of server."""
    from penstock.detection import judge, normalise_url

    try:
        clean = normalise_url(url)
    except ValueError as exc:
        fail(f"{url}: {exc}", EXIT_USAGE)
    if not judge(clean).is_local:
        note(
            "This is a public address; it is asked because you said so. The gateway itself never asks it."
        )
    look = asyncio.run(_look(clean, api_key, even_cloud=True))
    if not look.reachable:
        fail(look.error or "nothing answered", EXIT_PROBLEM)
    answers = {
        key: {
            "status": a.status,
            "headers": dict(a.headers),
            "body": a.json if a.json is not None else a.text,
        }
        for key, a in look.answers.items()
    }
    if record is not None:
        record.mkdir(parents=True, exist_ok=True)
        for key, answer in answers.items():
            name = re.sub(r"[^A-Za-z0-9.]+", "_", key).strip("_") or "root"
            (record / f"{name}.json").write_text(
                json.dumps({"probe": key, **answer}, indent=2) + "\n"
            )
        note(f"{len(answers)} answers written to {record}")
    if as_json:
        print_json(answers)
    else:
        table(
            ("asked", "status", "answer"),
            [(key, a["status"], json.dumps(a["body"])[:90]) for key, a in answers.items()],
        )
    return 0


async def _look(url: str, api_key: str | None, *, even_cloud: bool = False) -> Any:
    from penstock.adapters import probe as probes
    from penstock.detection import judge
    from penstock.detection.fingerprint import Recognition
    from penstock.domain.upstream import Upstream

    verdict = judge(url)
    if not verdict.is_local and not even_cloud:
        return probes.Look(url, False, None, Recognition(None, 0.0, ()), None, verdict, {},
                           "a public address: it is not probed")  # fmt: skip
    special = Upstream("x", url) if url.startswith("unix:") else None
    async with probes.make_client(special) as client:
        return await probes.look(url, client=client, api_key=api_key, timeout_s=3.0)


def is_called(model: str, name: str) -> bool:
    """Whether a request for *name* is routed to *model*: `tiny` is `tiny:latest`, and the other way round."""
    tagged = f"{name}:latest" if ":" not in name else name.removesuffix(":latest")
    return model in (name, tagged)


def as_value(look: Any, model: str | None) -> dict[str, Any]:
    """A look as `detect --json` prints it."""
    from penstock import limits
    from penstock.limits import decide_window
    from penstock.servers import spec

    models = []
    for found in look.reading.models if look.reading is not None else ():
        if model is not None and not is_called(found.model, model):
            continue
        window = decide_window(
            model=found.model, running=found.running_window, running_origin=found.window_origin
        )
        models.append(
            {
                "id": found.model,
                "context_window": window.tokens,
                "window_source": window.source.value,
                "window_detail": window.detail,
                "slots": found.slots,
                "trained_window": found.trained_window,
                "size_class": limits.size_class(
                    found.parameter_count or limits.parameter_count(found.model)
                ),
                "loaded": found.loaded,
                "remote": found.remote,
                "capabilities": {
                    name: getattr(found.capabilities, name)
                    for name in ("tools", "vision", "thinking", "embeddings")
                },
                "published_sampling": dict(found.published),
            }
        )
    evidence = (*look.verdict.evidence, *look.recognition.evidence)
    return {
        "url": look.url,
        "reachable": look.reachable,
        "verdict": look.verdict.locality.value,
        "confidence": look.verdict.confidence,
        "kind": look.kind.value if look.kind is not None else None,
        "kind_confidence": look.recognition.confidence,
        "knowledge": spec(look.kind).knowledge if look.kind is not None else None,
        "version": None if look.is_penstock else look.recognition.version,
        "is_penstock": look.is_penstock,
        "evidence": [
            {"source": e.source, "says": e.says, "detail": e.detail, "decisive": e.decisive}
            for e in dict.fromkeys(evidence)
        ],
        "suggestion": look.verdict.suggestion,
        "models": models,
        "error": look.error,
    }


def _refused(url: str, why: str) -> dict[str, Any]:
    return {
        "url": url, "reachable": False, "verdict": None, "confidence": 0.0, "kind": None,
        "evidence": [], "models": [], "error": why,
    }  # fmt: skip


def _discover(model: str | None, as_json: bool) -> int:
    from penstock.adapters.discover import discover
    from penstock.adapters.settings_file import load
    from penstock.errors import SettingsError

    more: Collection[int] = ()
    try:
        more = load(None).settings.discovery.ports
    except SettingsError as exc:
        note(f"The settings cannot be used, so only the usual ports are looked at. {exc}")
    with working("Looking for model servers on this machine"):
        looks, tried = asyncio.run(discover(extra_ports=more))
    values = [as_value(look, model) for look in looks]
    if as_json:
        print_json(values)
    elif not values:
        places = ", ".join(sorted({place.url.removeprefix("http://") for place in tried}))
        note(f"No model server was found. Looked at {places}.")
        note(f"Name one: {program()} detect http://HOST:PORT")
    for value in values if not as_json else ():
        _show(value)
    return 0 if values else EXIT_NOTHING


def _show(value: dict[str, Any]) -> None:
    where = click.style(value["url"], bold=True)
    kind = value["kind"] or ("Penstock" if value.get("is_penstock") else "nothing that is known")
    version = f" {value['version']}" if value.get("version") else ""
    knowledge = (
        " (known from its documentation only)" if value.get("knowledge") == "documented" else ""
    )
    click.echo(f"{where}  {kind}{version}{knowledge}")
    click.echo(f"  {value['verdict']} (confidence {value['confidence']:.2f})")
    for evidence in value["evidence"]:
        click.echo(
            f"    {'-' if evidence['decisive'] else '('} {evidence['detail']}{'' if evidence['decisive'] else ')'}"
        )
    if value.get("suggestion"):
        click.echo(f"  {click.style('hint:', fg='yellow')} {value['suggestion']}")
    if value["error"]:
        click.echo(f"  {value['error']}")
    if value["models"]:
        table(
            ("  model", "window", "from", "slots", "trained", "loaded"),
            [
                (f"  {m['id']}", m["context_window"], m["window_detail"] or m["window_source"],
                 m["slots"] or "?", m["trained_window"] or "?",
                 {True: "yes", False: "no", None: "?"}[m["loaded"]])
                for m in value["models"]
            ],
        )  # fmt: skip
