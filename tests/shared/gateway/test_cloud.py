"""Cloud upstreams: bytes pass unchanged in both directions (contracts 3)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from penstock.domain.upstream import Upstream
from penstock.gateway.steps.cloud import splice_model
from rawserver import CLOSE, REQUEST, RESET, RawServer, answer, chunk
from scripted import Here, gateway_here

# A body that no serialiser would write this way: odd spaces, duplicate keys, escapes, big numbers.
ODD_BODY = (
    b'{ "model" : "gpt-4o" ,\n\t"messages":[{"role":"user","content":"caf\\u00e9 \xf0\x9f\x98\x80"}],'
    b' "temperature":1.0000,"seed":123456789012345678901234567890,"x":1,"x":2,"penstock":{"a":1}} '
)


def cloud(url: str, **more: Any) -> tuple[Upstream, ...]:
    """One cloud upstream."""
    return (Upstream("cloud", url, local=False, models=("gpt-4o",), **more),)


def request_bytes(body: bytes, path: str = "/v1/chat/completions?x=1&y=%20") -> bytes:
    """A request whose headers have case, order and repetition of their own."""
    return (
        b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nX-ODD-Case: Kept\r\n"
        b"Authorization: Bearer sk-of-the-client\r\nContent-Type: application/json\r\n"
        b"OpenAI-Organization: org-1\r\nx-twice: 1\r\nx-twice: 2\r\nAccept-Encoding: gzip, br\r\n"
        b"Connection: close, x-hop\r\nX-Hop: gone\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body


async def exchange(gateway: Here, body: bytes = ODD_BODY) -> tuple[bytes, bytes]:
    """Send the odd request; head and body of the answer."""
    whole = await gateway.raw(request_bytes(body))
    head, _, rest = whole.partition(b"\r\n\r\n")
    return head, rest


def test_request_bytes_reach_the_cloud_unchanged() -> None:
    """Body, path, query and headers are the client's, but for hop-by-hop headers and the Host."""

    async def main() -> None:
        script = [REQUEST, answer(b"{}", b"200 OK", b"content-type: application/json")]
        async with RawServer(script) as server, gateway_here(cloud(server.url)) as gateway:
            await exchange(gateway)
            (got,) = server.peers[0].requests
            assert got.line == b"POST /v1/chat/completions?x=1&y=%20 HTTP/1.1"
            assert got.body == ODD_BODY
            assert got.headers == [
                (b"Host", f"127.0.0.1:{server.port}".encode()),
                (b"X-ODD-Case", b"Kept"),
                (b"Authorization", b"Bearer sk-of-the-client"),
                (b"Content-Type", b"application/json"),
                (b"OpenAI-Organization", b"org-1"),
                (b"x-twice", b"1"),
                (b"x-twice", b"2"),
                (b"Accept-Encoding", b"gzip, br"),
                (b"content-length", b"%d" % len(ODD_BODY)),
            ]

    asyncio.run(main())


@pytest.mark.parametrize(
    "status", [b"200 OK", b"201 Created", b"400 Bad Request", b"401 Unauthorized", b"418 Teapot"]
)
def test_answer_bytes_reach_the_client_unchanged(status: bytes) -> None:
    """Status, headers (case, order, repetition, Date and Server too) and body are the cloud's."""

    async def main() -> None:
        headers = [
            b"Date: Tue, 24 Nov 2026 10:00:00 GMT", b"Server: cloudflare", b"X-Request-ID: abc",
            b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"content-encoding: gzip",
            b"Keep-Alive: timeout=5", b"content-type: application/json",
        ]  # fmt: skip
        body = b"\x1f\x8b not really gzip \x00\xff"
        script = [REQUEST, answer(body, status, *headers)]
        async with RawServer(script) as server, gateway_here(cloud(server.url)) as gateway:
            head, rest = await exchange(gateway)
            lines = head.split(b"\r\n")
            assert lines[0].split(b" ")[1] == status.split(b" ")[0]
            assert rest == body
            kept = [line for line in lines[1:] if line.lower() != b"connection: close"]
            expected = [h for h in headers if not h.startswith(b"Keep-Alive")]
            assert kept == [b"content-length: %d" % len(body), *expected]
            assert b"penstock" not in head.lower()

    asyncio.run(main())


def test_a_stream_passes_byte_by_byte_and_nothing_is_inserted() -> None:
    """Whatever the events look like: comments, odd line ends, no closing event."""

    async def main() -> None:
        pieces = [b': hello\n\nid: 7\ndata: {"a"', b":1}\r\n\r\n", b"data: [DONE]"]
        script = [
            REQUEST,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(chunk(piece) for piece in pieces),
            chunk(b""),
        ]
        async with RawServer(script) as server, gateway_here(cloud(server.url)) as gateway:
            response = await gateway.http.post(
                "/v1/chat/completions", content=b'{"model":"gpt-4o","stream":true}',
                headers={"content-type": "application/json"},
            )  # fmt: skip
            assert response.content == b"".join(pieces)
            assert not [name for name in response.headers if name.startswith("penstock")]

    asyncio.run(main())


def test_a_stream_that_breaks_never_ends_cleanly() -> None:
    """The client's connection is cut: without the last chunk nobody takes the answer for whole."""

    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        script = [REQUEST, head, chunk(b"data: {}\n\n"), RESET]
        async with RawServer(script) as server, gateway_here(cloud(server.url)) as gateway:
            try:
                whole = await gateway.raw(request_bytes(ODD_BODY))
            except ConnectionResetError:
                whole = b""
            assert not whole.endswith(b"0\r\n\r\n")
            assert b"error" not in whole

    asyncio.run(main())


def test_the_configured_credential_replaces_the_clients() -> None:
    """And only that: on Anthropic's paths in the header that Anthropic reads."""

    async def main() -> None:
        script = [REQUEST, answer(b"{}", b"200 OK", b"content-type: application/json")] * 4
        async with RawServer(script) as server:
            async with gateway_here(cloud(server.url, api_key="sk-configured")) as gateway:
                await exchange(gateway)
                assert (
                    server.peers[0].requests[0].header(b"authorization") == b"Bearer sk-configured"
                )
                await gateway.raw(request_bytes(ODD_BODY, "/v1/messages"))
                got = [r for peer in server.peers for r in peer.requests][-1]
                assert got.header(b"x-api-key") == b"sk-configured"
                assert got.header(b"authorization") is None

    asyncio.run(main())


def test_only_the_cloud_policy_acts() -> None:
    """Transient failures before the first byte are repeated; the last one is passed on as it is."""

    async def main() -> None:
        failing = [
            REQUEST,
            answer(b"<odd>busy</odd>", b"503 Service Unavailable", b"x-own: 1"),
            CLOSE,
        ]
        good = [REQUEST, answer(b"{}", b"200 OK", b"content-type: application/json")]
        async with RawServer(failing, failing, good) as server:
            async with gateway_here(cloud(server.url)) as gateway:
                head, _ = await exchange(gateway)
                assert head.startswith(b"HTTP/1.1 200")
                assert len(server.peers) == 3
        async with RawServer(failing) as server, gateway_here(cloud(server.url)) as gateway:
            head, body = await exchange(gateway)
            assert head.startswith(b"HTTP/1.1 503")
            assert b"x-own: 1" in head
            assert body == b"<odd>busy</odd>"
            assert len(server.peers) == 5

    asyncio.run(main())


def test_a_cloud_is_never_probed() -> None:
    """Not at start, not by a refresh, not for a listing."""

    async def main() -> None:
        async with RawServer() as server, gateway_here(cloud(server.url)) as gateway:
            listed = (await gateway.http.get("/v1/models")).json()["data"]
            assert [m["id"] for m in listed] == ["gpt-4o"]
            assert listed[0]["context_window"] == 128_000
            assert not server.peers

    asyncio.run(main())


def test_paths_that_are_no_api_are_not_passed_on_with_the_key() -> None:
    """The configured key must not make an open proxy of the gateway."""

    async def main() -> None:
        async with RawServer() as server:
            async with gateway_here(cloud(server.url, api_key="sk-configured")) as gateway:
                for path in (
                    "/",
                    "/dashboard",
                    "/v1/organization/users",
                    "/v1/../admin",
                    "/api/pull",
                ):
                    response = await gateway.http.get(path)
                    assert response.status_code in (400, 403, 404), path
                for path in ("/api/chat", "/api/generate", "/completion", "/infill"):
                    response = await gateway.http.post(path, json={"model": "m"})
                    assert response.status_code == 404, path
                assert not server.peers

    asyncio.run(main())


@pytest.mark.parametrize(
    "path", ["/v1/files/a%20b?x=%20", "/v1/files/%E6%97%A5", "/v1/files/f%C3%BC", "/v1/files/x%3Fy"]
)
@pytest.mark.parametrize("local", [False, True], ids=["cloud", "local"])
def test_a_paths_encoding_survives(path: str, local: bool) -> None:
    """What stands for one name stays one name; the request line is never broken by it."""

    async def main() -> None:
        script = [REQUEST, answer(b"{}", b"200 OK", b"content-type: application/json")] * 40
        async with RawServer(script) as server:
            upstreams = (Upstream("cloud", server.url, local=local),)
            async with gateway_here(upstreams) as gateway:
                assert (await gateway.http.get(path)).status_code == 200
            lines = [request.line for peer in server.peers for request in peer.requests]
            assert b"GET %b HTTP/1.1" % path.encode() in lines

    asyncio.run(main())


def test_an_alias_splices_the_model_and_nothing_else() -> None:
    """Every other byte stays, also where `"model"` stands deeper in the body."""

    async def main() -> None:
        body = b'{"tools":[{"model":"mine"}], "model" :  "mine" , "x": 1.0}'
        script = [REQUEST, answer(b"{}", b"200 OK", b"content-type: application/json")]
        settings = {"routing": {"aliases": {"mine": "cloud/gpt-4o"}}}
        async with RawServer(script) as server:
            async with gateway_here(cloud(server.url), settings=settings) as gateway:
                await exchange(gateway, body)
                expected = b'{"tools":[{"model":"mine"}], "model" :  "gpt-4o" , "x": 1.0}'
                assert server.peers[0].requests[0].body == expected

    asyncio.run(main())


def test_splicing_keeps_meaning_whatever_stands_before() -> None:
    """The spliced body means the same but for the model."""
    raw = b'{"a": "\\"model\\": \\"x\\"", "m": {"model": "x"}, "model": "x"}'
    spliced = splice_model(raw, json.loads(raw), "y")
    assert json.loads(spliced) == {**json.loads(raw), "model": "y"}
    assert spliced == raw[:-2].removesuffix(b'"x') + b'"y"}'


def test_a_cloud_that_cannot_be_reached_is_our_error() -> None:
    """502 in our shape: there is no answer of the cloud's to pass on."""

    async def main() -> None:
        async with gateway_here(cloud("http://127.0.0.1:9")) as gateway:
            response = await gateway.http.post("/v1/chat/completions", json={"model": "gpt-4o"})
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "upstream_unreachable"
            assert response.json()["error"]["upstream"] == "cloud"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raw", "spliced"),
    [
        (b'{"x": {"model": "a"}, "model" : "b"}', b'{"x": {"model": "a"}, "model" : "m"}'),
        (b'{"model":"b","x":[{"model":"b"}]}', b'{"model":"m","x":[{"model":"b"}]}'),
        (b'{"x":"{\\"model\\":\\"a\\"","y":{"model":"b"},"model":"b"}', b'{"x":"{\\"model\\":\\"a\\"","y":{"model":"b"},"model":"m"}'),
        (b'{"model":"a","x":["model"],"model":"b"}', b'{"model":"a","x":["model"],"model":"m"}'),
    ],
    ids=["deeper first", "deeper last", "in a text", "twice"],
)  # fmt: skip
def test_the_alias_is_spliced_at_the_top(raw: bytes, spliced: bytes) -> None:
    """Wherever else `model` stands, all other bytes stay."""
    assert splice_model(raw, json.loads(raw), "m") == spliced


def test_a_body_full_of_models_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client cannot hold up all others by it: the body is not parsed anew for each."""
    raw = b'{"x":[' + b",".join([b'{"model":"a"}'] * 500) + b'],"model":"b"}'
    parsed = []

    def counting(data: bytes) -> object:
        parsed.append(len(data))
        return json.loads(data)

    monkeypatch.setattr("penstock.gateway.steps.cloud.orjson.loads", counting)
    assert splice_model(raw, json.loads(raw), "m") == raw[:-3] + b'm"}'
    assert len(parsed) == 1
