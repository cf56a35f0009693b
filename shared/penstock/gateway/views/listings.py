"""
Answers model listings from what the fleet knows, for all upstreams together or for one.

`/v1/models` has several readers: with an `anthropic-version` header it is Anthropic's (Claude Code), with
`client_version` in its query it is Codex that asks.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson

from penstock.adapters.transport import TransportError, UpstreamRequest, UpstreamTransport
from penstock.dialects.surfaces import ANTHROPIC
from penstock.domain.fault import Outcome
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.body import parse_object
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.resolve import Candidate, Resolution
from penstock.gateway.views.listed_aliases import alias_of, listed_aliases
from penstock.gateway.views.listing_shapes import (
    Entry,
    anthropic_listing,
    anthropic_model,
    codex_catalogue,
    lmstudio_listing,
    openai_listing,
    openai_model,
)
from penstock.gateway.views.ollama_shapes import (
    ollama_ps,
    ollama_show,
    ollama_tags,
    ollama_version,
)

_GLANCE_S = 0.25
_LARGEST_SHOW_BYTES = 32 * 1024 * 1024


async def answer_listing(
    incoming: Incoming, runtime: Runtime, transport: UpstreamTransport
) -> None:
    """
    Answer one listing.

    Raises:
        RequestError: the model asked for does not exist.
    """
    exchange = incoming.exchange
    await _glance(runtime, incoming.route.upstream)
    entries = entries_of(runtime, incoming.route.upstream)
    path = incoming.route.upstream_path
    if path == "/api/show":
        value = await _show(incoming, runtime, transport, entries)
    elif path == "/api/ps":
        value = ollama_ps(entries)
    elif path == "/api/tags":
        value = ollama_tags(entries)
    elif path == "/api/version":
        value = ollama_version(_ollamas_version(runtime, incoming.route.upstream))
    else:
        value = _models(incoming, runtime, entries)
    exchange.outcome = Outcome.SUCCESS
    headers = [
        (b"content-type", b"application/json"),
        (b"server", b"penstock"),
        (b"penstock-request-id", exchange.id.encode("ascii")),
    ]
    body = b"" if incoming.method == "HEAD" else orjson.dumps(value)
    await incoming.answer.whole(200, headers, body)


def _models(incoming: Incoming, runtime: Runtime, entries: list[Entry]) -> dict[str, Any]:
    """`/v1/models` and `/api/v0/models`, whole or of one model."""
    base, _, model = _split(incoming.route.upstream_path)
    is_anthropic = base != "/api/v0/models" and "anthropic-version" in incoming.headers
    if is_anthropic:
        incoming.answer.surface = ANTHROPIC  # a model that is missing is told in its shape, too
    if model:
        entry = _entry(entries, model, runtime, incoming.route.upstream)
        return anthropic_model(entry) if is_anthropic else openai_model(entry)
    if is_anthropic:
        return anthropic_listing(entries)
    if base == "/api/v0/models":
        return lmstudio_listing(entries)
    listing = openai_listing(entries)
    if "client_version=" in incoming.query:
        listing.update(codex_catalogue())
    return listing


def _ollamas_version(runtime: Runtime, upstream: str | None) -> str | None:
    """The version of the Ollama that is asked about, or of the first there is."""
    versions = (
        state.version
        for state in runtime.fleet
        if state.kind is ServerKind.OLLAMA and upstream in (None, state.declared)
    )
    return next((version for version in versions if version), None)


async def _glance(runtime: Runtime, upstream: str | None) -> None:
    """
    Look at the upstreams that never told what they have: a first contact is waited for, one that failed
    before may be back and gets a moment. Whoever does not answer costs each listing no more than that.
    """
    unseen = [
        state
        for state in runtime.fleet
        if state.is_local and state.looked_at is None and upstream in (None, state.declared)
    ]
    if not unseen:
        return
    looks = [asyncio.ensure_future(runtime.keeper.first_contact(state)) for state in unseen]
    try:
        is_first = any(not state.first_look.is_set() for state in unseen)
        await asyncio.wait(looks, timeout=None if is_first else _GLANCE_S)
    finally:
        for look in looks:
            look.cancel()  # the look itself goes on, others share it
        await asyncio.gather(*looks, return_exceptions=True)


def entries_of(runtime: Runtime, upstream: str | None) -> list[Entry]:
    """All models, each once by id, then the aliases: what `/v1/models` lists."""
    found: dict[str, Entry] = {}
    for state in runtime.fleet:
        if upstream is None or state.declared == upstream:
            for entry in _of_upstream(state, runtime):
                found.setdefault(entry.id, entry)
    if upstream is None:
        for name, leads in listed_aliases(runtime.settings.routing.aliases, _candidates(runtime)):
            found.setdefault(name, _entry_of(name, leads, runtime))
    return list(found.values())


def _candidates(runtime: Runtime) -> list[Candidate]:
    """The upstreams with what they list; which of two is free now is no matter of a listing."""
    return [
        Candidate(
            name,
            runtime.fleet.get(name).verdict.locality,
            tuple(
                dict.fromkeys(
                    model
                    for state in runtime.fleet.named(name)
                    for model in (*state.profiles, *state.upstream.models)
                )
            ),
        )
        for name in runtime.fleet.declared()
    ]


def _entry_of(name: str, leads: Resolution, runtime: Runtime) -> Entry:
    """An alias, with all that is known of the model it leads to."""
    state = runtime.fleet.get(leads.upstream)
    if not state.is_local:
        return Entry(name, state.declared, None, leads.model)
    profile = state.profiles.get(leads.model) or runtime.unknown_profile(state, leads.model)
    return Entry(name, state.declared, profile, leads.model)


def _of_upstream(state: UpstreamState, runtime: Runtime) -> list[Entry]:
    if not state.is_local:
        return [Entry(model, state.declared, None) for model in state.upstream.models]
    entries = [Entry(p.model, state.declared, p) for p in state.profiles.values()]
    known = {entry.id for entry in entries}
    entries += [
        Entry(model, state.declared, runtime.unknown_profile(state, model))
        for model in state.upstream.models
        if model not in known
    ]
    return entries


def _split(path: str) -> tuple[str, str, str]:
    for base in ("/api/v0/models", "/v1/models", "/models"):
        if path == base or path.startswith(f"{base}/"):
            return base, "/", path[len(base) + 1 :]
    return path, "", ""


def _one_slash(name: str) -> str:
    return re.sub("/{2,}", "/", name).rstrip("/")


def _entry(entries: list[Entry], model: str, runtime: Runtime, upstream: str | None) -> Entry:
    for name in (model, f"{model}:latest"):
        for entry in entries:
            if entry.id == name or f"{entry.upstream}/{entry.id}" == name:
                return entry
    # In the path of a request doubled slashes have become one: an id may be a file's whole path.
    wanted = _one_slash(f"/{model}")
    for entry in entries:
        if wanted in (_one_slash(f"/{entry.id}"), _one_slash(f"/{entry.upstream}/{entry.id}")):
            return entry
    if upstream is None:
        leads = alias_of(model, runtime.settings.routing.aliases, _candidates(runtime))
        if leads is not None:
            return _entry_of(model, leads, runtime)
    raise RequestError(
        ErrorCode.MODEL_NOT_FOUND,
        f"No upstream has the model {model[:200]!r}.",
        hint="GET /v1/models lists what there is.",
        param="model",
    )


async def _show(
    incoming: Incoming, runtime: Runtime, transport: UpstreamTransport, entries: list[Entry]
) -> dict[str, Any]:
    raw = await incoming.read_body(runtime.settings)
    body = parse_object(raw)
    name = body.get("model") or body.get("name")
    if not isinstance(name, str):
        raise RequestError(ErrorCode.INVALID_REQUEST, "model: a string is needed.", param="model")
    entry = _entry(entries, name, runtime, incoming.route.upstream)
    state = runtime.fleet.get(entry.upstream)
    answer: dict[str, Any] | None = None
    if state.kind is ServerKind.OLLAMA:
        answer = await _ask_ollama(state, runtime, transport, {**body, "model": entry.upstream_id})
    return ollama_show(entry, answer)


async def _ask_ollama(
    state: UpstreamState, runtime: Runtime, transport: UpstreamTransport, body: dict[str, Any]
) -> dict[str, Any] | None:
    request = UpstreamRequest(
        b"POST",
        f"{state.prefix}/api/show".encode(),
        [(b"host", state.host), (b"content-type", b"application/json")],
        orjson.dumps(body),
    )
    try:
        response = await transport.send(
            state.origin,
            request,
            connect_timeout_s=runtime.settings.timeouts.connect_s,
            head_timeout_s=30.0,
        )
        value = orjson.loads(await response.read(_LARGEST_SHOW_BYTES))
    except (TransportError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) and response.status == 200 else None
