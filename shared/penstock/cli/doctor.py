"""`penstock doctor`: looks at everything that commonly goes wrong, and says what to do about each."""

from __future__ import annotations

import asyncio
import platform
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from penstock.cli.doctor_running import running_findings
from penstock.cli.findings import Finding
from penstock.cli.output import json_option, mark, print_json, program, working

_GIB = 1024**3


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Settings file (penstock.yaml)."
)
@json_option
def doctor(path: Path | None, as_json: bool) -> int:
    """Check this machine, the settings and the upstreams, and say what to do."""
    with working("Looking around"):
        findings = examine(path)
    problems = [f for f in findings if f.good is False]
    if as_json:
        print_json({"findings": [asdict(f) for f in findings], "problems": len(problems)})
        return 1 if problems else 0
    for finding in findings:
        click.echo(f"{mark(finding.good)} {click.style(finding.what, bold=True)}: {finding.says}")
        if finding.do:
            click.echo(f"     {finding.do}")
    click.echo()
    click.echo(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found.")
    return 1 if problems else 0


def examine(path: Path | None) -> list[Finding]:
    """Everything that can be seen from here."""
    from penstock.adapters import runtime_file
    from penstock.adapters.settings_file import load
    from penstock.errors import SettingsError

    found = [*_versions(), *_machine()]
    try:
        loaded = load(path)
    except SettingsError as exc:
        found += [Finding("settings", False, problem, "Mend the file; `penstock config --schema` describes it.")
                  for problem in exc.problems]  # fmt: skip
        return found
    found.append(
        Finding("settings", True, str(loaded.path) if loaded.path else "no file, all defaults")
    )
    found += [Finding("environment", False, warning) for warning in loaded.warnings]
    found += _bind(loaded)
    running = [(entry, _status_of(entry)) for entry in runtime_file.alive()]
    found += _gateways(running) or _port(loaded.settings.listen.host, loaded.settings.listen.port)
    found += asyncio.run(_upstreams(loaded, [status for _, status in running]))
    found += _clients()
    return found


def _versions() -> list[Finding]:
    from penstock import __version__

    found = [
        Finding(
            "versions",
            True,
            f"Penstock {__version__}, Python {platform.python_version()}, {platform.platform()}",
        )
    ]
    try:
        import xllamacpp  # noqa: F401
    except ImportError:
        found.append(
            Finding("embedded llama.cpp", None, "not installed", "pip install 'penstock[embedded]'")
        )
    else:
        found.append(Finding("embedded llama.cpp", True, "installed"))
    return found


def _machine() -> list[Finding]:
    from penstock.adapters.machine import read_machine

    seen = read_machine()
    limit = (
        f", limited to {seen.limit_bytes / _GIB:.1f} GiB by its cgroup" if seen.limit_bytes else ""
    )
    found = [
        Finding(
            "memory",
            seen.used_share < 0.9,
            f"{seen.available_bytes / _GIB:.1f} of {seen.total_bytes / _GIB:.1f} GiB available{limit}",
            None if seen.used_share < 0.9 else "Close something, or run a smaller model or window.",
        )
    ]
    for gpu in seen.gpus:
        memory = (
            f"{(gpu.free_bytes or 0) / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free"
            if gpu.total_bytes
            else "memory not told"
        )
        found.append(Finding("GPU", True, f"{gpu.name}: {memory}"))
    if not seen.gpus:
        words = (
            "shared with the CPU"
            if seen.unified_memory
            else "none that can be seen (which is fine)"
        )
        found.append(Finding("GPU", None, words))
    return found


def _bind(loaded: Any) -> list[Finding]:
    from penstock.gateway.edge.access import check_bind

    listen = loaded.settings.listen
    problem = check_bind(
        listen.host, has_keys=bool(loaded.client_keys), allow_anonymous=listen.allow_anonymous
    )
    if problem:
        return [Finding("listening", False, problem)]
    if listen.allow_anonymous and not loaded.client_keys:
        return [
            Finding(
                "listening",
                None,
                "anybody who reaches this machine may use the models, as configured",
            )
        ]
    return []


def _gateways(running: list[tuple[Any, dict[str, Any]]]) -> list[Finding]:
    """The gateways of this user that run, and what their status tells."""
    found: list[Finding] = []
    for entry, status in running:
        by = "" if entry.started_by == "command" else f", started by {entry.started_by}"
        told = f"runs on port {entry.port} (process {entry.pid}{by})"
        found.append(Finding("gateway", True, told))
        found += running_findings(status, program())
    return found


def _port(host: str, port: int) -> list[Finding]:
    target = "127.0.0.1" if host in ("localhost", "0.0.0.0", "::") else host  # noqa: S104 - asked, not bound
    try:
        with socket.create_connection((target, port), timeout=0.5):
            pass
    except OSError:
        return [
            Finding("gateway", None, f"does not run; port {port} is free", f"{program()} serve")
        ]
    return [
        Finding(
            "gateway",
            False,
            f"another program has port {port}",
            "Set listen.port, or end that program.",
        )
    ]


def _status_of(running: Any) -> dict[str, Any]:
    import httpx

    from penstock.client import Client
    from penstock.errors import PenstockError

    try:
        with Client(running.url, token=running.token) as client:
            return client.status()
    except (
        PenstockError,
        httpx.HTTPError,
    ):  # it may go away just now; the rest of the report stands
        return {}


def _clients() -> list[Finding]:
    """Coding agents and chat apps: connected with what is true no more, and what cannot be prevented."""
    import httpx

    from penstock.adapters import runtime_file
    from penstock.adapters.client_files import connected, traces_of
    from penstock.client import Client
    from penstock.clients import CLIENTS, Model, read_models, remarks
    from penstock.errors import PenstockError

    gateways: dict[str, tuple[Model, ...]] = {}
    for running in runtime_file.alive():
        try:
            with Client(running.url, token=running.token) as client:
                gateways[running.url] = read_models(client.models())
        except (PenstockError, httpx.HTTPError):  # one that wants a key tells nothing here
            continue
    installed = [spec.name for spec in CLIENTS if traces_of(spec)]
    said = remarks(CLIENTS, connected(), installed, gateways, program())
    return [Finding(r.what, r.good, r.says, r.do) for r in said]


async def _upstreams(loaded: Any, statuses: list[dict[str, Any]]) -> list[Finding]:
    from penstock.adapters import probe
    from penstock.adapters.discover import discover
    from penstock.detection import judge

    found: list[Finding] = []
    if not loaded.upstreams:
        looks, _ = await discover(
            extra_ports=loaded.settings.discovery.ports, not_ports=(loaded.settings.listen.port,)
        )
        found += _of_running_gateways(statuses, {look.url for look in looks})
        if not looks and not found:
            return [Finding("model servers", None, "none found on this machine",
                            f"Start one, name one in upstreams, or try `{program()} serve --embedded`.")]  # fmt: skip
        for look in looks:
            found += _looked(look.url, look)
        return found
    for upstream in loaded.upstreams:
        verdict = judge(upstream.url, declared=upstream.local)
        if not verdict.is_local:
            found.append(_cloud(upstream))
            continue
        async with probe.make_client(upstream) as client:
            look = await probe.look(
                upstream.url, client=client, api_key=upstream.api_key, kind=upstream.kind
            )
        found += _looked(upstream.name, look)
    return found + _of_running_gateways(statuses, {u.url for u in loaded.upstreams})


def _of_running_gateways(statuses: list[dict[str, Any]], seen: set[str]) -> list[Finding]:
    """What running gateways have that was not looked at from here, such as an embedded llama.cpp."""
    return [
        Finding(
            upstream["name"],
            upstream["state"] in ("ok", "cloud", "loading"),
            f"{upstream['kind'] or upstream['verdict']}, {upstream['state']}, of the running gateway "
            f"({upstream['url']})",
            None
            if upstream["state"] != "unreachable"
            else "Is the server running, and is the URL right?",
        )
        for status in statuses
        for upstream in status.get("upstreams", ())
        if upstream["url"] not in seen
    ]


def _cloud(upstream: Any) -> Finding:
    if upstream.models:
        return Finding(
            upstream.name, True, "a cloud upstream; passed through unchanged, never probed"
        )
    return Finding(
        upstream.name,
        None,
        "a cloud upstream without models",
        "Name its models (`models: [...]`): nothing is sent to a cloud that was not named.",
    )


def _looked(name: str, look: Any) -> list[Finding]:
    if not look.reachable:
        return [
            Finding(
                name,
                False,
                look.error or "cannot be reached",
                "Is the server running, and is the URL right?",
            )
        ]
    if look.kind is None:
        return [Finding(name, False, look.error or "is no model server that is known")]
    models = look.reading.models if look.reading is not None else ()
    found = [
        Finding(
            name,
            True,
            f"{look.kind.value} with {len(models)} model{'' if len(models) == 1 else 's'}",
        )
    ]
    if look.verdict.suggestion:
        found.append(Finding(name, None, look.verdict.suggestion))
    for model in models:
        found += _model(name, look.kind.value, model)
    return found


def _model(name: str, kind: str, model: Any) -> list[Finding]:
    window, trained = model.running_window, model.trained_window
    where = f"{name}, {model.model}"
    if model.remote:
        return [Finding(where, None, "leaves for a cloud: nothing is changed in its requests")]
    if window is None:
        if model.loaded is False:
            return [Finding(where, None, "not loaded, so its window is not known yet")]
        return [Finding(where, None, "does not say its window; one is assumed from its name",
                        "Set it: limits.models, or the upstream's window.")]  # fmt: skip
    slots = f" in each of {model.slots} slots" if model.slots else ""
    says = f"window of {window} tokens{slots}"
    if window < 8192 and (trained is None or trained >= 2 * window):
        told = f", trained for {trained}" if trained else ""
        advice = {
            "ollama": "Set OLLAMA_CONTEXT_LENGTH, or `PARAMETER num_ctx` in its Modelfile.",
            "llamacpp": "Start it with a larger -c; with -np N each slot gets a Nth of it.",
        }.get(kind, "Start the server with a larger window.")
        return [
            Finding(
                where, None, f"{says}{told}: short for agents, which fill 8,000 at once", advice
            )
        ]
    return [Finding(where, True, says)]
