"""What is changed in a request for a local upstream, and what stays byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.domain.profile import (
    Capabilities,
    ModelProfile,
    ModelReading,
    Window,
    WindowSource,
)
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode, RequestError
from penstock.gateway.conversations.fitting import Prepared
from penstock.gateway.edge.routes import route
from penstock.gateway.steps.shape import shape
from penstock.gateway.steps.translate import Work
from penstock.gateway.steps.tune import Tuned, tune
from penstock.limits.num_ctx import NumCtx
from penstock.servers import spec
from penstock.settings import Settings

MESSAGES = [{"role": "user", "content": "hi"}]
EVERYTHING = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1}


def tuned(
    kind: str,
    raw: bytes,
    path: str = "/v1/chat/completions",
    counted_tokens: int = 0,
    prepared: Prepared | None = None,
    **settings: Any,
) -> Tuned:
    """A request made ready for one kind of server."""
    where = route("POST", path)
    server = spec(ServerKind(kind))
    profile = ModelProfile(
        "box", server.kind, ModelReading("m"), Window(4096, WindowSource.RUNNING)
    )
    return tune(
        Work(where.operation, where.dialect, where.upstream_path, json.loads(raw), raw), upstream_model="m", profile=profile, spec=server, settings=Settings.model_validate(settings),
        counted_tokens=counted_tokens, prepared=prepared,
    )  # fmt: skip


def sent(found: Tuned) -> dict[str, Any]:
    """What goes out."""
    return dict(json.loads(found.body))


@pytest.mark.parametrize("kind", ["ollama", "llamacpp"])
def test_a_tool_that_is_nested_too_deeply_is_the_clients_to_change(kind: str) -> None:
    """It can be read and not be written again, in whatever dialect the server speaks."""
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"properties": schema}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    raw = json.dumps({"model": "x", "messages": MESSAGES, "tools": [tool]}).encode()
    with pytest.raises(RequestError, match="nested too deeply"):
        tuned(kind, raw)


def test_deep_arguments_of_an_earlier_call_stay_readable() -> None:
    """Ollama wants an object; what cannot be written as one goes on as the text that it was."""
    arguments = '{"a":' * 400 + "1" + "}" * 400
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
    messages = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    raw = json.dumps({"model": "m", "messages": messages}).encode()
    said = sent(tuned("ollama", raw))["messages"][-1]["tool_calls"][0]["function"]["arguments"]
    assert said == {"arguments": arguments}


def test_added_fields_are_spliced_in_behind_the_clients_own_bytes() -> None:
    """Spaces, order, numbers and unknown fields stay as they were written."""
    raw = b'{ "model":"m",  "messages" : [ {"role":"user","content":"caf\\u00e9"} ], "x": 1.50 , "x2":1e2}\n'
    found = tuned("llamacpp", raw)
    assert found.body.startswith(raw.rstrip()[:-1])
    assert sent(found) == {**json.loads(raw), **EVERYTHING, "stream": True, "return_progress": True,
                           "stream_options": {"include_usage": True}}  # fmt: skip


def test_a_request_that_needs_nothing_is_sent_as_it_came() -> None:
    """The very bytes."""
    raw = json.dumps(
        {"model": "m", "messages": MESSAGES, "stream": True, "return_progress": True, **EVERYTHING}
    ).encode()
    found = tuned("llamacpp", raw)
    assert found.body is raw
    assert not found.changes
    assert (found.streams, found.collects) == (True, False)


@pytest.mark.parametrize(
    ("kind", "extra", "streams", "collects"),
    [
        pytest.param("llamacpp", {}, True, True, id="plain is collected from a stream"),
        pytest.param("llamacpp", {"stream": True}, True, False, id="a stream stays one"),
        pytest.param(
            "llamacpp", {"suffix": "x"}, False, False, id="what would differ is sent plain"
        ),
        pytest.param(
            "koboldcpp",
            {"tools": [1]},
            False,
            False,
            id="streams that fake tool calls are not used",
        ),
        pytest.param("ollama", {}, True, True, id="Ollama too"),
    ],
)
def test_streams_and_plain_answers(
    kind: str, extra: dict[str, Any], streams: bool, collects: bool
) -> None:
    """Towards a local server a stream wherever it means the same."""
    found = tuned(kind, json.dumps({"model": "m", "messages": MESSAGES, **extra}).encode())
    assert (found.streams, found.collects) == (streams, collects)


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("llamacpp", "/chat/completions", "/v1/chat/completions"), ("dockermr", "/v1/chat/completions", "/engines/v1/chat/completions"),
        ("dockermr", "/v1/embeddings", "/engines/v1/embeddings"), ("ollama", "/v1/chat/completions", "/api/chat"),
        ("ollama", "/v1/embeddings", "/v1/embeddings"), ("llamacpp", "/v1/messages", "/v1/messages"), ("ollama", "/api/generate", "/api/generate"),
    ],
)  # fmt: skip
def test_where_it_goes(kind: str, path: str, expected: str) -> None:
    """The path that this kind of server has for it."""
    raw = json.dumps({"model": "m", "messages": MESSAGES, "input": "x"}).encode()
    assert tuned(kind, raw, path).path == expected


def test_other_dialects_and_embeddings_are_left_alone() -> None:
    """But for the model's name."""
    for path in ("/v1/embeddings", "/v1/messages", "/v1/responses", "/api/chat", "/api/generate"):
        raw = b'{"model": "alias", "input": "x", "temperature": 0.7}'
        assert sent(tuned("llamacpp", raw, path)) == {
            "model": "m",
            "input": "x",
            "temperature": 0.7,
        }


def test_configuration_forces_and_our_own_field_goes() -> None:
    """For this upstream over the general one; `penstock` never reaches a server."""
    raw = json.dumps(
        {"model": "m", "messages": MESSAGES, "temperature": 0.9, "penstock": {"explain": True}}
    ).encode()
    box = {"name": "box", "url": "http://x", "sampling": {"temperature": 0.2}}
    body = sent(
        tuned("llamacpp", raw, sampling={"temperature": 0.5, "top_p": 0.4}, upstreams=[box])
    )
    assert (body["temperature"], body["top_p"]) == (0.2, 0.4)
    assert "penstock" not in body


def test_values_that_are_no_numbers_pass_and_are_the_servers_to_refuse() -> None:
    """A list where a number belongs neither raises nor is remembered for others."""
    raw = json.dumps({"model": "m", "messages": MESSAGES, "top_k": [1]}).encode()
    assert sent(tuned("llamacpp", raw))["top_k"] == [1]


def test_requests_that_cannot_work_are_refused_here() -> None:
    """Before they wait for a permit."""
    with pytest.raises(RequestError):
        tuned("llamacpp", b'{"model": "m", "messages": []}')


def test_one_clients_odd_value_is_not_anothers() -> None:
    """`true` equals 1 in Python; a plan made for the one must not answer for the other."""
    for value in (True, 1, 1.0):
        raw = json.dumps({"model": "m", "messages": MESSAGES, "presence_penalty": value}).encode()
        options = sent(tuned("ollama", raw))["options"]
        assert options["presence_penalty"] == value
        assert isinstance(options["presence_penalty"], bool) is isinstance(value, bool)


def test_options_of_a_request_are_the_requests_word() -> None:
    """Not overwritten by what is meant for requests that say nothing."""
    options = {"temperature": 0.05, "top_k": 7, "num_predict": 50}
    raw = json.dumps({"model": "m", "messages": MESSAGES, "options": options}).encode()
    found = sent(tuned("ollama", raw, limits={"default_output_tokens": 1024}))["options"]
    assert {name: found[name] for name in options} == options


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("asked", "counted", "expected"),
    [(4090, 0, 4090), (4090, 20, 4076), (4076, 20, 4076), (100, 20, 100), (4090, 5000, 4090)],
)
def test_an_output_budget_is_reduced_to_what_the_server_has_room_for(
    field: str, asked: int, counted: int, expected: int
) -> None:
    """By the server's own count of the prompt, announced; a prompt that does not fit alone is its to refuse."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], field: asked}
    found = tuned("vllm", json.dumps(body).encode(), counted_tokens=counted)
    assert sent(found)[field] == expected
    told = [change for change in found.changes if change.step == "output"]
    assert bool(told) is (expected != asked)
    assert all(change.action == "reduced" for change in told)


@pytest.mark.parametrize(
    ("num_ctx", "expected"),
    [
        pytest.param(NumCtx(8192, 8192), 1000, id="a larger window is asked for"),
        pytest.param(NumCtx(4096, 4096), 96, id="the one that is loaded"),
        pytest.param(None, 96, id="none is asked for"),
    ],
)
def test_an_output_budget_fits_the_window_that_ollama_is_asked_for(
    num_ctx: NumCtx | None, expected: int
) -> None:
    """Not the one that it has loaded now."""
    prepared = Prepared(MESSAGES, 4000, 4000, certain_tokens=4000, num_ctx=num_ctx)
    raw = json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 1000}).encode()
    found = sent(tuned("ollama", raw, prepared=prepared))
    assert found["options"]["num_predict"] == expected


def test_a_null_field_does_not_take_the_limit() -> None:
    """The limit that is reduced is the one that was given."""
    raw = json.dumps(
        {"model": "m", "messages": MESSAGES, "max_tokens": 50_000, "max_completion_tokens": None}
    ).encode()
    body = sent(tuned("llamacpp", raw))
    assert (body["max_tokens"], body["max_completion_tokens"]) == (4096, None)


@pytest.mark.parametrize(
    ("kind", "vision", "refuses"),
    [
        pytest.param("ollama", False, True, id="it would leave it out silently"),
        pytest.param("ollama", None, False, id="it may see"),
        pytest.param("ollama", True, False, id="it sees"),
        pytest.param("llamacpp", False, False, id="the server refuses it itself"),
    ],
)
def test_an_image_is_never_lost_silently(kind: str, vision: bool | None, refuses: bool) -> None:
    """Refused where the server would answer without it and not say so."""
    reading = ModelReading("m", capabilities=Capabilities(vision=vision))
    profile = ModelProfile("box", ServerKind(kind), reading, Window(4096, WindowSource.RUNNING))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [*MESSAGES, {"role": "user", "content": [image]}]}
    if not refuses:
        assert shape(body, profile, [])[0] == body["messages"]
        return
    with pytest.raises(RequestError) as raised:
        shape(body, profile, [])
    assert raised.value.code is ErrorCode.UNSUPPORTED_INPUT
    assert raised.value.param == "messages[1].content[0]"
