"""
mlx-lm's server (Apple silicon). Written from `mlx_lm/server.py`.

Errors of generation come back as **404** with the message: a 404 does not mean that the model is missing.
Its default of 512 output tokens is short.
"""

from __future__ import annotations

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import OPENAI_NAMES, listed, owners, plain_models

MODELS = Probe("/v1/models")
HEALTH = Probe("/health")


def _fingerprint(answers: Answers) -> Match | None:
    servers = {a.headers.get("server", "") for a in answers.values()}
    python = any(name.startswith("BaseHTTP/") for name in servers)
    props = answers.get("GET /props")
    if not python or (props is not None and props.ok) or owners(answers):
        return None
    because = ["the Server header is Python's own (BaseHTTP)"]
    if listed(answers):
        because.append("/v1/models lists models without owned_by")
    health = answers.get(HEALTH.key)
    if health is not None and isinstance(health.json, dict) and health.json.get("status") == "ok":
        because.append("/health says ok")
    return Match(0.9 if len(because) == 3 else 0.7, tuple(because)) if len(because) > 1 else None


def _read(answers: Answers) -> ServerReading:
    return ServerReading(models=plain_models(answers))


SPEC = ServerSpec(
    kind=ServerKind.MLX,
    title="mlx-lm",
    ports=(8080,),
    knowledge="documented",
    homepage="https://github.com/ml-explore/mlx-lm",
    probes=(MODELS, HEALTH),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS,),
    read=_read,
    behaviour=Behaviour(
        readiness=HEALTH,
        not_found_means_model=False,
        memory_grows="by_request",  # mlx_lm/models/cache.py: a KVCache grows in steps of 256 tokens
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "repeat_penalty": "repetition_penalty",
            "repeat_last_n": "repetition_context_size",
        },
        aliases={"repeat_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.MODEL_MISSING, r"repository not found|no such file|404 client error", status=404),
        rule(E.UPSTREAM_ERROR, status=404, transient=False, source="mlx_lm/server.py"),
    ),
)
