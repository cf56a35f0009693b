"""
Model listings, answered from memory (design 4.1): the running window in every field that clients read,
and never the trained one where a client budgets by it. Ollama's shapes stand in `ollama_shapes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain.profile import ModelProfile
from penstock.limits import cloud_window

_EPOCH = "1970-01-01T00:00:00Z"  # Anthropic's word for "not known"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A model in a listing.

    Attributes:
        id: what clients ask for; an alias's listed name.
        profile: None for a cloud model.
        model: its id at the upstream where that is another one, "" where it is not.
    """

    id: str
    upstream: str
    profile: ModelProfile | None
    model: str = ""

    @property
    def upstream_id(self) -> str:
        """Its id at the upstream."""
        return self.model or self.id

    @property
    def window(self) -> int | None:
        """The window in force, or a cloud model's documented one; None when nothing is known."""
        if self.profile is not None:
            return self.profile.window.tokens
        known = cloud_window(self.upstream_id)
        return known.tokens if known is not None else None

    @property
    def output(self) -> int | None:
        """The most tokens of an answer, where that is documented."""
        known = cloud_window(self.upstream_id) if self.profile is None else None
        return known.output if known is not None else None


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
    if entry.model and entry.model != entry.id:
        model["root"] = entry.model
    profile = entry.profile
    if profile is None:
        if entry.window is not None:
            model["context_window"] = model["context_length"] = entry.window
        if entry.output is not None:
            model["max_output_tokens"] = model["max_completion_tokens"] = entry.output
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


def anthropic_model(entry: Entry) -> dict[str, Any]:
    """
    One model as Anthropic's `/v1/models/{id}` shows it; the window stands in `max_input_tokens`, and under
    the names that other listings have beside it.

    Source: https://docs.anthropic.com/en/api/models, and `ModelInfo` of the official client.
    """
    model: dict[str, Any] = {
        "type": "model",
        "id": entry.id,
        "display_name": entry.upstream_id,
        "created_at": _EPOCH,
        "lifecycle": "active",
    }
    if entry.window is not None:
        model["max_input_tokens"] = entry.window
        model["context_window"] = model["context_length"] = entry.window
    if entry.output is not None:
        model["max_tokens"] = entry.output
    return model


def anthropic_listing(entries: Sequence[Entry]) -> dict[str, Any]:
    """Anthropic's `/v1/models`: always one page."""
    return {
        "data": [anthropic_model(entry) for entry in entries],
        "has_more": False,
        "first_id": entries[0].id if entries else None,
        "last_id": entries[-1].id if entries else None,
    }


def codex_catalogue() -> dict[str, Any]:
    """
    What the answer to `/v1/models?client_version=...` has beside the usual fields: an empty `models`.

    Codex reads that field and nothing else. Without it each start logs an error; with an entry that has no
    instructions it is the same error for the whole list (0.169: "missing both `base_instructions` and
    `model_messages.instructions_template`"); with instructions of ours its own would be gone. With an empty
    list it goes on as it does without one, and the window is what its configuration says
    (`model_context_window`).

    Seen in Codex 0.169, with a provider that authenticates by a command: others do not ask.
    """
    return {"models": []}
