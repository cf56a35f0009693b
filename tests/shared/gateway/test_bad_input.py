"""Bad input gets a clear answer and nothing is lost: whatever a client sends, the next request works."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from loops import until
from rawserver import Received
from scripted import Here, ScriptedLlama, gateway_here, stream

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    """A raw POST."""
    lines = [b"POST " + path + b" HTTP/1.1", b"host: localhost", b"connection: close", *headers]
    if not any(h.lower().startswith((b"content-length", b"transfer-encoding")) for h in headers):
        lines.append(b"content-length: %d" % len(body))
    if not any(h.lower().startswith(b"content-type") for h in headers):
        lines.append(b"content-type: application/json")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status_and_error(whole: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error object of a raw answer."""
    head, _, body = whole.partition(b"\r\n\r\n")
    value = json.loads(body)
    error = value["error"]
    if isinstance(error, str):  # Ollama's shape has the rest beside it
        error = {**value, "message": error}
    return int(head.split(b" ")[1]), error


async def still_works(gateway: Here) -> None:
    """The next good request is answered, and nothing is left over."""
    assert (await gateway.chat()).status_code == 200
    await until(lambda: not gateway.runtime.in_flight)
    assert gateway.runtime.fleet.get("box").limiter.running == 0


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        pytest.param(b"", 400, "invalid_request", "no body", id="empty"),
        pytest.param(b"not json", 400, "invalid_request", "line 1", id="not JSON"),
        pytest.param(b'{"model": "m", "messages": [', 400, "invalid_request", "not valid JSON", id="truncated JSON"),
        pytest.param(b"[]", 400, "invalid_request", "an array", id="an array"),
        pytest.param(b'"text"', 400, "invalid_request", "a string", id="a string"),
        pytest.param(b"null", 400, "invalid_request", "null", id="null"),
        pytest.param(b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, "invalid_request", "not valid JSON", id="invalid UTF-8"),
        pytest.param(b'{"model": "m\x00"}', 400, "invalid_request", "not valid JSON", id="NUL byte"),
        pytest.param(b'{"model": "m", "temperature": NaN}', 400, "invalid_request", "not valid JSON", id="NaN"),
        pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "invalid_request", "not valid JSON", id="nesting of 10,000"),
        pytest.param(b'{"model":"m","messages":[{"role":"user","content":"x"}],"y":' + b"[" * 300 + b"]" * 300 + b',"temperature":null,"top_k":null,"model":"other"}', 400, "invalid_request", "nested too deeply", id="nesting of 300"),
        pytest.param({"model": "m"}, 400, "invalid_request", "messages: the field is missing", id="no messages"),
        pytest.param({**GOOD, "messages": []}, 400, "invalid_request", "at least one message", id="empty messages"),
        pytest.param({**GOOD, "messages": "hi"}, 400, "invalid_request", "messages: expected an array", id="messages no array"),
        pytest.param({**GOOD, "messages": ["hi"]}, 400, "invalid_request", "messages[0]: expected an object", id="message no object"),
        pytest.param({**GOOD, "messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_request", "messages[0].role", id="unknown role"),
        pytest.param({**GOOD, "messages": [{"role": "user", "content": 7}]}, 400, "invalid_request", "messages[0].content", id="content a number"),
        pytest.param({**GOOD, "max_tokens": -5}, 400, "invalid_request", "max_tokens", id="negative max_tokens"),
        pytest.param({**GOOD, "max_tokens": "many"}, 400, "invalid_request", "max_tokens", id="max_tokens text"),
        pytest.param({**GOOD, "max_tokens": True}, 400, "invalid_request", "max_tokens", id="max_tokens true"),
        pytest.param({**GOOD, "temperature": "hot"}, 400, "invalid_request", "temperature", id="temperature text"),
        pytest.param({**GOOD, "stream": "yes"}, 400, "invalid_request", "stream", id="stream text"),
        pytest.param({**GOOD, "n": 0}, 400, "invalid_request", "n: expected", id="n of zero"),
        pytest.param({**GOOD, "tools": {}}, 400, "invalid_request", "tools: expected an array", id="tools no array"),
        pytest.param({**GOOD, "model": 5}, 400, "invalid_request", "model: expected a string", id="model a number"),
        pytest.param({**GOOD, "model": "m" * 1025}, 400, "invalid_request", "model: expected a name of at most", id="a model's name without end"),
        pytest.param({**GOOD, "penstock": 5}, 400, "invalid_request", "penstock: expected an object", id="penstock a number"),
        pytest.param({**GOOD, "penstock": {"priority": "urgent"}}, 400, "invalid_request", "penstock-priority", id="unknown priority"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_work(body: Any, status: int, code: str, says: str) -> None:
    """400 that says where and what was expected, in OpenAI's shape with our name on it."""

    async def main() -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            got, error = status_and_error(await gateway.raw(post(raw)))
            assert (got, error["code"]) == (status, code)
            assert says in error["message"]
            assert error["source"] == "penstock"
            assert not llama.requests
            await still_works(gateway)

    asyncio.run(main())


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"unknown_field": {"deep": [1, 2]}}, id="unknown fields"),
        pytest.param({"max_tokens": -1}, id="minus one means no limit"),
        pytest.param({"temperature": None, "stop": None}, id="null means not given"),
        pytest.param({"user": "\x00\u2028\U0001f600"}, id="odd characters"),
        pytest.param({"seed": 2**63}, id="a large seed"),
    ],
)
def test_odd_requests_that_may_work_pass(extra: dict[str, Any]) -> None:
    """What a server might understand reaches it as the client wrote it."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            assert (await gateway.chat(**extra)).status_code == 200
            sent = json.loads(llama.requests[0].body)
            for name, value in extra.items():
                if name != "temperature":
                    assert sent[name] == value

    asyncio.run(main())


def test_a_very_long_conversation_passes() -> None:
    """100,000 messages are many, but no reason to refuse."""

    async def main() -> None:
        messages = [
            {"role": "user" if i % 2 == 0 else "assistant", "content": "x"} for i in range(100_000)
        ]
        async with ScriptedLlama(window=2**21) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(messages=messages)
            assert response.status_code == 200
            assert len(json.loads(llama.requests[0].body)["messages"]) == 100_000
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(messages=messages)
            assert response.status_code == 200
            assert response.headers["penstock-fitted"] == "window"

    asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_of_fifty_megabytes_is_refused(chunked: bool) -> None:
    """413 as soon as it is known, without reading all of it."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            framing = b"transfer-encoding: chunked" if chunked else b"content-length: 52428800"
            writer.write(post(b"", framing))
            sent = 0
            piece = b"x" * 65536
            try:
                while sent < 50 * 1024 * 1024 and not reader.at_eof():
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    await writer.drain()
                    sent += len(piece)
                    if not chunked or sent > 34 * 1024 * 1024:
                        break
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            finally:
                writer.close()
            assert head.startswith(b"HTTP/1.1 413")
            await still_works(gateway)

    asyncio.run(main())


def test_a_client_that_drips_its_body() -> None:
    """408 when the time that its size allows is over; the slow one only."""

    async def main() -> None:
        settings = {"listen": {"body_timeout_s": 0.2}}
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=settings) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(post(b"", b"content-length: 500"))

            async def drip() -> None:
                for _ in range(200):
                    writer.write(b"{")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            dripping.cancel()
            writer.close()
            assert head.startswith(b"HTTP/1.1 408")
            await still_works(gateway)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405, id="GET on a generating path"),
        pytest.param(b"GET /v1/models/absent HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404, id="unknown model listed"),
        pytest.param(b"GET /v1/../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400, id="dots"),
        pytest.param(b"GET /v1/%2e%2e/props HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400, id="encoded dots"),
        pytest.param(b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400, id="absolute form"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n", 403, id="foreign host"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\nconnection: close\r\n\r\n", 403, id="foreign origin"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\nconnection: close\r\n\r\n", 403, id="cross-site fetch"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431, id="a header bomb"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(300)) + b"\r\n", 431, id="many headers"),
        pytest.param(b"\x16\x03\x01 TLS on a plain port\r\n\r\n", 400, id="not HTTP"),
        pytest.param(post(b"{}", b"content-type: text/plain"), 415, id="a blind text/plain POST"),
        pytest.param(b"POST /api/pull HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", 403, id="pull without the token"),
        pytest.param(b"POST /penstock/stop HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", 403, id="stop without the token"),
        pytest.param(b"GET /penstock/nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404, id="no such admin path"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(raw: bytes, status: int) -> None:
    """Each with its status and our error shape, and the gateway goes on."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            got, error = status_and_error(await gateway.raw(raw))
            assert got == status
            assert error["source"] == "penstock"
            assert error["message"]
            assert not llama.requests
            await still_works(gateway)

    asyncio.run(main())


def test_head_options_and_pipelining() -> None:
    """HEAD has no body, OPTIONS is no way in, and pipelined requests are answered in order."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            head = await gateway.http.head("/v1/models")
            assert (head.status_code, head.content) == (200, b"")
            preflight = await gateway.http.options(
                "/v1/chat/completions",
                headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
            )
            assert preflight.status_code in (403, 405)
            assert "access-control-allow-origin" not in preflight.headers
            one = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
            last = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            whole = await gateway.raw(one + one + last)
            assert whole.count(b"HTTP/1.1 200") == 3
            assert whole.index(b'"status":"ok"') < whole.index(b'"object":"list"')

    asyncio.run(main())


def test_a_chunked_upload_is_taken() -> None:
    """Clients that do not know their length are clients too."""

    async def main() -> None:
        raw = json.dumps(GOOD).encode()
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(raw), raw)
            whole = await gateway.raw(post(chunks, b"transfer-encoding: chunked"))
            assert whole.startswith(b"HTTP/1.1 200")
            assert len(llama.requests) == 1

    asyncio.run(main())


def test_a_loop_is_noticed() -> None:
    """A gateway that is its own upstream refuses instead of calling itself for ever."""

    async def main() -> None:
        seen: list[Received] = []
        async with ScriptedLlama(stream("x")) as llama, gateway_here(llama.url) as gateway:
            await gateway.chat()
            seen += llama.requests
            via = seen[0].header(b"via")
            assert via is not None
            again = await gateway.http.post(
                "/v1/chat/completions", json=GOOD, headers={"via": via.decode()}
            )
            assert (again.status_code, again.json()["error"]["code"]) == (508, "loop_detected")

    asyncio.run(main())


def test_keys_are_asked_for_and_never_sent_on() -> None:
    """401 without a key; with one the upstream never sees it; log and record know its name only."""

    async def main() -> None:
        async with ScriptedLlama() as llama:
            async with gateway_here(llama.url, keys={"alice": "sk-alice"}) as gateway:
                assert (await gateway.chat()).status_code == 401
                for headers in ({"authorization": "Bearer sk-alice"}, {"x-api-key": "sk-alice"}):
                    got = await gateway.http.post(
                        "/v1/chat/completions", json=GOOD, headers=headers
                    )
                    assert got.status_code == 200
                assert b"sk-alice" not in b"".join(r.raw for r in llama.requests)
                assert gateway.runtime.recorder.recent()[0].client == "alice"

    asyncio.run(main())


def test_a_strangers_key_goes_on_where_none_is_configured() -> None:
    """With no client keys any key is accepted, and it is the upstream's business."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            await gateway.http.post(
                "/v1/chat/completions", json=GOOD, headers={"authorization": "Bearer theirs"}
            )
            assert llama.requests[0].header(b"authorization") == b"Bearer theirs"

    asyncio.run(main())
