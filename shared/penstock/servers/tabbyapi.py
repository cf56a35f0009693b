"""
TabbyAPI (ExLlama). Written from its documentation and sources. Answers `/props` as well.
"""

from __future__ import annotations

from penstock.domain.profile import ModelReading, ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import (
    Answers,
    Behaviour,
    ChatCount,
    Counting,
    Match,
    Parameters,
    Probe,
    ServerSpec,
    rule,
)
from penstock.servers.common import OPENAI_NAMES, listed, obj, owners, text, whole
from penstock.servers.counting import amount, field, number_in

SERVICE = Probe("/.well-known/serviceinfo")
MODEL = Probe("/v1/model")
MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    service = obj(answers, SERVICE.key).get("software")
    named = text(service.get("name")) if isinstance(service, dict) else text(service)
    if "tabbyapi" in named.lower():
        because.append("/.well-known/serviceinfo says TabbyAPI")
    if "tabbyAPI" in owners(answers):
        because.append("/v1/models says owned_by tabbyAPI")
    return Match(0.97, tuple(because)) if because else None


def _read(answers: Answers) -> ServerReading:
    current = obj(answers, MODEL.key)
    name = text(current.get("id"))
    parameters = current.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    window = whole(parameters.get("max_seq_len"))
    if not name:
        return ServerReading(models=tuple(ModelReading(row["id"]) for row in listed(answers)))
    return ServerReading(
        models=(
            ModelReading(
                name,
                running_window=window,
                window_origin="/v1/model parameters.max_seq_len" if window else "",
                slots=whole(parameters.get("max_batch_size")),
                loaded=True,
            ),
        )
    )


SPEC = ServerSpec(
    kind=ServerKind.TABBYAPI,
    title="TabbyAPI",
    ports=(5000,),
    knowledge="documented",
    homepage="https://github.com/theroyallab/tabbyAPI",
    probes=(SERVICE, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODEL, MODELS),
    read=_read,
    behaviour=Behaviour(plain_ignores_hangup=False),
    # `endpoints/core/types/token.py`: `text` is one text or the messages of a conversation.
    counting=Counting(
        "/v1/token/encode",
        lambda _, texts: {"text": texts[0], "add_bos_token": False, "encode_special_tokens": True},
        number_in("length"),
        chats=(
            ChatCount(
                "/v1/token/encode",
                lambda _, request: {"text": request.get("messages"), "add_bos_token": True},
                lambda value: amount(field(value, "length")),
            ),
        ),
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical",
            "repeat_penalty": "repetition_penalty",
            "repeat_last_n": "penalty_range",
        },
        aliases={"rep_pen": "repeat_penalty", "repeat_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"prompt length (?P<prompt>\d+) exceeds the available context size of (?P<window>\d+)",
            status=400,
            source="backends/exllamav2",
        ),
        rule(
            E.UPSTREAM_LOADING,
            r"no models are currently loaded",
            status=503,
            source="documentation",
        ),
    ),
)
