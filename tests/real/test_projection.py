"""What real llama.cpp makes of schemas and of broken history: refused before, taken after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import parts
from penstock.toolcalls.history import mend_history
from penstock.toolcalls.project import project_request

pytestmark = pytest.mark.real

CALL = '<tool_call>\n{"name": "t", "arguments": {"a": "x"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[parts.LlamaCpp]:
    """A real llama.cpp whose template has tools."""
    with parts.start_llamacpp(says=CALL) as running:
        yield running


def ask(server: parts.LlamaCpp, body: dict[str, Any], timeout_s: float = 60.0) -> httpx.Response:
    """Its answer."""
    return httpx.post(
        f"{server.url}/v1/chat/completions", json=body, timeout=timeout_s, trust_env=False
    )


def asking(schema: Any) -> list[dict[str, Any]]:
    """Requests with a tool of this schema, and with an answer of it."""
    parameters = {
        "type": "object",
        "properties": {"a": schema},
        "required": ["a"],
        "$defs": {"q": {"type": "string"}},
    }
    plain = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}
    tool = {
        "type": "function",
        "function": {"name": "t", "description": "", "parameters": parameters},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": parameters}}
    return [{**plain, "tools": [tool]}, {**plain, "response_format": wanted}]


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "string", "pattern": "^[abc$"}, id="open class"),
        pytest.param({"type": "string", "pattern": "^(abc$"}, id="open group"),
        pytest.param({"type": "string", "pattern": "^*a$"}, id="nothing to repeat"),
        pytest.param({"type": "string", "pattern": "^a{5000}$"}, id="many repetitions"),
        pytest.param({"type": "string", "pattern": 5}, id="a pattern that is none"),
        pytest.param({"type": "string", "minLength": 5_000}, id="huge least length"),
        pytest.param({"type": "string", "maxLength": 10**12}, id="huge most length"),
        pytest.param({"type": "string", "maxLength": 5.0}, id="most length as a float"),
        pytest.param({"type": "array", "items": {"type": "string"}, "minItems": 3_000}, id="many items"),
        pytest.param({"type": "string", "format": 5}, id="a format that is none"),
        pytest.param({"type": "any"}, id="unknown type"),
        pytest.param({"type": []}, id="no type"),
        pytest.param({"enum": []}, id="empty enum"),
        pytest.param({"anyOf": []}, id="no alternatives"),
        pytest.param({"anyOf": [True, {"type": "string"}]}, id="alternative that is true"),
        pytest.param({"type": "object", "properties": {"x": True}}, id="field that is true"),
        pytest.param({"type": "array", "items": True}, id="any items"),
        pytest.param({"$ref": "#"}, id="reference to the whole"),
        pytest.param({"$ref": "#/nope"}, id="reference to nowhere"),
        pytest.param({"$ref": "http://127.0.0.1:9/x"}, id="reference elsewhere"),
        pytest.param({"$ref": "#/properties/a"}, id="reference to itself"),
        pytest.param({"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}, id="reference to itself inside"),
        pytest.param({"$ref": "#/%24defs/q"}, id="reference in another spelling"),
    ],
)  # fmt: skip
def test_refused_before_taken_after(server: parts.LlamaCpp, schema: Any) -> None:
    """What the server cannot compile is left out, and it answers."""
    for body in asking(schema):
        refused = ask(server, body)
        assert refused.status_code in (400, 500), refused.text
        fields, changes = project_request(body)
        assert changes
        taken = ask(server, {**body, **fields})
        assert taken.status_code == 200, taken.text


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "string", "minLength": 5, "maxLength": 2}, id="lengths"),
        pytest.param(
            {"type": "array", "items": {"type": "string"}, "minItems": 5, "maxItems": 2}, id="items"
        ),
        pytest.param({"type": "string", "pattern": "^a{3,1}$"}, id="pattern"),
    ],
)
def test_contradictions_that_hang_a_server(schema: Any) -> None:
    """The server never answers them, nor anybody else; without them it does."""
    with parts.start_llamacpp(says=CALL) as server:
        body = asking(schema)[0]
        fields, changes = project_request(body, only_harmful=True)
        assert changes
        assert ask(server, {**body, **fields}).status_code == 200
        with pytest.raises(httpx.TimeoutException):
            ask(server, body, timeout_s=2.0)
        server.kill()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param('{"a": "half a fi', id="cut off"),
        pytest.param("{'a': 1}", id="Python"),
        pytest.param("", id="nothing"),
        pytest.param("hello", id="no JSON"),
    ],
)
def test_broken_history_before_and_after(server: parts.LlamaCpp, arguments: str) -> None:
    """A conversation with a broken call in it is refused for ever, mended it is answered."""
    function = {"name": "t", "arguments": arguments}
    body = asking({"type": "string"})[0]
    body["messages"] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "user", "content": "and?"},
    ]  # fmt: skip
    refused = ask(server, body)
    mended, changes = mend_history(body["messages"])
    assert changes
    taken = ask(server, {**body, "messages": list(mended)})
    assert taken.status_code == 200, taken.text
    assert refused.status_code in (400, 500), json.dumps(refused.json())[:300]
