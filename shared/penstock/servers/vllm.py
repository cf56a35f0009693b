"""
vLLM. Written from its sources (`entrypoints/openai`, `entrypoints/serve`, 0.33) and documentation.

It applies the model's generation_config by itself, so nothing is sent in place of missing sampling
parameters. While it loads, its port is bound but refuses: refused means loading.
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
from penstock.servers.common import OPENAI_NAMES, listed, obj, owners, plain_models, text, whole
from penstock.servers.counting import chat_number, number_in

MODELS = Probe("/v1/models")
VERSION = Probe("/version")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    version = text(obj(answers, VERSION.key).get("version")) or None
    if "vllm" in owners(answers):
        because.append("/v1/models says owned_by vllm")
    if version and any(whole(row.get("max_model_len")) for row in listed(answers)):
        because.append(f"/version says {version} and models have max_model_len")
    if not because or "sglang" in owners(answers) or obj(answers, "GET /server_info"):
        return None
    return Match(0.95 if len(because) > 1 else 0.8, tuple(because), version)


def _read(answers: Answers) -> ServerReading:
    return ServerReading(
        models=plain_models(answers),
        version=text(obj(answers, VERSION.key).get("version")) or None,
    )


SPEC = ServerSpec(
    kind=ServerKind.VLLM,
    title="vLLM",
    ports=(8000,),
    knowledge="documented",
    homepage="https://github.com/vllm-project/vllm",
    probes=(VERSION, MODELS),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS, VERSION),
    read=_read,
    behaviour=Behaviour(
        plain_ignores_hangup=False,
        notices_hangup_prefill=True,
        refused_means_loading=True,
        readiness=Probe("/health"),
        applies_model_defaults=True,
        reasoning_field="reasoning",
        # Without these it begins another answer (`entrypoints/openai/chat_completion/protocol.py`).
        continues={"continue_final_message": True, "add_generation_prompt": False},
    ),
    # `entrypoints/serve/tokenize/protocol.py`: TokenizeCompletionRequest, TokenizeChatRequest.
    counting=Counting(
        "/tokenize",
        lambda model, texts: {"model": model, "prompt": texts[0], "add_special_tokens": False},
        number_in("count"),
        chats=(chat_number("/tokenize", "count", add_generation_prompt=True),),
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
            r"maximum context length is (?P<window>\d+) tokens.*?"
            r"(?P<prompt>\d+) (?:input tokens|in the messages)",
            status=400,
            source="renderers/params.py",
        ),
        rule(E.CONTEXT_LENGTH_EXCEEDED, r"maximum context length is (?P<window>\d+)", status=400),
        rule(E.MODEL_MISSING, r"the model .{0,200} does not exist", status=404),
        rule(
            E.UPSTREAM_OVERLOADED,
            r"engine is currently busy and cannot accept new requests",
            status=503,
            source="exceptions.py",
        ),
        rule(E.UPSTREAM_ERROR, r"engine(?:core)? (?:is )?dead|enginedeaderror", transient=True),
        rule(E.GRAMMAR_REFUSED, r"grammar|json schema|guided decoding|xgrammar", status=400),
    ),
)
