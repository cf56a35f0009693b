"""
LocalAI. Written from its sources (`core/http`). Answers `/api/version` as "0.9.0" for Ollama's clients.
"""

from __future__ import annotations

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import (
    Answers,
    Behaviour,
    Counting,
    Match,
    Parameters,
    Probe,
    ServerSpec,
    rule,
)
from penstock.servers.common import OPENAI_NAMES, answers_everything, obj, plain_models
from penstock.servers.counting import length_of

WELL_KNOWN = Probe("/.well-known/localai.json")
MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    known = obj(answers, WELL_KNOWN.key)
    version = known.get("version")
    if answers_everything(answers) or not (version or "endpoints" in known):
        return None
    return Match(
        0.97, ("/.well-known/localai.json is there",), version if isinstance(version, str) else None
    )


def _read(answers: Answers) -> ServerReading:
    return ServerReading(models=plain_models(answers))


SPEC = ServerSpec(
    kind=ServerKind.LOCALAI,
    title="LocalAI",
    ports=(8080,),
    knowledge="documented",
    homepage="https://github.com/mudler/LocalAI",
    probes=(WELL_KNOWN,),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS,),
    read=_read,
    behaviour=Behaviour(plain_ignores_hangup=False, readiness=Probe("/readyz")),
    # `core/http/endpoints/localai/tokenize.go`
    counting=Counting(
        "/v1/tokenize",
        lambda model, texts: {"model": model, "content": texts[0]},
        length_of("tokens"),
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical_p",
            "repeat_penalty": "repeat_penalty",
        },
        aliases={"repetition_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.UPSTREAM_OVERLOADED, error_type="admission_rejected", source="core/http"),
        rule(E.UPSTREAM_LOADING, error_type="model_loading", source="core/http"),
        rule(E.UPSTREAM_OVERLOADED, r"cooldown", status=503, source="core/http"),
        rule(E.CONTEXT_LENGTH_EXCEEDED, status=413, source="core/http (compression overflow)"),
    ),
)
