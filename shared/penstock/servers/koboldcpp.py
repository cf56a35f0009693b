"""
KoboldCpp. Written from `koboldcpp.py` (1.102). Answers parts of Ollama's API and `/props`.

Its real window is `/api/extra/true_max_context_length`; `/api/v1/config/max_context_length` is only what
its user interface offers. A prompt that is too long is silently cut.
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
from penstock.servers.common import OPENAI_NAMES, listed, obj, owners, text, whole
from penstock.servers.counting import number_in

SERVICE = Probe("/.well-known/serviceinfo")
VERSION = Probe("/api/extra/version")
WINDOW = Probe("/api/extra/true_max_context_length")
MODELS = Probe("/v1/models")


def _fingerprint(answers: Answers) -> Match | None:
    because = []
    service = obj(answers, SERVICE.key).get("software")
    named = text(service.get("name")) if isinstance(service, dict) else text(service)
    if "koboldcpp" in named.lower():
        because.append("/.well-known/serviceinfo says KoboldCpp")
    extra = obj(answers, VERSION.key)
    if "kobold" in text(extra.get("result")).lower():
        because.append("/api/extra/version says KoboldCpp")
    if "koboldcpp" in owners(answers):
        because.append("/v1/models says owned_by koboldcpp")
    if not because:
        return None
    return Match(0.97, tuple(because), text(extra.get("version")) or None)


def _read(answers: Answers) -> ServerReading:
    window = whole(obj(answers, WINDOW.key).get("value"))
    return ServerReading(
        models=tuple(
            ModelReading(
                row["id"],
                running_window=window,
                window_origin="/api/extra/true_max_context_length" if window else "",
                slots=1,
                loaded=True,
            )
            for row in listed(answers)
        ),
        version=text(obj(answers, VERSION.key).get("version")) or None,
    )


SPEC = ServerSpec(
    kind=ServerKind.KOBOLDCPP,
    title="KoboldCpp",
    ports=(5001,),
    knowledge="documented",
    homepage="https://github.com/LostRuins/koboldcpp",
    probes=(SERVICE, VERSION),
    fingerprint=_fingerprint,
    reading_probes=lambda _: (MODELS, WINDOW, VERSION),
    read=_read,
    behaviour=Behaviour(
        # Its streams fake tool calls, so a request with tools is sent plain.
        plain_only_fields=Behaviour().plain_only_fields | {"tools"},
        plain_ignores_hangup=False,
    ),
    # `koboldcpp.py`: without `special: false` a start-of-text token is counted with each text.
    counting=Counting(
        "/api/extra/tokencount",
        lambda _, texts: {"prompt": texts[0], "special": False},
        number_in("value"),
    ),
    parameters=Parameters(
        names={
            **OPENAI_NAMES,
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical",
            "repeat_penalty": "rep_pen",
            "repeat_last_n": "rep_pen_range",
        },
        aliases={"repetition_penalty": "repeat_penalty", "repeat_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.UPSTREAM_OVERLOADED, r"server is busy", status=503, source="koboldcpp.py"),
        rule(E.UPSTREAM_OVERLOADED, error_type="service_unavailable", status=503),
        rule(E.UPSTREAM_BAD_REQUEST, error_type="bad_input", status=500, source="koboldcpp.py"),
    ),
)
