"""
What `penstock doctor` says of a running gateway, by its status: open breakers, full queues, servers that
thrash, what is paused or held, servers that were given up, memory. Pure, and tolerant: a field that the
gateway does not tell is no finding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.cli.findings import Finding
from penstock.cli.wording import duration, short

_FEW_REQUESTS = 5
_THRASHING_SHARE = 0.5
_LATELY_S = 600.0


def running_findings(
    status: Mapping[str, Any], program: str, now_s: float | None = None
) -> list[Finding]:
    """
    Everything in a status that a person should know, problems and what to do about them.

    Args:
        program: how the user calls this program.
        now_s: wall-clock time; the machine's when None.
    """
    now_s = time.time() if now_s is None else now_s
    found = [Finding("gateway", False, told) for told in (status.get("notices") or {}).values()]
    found += _memory(status)
    for upstream in status.get("upstreams") or ():
        name = str(upstream.get("name", ""))
        found += _loading(upstream, name)
        found += _switched(upstream, name, program)
        found += _breaker(upstream, name, program)
        found += _supervised(upstream, name, program)
        found += _queue(upstream, name, status, now_s)
        found += _health(upstream, name)
    found += _acts(status, now_s)
    return [*found, *prefix_findings(status)]


def _memory(status: Mapping[str, Any]) -> Iterator[Finding]:
    memory = status.get("memory") or {}
    pressure = memory.get("pressure")
    if pressure in ("pressure", "heavy"):
        share = memory.get("used_share")
        used = f", {share:.0%} is used" if isinstance(share, int | float) else ""
        yield Finding(
            "memory pressure",
            pressure != "heavy",
            f"the gateway works under {'heavy ' if pressure == 'heavy' else ''}memory pressure{used}: "
            "conversations are cut earlier and answers are shorter",
            "Close something, unload a model, or run the server with a smaller window or fewer slots.",
        )


def _loading(upstream: Mapping[str, Any], name: str) -> Iterator[Finding]:
    if upstream.get("state") == "loading":
        yield Finding(name, None, "is loading; requests wait until it is ready")


def _switched(upstream: Mapping[str, Any], name: str, program: str) -> Iterator[Finding]:
    held = (upstream.get("concurrency") or {}).get("held") or 0
    waiting = f"; {held} wait" if held else ""
    for switch in ("paused", "drained"):
        value = upstream.get(switch)
        if value:
            new = "refused" if value == "refuse" else "held"
            yield Finding(
                name,
                False,
                f"is {switch}: new requests are {new}{waiting}",
                f"{program} resume {name}",
            )
    others = [r for r in upstream.get("held_because") or () if r not in ("paused", "drained")]
    if others:
        yield Finding(name, None, f"requests are held: {', '.join(others)}{waiting}")
    if upstream.get("bypass"):
        yield Finding(
            name,
            None,
            "is bypassed: nothing is fitted into its window, mended or repeated",
            f"{program} bypass off {name}",
        )


def _breaker(upstream: Mapping[str, Any], name: str, program: str) -> Iterator[Finding]:
    told = upstream.get("breaker") or {}
    state, why = told.get("state"), told.get("why")
    if state not in ("open", "half_open"):
        return
    because = f" because {why}" if why else ""
    again = told.get("retry_after_s")
    when = f"; it is tried again in {duration(again)}" if isinstance(again, int | float) else ""
    if state == "half_open":
        yield Finding(name, None, f"its breaker is half open: one request tries it{because}")
        return
    yield Finding(
        name,
        False,
        f"its breaker is open{because}: requests are refused at once, so that it can recover{when}",
        f"Look at the server's own log; `{program} detect {upstream.get('url', 'URL')}` asks it now. "
        "It closes by itself with the first request that succeeds.",
    )


def _supervised(upstream: Mapping[str, Any], name: str, program: str) -> Iterator[Finding]:
    told = upstream.get("supervised") or {}
    state, restarts, why = told.get("state"), told.get("restarts") or 0, told.get("why")
    because = f" ({why})" if why else ""
    if state == "given_up":
        yield Finding(
            name,
            False,
            f"its server died again and again and was given up{because}",
            f"`{program} logs --server {name}` shows what it said; mend that, then `{program} resume`.",
        )
    elif state == "restarting":
        yield Finding(name, None, f"its server is being restarted{because}; requests are held")
    elif restarts:
        yield Finding(
            name,
            None,
            f"its server was restarted {restarts} times{because}",
            f"{program} logs --server {name}",
        )


def _queue(
    upstream: Mapping[str, Any], name: str, status: Mapping[str, Any], now_s: float
) -> Iterator[Finding]:
    load = upstream.get("concurrency") or {}
    queued, limit, ghosts = (load.get(k) or 0 for k in ("queued", "limit", "ghosts"))
    recent = [
        r
        for r in (status.get("requests") or {}).get("recent") or ()
        if r.get("upstream") == name and now_s - (r.get("arrived_at") or 0) < _LATELY_S
    ]
    refused = [r for r in recent if r.get("error_code") in ("queue_full", "queue_deadline")]
    if refused:
        full = sum(r["error_code"] == "queue_full" for r in refused)
        words = [f"{full} found the queue full"] if full else []
        words += [f"{len(refused) - full} waited too long in it"] if full < len(refused) else []
        yield Finding(
            name,
            False,
            f"of the last {len(recent)} requests {' and '.join(words)}; it works on {limit} at a time",
            "More slots in the server, fewer agents at a time, or a longer concurrency.queue_length and "
            "concurrency.queue_deadline_s.",
        )
    elif limit and queued >= 2 * limit:
        yield Finding(name, None, f"{queued} requests wait; it works on {limit} at a time")
    if ghosts:
        yield Finding(
            name,
            None,
            f"still works on {ghosts} requests whose clients are gone; their slots are not free yet",
        )
    yield from _thrashing(name, recent)


def _thrashing(name: str, recent: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """A server whose requests run out of time or memory rather than being answered."""
    ended = [r for r in recent if r.get("outcome") in ("success", "dropped")]
    codes = {"first_token_timeout", "stall_timeout", "out_of_memory"}
    bad = [r["error_code"] for r in ended if r.get("error_code") in codes]
    if len(ended) >= _FEW_REQUESTS and len(bad) >= _THRASHING_SHARE * len(ended):
        worst = max(set(bad), key=bad.count)
        yield Finding(
            name,
            False,
            f"thrashes: {len(bad)} of its last {len(ended)} requests ended without an answer, most by {worst}",
            "It is given more than it can do: lower max_concurrency of this upstream, start it with fewer slots or "
            "a smaller window, or use a smaller model.",
        )


def _health(upstream: Mapping[str, Any], name: str) -> Iterator[Finding]:
    for one in (upstream.get("health") or {}).get("findings") or ():
        if one["name"] not in ("unreachable", "loading"):  # told already
            yield Finding(
                name, _HEALTH_GOOD.get(one["name"]), one["detail"], _HEALTH_ADVICE.get(one["name"])
            )


_HEALTH_GOOD = {"hung": False, "out_of_memory": False, "model_failed": False}
_HEALTH_ADVICE = {
    "hung": "End the server and start it again; under `serve --supervise` that is done for you.",
    "slow": "It has much to do, or the machine has: fewer requests at a time, or a smaller model.",
    "errors": "Look at the server's own log; the requests that failed are in the status.",
    "memory": "Close something, unload a model, or run the server with a smaller window or fewer slots.",
    "out_of_memory": "A smaller window, fewer slots, a smaller model, or a KV cache in fewer bits.",
    "model_failed": "Look at the server's own log: it could not keep the model running.",
}


def _acts(status: Mapping[str, Any], now_s: float) -> Iterator[Finding]:
    """What the gateway did by itself lately: a person may wonder."""
    for act in status.get("acts") or ():
        at, name = act.get("at") or 0, str(act.get("act", ""))
        by_itself = name not in (
            "paused", "resumed", "draining", "drained", "bypassed", "bypass_ended",
            "upstream_added", "upstream_forgotten",
        )  # fmt: skip
        if by_itself and now_s - at < _LATELY_S:
            told = f"{name.replace('_', ' ')} {duration(max(0.0, now_s - at))} ago"
            yield Finding(
                str(act.get("upstream") or "gateway"), None, f"{told}: {act.get('why', '')}"
            )


def prefix_findings(status: Mapping[str, Any]) -> list[Finding]:
    """What keeps the servers' prefix caches from helping, by the status of a running gateway."""
    found: list[Finding] = []
    for upstream in status.get("upstreams") or ():
        for model in upstream.get("models") or ():
            context = model.get("context")
            if not context:
                continue
            where = f"{upstream['name']}, {short(model['id'])}"
            prefix = context["prefix"]
            if prefix["reuse_is_impossible"]:
                found.append(
                    Finding(
                        where,
                        False,
                        f"computes prompts anew although their beginning was just there ({prefix['missed']} of "
                        f"{prefix['missed'] + prefix['reused']} times)",
                        _REUSE_ADVICE.get(upstream["kind"], _REUSE_ADVICE["other"]),
                    )
                )
            if prefix["breaks"]:
                last = prefix["last_break"]
                found.append(
                    Finding(
                        where,
                        None,
                        f"{prefix['breaks']} requests changed an earlier part of their conversation; last: "
                        f"{last['why']} (client {last['client']})",
                        "Find out what the client changes there; context.nonce_patterns takes out what only changes.",
                    )
                )
            if context["silent_truncations"]:
                found.append(
                    Finding(
                        where,
                        False,
                        f"cut {context['silent_truncations']} prompts without a word",
                        "Set the window it really has: limits.models, or the upstream's window.",
                    )
                )
    return found


_REUSE_ADVICE = {
    "llamacpp": "A model with a sliding window or a recurrent state: start llama-server with --swa-full (more memory) "
    "or more --ctx-checkpoints. A template that strips earlier thinking moves the prefix by itself: see its "
    "reasoning switches (--reasoning-budget 0, or chat_template_kwargs).",
    "ollama": "A model with a sliding window or a recurrent state keeps no prefix there, and OLLAMA_NUM_PARALLEL or "
    "another model may take its place: OLLAMA_KEEP_ALIVE, OLLAMA_MAX_LOADED_MODELS.",
    "vllm": "Start it with --enable-prefix-caching.",
    "other": "See whether the server has a prefix cache and whether it is on; models with a sliding window or a "
    "recurrent state often cannot use one.",
}
