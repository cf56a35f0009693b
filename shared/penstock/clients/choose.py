"""Which model a client gets: from the gateway's listing, the one that was named, else the likeliest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.clients.base import Model


class NoModel(Exception):
    """There is no model, or not the one that was named; the text says what there is."""


def read_models(listing: Iterable[Mapping[str, Any]]) -> tuple[Model, ...]:
    """The models of the gateway's `/v1/models`, with their running windows."""
    found = []
    for entry in listing:
        window, output = entry.get("context_window"), entry.get("max_output_tokens")
        found.append(
            Model(
                str(entry["id"]),
                window if isinstance(window, int) else None,
                output if isinstance(output, int) else None,
                str(entry.get("window_source") or ""),
                "root" in entry,
            )
        )
    return tuple(found)


def choose(models: Sequence[Model], wanted: str | None) -> tuple[Model, ...]:
    """
    All models that a client may be given, the chosen one first; of the others those whose window is known and not
    only assumed.

    Without a name it is the first local one (a cloud model tells no window source), and not one whose name
    says that it only embeds, unless there is nothing else.

    Raises:
        NoModel: none at all, or none of that name.
    """
    if not models:
        raise NoModel("The gateway has no model yet: its model server lists none.")
    if wanted is not None:
        named = [m for m in models if wanted in (m.id, m.id.removesuffix(":latest"))]
        if not named:
            there = ", ".join(m.id for m in models[:12])
            raise NoModel(f"The gateway has no model {wanted!r}. It has: {there}.")
        chosen = named[0]
    else:
        chosen = min(models, key=lambda m: (_only_embeds(m), not m.source, m.is_alias))
    others = [
        m
        for m in models
        if not (m is chosen or m.is_alias or _only_embeds(m))
        and m.source not in ("", "name", "fallback")
    ]
    return (chosen, *others)


def _only_embeds(model: Model) -> bool:
    name = model.id.lower()
    return any(word in name for word in ("embed", "bge-", "rerank"))
