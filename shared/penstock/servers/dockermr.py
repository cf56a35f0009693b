"""
Docker Model Runner. Written from its sources. Errors are plain text (Go's `http.Error`).

It answers parts of Ollama's API; behind it runs llama.cpp or vLLM.
"""

from __future__ import annotations

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import Answers, Behaviour, Match, Parameters, Probe, ServerSpec, rule
from penstock.servers.common import (
    OPENAI_NAMES,
    OUT_OF_MEMORY,
    answers_everything,
    plain_models,
    rows,
)

STATUS = Probe("/engines/status")
MODELS = Probe("/engines/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    status = answers.get(STATUS.key)
    if status is None or not status.ok or "unexpected endpoint" in status.text.lower():
        return None
    if not (isinstance(status.json, dict) and status.json) and "running" not in status.text.lower():
        return None
    if answers_everything(answers):
        return None
    if status.headers.get("content-type", "").startswith("text/html"):
        return None
    return Match(0.95, ("/engines/status describes the engines",))


def _read(answers: Answers) -> ServerReading:
    listing = answers.get(MODELS.key)
    found = rows(listing.json, "data") if listing is not None and listing.ok else []
    if found:
        return ServerReading(models=plain_models({"GET /v1/models": answers[MODELS.key]}))
    return ServerReading()


SPEC = ServerSpec(
    kind=ServerKind.DOCKERMR,
    title="Docker Model Runner",
    ports=(12434,),
    knowledge="documented",
    homepage="https://github.com/docker/model-runner",
    probes=(STATUS,),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS,),
    read=_read,
    behaviour=Behaviour(
        chat_path="/engines/v1/chat/completions",
        completions_path="/engines/v1/completions",
        embeddings_path="/engines/v1/embeddings",
        continues={},
    ),
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
        rule(E.MODEL_MISSING, r"model not found", status=404, source="http.Error"),
        rule(E.UPSTREAM_OVERLOADED, r"service unavailable", status=503, source="http.Error"),
        rule(E.UPSTREAM_ERROR, r"backend not installed", status=412, transient=False),
        rule(E.UPSTREAM_ERROR, r"unable to load runner", status=500, transient=False),
        rule(E.UPSTREAM_BAD_REQUEST, r"model is required", status=400),
    ),
)
