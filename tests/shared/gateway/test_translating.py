"""
Other dialects on the path: what is sent to the server is OpenAI's, what the client gets is its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from penstock.dialects.sse import parse_event, split_events
from rawserver import CHUNKED_HEAD, CLOSE, RESET, chunk
from scripted import ScriptedLlama, delta, event, gateway_here, reply, stream

ASKED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "responses": ("/v1/responses", {"model": "m", "input": "hi"}),
    "ollama-chat": ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    "ollama-generate": ("/api/generate", {"model": "m", "prompt": "hi"}),
    "messages": (
        "/v1/messages",
        {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
    ),
}
DIALECTS = list(ASKED)
CALL = {
    "choices": [
        {
            "index": 0,
            "delta": {
                "tool_calls": [
                    {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"deep": "True"}'}}
                ]
            },
        }
    ]
}  # fmt: skip


def said(dialect: str, body: Mapping[str, Any]) -> str:
    """The text of a whole answer."""
    if dialect == "responses":
        parts = [p for item in body["output"] if item["type"] == "message" for p in item["content"]]
        return "".join(part["text"] for part in parts)
    if dialect == "messages":
        return "".join(block["text"] for block in body["content"] if block["type"] == "text")
    return str(body["message"]["content"] if dialect == "ollama-chat" else body["response"])


def values(dialect: str, raw: bytes) -> list[dict[str, Any]]:
    """The events of a stream."""
    if dialect.startswith("ollama"):
        return [json.loads(line) for line in raw.splitlines() if line]
    return [json.loads(parse_event(one).data) for one in split_events(raw)]


def pieces(dialect: str, events: Sequence[Mapping[str, Any]]) -> str:
    """The text of a stream."""
    if dialect == "responses":
        return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    if dialect == "messages":
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        return "".join(d["text"] for d in deltas if d["type"] == "text_delta")
    return "".join(said(dialect, e) for e in events)


def closes(dialect: str, last: Mapping[str, Any]) -> bool:
    """Whether this event says that the answer is complete."""
    if dialect.startswith("ollama"):
        return last.get("done") is True
    return last.get("type") in ("response.completed", "message_stop")


async def ask(http: httpx.AsyncClient, dialect: str, **fields: Any) -> httpx.Response:
    """One request in *dialect*."""
    path, body = ASKED[dialect]
    return await http.post(path, json={**body, **fields})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
def test_the_server_is_asked_in_openais_dialect(dialect: str, streams: bool) -> None:
    """One path, messages, a stream; the client's answer is whole in its own dialect, and announced."""

    async def main() -> None:
        async with (
            ScriptedLlama(stream("hel", "lo")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            answer = await ask(gateway.http, dialect, stream=streams)
            assert answer.status_code == 200
            assert answer.headers["penstock-window"] == "4096"
            own_id = answer.headers.get("request-id")  # where Anthropic's client looks
            assert own_id == (answer.headers["x-request-id"] if dialect == "messages" else None)
            (request,) = llama.requests
            assert request.line.startswith(b"POST /v1/chat/completions HTTP")
            sent = json.loads(request.body)
            assert sent["messages"] == [{"role": "user", "content": "hi"}]
            assert (sent["stream"], sent["return_progress"]) == (True, True)
            if streams:
                events = values(dialect, answer.content)
                assert pieces(dialect, events) == "hello"
                assert closes(dialect, events[-1])
            else:
                assert said(dialect, answer.json()) == "hello"
            record = gateway.runtime.recorder.recent()[0]
            assert record.outcome == "success"

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
def test_a_server_that_answers_plain_although_a_stream_was_asked_for(
    dialect: str, streams: bool
) -> None:
    """Its one body becomes what the client asked for."""
    whole = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama([reply(whole)]) as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, stream=streams)
            if streams:
                events = values(dialect, answer.content)
                assert (pieces(dialect, events), closes(dialect, events[-1])) == ("hello", True)
            else:
                assert said(dialect, answer.json()) == "hello"

    asyncio.run(main())


class Kobold(ScriptedLlama):
    """A KoboldCpp, whose streams are no good with tools: it is asked for none then."""

    def _probe(self, target: str) -> bytes:
        said = {
            "/.well-known/serviceinfo": {"software": {"name": "KoboldCpp"}},
            "/api/extra/true_max_context_length": {"value": 4096},
            "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model"}]},
        }.get(target)
        status = b"404 Not Found" if said is None else b"200 OK"
        return reply(said or {}, status).replace(b"llama.cpp", b"KoboldCpp")


@pytest.mark.parametrize("dialect", ["responses", "ollama-chat", "messages"])
def test_a_plain_answer_of_a_server_that_was_asked_for_no_stream(dialect: str) -> None:
    """It is plain for its client as well: a body of JSON by its head, and explained when asked."""
    function = {"name": "look", "parameters": {"type": "object"}}
    tools = {
        "responses": [{"type": "function", **function}],
        "ollama-chat": [{"type": "function", "function": function}],
        "messages": [{"name": "look", "input_schema": {"type": "object"}}],
    }[dialect]
    message = {"role": "assistant", "content": "hello"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    async def main() -> None:
        async with Kobold([reply(body)]) as llama, gateway_here(llama.url) as gateway:
            answer = await ask(
                gateway.http, dialect, stream=False, tools=tools, penstock={"explain": True}
            )
            assert answer.status_code == 200
            assert "stream" not in json.loads(llama.requests[-1].body)
            assert answer.headers["content-type"].startswith("application/json")
            assert answer.headers["content-length"] == str(len(answer.content))
            assert said(dialect, answer.json()) == "hello"
            assert answer.json()["penstock"]["upstream"] == "box"

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_that_breaks_ends_with_an_error_of_the_dialect(dialect: str) -> None:
    """No closing event; the error names its code."""
    script = [CHUNKED_HEAD, event(delta("hel")), RESET]

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, stream=True)
            events = values(dialect, answer.content)
            assert pieces(dialect, events[:-1]) == "hel"
            assert not closes(dialect, events[-1])
            assert "broke off" in json.dumps(events[-1])

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_with_a_finish_reason_and_no_done_is_complete(dialect: str) -> None:
    """Some servers close after the last chunk; the answer was whole."""
    script = [CHUNKED_HEAD, event(delta("hello")), event(delta("", "stop")), chunk(b"")]

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            events = values(dialect, (await ask(gateway.http, dialect, stream=True)).content)
            assert (pieces(dialect, events), closes(dialect, events[-1])) == ("hello", True)

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_heartbeats_come_before_the_answer_and_disturb_nothing(dialect: str) -> None:
    """They commit; a Responses stream is created once and counts on, a Messages stream pings."""
    gate = asyncio.Event()
    script = [gate, *stream("hello")]

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        path, body = ASKED[dialect]
        async with (
            ScriptedLlama(script) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
            gateway.http.stream("POST", path, json={**body, "stream": True}) as response,
        ):
            raw = b""
            async with asyncio.timeout(10):
                async for data in response.aiter_bytes():
                    raw += data
                    if raw.count(b"\n") > 8:
                        gate.set()
            events = values(dialect, raw)
            assert (pieces(dialect, events), closes(dialect, events[-1])) == ("hello", True)
            if dialect == "responses":
                assert [e["type"] for e in events].count("response.created") == 1
                assert [e["sequence_number"] for e in events] == [*range(len(events))]
            if dialect == "messages":
                assert [e["type"] for e in events].count("message_start") == 1
                assert {"type": "ping"} in events

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_after_a_heartbeat_is_the_dialects_own(dialect: str) -> None:
    """The server goes away while the client is kept waiting."""
    gate = asyncio.Event()

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.05}, "retry": {"local": {"attempts": 1}}}
        path, body = ASKED[dialect]
        refused = reply({"error": {"message": "out of luck", "code": 400}}, b"400 Bad Request")
        async with (
            ScriptedLlama([gate, refused]) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
            gateway.http.stream("POST", path, json={**body, "stream": True}) as response,
        ):
            raw = b""
            async with asyncio.timeout(10):
                async for data in response.aiter_bytes():
                    raw += data
                    gate.set()
            events = values(dialect, raw)
            assert not closes(dialect, events[-1])
            assert "out of luck" in json.dumps(events[-1])
            if dialect == "responses":
                assert events[0]["type"] == "response.created"
                assert [e["sequence_number"] for e in events] == [*range(len(events))]

    asyncio.run(main())


@pytest.mark.parametrize("dialect", ["responses", "ollama-chat", "messages"])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
def test_tool_calls_are_mended_on_the_way(dialect: str, streams: bool) -> None:
    """`"True"` becomes true where the tool's schema wants a boolean, in every dialect."""
    schema = {"type": "object", "properties": {"deep": {"type": "boolean"}}}
    tools = {
        "responses": [{"type": "function", "name": "look", "parameters": schema}],
        "ollama-chat": [{"type": "function", "function": {"name": "look", "parameters": schema}}],
        "messages": [{"name": "look", "input_schema": schema}],
    }[dialect]
    script = [
        CHUNKED_HEAD,
        event(CALL),
        event(delta("", "tool_calls")),
        event(b"[DONE]"),
        chunk(b""),
    ]

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, stream=streams, tools=tools)
            assert answer.status_code == 200
            told = answer.text.replace("\\", "").replace(" ", "")
            assert '"deep":true' in told
            assert "True" not in told
            assert gateway.runtime.recorder.recent()[0].repaired == 1

    asyncio.run(main())


def call(number: int, name: str, arguments: str) -> bytes:
    """A piece of a tool call; only its first one has a name."""
    function = {"arguments": arguments, **({"name": name} if name else {})}
    piece = {"index": number, "function": function, **({"id": f"c{number}"} if name else {})}
    return event({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})


PARALLEL = {
    "the first is mended at the end": [call(0, "look", '{"deep": "Tr'), call(0, "", 'ue"}'), call(1, "look", '{"deep": true}')],
    "pieces in turns": [call(0, "look", '{"deep"'), call(1, "look", '{"deep"'), call(0, "", ": true}"), call(1, "", ": true}")],
}  # fmt: skip


@pytest.mark.parametrize("dialect", ["responses", "ollama-chat", "messages"])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("said_calls", PARALLEL.values(), ids=list(PARALLEL))
def test_parallel_calls_are_whole(dialect: str, streams: bool, said_calls: list[bytes]) -> None:
    """No call is given to the client without its arguments, and none without its name."""
    schema = {"type": "object", "properties": {"deep": {"type": "boolean"}}}
    function = {"name": "look", "parameters": schema}
    tools = {
        "responses": [{"type": "function", **function}],
        "ollama-chat": [{"type": "function", "function": function}],
        "messages": [{"name": "look", "input_schema": schema}],
    }[dialect]
    script = [CHUNKED_HEAD, *said_calls, event(delta("", "tool_calls")), event(b"[DONE]"), chunk(b"")]  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, stream=streams, tools=tools)
            events = values(dialect, answer.content) if streams else [answer.json()]
            assert calls_in(dialect, events) == [("c0", "look", {"deep": True}), ("c1", "look", {"deep": True})]  # fmt: skip

    asyncio.run(main())


def calls_in(dialect: str, events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    """The calls of an answer, as a client that runs them reads them."""
    if dialect == "ollama-chat":
        calls = [c for e in events for c in e["message"].get("tool_calls", ())]
        return [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls]
    if dialect == "responses":
        output = events[-1].get("response", events[-1])["output"]
        return [(i["call_id"], i["name"], json.loads(i["arguments"])) for i in output]
    if "content" in events[0]:
        return [(b["id"], b["name"], b["input"]) for b in events[0]["content"]]
    blocks = {e["index"]: e["content_block"] for e in events if e["type"] == "content_block_start"}
    told = dict.fromkeys(blocks, "")
    for one in events:
        if one["type"] == "content_block_delta":
            told[one["index"]] += one["delta"]["partial_json"]
    return [(b["id"], b["name"], json.loads(told[n])) for n, b in blocks.items()]


@pytest.mark.parametrize("dialect", ["responses", "ollama-chat", "messages"])
def test_a_fields_name_cannot_break_the_answers_head(dialect: str) -> None:
    """What is left out is announced in a header, under a name that the client chose."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, **{"odd\u0001\u007f\r\nx: y": 1})
            assert answer.status_code == 200
            assert "odd?? x: y dropped" in answer.headers["penstock-changed"]
            assert "x" not in answer.headers

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_long_conversation_is_refused_in_the_dialects_shape(dialect: str) -> None:
    """What cannot be cut is refused before anything is sent, with the numbers that clients read."""
    long = "word " * 6000

    async def main() -> None:
        path, body = ASKED[dialect]
        text = json.dumps(body).replace('"hi"', json.dumps(long))
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await gateway.http.post(
                path,
                content=text,
                headers={"content-type": "application/json", "penstock-strategy": "off"},
            )
            assert answer.status_code == 400
            assert "maximum context length is 4096 tokens" in answer.text
            assert not llama.requests
            error = answer.json()["error"]
            if dialect.startswith("ollama"):
                assert isinstance(error, str)
            elif dialect == "messages":
                assert (answer.json()["type"], error["type"]) == ("error", "invalid_request_error")
            else:
                assert error["code"] == "context_length_exceeded"

    asyncio.run(main())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hanging_up_ends_the_request_upstream(dialect: str) -> None:
    """The server's connection closes when the client's does."""
    gate = asyncio.Event()

    async def main() -> None:
        path, body = ASKED[dialect]
        script = [CHUNKED_HEAD, event(delta("hel")), gate]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            async with gateway.http.stream("POST", path, json={**body, "stream": True}) as response:
                async for _ in response.aiter_bytes():
                    break
            async with asyncio.timeout(5):
                while not gateway.runtime.recorder.recent():
                    await asyncio.sleep(0.01)
            assert gateway.runtime.recorder.recent()[0].client_gone is True
            gate.set()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/api/chat", {"messages": []}, ("done_reason", "load")),
        ("/api/generate", {"prompt": "", "keep_alive": 0}, ("done_reason", "unload")),
        ("/api/embed", {"input": []}, ("embeddings", [])),
    ],
    ids=["load", "unload", "nothing to embed"],
)
def test_what_needs_no_server_is_answered_here(
    path: str, fields: dict[str, Any], expected: tuple[str, Any]
) -> None:
    """In front of a server that has no such thing."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await gateway.http.post(path, json={"model": "m", **fields})
            assert answer.status_code == 200
            assert answer.json()[expected[0]] == expected[1]
            assert not llama.requests

    asyncio.run(main())


def test_embeddings_of_ollamas_clients() -> None:
    """`/api/embed` goes to `/v1/embeddings`, the answer is Ollama's."""
    made = {
        "data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}],
        "usage": {"prompt_tokens": 4},
    }

    async def main() -> None:
        async with (
            ScriptedLlama([reply(made)], [reply({"nothing": 1})]) as llama,
            gateway_here(llama.url) as gateway,
        ):
            body = {"model": "m", "input": ["a", "b"], "keep_alive": "5m"}
            answer = await gateway.http.post("/api/embed", json=body)
            assert (answer.status_code, answer.json()["embeddings"]) == (200, [[1.0], [2.0]])
            assert "keep_alive dropped" in answer.headers["penstock-changed"]
            assert llama.requests[0].line.startswith(b"POST /v1/embeddings ")
            broken = await gateway.http.post("/api/embed", json=body)
            assert (broken.status_code, broken.json()["code"]) == (502, "bad_answer")

    asyncio.run(main())


def test_a_raw_prompt_of_ollamas_clients_has_no_template_around_it() -> None:
    """It goes to `/v1/completions`; one with a suffix is refused, by whom and why."""
    script = [
        CHUNKED_HEAD,
        event({"choices": [{"index": 0, "text": "hel", "finish_reason": None}]}),
        event({"choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}]}),
        event(b"[DONE]"),
        chunk(b""),
    ]

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            body = {"model": "m", "prompt": "hi", "raw": True}
            answer = await gateway.http.post("/api/generate", json=body)
            events = values("ollama-generate", answer.content)
            assert pieces("ollama-generate", events) == "hello"
            assert events[-1]["done"] is True
            assert llama.requests[0].line.startswith(b"POST /v1/completions ")
            assert json.loads(llama.requests[0].body)["prompt"] == "hi"
            refused = await gateway.http.post("/api/generate", json={**body, "suffix": "x"})
            assert refused.status_code == 400
            assert "by an Ollama server only" in refused.json()["error"]

    asyncio.run(main())


def test_a_client_key_goes_on_as_a_bearer_token() -> None:
    """Anthropic's clients send `x-api-key`, which servers with OpenAI's paths do not read."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            path, body = ASKED["messages"]
            await gateway.http.post(f"{path}?beta=true", json=body, headers={"x-api-key": "mine"})
            (request,) = llama.requests
            assert b"authorization: Bearer mine" in request.raw
            assert request.line.startswith(b"POST /v1/chat/completions HTTP")

    asyncio.run(main())


def test_an_upstream_that_closes_before_it_answers_is_asked_again() -> None:
    """What the first attempt wrote in the client's dialect is forgotten."""
    broken = [CHUNKED_HEAD, event({"error": {"message": "Loading model", "code": 503}}), CLOSE]

    async def main() -> None:
        async with (
            ScriptedLlama(broken, stream("hello")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            answer = await ask(gateway.http, "responses", stream=True)
            events = values("responses", answer.content)
            assert pieces("responses", events) == "hello"
            assert [e["sequence_number"] for e in events] == [*range(len(events))]

    asyncio.run(main())


COUNTED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "openai": (
        "/v1/chat/completions/input_tokens",
        {"model": "m", "messages": [{"role": "user", "content": "one two three"}]},
    ),
    "responses": ("/v1/responses/input_tokens", {"model": "m", "input": "one two three"}),
    "messages": (
        "/v1/messages/count_tokens",
        {"model": "m", "messages": [{"role": "user", "content": "one two three"}]},
    ),
}


@pytest.mark.parametrize("dialect", list(COUNTED))
def test_tokens_are_counted_without_a_generation(dialect: str) -> None:
    """By the server's own counts; a word is a token of the scripted one, the template adds some."""

    async def main() -> None:
        path, body = COUNTED[dialect]
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await gateway.http.post(path, json=body)
            longer = json.loads(json.dumps(body).replace("three", "three four five six"))
            more = await gateway.http.post(path, json=longer)
            assert (answer.status_code, more.status_code) == (200, 200)
            assert more.json()["input_tokens"] - answer.json()["input_tokens"] == 3
            assert answer.json()["input_tokens"] == 3 + 2  # <user> and <assistant>
            assert not llama.requests
            assert gateway.runtime.fleet.get("box").limiter.running == 0

    asyncio.run(main())


def test_ollamas_command_asks_whether_anybody_is_there() -> None:
    """`HEAD /`, before anything else; no upstream is asked."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await gateway.http.head("/")
            assert (answer.status_code, answer.content) == (200, b"")
            assert not llama.requests

    asyncio.run(main())


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
def test_a_heartbeat_comes_before_the_official_clients_give_up(header: str) -> None:
    """Theirs for Python and theirs for JavaScript say how patient they are; ours waits 15 s otherwise."""
    gate = asyncio.Event()

    async def main() -> None:
        path, body = ASKED["responses"]
        async with (
            ScriptedLlama([gate, *stream("hello")]) as llama,
            gateway_here(llama.url) as gateway,
            gateway.http.stream(
                "POST", path, json={**body, "stream": True}, headers={header: "1"}
            ) as response,
        ):
            async with asyncio.timeout(8):
                async for _ in response.aiter_bytes():
                    gate.set()

    asyncio.run(main())


def nested(depth: int) -> Any:
    """A schema in a schema in a schema."""
    value: Any = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("ollama-chat", {"options": {"seed": -1.8e19}}),
        ("ollama-generate", {"options": {"top_k": -1.8e19}, "raw": True}),
    ],
)
def test_a_number_that_cannot_be_sent_on_is_refused_as_one(
    dialect: str, fields: dict[str, Any]
) -> None:
    """It is the client's to change, and said by what it is."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, **fields)
            assert answer.status_code == 400
            assert "64 bits" in answer.text

    asyncio.run(main())


@pytest.mark.parametrize("dialect", ["responses", "ollama-chat", "messages"])
def test_what_is_nested_too_deeply_is_refused(dialect: str) -> None:
    """It can be read and not be written again: the client's to change, no defect of ours."""
    tools = {
        "responses": [{"type": "function", "name": "look", "parameters": nested(600)}],
        "ollama-chat": [
            {"type": "function", "function": {"name": "look", "parameters": nested(600)}}
        ],
        "messages": [{"name": "look", "input_schema": nested(600)}],
    }[dialect]

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            answer = await ask(gateway.http, dialect, tools=tools)
            assert answer.status_code == 400
            assert "nested too deeply" in answer.text
            assert not llama.requests

    asyncio.run(main())
