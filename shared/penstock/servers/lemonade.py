"""
Lemonade Server (AMD). Written from its documentation. Answers `/api/version` as "0.16.1" for Ollama's
clients; its own errors carry typed codes, those of its llama.cpp backend pass through.
"""

from __future__ import annotations

from penstock.domain.profile import ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import (
    OPENAI_NAMES,
    OUT_OF_MEMORY,
    listed,
    obj,
    owners,
    rows,
    text,
    whole,
)

HEALTH = Probe("/v1/health")
MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    if isinstance(obj(answers, HEALTH.key).get("all_models_loaded"), list):
        because.append("/v1/health lists all_models_loaded")
    if "lemonade" in owners(answers):
        because.append("/v1/models says owned_by lemonade")
    version = text(obj(answers, HEALTH.key).get("version")) or None
    return Match(0.96, tuple(because), version) if because else None


def _read(answers: Answers) -> ServerReading:
    windows: dict[str, int] = {}
    for row in rows(obj(answers, HEALTH.key), "all_models_loaded"):
        options = row.get("recipe_options")
        window = whole(options.get("ctx_size")) if isinstance(options, dict) else None
        if window:
            windows[text(row.get("model_name"))] = window
    return ServerReading(
        models=tuple(
            ModelReading(
                row["id"],
                running_window=windows.get(row["id"]),
                window_origin="/v1/health recipe_options.ctx_size" if row["id"] in windows else "",
                loaded=row["id"] in windows or None,
            )
            for row in listed(answers)
        )
    )


SPEC = ServerSpec(
    kind=ServerKind.LEMONADE,
    title="Lemonade",
    ports=(13305, 8000),
    knowledge="documented",
    homepage="https://github.com/lemonade-sdk/lemonade",
    probes=(HEALTH, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (HEALTH, MODELS),
    read=_read,
    behaviour=Behaviour(readiness=HEALTH, continues={}),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "repeat_penalty": "repeat_penalty",
        },
        aliases={"repetition_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.OUT_OF_MEMORY, OUT_OF_MEMORY),
        rule(E.MODEL_MISSING, error_type="model_not_found", source="documentation"),
        rule(E.MODEL_MISSING, error_type="model_not_supported", source="documentation"),
        rule(
            E.UPSTREAM_ERROR, error_type="model_load_error", transient=False, source="documentation"
        ),
        rule(E.UPSTREAM_OVERLOADED, error_type="slots_pinned_error", source="documentation"),
        rule(E.UPSTREAM_OVERLOADED, error_type="router_residency_conflict", source="documentation"),
        rule(E.UPSTREAM_ERROR, error_type="backend_watchdog_reset", source="documentation"),
        rule(E.UPSTREAM_ERROR, error_type="backend_unavailable", source="documentation"),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<window>\d+)",
            source="llama.cpp, passed through",
        ),
    ),
)
