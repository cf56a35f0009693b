"""
What went wrong, as one of a small set of classes (contracts 5, behaviours F1).

Every failure of an upstream is classified once, here; retry, breaker, the message to the client, metrics
and logs follow from the class. The server kind's own rules are weighed first (`penstock.servers`), then
wordings that several share, then the status alone, so a message in a language that nobody foresaw still
lands in the right class. Nothing here raises, whatever a stranger sends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import orjson

from penstock.domain.fault import Fault, Phase
from penstock.domain.retry_after import parse_retry_after
from penstock.errors import ErrorCode as E
from penstock.errors import UpstreamFault
from penstock.servers.base import FaultRule, ServerSpec
from penstock.servers.common import GENERIC_RULES

_LONGEST_MESSAGE = 2000
_TRANSIENT = frozenset({500, 502, 503, 504, 520, 521, 522, 523, 524, 529})


def classify_answer(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    spec: ServerSpec,
    now_s: float,
    own_key: bool = False,
    path: str = "",
) -> Fault | None:
    """
    Classify a whole answer of an upstream.

    Args:
        headers: by lower-case name.
        body: all of it.
        spec: of the server kind.
        now_s: wall-clock seconds since 1970, for `Retry-After` dates.
        own_key: the credential sent was the configured one, not the client's.
        path: the path that was asked.

    Returns:
        None for a proper answer.
    """
    value = _json(body)
    retry_after_s = parse_retry_after(headers.get("retry-after"), now_s)
    error, message, kinds = describe(value, body)
    if status < 400:
        if error is None:
            return _bad_answer(status, headers, body, value)
        rules = spec.fault_rules
    else:
        rules = spec.fault_rules
        if not message:
            message = f"the upstream answered {status} without a word"
    fault = _by_rules(rules, status, message, kinds) or _by_rules(
        GENERIC_RULES, status, message, kinds
    )
    if fault is None:
        fault = _by_status(status, message, spec)
    code, phase = fault.code, fault.phase
    if status in (401, 403) and code is E.UPSTREAM_AUTH:
        # A client's own key that was refused is the client's business: passed on as it was sent.
        code = E.UPSTREAM_AUTH if own_key or status == 403 else E.UPSTREAM_BAD_REQUEST
    by_status = fault.matched == f"status {status}"
    if code is E.MODEL_MISSING and by_status and not _names_a_model(message, spec):
        code = E.UPSTREAM_BAD_REQUEST
    return replace(
        fault,
        code=code,
        message=message[:_LONGEST_MESSAGE],
        status=status,
        phase=phase,
        retry_after_s=retry_after_s,
        window=fault.window or _number(error, "n_ctx"),
        prompt_tokens=fault.prompt_tokens or _number(error, "n_prompt_tokens"),
    )


def classify_stream_error(raw: Any, spec: ServerSpec) -> Fault:
    """Classify an error that came inside a stream; *raw* is the value of its `error`."""
    error, message, kinds = describe({"error": raw}, b"")
    status = 0
    if isinstance(raw, Mapping):
        for name in ("code", "status", "status_code"):
            number = raw.get(name)
            if isinstance(number, int) and 400 <= number < 600:
                status = number
    message = message or "the upstream reported an error without a word"
    fault = (
        _by_rules(spec.fault_rules, status, message, kinds)
        or _by_rules(GENERIC_RULES, status, message, kinds)
        or (_by_status(status, message, spec) if status else None)
        or Fault(E.UPSTREAM_ERROR, message, matched="error in the stream")
    )
    return replace(
        fault,
        message=message[:_LONGEST_MESSAGE],
        status=status or None,
        phase="stream",
        window=fault.window or _number(error, "n_ctx"),
        prompt_tokens=fault.prompt_tokens or _number(error, "n_prompt_tokens"),
    )


TransportKind = Literal[
    "refused",
    "dns",
    "tls",
    "reset",
    "closed",
    "protocol",
    "timeout",
    "unix",
    "proxy",
    "unreachable",
    "descriptors",
]
TransportPhase = Literal["connect", "send", "head", "body"]
_PHASES: Mapping[str, Phase] = {
    "connect": "connect",
    "send": "send",
    "head": "first_token",
    "body": "stream",
}


def classify_transport(
    *,
    kind: TransportKind,
    phase: TransportPhase,
    reused: bool,
    received_bytes: int,
    detail: str,
    spec: ServerSpec,
) -> Fault:
    """
    Classify a failure of the way to the upstream.

    Args:
        kind, phase, reused, received_bytes, detail: of `penstock.adapters.transport.TransportError`.
    """
    told = detail or f"{kind} in phase {phase}"
    where = _PHASES.get(phase, "first_token")
    if kind == "timeout":
        if phase == "connect":
            return Fault(E.CONNECT_TIMEOUT, told, phase="connect", matched="connect time-out")
        return Fault(E.FIRST_TOKEN_TIMEOUT, told, phase=where, matched="no answer in time")
    if kind == "protocol":
        return Fault(E.BAD_ANSWER, told, phase=where, matched="not HTTP")
    if phase == "connect":
        if kind == "refused" and spec.behaviour.refused_means_loading:
            return Fault(E.UPSTREAM_LOADING, told, phase="load", matched="refused means loading")
        return Fault(E.UPSTREAM_UNREACHABLE, told, phase="connect", matched=kind)
    if phase == "body" or received_bytes:
        return Fault(E.BROKEN_STREAM, told, phase="stream", matched=kind)
    return Fault(E.UPSTREAM_UNREACHABLE, told, phase=where, matched=kind)


_TIMEOUTS: Mapping[str, tuple[E, Phase, str]] = {
    "connect": (E.CONNECT_TIMEOUT, "connect", "connecting took longer than its limit"),
    "load": (E.UPSTREAM_LOADING, "load", "the model was still loading when the load limit passed"),
    "first_token": (
        E.FIRST_TOKEN_TIMEOUT,
        "first_token",
        "neither a first token nor progress came within the limit",
    ),
    "stall": (E.STALL_TIMEOUT, "stream", "the stream stopped for longer than the stall limit"),
}


def classify_timeout(phase: str) -> Fault:
    """The fault of one of our own limits: `connect`, `load`, `first_token`, `stall`."""
    code, where, message = _TIMEOUTS[phase]
    return Fault(code, message, phase=where, matched=f"{phase} limit")


def cloud_code(status: int) -> E:
    """The class of a cloud's failing status; its body is never looked at."""
    if status == 429:
        return E.RATE_LIMITED
    if status in (503, 529):
        return E.UPSTREAM_OVERLOADED
    return E.UPSTREAM_ERROR if status >= 500 or status == 408 else E.UPSTREAM_BAD_REQUEST


_HINTS: Mapping[E, str] = {
    E.UPSTREAM_UNREACHABLE: "Is the model server running? `penstock doctor` looks.",
    E.UPSTREAM_LOADING: "Large models take minutes; timeouts.load_s is the limit.",
    E.MODEL_MISSING: "`penstock detect` lists what the server has.",
    E.OUT_OF_MEMORY: "A smaller window, fewer slots or a smaller model would fit.",
    E.CONTEXT_LENGTH_EXCEEDED: "Shorten the conversation, or start the server with a larger window.",
    E.UPSTREAM_AUTH: "Check api_key (or api_key_env, api_key_file) of this upstream.",
    E.FIRST_TOKEN_TIMEOUT: "timeouts.first_token_s is the limit.",
    E.STALL_TIMEOUT: "timeouts.stall_s is the limit.",
    E.CONNECT_TIMEOUT: "timeouts.connect_s is the limit.",
    E.UNSUPPORTED_INPUT: "Use a model that takes this kind of input.",
}


_WAIT_S: Mapping[E, float] = {
    E.UPSTREAM_LOADING: 15.0,
    E.UPSTREAM_OVERLOADED: 5.0,
    E.RATE_LIMITED: 5.0,
}
"""Where waiting helps and the upstream did not say how long: guesses, long enough not to meet the same moment."""


def gone(fault: Fault) -> Fault:
    """What looked like a load was none, or the server died of it: nobody listens there any more."""
    if fault.code is not E.UPSTREAM_LOADING:
        return fault
    told = f"{fault.message}; nobody listens there any more"
    return replace(
        fault, code=E.UPSTREAM_UNREACHABLE, message=told, phase="connect", matched="gone"
    )


def to_error(fault: Fault, *, upstream: str, attempts: int, window: int | None) -> UpstreamFault:
    """
    The fault as it is told to the client: what happened, who refused, what to do.

    Args:
        window: tokens, as known; used where the refusal named none.
    """
    code = fault.code
    status: int | None = None
    if code is E.UPSTREAM_BAD_REQUEST and fault.status is not None and 400 <= fault.status < 500:
        status = fault.status
    message = f"{upstream}: {fault.message}"
    if code is E.CONTEXT_LENGTH_EXCEEDED:
        message = _overflow(fault, window)
    elif code is E.UPSTREAM_UNREACHABLE:
        message = f"The upstream {upstream} cannot be reached: {fault.message}"
    elif code is E.BROKEN_STREAM:
        message = f"The upstream {upstream} broke off: {fault.message}"
    elif code is E.BAD_ANSWER:
        message = f"The upstream {upstream} gave a bad answer: {fault.message}"
    hint, param = _HINTS.get(code), "messages" if code is E.CONTEXT_LENGTH_EXCEEDED else None
    if fault.output_room is not None:
        hint, param = f"At most {fault.output_room} tokens of output fit.", "max_tokens"
    return UpstreamFault(
        code,
        message,
        upstream=upstream,
        attempts=attempts,
        hint=hint,
        param=param,
        status=status,
        retry_after_s=_WAIT_S.get(code) if fault.retry_after_s is None else fault.retry_after_s,
    )


def _overflow(fault: Fault, window: int | None) -> str:
    """The wording that most clients recognise (contracts 5, client facts)."""
    limit = fault.window or window
    if limit is None:
        return f"prompt is too long: {fault.message}"
    said = f"This model's maximum context length is {limit} tokens."
    if fault.output_room is not None:
        asked = f"{fault.output_tokens} tokens after a prompt of {fault.prompt_tokens} tokens"
        return f"max_tokens is too large: {asked}. {said}"
    if fault.prompt_tokens is None:
        return f"prompt is too long: more than {limit} tokens > {limit} maximum. {said}"
    return f"prompt is too long: {fault.prompt_tokens} tokens > {limit} maximum. {said}"


def describe(value: Any, body: bytes) -> tuple[Any, str, tuple[str, ...]]:
    """
    Find the error in an answer, in all shapes that servers give it.

    Returns:
        the error (None when there is none), its message, and its type and code words.
    """
    error: Any = None
    if isinstance(value, Mapping):
        if value.get("error"):
            error = value["error"]
        elif value.get("detail"):
            error = value["detail"]
        elif value.get("object") == "error" or value.get("type") == "error":
            error = value
    if error is None:
        text = (
            ""
            if isinstance(value, Mapping | list)
            else body[:_LONGEST_MESSAGE].decode("utf-8", "replace")
        )
        return None, _plain(text), ()
    outer = value if isinstance(value, Mapping) else {}
    if isinstance(error, Mapping):
        message = next(
            (
                error[k]
                for k in ("message", "msg", "error", "detail")
                if isinstance(error.get(k), str)
            ),
            None,
        )
        if message is None:
            message = json.dumps(error, default=str)[:_LONGEST_MESSAGE]
        kinds = [error.get(k) for k in ("type", "code", "error_type")]
    else:
        message = error if isinstance(error, str) else str(error)
        kinds = []
    kinds += [outer.get(k) for k in ("error_type", "type", "code")]
    return error, str(message).strip(), tuple(k for k in kinds if isinstance(k, str))


def _plain(text: str) -> str:
    """Text of an answer that is not JSON; HTML without its tags."""
    if "<" in text and re.search(r"<\s*(?:html|!doctype|body|head)", text, re.IGNORECASE):
        text = re.sub(
            r"<(script|style)\b.*?</\1>|<[^>]{0,500}>", " ", text, flags=re.IGNORECASE | re.DOTALL
        )
    return " ".join(text.split())[:500]


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except (orjson.JSONDecodeError, ValueError):
        return None


def _bad_answer(status: int, headers: Mapping[str, str], body: bytes, value: Any) -> Fault | None:
    """An answer that should be JSON and is not."""
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if value is not None or kind.startswith(("audio/", "image/", "application/octet-stream")):
        return None
    if not body.strip():
        return Fault(E.BAD_ANSWER, "the answer is empty", status=status, matched="empty body")
    if kind in ("text/plain", "text/event-stream", "application/x-ndjson"):
        return None
    what = (
        "a web page" if b"<html" in body[:2000].lower() or kind == "text/html" else "no valid JSON"
    )
    return Fault(E.BAD_ANSWER, f"the answer is {what}", status=status, matched="not JSON")


def _by_rules(
    rules: tuple[FaultRule, ...], status: int, message: str, kinds: tuple[str, ...]
) -> Fault | None:
    for rule in rules:
        if rule.status and status not in rule.status:
            continue
        if rule.error_type is not None and rule.error_type not in kinds:
            continue
        window = prompt = None
        if rule.pattern is not None:
            found = rule.pattern.search(message)
            if found is None:
                continue
            groups = found.groupdict()
            window, prompt = _int(groups.get("window")), _int(groups.get("prompt"))
        total, output = _counted_together(message) if window is not None else (None, None)
        return Fault(
            rule.code,
            message,
            status=status or None,
            window=window,
            prompt_tokens=total - output if total and output and total > output else prompt,
            output_tokens=output,
            transient=rule.transient,
            shared_kv=rule.shared_kv,
            matched=rule.pattern.pattern
            if rule.pattern is not None
            else str(rule.error_type or status),
        )
    return None


# What servers say that count prompt and output together: vLLM, OpenAI, SGLang, TGI.
_OUTPUT = re.compile(
    r"(\d+) in the completion|requested (\d+) output tokens|(\d+) tokens for the completion|"
    r"tokens' is too large: (\d+)|(\d+) `max_new_tokens`",
    re.IGNORECASE,
)
_TOTAL = re.compile(r"requested (?:a total of )?(\d+) tokens\b", re.IGNORECASE)


def _counted_together(message: str) -> tuple[int | None, int | None]:
    """Prompt and output together, and the output, by a refusal's own words; None where it has none."""
    output, total = _OUTPUT.search(message), _TOTAL.search(message)
    counted = None if output is None else _int(next(n for n in output.groups() if n is not None))
    return None if total is None else _int(total.group(1)), counted


def _by_status(status: int, message: str, spec: ServerSpec) -> Fault:
    """What the status alone says."""
    matched = f"status {status}"
    if status == 404 and spec.behaviour.not_found_means_model:
        return Fault(E.MODEL_MISSING, message, status=status, matched=matched)
    if status == 429:
        return Fault(E.RATE_LIMITED, message, status=status, matched=matched)
    if status in (401, 403):
        return Fault(E.UPSTREAM_AUTH, message, status=status, matched=matched)
    if status == 503:
        return Fault(E.UPSTREAM_OVERLOADED, message, status=status, matched=matched)
    if status == 499 or 400 <= status < 500:
        return Fault(E.UPSTREAM_BAD_REQUEST, message, status=status, matched=matched)
    return Fault(
        E.UPSTREAM_ERROR,
        message,
        status=status,
        transient=status < 400 or status in _TRANSIENT,
        matched=matched,
    )


def _names_a_model(message: str, spec: ServerSpec) -> bool:
    """Whether a 404 is about a model at all and not about a path."""
    if not spec.behaviour.not_found_means_model:
        return True  # it was a rule that said so
    low = message.lower()
    return "model" in low or "without a word" in low or not low


def _number(error: Any, name: str) -> int | None:
    value = error.get(name) if isinstance(error, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and len(text) < 12 else None
