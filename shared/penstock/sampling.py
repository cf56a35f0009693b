"""
Which sampling parameters are sent, and who decided each (behaviours D, contracts 8).

Precedence, strongest first: `sampling` of the configuration; the request; `sampling_defaults` of the
configuration; what the model publishes; the optimised values for local models; the server left alone.
Falsy values are values: `temperature: 0` stays 0. `null` means "not given".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from penstock.domain.change import Change
from penstock.domain.options import Options, option
from penstock.servers.base import Parameters

# Logical name -> lowest, highest value that means anything. One word per idea: what servers call
# repeat_penalty, repetition_penalty or rep_pen is `repeat_penalty` here.
LOGICAL_NAMES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 1_000_000),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.0, 10.0),
    "repeat_last_n": (-1, 10_000_000),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (-(2**63), 2**64),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 100.0),
}
_WHOLE = frozenset({"top_k", "repeat_last_n", "seed", "mirostat"})
# Spellings that clients use, whatever the server: to their logical names.
_SPELLINGS: Mapping[str, str] = {
    "repetition_penalty": "repeat_penalty",
    "rep_pen": "repeat_penalty",
    "typical": "typical_p",
    "repetition_context_size": "repeat_last_n",
}


def _check(values: dict[str, float | int]) -> dict[str, float | int]:
    for name, value in values.items():
        if name not in LOGICAL_NAMES:
            raise ValueError(
                f"{name} is no sampling parameter; known are {', '.join(LOGICAL_NAMES)}"
            )
        low, high = LOGICAL_NAMES[name]
        if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
        if name in _WHOLE and value != int(value):
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
    return values


SamplingValues = Annotated[dict[str, int | float], AfterValidator(_check)]
"""Sampling parameters by logical name."""


class OptimisedSampling(Options):
    """Values for local models when neither request, configuration nor model say anything."""

    enabled: bool = option(
        True,
        effect="Whether these values are sent at all.",
        reason="Servers' own defaults are made for prose; coding agents want steadier answers.",
    )
    temperature: float = option(0.3, effect="Temperature.", ge=0, le=5)
    top_p: float = option(
        0.9, effect="Nucleus: share of probability kept.", unit="share", gt=0, le=1
    )
    top_k: int = option(40, effect="Candidates kept.", unit="tokens", ge=1)
    repeat_penalty: float = option(
        1.1, effect="Penalty for tokens that occurred already.", ge=0, le=10
    )

    def values(self) -> dict[str, float | int]:
        """By logical name."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repeat_penalty": self.repeat_penalty,
        }


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """
    What becomes of a request's sampling.

    Attributes:
        values: logical name -> value in force.
        sources: logical name -> `configuration`, `request`, `configured default`, `model`, `optimised`.
        set_fields: wire name -> value that differs from what the request holds there.
        drop_fields: wire names to take out.
        changes: what is announced.
    """

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    set_fields: Mapping[str, Any]
    drop_fields: tuple[str, ...]
    changes: tuple[Change, ...]


def read_request(body: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """
    The sampling parameters that a request gives.

    Args:
        body: the request.
        aliases: spellings that the server reads: wire name -> logical name.

    Returns:
        logical name -> (the field it stands in, its value). `null` is not given. A parameter that is
        given twice under two names counts by its logical one.
    """
    given: dict[str, tuple[str, Any]] = {}
    for field, value in body.items():
        logical = field if field in LOGICAL_NAMES else aliases.get(field) or _SPELLINGS.get(field)
        if logical is None or logical not in LOGICAL_NAMES or value is None:
            continue
        if logical in given and field != logical:
            continue
        given[logical] = (field, value)
    return given


def merge(
    *,
    given: Mapping[str, tuple[str, Any]],
    forced: Mapping[str, Any],
    defaults: Mapping[str, Any],
    published: Mapping[str, Any],
    options: OptimisedSampling,
    parameters: Parameters,
    applies_model_defaults: bool,
) -> SamplingPlan:
    """
    Decide the sampling of one request to a local upstream.

    Args:
        given: from `read_request`.
        forced: `sampling` of the configuration, by logical name.
        defaults: `sampling_defaults` of the configuration.
        published: what the model publishes (Modelfile, generation_config, GGUF).
        parameters: names that the server kind understands.
        applies_model_defaults: the server applies what the model publishes by itself, unseen; then
            optimised values would override it and are not sent.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    optimised = options.values() if options.enabled and not applies_model_defaults else {}
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("optimised", optimised),
        ("model", {k: v for k, v in published.items() if k in LOGICAL_NAMES}),
        ("configured default", defaults),
        ("request", {logical: value for logical, (_, value) in given.items()}),
        ("configuration", forced),
    )
    for source, layer in layers:
        for name, value in layer.items():
            if source == "optimised" and name not in parameters.names:
                continue  # nobody asked for it and the server cannot take it: nothing to announce
            values[name] = value
            sources[name] = source

    set_fields: dict[str, Any] = {}
    drop_fields: list[str] = []
    changes: list[Change] = []
    for name, value in values.items():
        field, asked = given.get(name, ("", None))
        wire = parameters.names.get(name)
        if wire is None and (not parameters.passes_unknown or not field):
            if field:
                drop_fields.append(field)
                changes.append(
                    Change("sampling", field, "dropped", f"the server cannot take {field}")
                )
            continue
        wire = wire or field
        value = _within(name, value, parameters, changes)
        if field and field != wire:
            drop_fields.append(field)
            changes.append(Change("sampling", field, "renamed", f"{field} is called {wire} there"))
        if field != wire or asked != value or type(asked) is not type(value):
            set_fields[wire] = value
        if sources[name] == "configuration" and field and asked != value:
            changes.append(
                Change("sampling", wire, "forced", f"{wire} is {value} by configuration")
            )
        elif sources[name] != "request":
            changes.append(Change("sampling", wire, "set", f"{wire} is {value} ({sources[name]})"))
    return SamplingPlan(values, sources, set_fields, tuple(drop_fields), tuple(changes))


def _within(name: str, value: Any, parameters: Parameters, changes: list[Change]) -> Any:
    """*value* inside what the server accepts; a change is announced."""
    bounds = parameters.bounds.get(name)
    if bounds is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    low, high, exclusive = bounds
    step = 0.001 if exclusive else 0.0
    inside = value
    if low is not None and (value < low or (exclusive and value <= low)):
        inside = low + step
    if high is not None and (value > high or (exclusive and value >= high)):
        inside = high - step
    if inside != value:
        changes.append(
            Change("sampling", name, "reduced", f"{value} is outside what the server takes")
        )
    return inside
