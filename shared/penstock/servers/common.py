"""Small readers of answers that several servers share. Never raise on what a stranger may send."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from penstock.domain.profile import Capabilities, ModelReading, TemplateRules
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, FaultRule, Probe, rule


def obj(answers: Answers, key: str) -> Mapping[str, Any]:
    """The JSON object that answered *key* with a 2xx status; empty when there is none."""
    answer = answers.get(key)
    if answer is None or not answer.ok:
        return {}
    value = answer.json
    return value if isinstance(value, dict) else {}


def rows(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The objects in the list `value[name]`."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def whole(value: Any) -> int | None:
    """A whole number above 0, also as text; None for everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        plain = value.isascii() and value.isdigit() and len(value) < 16
        value = int(value) if plain else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None


def text(value: Any) -> str:
    """A string, "" for everything else."""
    return value if isinstance(value, str) else ""


# Nobody has this path: whoever answers 200 to it says 200 to everything (LM Studio, web applications).
NONSENSE = Probe("/penstock-probe-of-a-path-that-nobody-has")


def answers_everything(answers: Answers) -> bool:
    """Whether even a path that nobody has is answered with success: then no bare 200 means anything."""
    answer = answers.get(NONSENSE.key)
    return answer is not None and answer.ok


def told(**details: str | int | None) -> dict[str, str | int | float | bool]:
    """Those of the details that the server really told."""
    return {name: value for name, value in details.items() if value}


def owners(answers: Answers) -> set[str]:
    """All `owned_by` of `/v1/models`."""
    return {text(row.get("owned_by")) for row in rows(obj(answers, "GET /v1/models"), "data")} - {
        ""
    }


def listed(answers: Answers, key: str = "GET /v1/models") -> list[Mapping[str, Any]]:
    """The models that an OpenAI-style listing names."""
    return [row for row in rows(obj(answers, key), "data") if text(row.get("id"))]


def plain_models(answers: Answers, *, slots: int | None = None) -> tuple[ModelReading, ...]:
    """Readings from a listing that tells ids, and `max_model_len` where the server has it."""
    readings = []
    for row in listed(answers):
        window = whole(row.get("max_model_len"))
        readings.append(
            ModelReading(
                model=row["id"],
                running_window=window,
                window_origin="/v1/models max_model_len" if window else "",
                slots=slots,
            )
        )
    return tuple(readings)


def digest(template: str) -> str:
    """What tells a template from another one; "" for none."""
    return hashlib.blake2b(template.encode(), digest_size=8).hexdigest() if template else ""


def template_rules(template: str) -> TemplateRules:
    """
    What can be read from the text of a chat template.

    Only what is certain is said: a template that raises on alternation says so in its own words
    (Mistral, Gemma, Llama 2 use these exceptions), one that never mentions `system` does not render it.
    """
    if not template:
        return TemplateRules()
    low = template.lower()
    strict = "must alternate" in low
    first_only = "must be at the beginning" in low or "must be the first" in low
    return TemplateRules(
        system_role=False if "system role not supported" in low else None,
        developer_role=True if "developer" in low else None,
        late_system=False if (first_only or strict) else None,
        same_role_neighbours=False if strict else None,
        tool_role=True if "'tool'" in low or '"tool"' in low else None,
    )


def template_capabilities(template: str) -> Capabilities:
    """Tools and thinking, as far as the template's text tells."""
    if not template:
        return Capabilities()
    low = template.lower()
    return Capabilities(
        tools=True if "tools" in low else None,
        thinking=True if "<think>" in low or "enable_thinking" in low else None,
    )


# Names that most servers share with OpenAI.
OPENAI_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}

OUT_OF_MEMORY = (
    r"out of memory|cuda_error_out_of_memory|cudamalloc failed|failed to allocate|"
    r"unable to allocate|insufficient (?:gpu )?memory|not enough memory|ggml_backend.*alloc|"
    r"requires more system memory|erroroutofdevicememory"
)

# Wordings that occur with several kinds, weighed after a kind's own.
GENERIC_RULES: tuple[FaultRule, ...] = (
    rule(E.OUT_OF_MEMORY, OUT_OF_MEMORY),
    rule(
        E.CONTEXT_LENGTH_EXCEEDED,
        r"maximum context length (?:is|of) (?P<window>\d+).*?"
        r"(?P<prompt>\d+) (?:input tokens|in the messages|tokens from the input)",
        source="vLLM renderers/params.py; SGLang tokenizer_manager.py; OpenAI",
    ),
    rule(
        E.CONTEXT_LENGTH_EXCEEDED,
        r"maximum context length (?:is|of) (?P<window>\d+)(?:.*?(?P<prompt>\d+) (?:input )?tokens)?",
        source="vLLM renderers/params.py; OpenAI",
    ),
    rule(
        E.CONTEXT_LENGTH_EXCEEDED,
        r"prompt is too long: (?P<prompt>\d+) tokens? > (?P<window>\d+)",
        source="Anthropic",
    ),
    rule(
        E.CONTEXT_LENGTH_EXCEEDED,
        r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<window>\d+)",
        source="llama.cpp server-context.cpp",
    ),
    rule(E.CONTEXT_LENGTH_EXCEEDED, error_type="context_length_exceeded"),
    rule(E.CONTEXT_LENGTH_EXCEEDED, error_type="exceed_context_size_error"),
    rule(
        E.CONTEXT_LENGTH_EXCEEDED,
        r"context (?:length|size|window).{0,40}exceed|exceed.{0,40}context (?:length|size|window)|"
        r"longer than the (?:model's )?context length",
    ),
    rule(
        E.UNSUPPORTED_INPUT,
        r"image(?:s| input)? (?:is|are|input is)? ?not supported|does not support (?:images?|vision)|"
        r"multimodal.{0,30}not (?:supported|enabled)|audio input is not supported",
    ),
    rule(E.UPSTREAM_LOADING, r"loading model|model is (?:still )?(?:loading|starting)", status=503),
    rule(E.MODEL_MISSING, error_type="model_not_found"),
    rule(
        E.MODEL_MISSING,
        r"model .{0,120}(?:not found|does not exist|is not (?:available|loaded))|unknown model",
        status=(404, 400),
    ),
)
