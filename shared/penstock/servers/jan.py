"""
Jan. Written from its sources (`src-tauri` proxy.rs): a proxy in front of llama-server children.

Errors are plain text, a key is required, and the Host header is checked.
"""

from __future__ import annotations

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import OPENAI_NAMES, obj, plain_models, text

MODELS = Probe("/v1/models")
OPENAPI = Probe("/openapi.json")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    info = obj(answers, OPENAPI.key).get("info")
    title = text(info.get("title")) if isinstance(info, dict) else ""
    if title.startswith("Jan"):
        because.append(f"/openapi.json is titled {title}")
    models = answers.get(MODELS.key)
    if models is not None and models.status == 401 and "authorization token" in models.text:
        because.append("/v1/models asks for a key in Jan's words")
    return Match(0.95 if title.startswith("Jan") else 0.8, tuple(because)) if because else None


def _read(answers: Answers) -> ServerReading:
    return ServerReading(models=plain_models(answers))


SPEC = ServerSpec(
    kind=ServerKind.JAN,
    title="Jan",
    ports=(1337,),
    knowledge="documented",
    homepage="https://github.com/janhq/jan",
    probes=(OPENAPI, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS,),
    read=_read,
    behaviour=Behaviour(
        progress_field="return_progress", notices_hangup_prefill=True, continues={}
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical_p",
            "repeat_penalty": "repeat_penalty",
            "repeat_last_n": "repeat_last_n",
        },
        aliases={"repetition_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.UPSTREAM_LOADING, r"no models are available", status=503, source="proxy.rs"),
        rule(E.MODEL_MISSING, r"no running session found for model", status=404, source="proxy.rs"),
        rule(
            E.UPSTREAM_AUTH,
            r"invalid or missing authorization token",
            status=401,
            source="proxy.rs",
        ),
        rule(E.UPSTREAM_BAD_REQUEST, r"invalid host header", status=403, source="proxy.rs"),
    ),
)
