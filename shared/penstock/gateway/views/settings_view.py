"""The settings as they are shown: without secrets, with the place that each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.domain.upstream import Upstream
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings


def settings_view(
    settings: Settings,
    env: LocalModelEnvironment,
    origins: Mapping[tuple[str | int, ...], str],
    path: Path | None,
    upstreams: Sequence[Upstream],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """
    `{file, settings, origins: {dotted name: place}, environment, upstreams, warnings}`.

    Args:
        upstreams: all that are in force, also those that stand in no file.
        warnings: what was said and does not take effect.
    """
    values = settings.model_dump(mode="json")
    for upstream in values["upstreams"]:
        if upstream.get("api_key"):
            upstream["api_key"] = "(secret)"
        if "@" in (upstream.get("proxy") or ""):
            upstream["proxy"] = "(secret)"
    for key in values["listen"]["client_keys"]:
        if key.get("key"):
            key["key"] = "(secret)"
    return {
        "file": str(path) if path else None,
        "settings": values,
        "origins": {".".join(map(str, at)): place for at, place in origins.items() if at},
        "environment": {
            "LOCAL_MODEL_TOKEN_LIMIT": env.token_limit,
            "LOCAL_MODEL_MAX_TOKENS": env.max_tokens,
            "LOCAL_MODEL_MAX_CONCURRENCY": env.max_concurrency,
        },
        "upstreams": [
            {"name": upstream.name, "url": upstream.url, "found_by": upstream.found_by}
            for upstream in upstreams
        ],
        "warnings": list(warnings),
    }


def changed_names(old: Settings, new: Settings) -> list[str]:
    """The dotted names of what differs, without values: there are secrets among them."""
    before, after = (dict(_leaves(s.model_dump(mode="json"))) for s in (old, new))
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if before.get(name, _leaves) != after.get(name, _leaves)]


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every value that holds no others, by its dotted name; a settings tree is a few levels deep."""
    found: list[tuple[str, Any]] = []
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, dict | list) and value:
            inner = list(value.items() if isinstance(value, dict) else enumerate(value))
            waiting.extend((f"{at}.{name}" if at else str(name), v) for name, v in reversed(inner))
        else:
            found.append((at, value))
    return found
