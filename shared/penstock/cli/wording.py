"""How the command line says parts of a status: words, names, spans of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named(value: Any) -> str:
    """A part of the status that is a word, or an object that has one under `state`."""
    if isinstance(value, Mapping):
        value = value.get("state")
    return value if isinstance(value, str) else ""


def short(name: str, longest: int = 28) -> str:
    """A model's name without the folders of its file, and not too long."""
    name = name.rsplit("/", 1)[-1] if name.startswith("/") else name
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def duration(seconds: Any) -> str:
    """`0.4 s`, `12 s`, `3 m 05 s`, `2 h 07 m`, `3 d 4 h`."""
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def state_of(upstream: Mapping[str, Any]) -> str:
    """An upstream's state in words, with its breaker and its supervision where these are not as usual."""
    words = [str(upstream.get("state", ""))]
    breaker, supervised = named(upstream.get("breaker")), named(upstream.get("supervised"))
    if breaker in ("open", "half_open"):
        words.append(f"breaker {breaker.replace('_', '-')}")
    if supervised in ("given_up", "restarting", "starting"):
        words.append(supervised.replace("_", " "))
    return ", ".join(words)


def troubles_of(upstream: Mapping[str, Any]) -> list[str]:
    """Why it is in that state, a sentence each."""
    breaker, supervised = upstream.get("breaker") or {}, upstream.get("supervised") or {}
    found = []
    if named(breaker) in ("open", "half_open"):
        found.append(f"left alone for now: {breaker.get('why')}")
    if named(supervised) == "given_up":
        found.append(f"given up: {supervised.get('why')} Its log: {supervised.get('log_file')}")
    elif upstream.get("error"):
        found.append(str(upstream["error"]))
    return found
