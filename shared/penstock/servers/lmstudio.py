"""
LM Studio. Written from its documentation and bug tracker (it is closed source).

It answers 200 to *every* path, with `{"error": "Unexpected endpoint or method. (GET /x)"}`: no bare 200
means anything. Models load on demand with a time to live.
"""

from __future__ import annotations

from penstock.domain.profile import Capabilities, ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import NONSENSE, OPENAI_NAMES, obj, owners, rows, text, whole

MODELS = Probe("/v1/models")
API_MODELS = Probe("/api/v0/models")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    models = rows(obj(answers, API_MODELS.key), "data")
    if any("loaded_context_length" in m or "max_context_length" in m for m in models):
        because.append("/api/v0/models lists models with their context lengths")
    nonsense = answers.get(NONSENSE.key)
    says = nonsense is not None and "unexpected endpoint or method" in nonsense.text.lower()
    if says:
        because.append("an unknown path is answered with 'Unexpected endpoint or method'")
    if "organization_owner" in owners(answers):
        because.append("/v1/models says owned_by organization_owner")
    if not because or (len(because) == 1 and not says and not models):
        return None
    return Match(0.95 if len(because) > 1 else 0.8, tuple(because))


_STATUS = {"loaded": "loaded", "not-loaded": "unloaded", "loading": "loading"}


def _read(answers: Answers) -> ServerReading:
    models = []
    for row in rows(obj(answers, API_MODELS.key), "data"):
        name = text(row.get("id"))
        if not name:
            continue
        window = whole(row.get("loaded_context_length"))
        abilities = row.get("capabilities")
        known = set(abilities) if isinstance(abilities, list) else None
        models.append(
            ModelReading(
                name,
                running_window=window,
                window_origin="/api/v0/models loaded_context_length" if window else "",
                trained_window=whole(row.get("max_context_length")),
                loaded=row.get("state") == "loaded" if "state" in row else None,
                status=_STATUS.get(str(row.get("state")), ""),
                capabilities=Capabilities(
                    tools=None if known is None else "tool_use" in known,
                    vision=True if row.get("type") == "vlm" else None,
                    embeddings=True if row.get("type") == "embeddings" else None,
                ),
                details={
                    k: text(row.get(f))
                    for k, f in (("quantization", "quantization"), ("family", "arch"))
                    if text(row.get(f))
                },
            )
        )
    if not models:
        models = [
            ModelReading(text(r.get("id")))
            for r in rows(obj(answers, MODELS.key), "data")
            if text(r.get("id"))
        ]
    return ServerReading(models=tuple(models))


SPEC = ServerSpec(
    kind=ServerKind.LMSTUDIO,
    title="LM Studio",
    ports=(1234,),
    knowledge="documented",
    homepage="https://lmstudio.ai",
    probes=(API_MODELS, NONSENSE, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (API_MODELS, MODELS),
    read=_read,
    # lmstudio.ai/docs: a model that is loaded on demand takes the place of the one before it (auto-evict).
    behaviour=Behaviour(plain_ignores_hangup=False, loads_on_demand=True, continues={}),
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
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"trying to keep the first (?P<prompt>\d+) tokens when context the overflows.*?"
            r"context length of only (?P<window>\d+) tokens",
            source="bug tracker (the typo is theirs)",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"cannot truncate prompt with n_keep \((?P<prompt>\d+)\) >= n_ctx \((?P<window>\d+)\)",
            source="bug tracker",
        ),
        rule(E.OUT_OF_MEMORY, r"insufficient system resources", source="bug tracker"),
        rule(E.UPSTREAM_ERROR, r"the model has crashed", source="bug tracker"),
        rule(E.UPSTREAM_BAD_REQUEST, r"unexpected endpoint or method", source="documentation"),
        rule(E.MODEL_MISSING, r"model .{0,120}not found|no models? loaded", source="bug tracker"),
    ),
    # Documentation, REST API v1: an instance is called like its model unless it was given a name.
    unload=lambda model: Probe("/api/v1/models/unload", "POST", {"instance_id": model}),
)
