"""
text-generation-webui (oobabooga). Written from its documentation. It ignores the `model` of a request.
"""

from __future__ import annotations

from penstock.domain.profile import ModelReading, ServerReading
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
from penstock.servers.common import OPENAI_NAMES, listed, obj, owners, text
from penstock.servers.counting import number_in

INFO = Probe("/v1/internal/model/info")
MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    if "model_name" in obj(answers, INFO.key):
        because.append("/v1/internal/model/info names the loaded model")
    created_zero = [r for r in listed(answers) if r.get("created") == 0]
    if "user" in owners(answers) and created_zero:
        because.append("/v1/models says owned_by user, created 0")
    if not because:
        return None
    return Match(0.95 if "model_name" in obj(answers, INFO.key) else 0.6, tuple(because))


def _read(answers: Answers) -> ServerReading:
    current = text(obj(answers, INFO.key).get("model_name"))
    names = [current] if current and current != "None" else [row["id"] for row in listed(answers)]
    return ServerReading(
        models=tuple(ModelReading(n, loaded=True if n == current else None) for n in names)
    )


SPEC = ServerSpec(
    kind=ServerKind.TEXTGEN,
    title="text-generation-webui",
    ports=(5000,),
    knowledge="documented",
    homepage="https://github.com/oobabooga/text-generation-webui",
    probes=(INFO, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (INFO, MODELS),
    read=_read,
    behaviour=Behaviour(
        plain_ignores_hangup=False,
        not_found_means_model=False,
        continues={"continue_": True},  # `modules/api/typing.py`
    ),
    # `extensions/openai/script.py`; it may count a start-of-text token with each text.
    counting=Counting(
        "/v1/internal/token-count", lambda _, texts: {"text": texts[0]}, number_in("length")
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical_p",
            "repeat_penalty": "repetition_penalty",
            "repeat_last_n": "repetition_penalty_range",
        },
        aliases={"repeat_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.CONTEXT_LENGTH_EXCEEDED, r"this model maximum context length is (?P<window>\d+)"),
    ),
)
