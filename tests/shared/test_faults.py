"""What went wrong, as one of a small set of classes (contracts 5, wire facts 4.2)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fault_cases
from penstock import faults
from penstock.domain.fault import Fault
from penstock.domain.retry_after import parse_retry_after
from penstock.domain.upstream import ServerKind
from penstock.errors import ERROR_TABLE, ErrorCode
from penstock.servers import SPECS, spec

GENERIC = spec(ServerKind.GENERIC)
NOW = 1_700_000_000.0


def classify(status: int, body: bytes, kind: str = "generic", **more: Any) -> Fault | None:
    """Classify an answer."""
    headers = more.pop("headers", {"content-type": "application/json"})
    return faults.classify_answer(
        status=status, headers=headers, body=body, spec=spec(ServerKind(kind)), now_s=NOW, **more
    )


@pytest.mark.parametrize("case", fault_cases.CASES, ids=str)
def test_what_real_servers_say(case: Any) -> None:
    """Each refusal of each server kind, with the window and the prompt it names."""
    if case.status is None:
        found: Fault | None = faults.classify_stream_error(case.error, spec(case.kind))
    else:
        found = classify(case.status, case.body, case.kind.value, own_key=True)
    assert found is not None
    assert found.code == case.code
    if case.window is not None:
        assert found.window == case.window
    if case.prompt is not None:
        assert found.prompt_tokens == case.prompt


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(500, b"", "upstream_error", id="500 without a word"),
        pytest.param(502, b"<html>Bad Gateway</html>", "upstream_error", id="a proxy's web page"),
        pytest.param(503, b"", "upstream_overloaded", id="503 without a word"),
        pytest.param(429, b"slow down", "rate_limited", id="429"),
        pytest.param(400, b'{"error": "mauvaise requ\xc3\xaate"}', "upstream_bad_request", id="another language, 400"),
        pytest.param(500, '{"error": {"message": "\u5185\u90e8\u9519\u8bef"}}'.encode(), "upstream_error", id="another language, 500"),
        pytest.param(500, b'{"error": {"message": "CUDA error: out of memory"}}', "out_of_memory", id="memory"),
        pytest.param(200, b'{"error": "out of memory"}', "out_of_memory", id="200 with an error"),
        pytest.param(200, b"", "bad_answer", id="empty 200"),
        pytest.param(200, b"<html></html>", "bad_answer", id="a web page"),
        pytest.param(200, b'{"choices": [', "bad_answer", id="half a JSON"),
        pytest.param(400, b'{"object":"error","message":"maximum context length is 4096 tokens"}', "context_length_exceeded", id="flat error"),
        pytest.param(404, b'{"error": {"message": "model \'x\' not found"}}', "model_missing", id="model missing"),
        pytest.param(499, b"", "upstream_bad_request", id="499"),
        pytest.param(507, b"", "upstream_error", id="507"),
    ],
)  # fmt: skip
def test_answers_of_nobody_in_particular(status: int, body: bytes, code: str) -> None:
    """Without a kind's own rules the wording decides, and without known words the status."""
    found = classify(status, body, headers={})
    assert found is not None
    assert found.code.value == code
    assert found.message


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"choices": []}', b'{"error": null}', b'{"error": ""}']
)
def test_proper_answers(body: bytes) -> None:
    """No fault."""
    assert classify(200, body) is None


@pytest.mark.parametrize(
    ("own_key", "code"), [(True, ErrorCode.UPSTREAM_AUTH), (False, ErrorCode.UPSTREAM_BAD_REQUEST)]
)
def test_whose_key_was_refused(own_key: bool, code: ErrorCode) -> None:
    """The configured one is the user's to mend; a client's own 401 goes back as it was sent."""
    found = classify(401, b'{"error": "bad key"}', own_key=own_key)
    assert found is not None
    assert found.code is code
    error = faults.to_error(found, upstream="box", attempts=1, window=None)
    assert error.status == (502 if own_key else 401)


@pytest.mark.parametrize(
    ("kind", "phase", "received", "server", "code"),
    [
        ("refused", "connect", 0, "llamacpp", "upstream_unreachable"),
        ("refused", "connect", 0, "vllm", "upstream_loading"),
        ("dns", "connect", 0, "generic", "upstream_unreachable"),
        ("tls", "connect", 0, "generic", "upstream_unreachable"),
        ("unix", "connect", 0, "ollama", "upstream_unreachable"),
        ("proxy", "connect", 0, "generic", "upstream_unreachable"),
        ("timeout", "connect", 0, "generic", "connect_timeout"),
        ("reset", "head", 0, "llamacpp", "upstream_unreachable"),
        ("closed", "send", 0, "llamacpp", "upstream_unreachable"),
        ("reset", "head", 10, "llamacpp", "broken_stream"),
        ("closed", "body", 500, "llamacpp", "broken_stream"),
        ("protocol", "head", 3, "generic", "bad_answer"),
        ("timeout", "head", 0, "generic", "first_token_timeout"),
    ],
)  # fmt: skip
def test_failures_of_the_way(kind: Any, phase: Any, received: int, server: str, code: str) -> None:
    """By what happened, when, and whether a byte had come; an empty text still gives a sentence."""
    found = faults.classify_transport(
        kind=kind,
        phase=phase,
        reused=False,
        received_bytes=received,
        detail="",
        spec=spec(ServerKind(server)),
    )
    assert found.code.value == code
    assert found.message


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({"message": "out of memory", "code": 500}, "out_of_memory"),
        ({"code": 400, "message": "request (9 tokens) exceeds the available context size (8 tokens), try", "n_ctx": 8}, "context_length_exceeded"),
        ("something", "upstream_error"), ({}, "upstream_error"), (None, "upstream_error"), ([1], "upstream_error"),
        ({"code": 503, "message": "Loading model"}, "upstream_loading"),
    ],
)  # fmt: skip
def test_errors_inside_streams(raw: Any, code: str) -> None:
    """Whatever shape they have."""
    assert faults.classify_stream_error(raw, spec(ServerKind.LLAMACPP)).code.value == code


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0), (" 5 ", 5.0), ("1.5", 1.5), ("0", 0.0), (None, None), ("", None), ("soon", None), ("-5", None),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0), ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0), ("99999999999999", None),
    ],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or a date (RFC 9110, 10.2.3); what cannot be read is as if it were not there."""
    assert parse_retry_after(value, NOW) == seconds


def test_the_overflow_is_told_in_the_words_that_clients_know() -> None:
    """`prompt is too long: N tokens > M maximum`, and the numbers are the server's, else the profile's."""
    fault = Fault(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "x", window=512, prompt_tokens=900)
    told = faults.to_error(fault, upstream="box", attempts=1, window=4096).message
    assert (
        told
        == "prompt is too long: 900 tokens > 512 maximum. This model's maximum context length is 512 tokens."
    )
    vague = Fault(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "the input length exceeds the context length")
    told = faults.to_error(vague, upstream="box", attempts=1, window=4096).message
    assert told.startswith("prompt is too long: ")
    assert "maximum context length is 4096 tokens" in told


@pytest.mark.parametrize(
    ("kind", "message", "counts", "room"),
    [
        pytest.param("vllm", "This model's maximum context length is 4096 tokens. However, you requested 4110 tokens "
                     "(20 in the messages, 4090 in the completion). Please reduce the length.", (4096, 20, 4090), 4076, id="vLLM, oldest"),
        pytest.param("vllm", "This model's maximum context length is 4096 tokens. However, you requested 1000 output tokens and "
                     "your prompt contains 3900 input tokens, for a total of 4900 tokens.", (4096, 3900, 1000), 196, id="vLLM, older"),
        pytest.param("vllm", "'max_tokens' or 'max_completion_tokens' is too large: 4090. This model's maximum context length is "
                     "4096 tokens and your request has 20 input tokens (4090 > 4096 - 20).", (4096, 20, 4090), 4076, id="vLLM, too large"),
        pytest.param("vllm", "This model's maximum context length is 4096 tokens. However, You passed 4097 input tokens and "
                     "requested 16 output tokens.", (4096, 4097, 16), None, id="the prompt alone is too long"),
        pytest.param("vllm", "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens.",
                     (4096, 5000, None), None, id="no output counted"),
        pytest.param("generic", "This model's maximum context length is 4097 tokens. However, you requested 4142 tokens (37 in the "
                     "messages, 105 in the functions, and 4000 in the completion).", (4097, 142, 4000), 3955, id="with functions"),
        pytest.param("sglang", "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total "
                     "of 9000 tokens: 8000 tokens from the input messages and 1000 tokens for the completion.", (8192, 8000, 1000), 192, id="SGLang"),
        pytest.param("tgi", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens "
                     "and 200 `max_new_tokens`", (4096, 4000, 200), 96, id="TGI"),
    ],
)  # fmt: skip
def test_an_output_budget_that_is_too_large_is_no_long_prompt(
    kind: str, message: str, counts: tuple[int | None, ...], room: int | None
) -> None:
    """Where prompt and output were counted together, it is known and told which of them is too large."""
    body = json.dumps({"error": {"message": message}, "error_type": "validation"}).encode()
    found = classify(422 if kind == "tgi" else 400, body, kind)
    assert found is not None
    assert found.code == "context_length_exceeded"
    assert (found.window, found.prompt_tokens, found.output_tokens) == counts
    assert found.output_room == room
    told = faults.to_error(found, upstream="box", attempts=1, window=None)
    assert told.message.startswith(
        "prompt is too long: " if room is None else "max_tokens is too large: "
    )
    assert told.param == ("messages" if room is None else "max_tokens")
    assert f"maximum context length is {counts[0]} tokens" in told.message
    assert room is None or str(room) in (told.hint or "")


@pytest.mark.parametrize("code", [c for c, row in ERROR_TABLE.items() if row.blame == "upstream"])
def test_every_fault_can_be_told(code: ErrorCode) -> None:
    """With the upstream's name or the numbers, the attempts and the table's status."""
    error = faults.to_error(Fault(code, "what happened"), upstream="box", attempts=2, window=None)
    assert error.attempts == 2
    assert error.upstream == "box"
    assert error.message
    assert error.status == ERROR_TABLE[code].status


@given(
    st.integers(100, 599), st.binary(max_size=200), st.sampled_from(sorted(SPECS)),
    st.dictionaries(st.sampled_from(["content-type", "retry-after"]), st.text(max_size=20)),
)  # fmt: skip
def test_nothing_that_a_stranger_sends_raises(
    status: int, body: bytes, kind: ServerKind, headers: dict[str, str]
) -> None:
    """A class or none; and every failing status has one."""
    found = faults.classify_answer(
        status=status, headers=headers, body=body, spec=spec(kind), now_s=NOW
    )
    if status >= 400:
        assert found is not None
    if found is not None:
        assert ERROR_TABLE[found.code].blame == "upstream"


JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=10)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "detail", "type", "code", "object"]), inner, max_size=4
    ),
    max_leaves=8,
)  # fmt: skip


@given(JSONS, st.sampled_from(sorted(SPECS)))
def test_no_shape_of_error_raises(value: Any, kind: ServerKind) -> None:
    """Errors come as text, objects, lists, nested, in any of their fields."""
    body = json.dumps(value).encode()
    for status in (200, 400, 404, 500):
        faults.classify_answer(status=status, headers={}, body=body, spec=spec(kind), now_s=NOW)
    assert faults.classify_stream_error(value, spec(kind)).message
