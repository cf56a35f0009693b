"""
Text Generation Inference. Written from its sources (`router/src/server.rs`, `validation.rs`, `lib.rs`).

In maintenance mode. It insists on top_k above 0 and top_p strictly between 0 and 1.
"""

from __future__ import annotations

from typing import Any

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
from penstock.servers.common import OPENAI_NAMES, OUT_OF_MEMORY, obj, text, whole
from penstock.servers.counting import field, rendered

INFO = Probe("/info")


def _fingerprint(answers: Answers) -> Match | None:
    info = obj(answers, INFO.key)
    router = text(info.get("router"))
    if "text-generation-router" not in router:
        return None
    return Match(0.97, (f"/info says router {router}",), text(info.get("version")) or None)


def _read(answers: Answers) -> ServerReading:
    info = obj(answers, INFO.key)
    model = text(info.get("model_id"))
    if not model:
        return ServerReading(version=text(info.get("version")) or None)
    window = whole(info.get("max_total_tokens"))
    return ServerReading(
        models=(
            ModelReading(
                model,
                running_window=window,
                window_origin="/info max_total_tokens" if window else "",
                slots=whole(info.get("max_concurrent_requests")),
                loaded=True,
            ),
        ),
        version=text(info.get("version")) or None,
    )


def _chat_tokens(value: Any) -> int | None:
    tokens = field(value, "tokenize_response")
    return len(tokens) if isinstance(tokens, list) else None


SPEC = ServerSpec(
    kind=ServerKind.TGI,
    title="Text Generation Inference",
    ports=(3000,),
    knowledge="documented",
    homepage="https://github.com/huggingface/text-generation-inference",
    probes=(INFO,),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (INFO,),
    read=_read,
    behaviour=Behaviour(
        plain_ignores_hangup=False,
        readiness=Probe("/health"),
        not_found_means_model=False,
    ),
    # `router/src/server.rs`: /tokenize answers a list of tokens, /chat_tokenize one beside the text.
    counting=Counting(
        "/tokenize",
        lambda _, texts: {"inputs": texts[0], "add_special_tokens": False},
        lambda value, _: [len(value)] if isinstance(value, list) else None,
        chats=(ChatCount("/chat_tokenize", rendered, _chat_tokens),),
    ),
    parameters=Parameters(
        names={**OPENAI_NAMES, "top_k": "top_k", "repeat_penalty": "repetition_penalty"},
        aliases={"repeat_penalty": "repeat_penalty"},
        bounds={
            "top_p": (0.0, 1.0, True),
            "top_k": (1, None, False),
            "temperature": (0.0, None, True),
        },
    ),
    fault_rules=(
        rule(E.OUT_OF_MEMORY, OUT_OF_MEMORY),
        rule(E.UPSTREAM_OVERLOADED, error_type="overloaded", source="lib.rs"),
        rule(E.UPSTREAM_OVERLOADED, r"model is overloaded", status=429, source="server.rs"),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"`inputs` tokens \+ `max_new_tokens` must be <= (?P<window>\d+)"
            r"(?:\. Given: (?P<prompt>\d+))?",
            status=422,
            source="validation.rs",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"`inputs` must have less than (?P<window>\d+) tokens(?:\. Given: (?P<prompt>\d+))?",
            status=422,
            source="validation.rs",
        ),
        rule(E.UPSTREAM_BAD_REQUEST, error_type="validation", status=422, source="server.rs"),
        rule(E.UPSTREAM_ERROR, error_type="incomplete_generation", status=500, source="server.rs"),
        rule(E.UPSTREAM_ERROR, error_type="generation", status=424, source="server.rs"),
        rule(E.UPSTREAM_LOADING, error_type="healthcheck", status=503, source="server.rs"),
    ),
)
