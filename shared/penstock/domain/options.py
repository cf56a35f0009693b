"""
How a settings class looks: frozen, strict about unknown keys, every field with effect, unit and reason.

Each decision module owns the settings of what it decides as a subclass of `Options`;
`penstock.settings` joins them into one tree. JSON Schema and the documentation come from these fields,
so a setting cannot exist without being described.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of every settings class. Instances never change; a reload makes new ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def option(
    default: Any = ...,
    *,
    effect: str,
    unit: str | None = None,
    reason: str | None = None,
    factory: Any = None,
    secret: bool = False,
    **limits: Any,
) -> Any:
    """
    Declare one setting.

    Args:
        default: the value when nobody says anything; left out, the setting is required.
        effect: what it does, in one sentence that a user understands.
        unit: "seconds", "bytes", "tokens", "share" ...; None where the value has none.
        reason: why this default.
        factory: makes the default, for lists and nested settings.
        secret: the value is never shown.
        limits: pydantic's own bounds (`ge`, `gt`, `le`, `min_length`, `pattern`, ...).
    """
    extra: dict[str, Any] = {"unit": unit, "reason": reason, "secret": secret}
    extra = {key: value for key, value in extra.items() if value}
    if factory is not None:
        return Field(default_factory=factory, description=effect, json_schema_extra=extra, **limits)
    return Field(default, description=effect, json_schema_extra=extra, **limits)
