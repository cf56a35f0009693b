"""
Model listings, answered from memory (design 4.1): the running window in every field that clients read,
and never the trained one where a client budgets by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from penstock.domain.profile import ModelProfile
from penstock.limits import cloud_window


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in a listing; `profile` is None for a cloud model."""

    id: str
    upstream: str
    profile: ModelProfile | None


def openai_model(entry: Entry) -> dict[str, Any]:
    """
    One model as `/v1/models` lists it.

    `context_window`, `context_length`, `max_context_length`, `max_model_len` and `meta.n_ctx` are all the
    window in force, per slot; where it is only assumed from the model's name, `window_source` says so.
    """
    model: dict[str, Any] = {
        "id": entry.id,
        "object": "model",
        "created": 0,
        "owned_by": entry.upstream,
    }
    profile = entry.profile
    if profile is None:
        known = cloud_window(entry.id)
        if known is not None:
            model["context_window"] = model["context_length"] = known.tokens
            if known.output is not None:
                model["max_output_tokens"] = known.output
        return model
    window = profile.window.tokens
    reading = profile.reading
    meta: dict[str, Any] = {"n_ctx": window}
    if reading.trained_window is not None:
        meta["n_ctx_train"] = reading.trained_window
    model.update(
        context_window=window,
        context_length=window,
        max_context_length=window,
        max_model_len=window,
        loaded_context_length=window,
        window_source=profile.window.source.value,
        meta=meta,
    )
    if reading.slots is not None:
        model["slots"] = reading.slots
    return model


def openai_listing(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/v1/models`."""
    return {"object": "list", "data": [openai_model(entry) for entry in entries]}


def lmstudio_listing(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/api/v0/models`, as LM Studio's clients read it (Cline: `loaded_context_length`)."""
    data = []
    for entry in entries:
        model = openai_model(entry)
        abilities = entry.profile.reading.capabilities if entry.profile is not None else None
        model["type"] = (
            "vlm"
            if abilities and abilities.vision
            else ("embeddings" if abilities and abilities.embeddings else "llm")
        )
        loaded = entry.profile is None or entry.profile.reading.loaded is not False
        model["state"] = "loaded" if loaded else "not-loaded"
        data.append(model)
    return {"object": "list", "data": data}


def ollama_tags(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/api/tags`."""
    return {"models": [_ollama_model(entry) for entry in entries]}


def ollama_ps(entries: Iterable[Entry]) -> dict[str, Any]:
    """`/api/ps`: what is loaded, with its running window."""
    models = []
    for entry in entries:
        profile = entry.profile
        if profile is None or profile.reading.loaded is False:
            continue
        model = _ollama_model(entry)
        model["context_length"] = profile.window.tokens
        models.append(model)
    return {"models": models}


def ollama_show(entry: Entry, upstream_answer: dict[str, Any] | None) -> dict[str, Any]:
    """
    `/api/show`, with the running window where clients look for a budget.

    Args:
        upstream_answer: the server's own answer where it is Ollama; its trained window is replaced in
            `model_info["<arch>.context_length"]` (VS Code reads that) and `num_ctx` in `parameters`
            (Continue reads that).
    """
    answer = dict(upstream_answer or {})
    profile = entry.profile
    if profile is None:
        return answer
    window = profile.window.tokens
    info = dict(answer.get("model_info") or {"general.architecture": "llama"})
    arch = info.get("general.architecture") or "llama"
    for key in [k for k in info if k.endswith(".context_length")]:
        info[key] = window
    info[f"{arch}.context_length"] = window
    answer["model_info"] = info
    lines = [
        line
        for line in str(answer.get("parameters") or "").splitlines()
        if line.split(maxsplit=1)[:1] != ["num_ctx"]
    ]
    answer["parameters"] = "\n".join([*lines, f"num_ctx                        {window}"])
    if not upstream_answer:
        abilities = profile.reading.capabilities
        words = [
            ("completion", True),
            ("tools", abilities.tools),
            ("vision", abilities.vision),
            ("thinking", abilities.thinking),
            ("embedding", abilities.embeddings),
        ]
        answer["capabilities"] = [word for word, has in words if has]
        answer.setdefault("details", _details(profile))
        answer.setdefault("template", "")
    return answer


def _ollama_model(entry: Entry) -> dict[str, Any]:
    profile = entry.profile
    size = profile.reading.details.get("size_bytes", 0) if profile is not None else 0
    return {
        "name": entry.id,
        "model": entry.id,
        "modified_at": "1970-01-01T00:00:00Z",
        "size": size,
        "digest": "",
        "details": _details(profile),
    }


def _details(profile: ModelProfile | None) -> dict[str, Any]:
    reading = profile.reading if profile is not None else None
    count = reading.parameter_count if reading is not None else None
    return {
        "format": "gguf",
        "family": str(reading.details.get("family", "")) if reading is not None else "",
        "families": None,
        "parameter_size": f"{count:g}B" if count else "",
        "quantization_level": str(reading.details.get("quantization", "")) if reading else "",
    }
