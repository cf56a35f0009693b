"""
What `penstock status --watch` shows: a snapshot of the status in, something that rich can draw out. Pure.

Fields that an older gateway does not tell are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.cli.wording import duration, named, short

_MOST_REQUESTS, _MOST_LINES = 12, 5
_STATE_STYLES = {
    "ok": "green", "cloud": "cyan", "loading": "yellow", "unknown": "yellow", "starting": "yellow",
    "draining": "yellow", "degraded": "yellow", "unreachable": "red", "error": "red", "open": "red",
    "half_open": "yellow", "given_up": "red",
}  # fmt: skip
_STAGES = {"held": "magenta", "queued": "yellow", "loading": "yellow", "streaming": "green"}


def screen(
    status: Mapping[str, Any], *, gone: str | None = None, rows: int = _MOST_REQUESTS
) -> RenderableType:
    """
    Everything worth a look.

    Args:
        status: a snapshot.
        gone: why the gateway cannot be asked just now, None while it can.
        rows: running requests to show.
    """
    parts: list[RenderableType] = [_head(status, gone)]
    parts += [Text(plain(f"! {told}"), "yellow") for told in (status.get("notices") or {}).values()]
    upstreams = status.get("upstreams") or ()
    parts += [Text(""), _upstreams(upstreams)]
    parts += [
        Text(plain(f"{u.get('name')}: {u['error']}"), "red") for u in upstreams if u.get("error")
    ]
    running = (status.get("requests") or {}).get("in_flight") or []
    parts.append(Text(""))
    if running:
        parts.append(_requests(running[:rows]))
        if len(running) > rows:
            parts.append(Text(f"and {len(running) - rows} more", "dim"))
    else:
        parts.append(Text("no request is running", "dim"))
    lines = _lately(status)
    if lines:
        parts += [Text(""), *lines]
    return Group(*parts)


def _head(status: Mapping[str, Any], gone: str | None) -> Text:
    head = Text.assemble(
        ("Penstock ", "bold"), str(status.get("version", "")), " at ", (str(status.get("url", "")), "bold"), "  "
    )  # fmt: skip
    if gone is not None:
        return head.append(gone, "bold red")
    state = status.get("state", "")
    word = status.get("overall", state) if state == "ok" else state
    head.append(str(word), _STATE_STYLES.get(str(word), ""))
    head.append(f"  up {duration(status.get('uptime_s'))}")
    for name, share in (status.get("switched") or {}).items():
        if share in ("all", "some"):
            head.append(f"  {name}" + (" (some)" if share == "some" else ""), "bold magenta")
    memory = status.get("memory") or {}
    if memory.get("used_share") is not None:
        pressure = memory.get("pressure")
        style = "" if pressure == "calm" else "yellow" if pressure == "pressure" else "bold red"
        head.append(f"  memory {memory['used_share']:.0%}", style)
    return head


def _upstreams(upstreams: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("upstream", "state", ">run", ">limit", ">queue", ">held", ">window", "model")
    for upstream in upstreams:
        load = upstream.get("concurrency") or {}
        models = upstream.get("models") or []
        shown = next((m for m in models if m.get("loaded")), models[0] if models else {})
        more = f" +{len(models) - 1}" if len(models) > 1 else ""
        running = str(load.get("in_flight", ""))
        if load.get("ghosts"):
            running += f" ({load['ghosts']} gone)"
        table.add_row(
            Text(plain(upstream.get("name", ""))),
            upstream_state(upstream),
            running,
            str(load.get("limit", "")),
            _number(load.get("queued")),
            _number(load.get("held")),
            str(shown.get("context_window", "")),
            Text(short(plain(shown.get("id", ""))) + more),
        )
    return table


def upstream_state(upstream: Mapping[str, Any]) -> Text:
    """Its state, an open breaker, what is switched there."""
    state = str(upstream.get("state", ""))
    told = Text(state, _STATE_STYLES.get(state, ""))
    breaker = named(upstream.get("breaker"))
    if breaker in ("open", "half_open"):
        told.append(f" breaker {breaker.replace('_', '-')}", _STATE_STYLES[breaker])
    supervised = named(upstream.get("supervised"))
    if supervised in ("given_up", "restarting", "starting"):
        told.append(f" {supervised.replace('_', ' ')}", _STATE_STYLES.get(supervised, "yellow"))
    for switch in ("paused", "drained"):
        if upstream.get(switch):
            told.append(f" {switch}", "magenta")
    if upstream.get("bypass"):
        told.append(" bypass", "magenta")
    return told


def _requests(requests: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("client", "model", "upstream", "stage", "progress", ">age")
    for request in requests:
        stage = str(request.get("stage", ""))
        table.add_row(
            Text(plain(request.get("client", ""))),
            Text(short(plain(request.get("model") or request.get("path") or ""))),
            Text(plain(request.get("upstream", ""))),
            Text(stage, _STAGES.get(stage, "")),
            progress(request),
            duration(request.get("age_s")),
        )
    return table


def progress(request: Mapping[str, Any]) -> str:
    """How far a request is: the share of its prompt, or how fast its answer comes."""
    stage, prefill = request.get("stage"), request.get("prefill") or {}
    if stage == "prefilling" and prefill.get("total"):
        done, total = prefill.get("processed") or 0, prefill["total"]
        return f"{done / total:.0%} of {total}"
    if stage == "streaming" and request.get("chunks"):
        seconds = request.get("answering_s") or 0.0
        count = request["chunks"]
        return f"{count} at {count / seconds:.1f}/s" if seconds >= 0.5 else str(count)
    attempts = len(request.get("attempts") or ())
    return f"attempt {attempts}" if attempts > 1 else ""


def _lately(status: Mapping[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for act in list(status.get("acts") or ())[-_MOST_LINES:][::-1]:
        where = f"{act['upstream']}: " if act.get("upstream") else ""
        name = str(act.get("act", "")).replace("_", " ")
        lines.append(
            Text.assemble((clock(act.get("at")), "dim"), " ", where, (name, "bold"), f" {plain(act.get('why', ''))}")
        )  # fmt: skip
    recent = (status.get("requests") or {}).get("recent") or ()
    failed = [r for r in recent if r.get("error_code")][:_MOST_LINES]
    for request in failed:
        attempts = request.get("attempts") or [{}]
        why = attempts[-1].get("message") or ""
        lines.append(
            Text.assemble(
                (clock(request.get("arrived_at")), "dim"), " ", (str(request["error_code"]), "red"),
                plain(f" {request.get('status') or ''} {request.get('client', '')} {request.get('model', '')} {why}"),
            )
        )  # fmt: skip
    for line in lines:
        assert isinstance(line, Text)
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for column in columns:
        name = column.removeprefix(">")
        right = name != column
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=right,
            overflow="ellipsis",
            min_width=len(name) if right else None,
        )
    return table


def clock(at: Any) -> str:
    """Wall-clock time of day, in this machine's zone."""
    from datetime import datetime

    if not isinstance(at, int | float):
        return ""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def plain(value: Any) -> str:
    """Text of elsewhere, without what would control the terminal."""
    return "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value)
    )


def _number(value: Any) -> Text:
    return Text("" if value is None else str(value), "bold yellow" if value else "dim")
