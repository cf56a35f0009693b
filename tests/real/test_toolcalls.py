"""Tool calls through the gateway, of real servers: types are right, text becomes a call, loops end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

import parts
from gateways import RunningGateway, until

pytestmark = pytest.mark.real

CALL = (
    '<tool_call>\n{"name": "search", "arguments": {"path": "src/main", "recursive": "True", "most": "20"}}\n'
    "</tool_call>"
)
# Extended by `allOf`, as generators write it. llama.cpp compiles the plain half into its grammar and leaves
# out the rest (`common/json-schema-to-grammar.cpp`), so the model may write what it likes there.
COMPOSED = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "recursive": {}, "most": {}},
    "allOf": [{"$ref": "#/$defs/limits"}],
    "$defs": {
        "limits": {"properties": {"recursive": {"type": "boolean"}, "most": {"type": "integer"}}}
    },
}
PLAIN = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "recursive": {"type": "boolean"},
        "most": {"type": "integer"},
    },
}
ONE_THREAD = {"num_thread": 1}
RIGHT = {"path": "src/main", "recursive": True, "most": 20}
OLLAMA_NATIVE_TEMPLATE = parts.OLLAMA_TOOLS_TEMPLATE.replace(
    "{{ range .ToolCalls }}<tool_call>{{ .Function }}</tool_call>{{ end }}",
    "{{ if .ToolCalls }}{{ range .ToolCalls }}<tool_call>\n"
    '{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}\n</tool_call>{{ end }}{{ end }}',
)
"""Ollama reads the notation of calls from the template (`tools/template.go`), where it finds one."""


def tools(schema: dict[str, Any]) -> Any:
    """One tool."""
    return [
        {
            "type": "function",
            "function": {"name": "search", "strict": True, "parameters": schema},
        }
    ]


def ask(**more: Any) -> Any:
    """What every request here has."""
    return {
        "model": "any",
        "messages": [{"role": "user", "content": "find it"}],
        "temperature": 0,
        "max_tokens": 200,
        **more,
    }


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway before a llama.cpp whose model calls a tool with wrong types."""
    with parts.start_llamacpp(says=CALL, threads=1) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            yield gateway


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """
    A gateway before an Ollama with the same model twice: `text` gets the call back as text, `native` as an
    object, by their templates.
    """
    with parts.start_ollama(says=CALL, name="text", parameters=ONE_THREAD) as server:
        server.create(
            "native",
            parts.model(says=CALL),
            num_ctx=2048,
            template=OLLAMA_NATIVE_TEMPLATE,
            parameters=ONE_THREAD,
        )
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            yield gateway


def client_of(gateway: RunningGateway) -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def changes_of(gateway: RunningGateway, request_id: str) -> list[dict[str, Any]]:
    """Repairs, as the record of a request tells them."""
    return [c for c in gateway.request(request_id)["changes"] if c["step"] == "repair"]


def check(message: Any, reason: str | None) -> None:
    """One call, right in all parts."""
    assert reason == "tool_calls"
    assert not message.content
    (call,) = message.tool_calls
    assert call.function.name == "search"
    assert call.id
    assert json.loads(call.function.arguments) == RIGHT


def through_all_doors(gateway: RunningGateway, model: str, schema: dict[str, Any]) -> None:
    """Plain, raw stream, and the stream helper of the official client."""
    with client_of(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(
            **ask(model=model, tools=tools(schema))
        )
        choice = raw.parse().choices[0]
        check(choice.message, choice.finish_reason)
        assert raw.headers["penstock-repaired"] == "1"
        assert changes_of(gateway, raw.headers["penstock-request-id"])
        chunks = list(
            client.chat.completions.create(**ask(model=model, tools=tools(schema), stream=True))
        )
        deltas = [c.choices[0].delta for c in chunks if c.choices]
        pieces = [call for delta in deltas for call in delta.tool_calls or ()]
        assert {call.index for call in pieces} == {0}
        assert sum(1 for call in pieces if call.id) == 1
        with client.chat.completions.stream(**ask(model=model, tools=tools(schema))) as stream:
            stream.until_done()
            final = stream.get_final_completion().choices[0]
        check(final.message, final.finish_reason)
    text = gateway.chat(**ask(model=model, tools=tools(schema), stream=True)).text
    late = [line for line in text.splitlines() if line.startswith(": penstock ")]
    assert json.loads(late[-1].removeprefix(": penstock "))["repaired"] == 1
    assert text.endswith("data: [DONE]\n\n")


def test_the_server_itself_gets_the_types_wrong(caller: RunningGateway) -> None:
    """What the other tests here rest on: llama.cpp hands `"True"` on."""
    direct = caller.upstream()["url"]
    answer = parts.fetch(f"{direct}/v1/chat/completions", ask(tools=tools(COMPOSED)))
    arguments = json.loads(
        answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    )
    assert arguments == {"path": "src/main", "recursive": "True", "most": "20"}


def test_types_are_right_through_the_gateway(caller: RunningGateway) -> None:
    """Plain and streaming, by the official client."""
    through_all_doors(caller, "any", COMPOSED)


def test_what_is_right_already_is_the_servers_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Right arguments pass as the server's own bytes, in as many pieces as it sent."""
    say = CALL.replace('"True"', "true").replace('"20"', "20")
    with parts.start_llamacpp(says=say, threads=1) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            answer = gateway.chat(**ask(tools=tools(COMPOSED), stream=True))
            assert not changes_of(gateway, answer.headers["penstock-request-id"])
            assert '"finish_reason":"tool_calls"' in answer.text
            direct = httpx.post(
                f"{server.url}/v1/chat/completions",
                json=ask(tools=tools(COMPOSED), stream=True),
                trust_env=False,
                timeout=60,
            )
            own = [
                re.sub(r'"(created|id|timings)":("[^"]*"|\d+|\{[^}]*\})', "", line)
                for text in (direct.text, answer.text)
                for line in text.splitlines()
                if line.startswith("data: ")
            ]
            half = len(own) // 2
            assert own[:half] == own[half:]


def test_arguments_that_the_limit_cut_stay_cut(caller: RunningGateway) -> None:
    """With every output limit: `length`, and never an object that the model did not end."""
    for limit in range(24, 60, 3):
        for stream in (False, True):
            body = ask(tools=tools(COMPOSED), max_tokens=limit, stream=stream)
            answer = caller.chat(**body)
            if stream:
                datas = [
                    line[6:] for line in answer.text.splitlines() if line.startswith("data: {")
                ]
                choices = [json.loads(data)["choices"][0] for data in datas]
                calls = [call for c in choices for call in c["delta"].get("tool_calls") or ()]
                arguments = "".join(call["function"]["arguments"] for call in calls)
                reason = choices[-1]["finish_reason"]
            else:
                choice = answer.json()["choices"][0]
                calls = choice["message"].get("tool_calls") or []
                arguments = "".join(call["function"]["arguments"] for call in calls)
                reason = choice["finish_reason"]
            if calls and arguments.rstrip().endswith("}"):
                assert json.loads(arguments) == RIGHT or reason == "length"
            else:
                assert reason == "length"


def test_text_becomes_a_call(writer: RunningGateway) -> None:
    """Ollama hands the call back as text; through the gateway it is one, with the right types."""
    through_all_doors(writer, "text", PLAIN)


def test_without_tools_it_stays_text(writer: RunningGateway) -> None:
    """And so it does when the same words stand in the conversation, or the client wants no call."""
    quoted = [{"role": "user", "content": f"What does this mean? {CALL}"}]
    for more in ({}, {"tools": tools(PLAIN), "messages": quoted}, {"tools": tools(PLAIN), "tool_choice": "none"}):  # fmt: skip
        for stream in (False, True):
            answer = writer.chat(**ask(model="text", stream=stream, **more))
            assert "tool_calls" not in answer.text
            assert "penstock-repaired" not in answer.headers


def test_native_objects_are_mended(writer: RunningGateway) -> None:
    """Ollama's own call objects carry the model's types; through the gateway they are the schema's."""
    native = parts.fetch(
        f"{writer.upstream()['url'].removesuffix('/v1')}/api/chat",
        {"model": "native", "stream": False, "options": {"temperature": 0},
         "messages": [{"role": "user", "content": "find it"}], "tools": tools(PLAIN)},
    )  # fmt: skip
    (call,) = native["message"]["tool_calls"]
    assert call["function"]["arguments"]["recursive"] == "True"
    through_all_doors(writer, "native", PLAIN)


def test_a_loop_is_ended_and_the_slot_is_free(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A model that repeats itself ends long before its output limit, plain and streaming."""
    grammar = 'root ::= ("I am sorry but I can not do that for you now. ")+'
    with parts.start_llamacpp(ctx_size=24576, threads=1) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            for stream in (True, False):
                answer = gateway.chat(**ask(max_tokens=20_000, stream=stream, grammar=grammar, ignore_eos=True))  # fmt: skip
                assert answer.status_code == 200
                record = gateway.request(answer.headers["penstock-request-id"])
                assert record["loop_ended"] is True
                assert record["outcome"] == "success"
                until(lambda: not any(s["is_processing"] for s in server.get("/slots")), what="a free slot")  # fmt: skip
                if stream:
                    assert '"finish_reason":"length"' in answer.text
                    assert answer.text.endswith("data: [DONE]\n\n")
                else:
                    choice = answer.json()["choices"][0]
                    assert choice["finish_reason"] == "length"
                    assert 4096 <= len(choice["message"]["content"]) < 8192
                    assert "repeated itself" in answer.headers["penstock-warning"]
            assert gateway.upstream()["concurrency"]["in_flight"] == 0
            with client_of(gateway) as client:
                body = ask(max_tokens=20_000, extra_body={"grammar": grammar, "ignore_eos": True})
                with client.chat.completions.stream(**body) as helper:
                    helper.until_done()
                    with pytest.raises(openai.LengthFinishReasonError):  # its word for `length`
                        helper.get_final_completion()
