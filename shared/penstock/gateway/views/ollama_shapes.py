"""
Ollama's listings (`/api/tags`, `/api/ps`, `/api/show`, `/api/version`) for models of any server.

Who reads what: Continue takes `num_ctx` of `parameters` in `/api/show` for the window; VS Code takes
`model_info["<architecture>.context_length"]`, shows `general.basename`, offers agents only models with
`tools` among the `capabilities`, and wants a version of 0.6.4 or later; LiteLLM looks for "tools" in the
`template`; the command line `ollama` cuts digests to 12 characters and asks when a model will be let go.

Sources: `api/types.go`, `cmd/cmd.go` of Ollama; `ollamaProvider.ts` of Copilot Chat; `Ollama.ts` of Continue;
`litellm/llms/ollama/completion/transformation.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from penstock.gateway.views.listing_shapes import Entry

SPOKEN_VERSION = "0.17.4"
"""Version of Ollama whose API this follows, for those who ask where no Ollama is behind."""
_MODIFIED = "1970-01-01T00:00:00Z"
_EXPIRES = "2318-01-01T00:00:00Z"  # what Ollama itself says of a model that stays for ever, about
_TEMPLATE = "{{- /* Rendered by the server, with the model's own template. */ -}}"
_TEMPLATE_WITH_TOOLS = (
    "{{- /* Rendered by the server, with the model's own template, which takes tools. */ -}}"
)


def ollama_version(upstreams_own: str | None) -> dict[str, Any]:
    """
    `/api/version`.

    Args:
        upstreams_own: the version of the Ollama that is behind; None where there is none, and it is the
            version whose API is spoken here: clients compare it with the oldest one they know.
    """
    return {"version": upstreams_own or SPOKEN_VERSION}


def ollama_tags(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/api/tags`."""
    return {"models": [_model(entry) for entry in entries]}


def ollama_ps(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/api/ps`: what is loaded, with its running window. When it is let go is the server's secret."""
    models = []
    for entry in entries:
        profile = entry.profile
        if profile is None or profile.reading.loaded is False:
            continue
        model = _model(entry)
        model["context_length"] = profile.window.tokens
        model["expires_at"] = _EXPIRES
        model["size_vram"] = 0
        models.append(model)
    return {"models": models}


def ollama_show(entry: Entry, upstream_answer: dict[str, Any] | None) -> dict[str, Any]:
    """
    `/api/show`, with the running window where clients look for a budget.

    Args:
        upstream_answer: the server's own answer where it is Ollama; its trained window is replaced in
            `model_info["<arch>.context_length"]` and `num_ctx` in `parameters`.
    """
    answer = dict(upstream_answer) if upstream_answer else _unasked(entry)
    answer["model_info"] = _with_window(answer.get("model_info"), entry)
    if entry.window is not None:
        lines = [
            line
            for line in str(answer.get("parameters") or "").splitlines()
            if line.split(maxsplit=1)[:1] != ["num_ctx"]
        ]
        answer["parameters"] = "\n".join([*lines, f"num_ctx                        {entry.window}"])
    return answer


def _unasked(entry: Entry) -> dict[str, Any]:
    """What is said of a model that no Ollama has."""
    profile = entry.profile
    abilities = profile.reading.capabilities if profile is not None else None
    # What is not known is offered: a client never tries what is not, and a server that cannot says so.
    words = [
        ("completion", abilities is None or (abilities.completion is not False and not abilities.embeddings)),
        ("tools", abilities is None or (abilities.tools is not False and not abilities.embeddings)),
        ("vision", abilities is not None and abilities.vision is True),
        ("thinking", abilities is not None and abilities.thinking is True),
        ("embedding", abilities is not None and abilities.embeddings is True),
    ]  # fmt: skip
    capabilities = [word for word, has in words if has]
    shape = dict(profile.reading.shape) if profile is not None else {}
    architecture = shape.get("general.architecture") or _family(entry) or "llama"
    info = {
        "general.architecture": architecture,
        "general.basename": entry.id.rstrip("/").rsplit("/", 1)[-1],
        **shape,
    }
    count = profile.reading.parameter_count if profile is not None else None
    if count:
        info.setdefault("general.parameter_count", round(count * 1e9))
    return {
        "license": "",
        "modelfile": "",
        "template": _TEMPLATE_WITH_TOOLS if "tools" in capabilities else _TEMPLATE,
        "details": _details(entry),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": _MODIFIED,
    }


def _with_window(given: Any, entry: Entry) -> dict[str, Any]:
    info = dict(given) if isinstance(given, dict) else {}
    architecture = info.setdefault("general.architecture", "llama") or "llama"
    if entry.window is not None:
        for key in [key for key in info if key.endswith(".context_length")]:
            info[key] = entry.window
        info[f"{architecture}.context_length"] = entry.window
    return info


def _model(entry: Entry) -> dict[str, Any]:
    profile = entry.profile
    size = profile.reading.details.get("size_bytes", 0) if profile is not None else 0
    return {
        "name": entry.id,
        "model": entry.id,
        "modified_at": _MODIFIED,
        "size": size,
        "digest": _digest(entry),
        "details": _details(entry),
    }


def _digest(entry: Entry) -> str:
    """The model's own digest where the server told it; else one of its name, for who needs it filled."""
    own = entry.profile.reading.details.get("digest") if entry.profile is not None else None
    if own:
        return str(own)
    return hashlib.sha256(f"{entry.upstream}/{entry.upstream_id}".encode()).hexdigest()


def _family(entry: Entry) -> str:
    return str(entry.profile.reading.details.get("family", "")) if entry.profile is not None else ""


def _details(entry: Entry) -> dict[str, Any]:
    reading = entry.profile.reading if entry.profile is not None else None
    count = reading.parameter_count if reading is not None else None
    family = _family(entry)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else None,
        "parameter_size": f"{count:g}B" if count else "",
        "quantization_level": str(reading.details.get("quantization", "")) if reading else "",
    }
