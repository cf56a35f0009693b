"""
SGLang. Written from its sources (`entrypoints/http_server.py`, `managers/*`, 0.5.23).

It answers parts of Ollama's API and can even say "Ollama is running"; it has no `/api/version`.
"""

from __future__ import annotations

from typing import Any

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
from penstock.servers.common import OPENAI_NAMES, obj, owners, plain_models, text, whole
from penstock.servers.counting import amount, field

MODELS = Probe("/v1/models")
SERVER_INFO = Probe("/server_info")
MODEL_INFO = Probe("/model_info")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    if "sglang" in owners(answers):
        because.append("/v1/models says owned_by sglang")
    info = obj(answers, SERVER_INFO.key)
    if "model_path" in info or "tp_size" in info or "internal_states" in info:
        because.append("/server_info describes an SGLang engine")
    elif "model_path" in obj(answers, MODEL_INFO.key):
        because.append("/model_info names a model_path")
    if not because:
        return None
    version = text(info.get("version")) or None
    return Match(0.95 if len(because) > 1 else 0.85, tuple(because), version)


def _read(answers: Answers) -> ServerReading:
    info = obj(answers, SERVER_INFO.key)
    models = plain_models(answers, slots=whole(info.get("max_running_requests")))
    window = whole(info.get("context_length"))
    if window:
        models = tuple(
            m
            if m.running_window
            else ModelReading(
                m.model,
                running_window=window,
                window_origin="/server_info context_length",
                slots=m.slots,
            )
            for m in models
        )
    return ServerReading(models=models, version=text(info.get("version")) or None)


def _counts(value: Any, texts: int) -> list[int] | None:
    counts = field(value, "count")
    if not isinstance(counts, list):
        counts = [counts]
    found = [n for n in map(amount, counts) if n is not None]
    return found if len(found) == len(counts) == texts else None


SPEC = ServerSpec(
    kind=ServerKind.SGLANG,
    title="SGLang",
    ports=(30000,),
    knowledge="documented",
    homepage="https://github.com/sgl-project/sglang",
    probes=(SERVER_INFO, MODEL_INFO, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS, SERVER_INFO),
    read=_read,
    behaviour=Behaviour(
        plain_ignores_hangup=False,
        notices_hangup_prefill=True,
        readiness=Probe("/health"),
        applies_model_defaults=True,
        continues={"continue_final_message": True},  # `entrypoints/openai/protocol.py`
    ),
    # `entrypoints/openai/protocol.py`: TokenizeRequest takes one prompt or a list of them.
    counting=Counting(
        "/v1/tokenize",
        lambda model, texts: {"model": model, "prompt": list(texts), "add_special_tokens": False},
        _counts,
        at_once=128,
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "repeat_penalty": "repetition_penalty",
        },
        aliases={"repeat_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"the input \((?P<prompt>\d+) tokens\) is longer than the model's context length "
            r"\((?P<window>\d+) tokens\)",
            source="tokenizer_manager.py",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"requested token count exceeds the model's maximum context length of (?P<window>\d+)"
            r"(?:.*?(?P<prompt>\d+) tokens from the input)?",
            source="tokenizer_manager.py",
        ),
        rule(
            E.UPSTREAM_OVERLOADED,
            r"request queue is full|request waiting timeout reached",
            source="scheduler.py",
        ),
        rule(E.GRAMMAR_REFUSED, r"grammar|json schema|ebnf", status=400),
    ),
)
