"""The settings as they are shown: without secrets, with the place that each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings


def settings_view(
    settings: Settings,
    env: LocalModelEnvironment,
    origins: Mapping[tuple[str | int, ...], str],
    path: Path | None,
) -> dict[str, Any]:
    """`{file, settings, origins: {dotted name: place}, environment}`."""
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
    }
