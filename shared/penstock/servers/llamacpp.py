"""
llama.cpp's `llama-server`. Recorded from a real server; error texts also from `tools/server/*.cpp`.

Its window is **per slot**: `/props` `default_generation_settings.n_ctx`, never `-c` and never
`n_ctx_train`. With a unified KV every slot reports the whole window and nothing reveals it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.domain.profile import Capabilities, ModelReading, ServerReading, TemplateRules
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers.base import (
    Answer,
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
from penstock.servers.common import (
    digest,
    listed,
    obj,
    owners,
    template_capabilities,
    template_rules,
    text,
    told,
    whole,
)
from penstock.servers.counting import chat_number, field, rendered, separated, with_separators

PROPS = Probe("/props")
SLOTS = Probe("/slots")
MODELS = Probe("/v1/models")
HEALTH = Probe("/health")

# Every sampler and switch that `tools/server/server-task.cpp` reads from a request.
_OWN_NAMES = (
    "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta", "seed", "min_keep",
)  # fmt: skip


def _fingerprint(answers: Answers) -> Match | None:
    props, models = answers.get(PROPS.key), answers.get(MODELS.key)
    header = any(a.headers.get("server", "").lower() == "llama.cpp" for a in answers.values())
    info = obj(answers, PROPS.key)
    has_props = "default_generation_settings" in info and "total_slots" in info
    because = []
    if header:
        because.append("the Server header says llama.cpp")
    if has_props:
        because.append("/props describes slots and default_generation_settings")
    if "llamacpp" in owners(answers):
        because.append("/v1/models says owned_by llamacpp")
    if not because:
        return None
    if not header and has_props and _is_impostor(answers):
        return None
    confidence = 0.98 if header else 0.9 if len(because) > 1 else 0.75
    if not header and not has_props and (props is None or models is None):
        confidence = 0.6
    return Match(confidence, tuple(because), text(info.get("build_info")) or None)


def _is_impostor(answers: Answers) -> bool:
    """KoboldCpp and TabbyAPI answer `/props` as well."""
    info = obj(answers, "GET /.well-known/serviceinfo")
    return bool(info.get("software"))


def _reading_probes(_: Answers) -> tuple[Probe, ...]:
    return (PROPS, MODELS, SLOTS)


def _read(answers: Answers) -> ServerReading:
    props = answers.get(PROPS.key)
    if props is not None and props.status == 503:
        return ServerReading(ready=False)
    info = obj(answers, PROPS.key)
    settings = info.get("default_generation_settings")
    settings = settings if isinstance(settings, Mapping) else {}
    window = whole(settings.get("n_ctx"))
    origin = "/props default_generation_settings.n_ctx" if window else ""
    slots = whole(info.get("total_slots"))
    slot_answer = answers.get(SLOTS.key)
    if slot_answer is not None and slot_answer.ok and isinstance(slot_answer.json, list):
        per_slot = [whole(row.get("n_ctx")) for row in slot_answer.json if isinstance(row, dict)]
        known = [n for n in per_slot if n]
        slots = slots or len(slot_answer.json) or None
        if known and window is None:
            window, origin = min(known), "/slots n_ctx"
    template = text(info.get("chat_template"))
    modalities = info.get("modalities")
    vision = modalities.get("vision") if isinstance(modalities, Mapping) else None
    able = template_capabilities(template)
    models = []
    for row in listed(answers):
        meta = row.get("meta")
        meta = meta if isinstance(meta, Mapping) else {}
        parameters = whole(meta.get("n_params"))
        listed_window = whole(meta.get("n_ctx"))
        models.append(
            ModelReading(
                model=row["id"],
                running_window=window or listed_window,
                window_origin=origin or ("/v1/models meta.n_ctx" if listed_window else ""),
                trained_window=whole(meta.get("n_ctx_train")),
                slots=slots,
                loaded=_status(row) in ("", "loaded"),
                status=_status(row),
                capabilities=Capabilities(
                    tools=able.tools,
                    vision=vision if isinstance(vision, bool) else None,
                    thinking=able.thinking,
                    completion=True,
                ),
                template=_rules(info, template),
                template_digest=digest(template),
                parameter_count=parameters / 1e9 if parameters else None,
                details=told(
                    build=text(info.get("build_info")), size_bytes=whole(meta.get("size"))
                ),
            )
        )
    return ServerReading(
        models=tuple(models),
        version=text(info.get("build_info")) or None,
        ready=True,
        notes=("sleeping",) if info.get("is_sleeping") is True else (),
    )


def _rules(info: Mapping[str, Any], template: str) -> TemplateRules:
    """`chat_template_caps` (newer servers) says more surely what the template's text only hints at."""
    rules = template_rules(template)
    caps = info.get("chat_template_caps")
    if not isinstance(caps, Mapping):
        return rules
    system = caps.get("supports_system_role")
    return TemplateRules(
        system_role=system if isinstance(system, bool) else rules.system_role,
        developer_role=rules.developer_role,
        late_system=rules.late_system,
        same_role_neighbours=rules.same_role_neighbours,
        tool_role=rules.tool_role,
    )


def _status(row: Mapping[str, Any]) -> str:
    """
    A model's status in router mode, where the server starts a process for each model; empty in all other modes
    (`server-models.cpp`: `unloaded`, `loading`, `loaded`, `sleeping`, and `failed` beside an unloaded one).
    """
    status = row.get("status")
    if not isinstance(status, Mapping):
        return ""
    if status.get("failed") is True:
        return "failed"
    value = text(status.get("value"))
    return "unloaded" if value == "sleeping" else value


def _busy(answer: Answer) -> int | None:
    if not answer.ok or not isinstance(answer.json, list):
        return None
    return sum(
        1 for row in answer.json if isinstance(row, dict) and row.get("is_processing") is True
    )


SPEC = ServerSpec(
    kind=ServerKind.LLAMACPP,
    title="llama.cpp",
    ports=(8080,),
    knowledge="recorded",
    homepage="https://github.com/ggml-org/llama.cpp",
    probes=(PROPS, MODELS),
    fingerprint=_fingerprint,
    reading_probes=_reading_probes,
    read=_read,
    behaviour=Behaviour(
        # `n` above 1 shares one prompt in plain answers only; grammars and schemas are equal in both.
        plain_only_fields=Behaviour().plain_only_fields | {"n_probs", "return_tokens"},
        stream_usage="always",
        progress_field="return_progress",
        notices_hangup_decoding=True,
        notices_hangup_prefill=True,
        plain_ignores_hangup=True,
        readiness=HEALTH,
        busy_probe=SLOTS,
        takes_slot=True,
        keeps_slots_warm=True,
        continues={},
    ),
    load=lambda model: Probe("/models/load", "POST", {"model": model}),
    counting=Counting(
        "/tokenize",
        with_separators,
        separated,
        at_once=512,
        chats=(
            chat_number("/v1/chat/completions/input_tokens", "input_tokens"),
            # Servers of 2025 have no path that counts a conversation, but one that renders it.
            ChatCount(
                "/apply-template", rendered, lambda value: text(field(value, "prompt")) or None
            ),
        ),
        knowledge="recorded",
    ),
    parameters=Parameters(
        names={name: name for name in _OWN_NAMES},
        passes_unknown=True,
        aliases={"typical": "typical_p", "repetition_penalty": "repeat_penalty"},
    ),
    fault_rules=(
        rule(E.UPSTREAM_LOADING, r"loading model", status=503, source="server-http.cpp"),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"request \((?P<prompt>\d+) tokens\) exceeds the available context size "
            r"\((?P<window>\d+) tokens\)",
            source="recorded",
        ),
        rule(E.CONTEXT_LENGTH_EXCEEDED, error_type="exceed_context_size_error", source="recorded"),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"context size has been exceeded",
            shared_kv=True,
            source="server-context.cpp",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"context shift is disabled",
            source="server-context.cpp",
        ),
        rule(
            E.CONTEXT_LENGTH_EXCEEDED,
            r"input \((?P<prompt>\d+) tokens\) is too large to process",
            source="server-context.cpp (embeddings)",
        ),
        rule(E.UNSUPPORTED_INPUT, r"(?:image|audio) input is not supported", source="recorded"),
        rule(
            E.GRAMMAR_REFUSED,
            r"failed to parse grammar|error parsing grammar|json schema (?:conversion|error)|"
            r"unrecognized schema|failed to initialize samplers",
            source="server-common.cpp",
        ),
        rule(
            E.UNPARSEABLE_GENERATION,
            r"failed to parse input at pos|output that does not match the expected .{1,40} format",
            source="recorded",
        ),
        # Requests that are wrong, but come back as a 500 or 501: no use in sending them again.
        rule(
            E.UPSTREAM_BAD_REQUEST,
            r"jinja exception|failed to parse (?:tools|messages)|cannot use both json_schema and",
            source="recorded",
        ),
        rule(E.UPSTREAM_BAD_REQUEST, error_type="not_supported_error", source="recorded"),
        rule(E.UPSTREAM_OVERLOADED, r"no slot available", status=503, source="server-context.cpp"),
        rule(
            E.MODEL_MISSING,
            r"model .{0,120}not found",
            status=(400, 404),
            source="server-models.cpp",
        ),
        rule(
            E.UPSTREAM_LOADING,
            r"model is not loaded",
            status=(400, 503),
            source="server-models.cpp",
        ),
        rule(E.UPSTREAM_AUTH, r"invalid api key", status=401, source="server-http.cpp"),
    ),
    busy_slots=_busy,
    # server-models.cpp: a router only; others answer 404 or 501.
    unload=lambda model: Probe("/models/unload", "POST", {"model": model}),
)
