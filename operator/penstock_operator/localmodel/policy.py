"""
`spec.gateway.settings`: the settings of the gateway that are policy, taken from the one tree of settings.

Names are camelCase, as everything in the cluster; they are converted mechanically, field by field, and keys of maps
(names of models, of samplers) stay as they are. Left out: what the operator decides (listen, upstreams), what a pod
has no use for (discovery, supervision, log files), and window and slots, which the gateway learns from the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from penstock.settings import Settings

Policy = dict[str, Any]
GROUPS = (
    "limits", "context", "tool_calls", "loop_guard", "resume", "sampling", "sampling_defaults", "optimised",
    "timeouts", "retry", "concurrency", "breaker", "health", "log",
)  # fmt: skip
LEFT_OUT = frozenset({
    "limits.window", "limits.models", "limits.fallback", "retry.cloud",
    "log.file", "log.file_bytes", "log.files",
})  # fmt: skip


def as_policy(settings: Mapping[str, Any]) -> Policy | str:
    """The same in the words of the gateway's file; a sentence when it cannot be used."""
    known = {to_camel(name): name for name in GROUPS}
    found: Policy = {}
    for name, value in settings.items():
        if name not in known:
            return f"there is no {name}; expected one of {', '.join(known)}"
        inner = part(Settings, known[name])
        try:
            found[known[name]] = _snake(value, inner, known[name]) if inner else value
        except ValueError as exc:
            return str(exc)
    try:
        Settings.model_validate(found)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(to_camel(str(one)) for one in first['loc'])}: {first['msg']}"
    return found


def as_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    The other way round: what of a gateway's settings differs from the defaults, as `spec.gateway.settings` says it.

    Args:
        values: the whole tree, as the gateway shows it (`/penstock/settings`).
    """
    defaults = Settings().model_dump(mode="json")
    found: dict[str, Any] = {}
    for name in GROUPS:
        inner = part(Settings, name)
        value, default = values.get(name, defaults[name]), defaults[name]
        if value == default:
            continue
        told = _camel(value, default, inner, name) if inner else value
        if told:
            found[to_camel(name)] = told
    return found


def part(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of settings of a field, when it is a group."""
    annotation = model.model_fields[name].annotation
    for one in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _snake(value: Any, model: type[BaseModel], path: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    known = {
        to_camel(name): name for name in model.model_fields if f"{path}.{name}" not in LEFT_OUT
    }
    found: dict[str, Any] = {}
    for name, inner_value in ((str(key), one) for key, one in value.items()):
        own: str = known.get(name) or name  # an unknown name is refused by the settings' own check
        if name not in known and name in {to_camel(one) for one in model.model_fields}:
            raise ValueError(f"{to_camel(path)}.{name} is not set here: the operator decides it")
        inner = part(model, own) if own in model.model_fields else None
        found[own] = _snake(inner_value, inner, f"{path}.{own}") if inner else inner_value
    return found


def _camel(value: Any, default: Any, model: type[BaseModel], path: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, one in value.items():
        usual = default.get(name) if isinstance(default, Mapping) else None
        if f"{path}.{name}" in LEFT_OUT or name not in model.model_fields or one == usual:
            continue
        inner = part(model, name)
        found[to_camel(name)] = _camel(one, usual, inner, f"{path}.{name}") if inner else one
    return found
