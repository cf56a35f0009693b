"""
What a gateway on a desktop runs with and has learned, as a LocalModel. Pure.

Into the spec goes what a person decided (the settings that differ from the defaults) and what the server is started
with (window and slots, as the gateway read them). What a gateway learns by itself (the limit of requests at a time, how
a model counts its tokens) it learns again in the cluster, from the server there; it is told in comments only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import PenstockError
from penstock_operator.localmodel.names import API_VERSION, KIND, MOST_NAME_LENGTH
from penstock_operator.localmodel.policy import as_settings

_RUNTIMES = {"llamacpp": "LlamaCpp", "ollama": "Ollama", "vllm": "VLLM"}
_READ = frozenset({"running", "learned", "refusal"})
"""Sources of a window that speak of the server, and of no setting."""


class NotExported(PenstockError):
    """There is nothing to export, or something is missing; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Exported:
    """
    Attributes:
        manifest: the LocalModel.
        notes: sentences about what is not in it.
    """

    manifest: dict[str, Any]
    notes: tuple[str, ...]


def exported(
    status: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    upstream: str | None = None,
    uri: str | None = None,
    name: str | None = None,
) -> Exported:
    """
    Args:
        status: `/penstock/status`; settings: `/penstock/settings`.
        upstream: which one; needed where several local ones answer.
        uri: where the weights are; needed where the server does not tell.
        name: of the LocalModel; by default made from the model's.

    Raises:
        NotExported: see there.
    """
    server = _server(status, upstream)
    model = _model(server)
    kind = str(server.get("kind") or "")
    served = str(model.get("id") or "")
    spec: dict[str, Any] = {"model": {"uri": uri or _uri(kind, served, server)}}
    if kind in _RUNTIMES:
        spec["runtime"] = {"type": _RUNTIMES[kind]}
    called = name or _called(served)
    if served and served != called:
        spec["model"]["name"] = served
    tuning: dict[str, Any] = {}
    notes: list[str] = []
    window = model.get("context_window")
    if window and model.get("window_source") in _READ:
        tuning["contextLength"] = int(window)
    elif window:
        notes.append(
            f"The window of {window} tokens was not read from the server, so it is left to the server."
        )
    slots = model.get("slots")
    if slots:
        tuning["parallelRequests"] = int(slots)
    if tuning:
        spec["tuning"] = tuning
    policy = as_settings(settings.get("settings") or {})
    if policy:
        spec["gateway"] = {"settings": policy}
    limit = server.get("concurrency") or {}
    if limit.get("source") == "adapted":
        notes.append(
            f"The gateway had found that {limit['limit']} requests at a time are best here; it finds out anew there."
        )
    notes += [
        f"{variable} is set here, and is no part of a LocalModel."
        for variable, value in (settings.get("environment") or {}).items()
        if value is not None
    ]
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": called},
        "spec": spec,
    }
    return Exported(manifest, tuple(notes))


def _server(status: Mapping[str, Any], upstream: str | None) -> Mapping[str, Any]:
    known = [one for one in status.get("upstreams") or () if one.get("verdict") != "cloud"]
    chosen = [one for one in known if upstream in (None, one.get("name"))]
    if not chosen:
        names = ", ".join(str(one.get("name")) for one in known) or "none"
        raise NotExported(f"There is no such local upstream; there are: {names}.")
    answering = [one for one in chosen if one.get("state") == "ok"]
    if len(answering) > 1:
        names = ", ".join(str(one.get("name")) for one in answering)
        raise NotExported(f"Several servers answer ({names}); name one with --upstream.")
    if not answering:
        raise NotExported(
            f"The upstream {chosen[0].get('name')} does not answer; what it runs with is read from it."
        )
    found: Mapping[str, Any] = answering[0]
    return found


def _model(server: Mapping[str, Any]) -> Mapping[str, Any]:
    models = [one for one in server.get("models") or () if not one.get("remote")]
    if not models:
        raise NotExported(f"The upstream {server.get('name')} has no local model.")
    found: Mapping[str, Any] = next((one for one in models if one.get("loaded")), models[0])
    return found


def _uri(kind: str, served: str, server: Mapping[str, Any]) -> str:
    if kind == "ollama" and served:
        return f"ollama://{served}"
    if kind == "vllm" and re.fullmatch(r"[\w.-]+/[\w.-]+", served):
        return f"hf://{served}"
    raise NotExported(
        f"Where the weights of {served or server.get('name')} are, its server does not tell in a way that a cluster "
        "understands; say it with --model-uri, for example hf://owner/repository/file.gguf."
    )


def _called(served: str) -> str:
    """A name that Kubernetes takes."""
    base = served.rpartition("/")[2].removesuffix(".gguf").lower()
    word = re.sub(r"[^a-z0-9]+", "-", base).strip("-")[:MOST_NAME_LENGTH].strip("-")
    if not word:
        return "model"
    return word if word[0].isalpha() else f"m-{word}"[:MOST_NAME_LENGTH].strip("-")
