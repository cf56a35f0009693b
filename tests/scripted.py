"""
A gateway in the test's own event loop, and a llama.cpp that says what a test wants: for faults that no
real server can be asked to have. What works is proven in `tests/real` on real servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any, Self

import httpx
import uvicorn

from penstock.adapters.transport import Transport
from penstock.domain.upstream import Upstream
from penstock.gateway.app import Gateway
from penstock.gateway.edge.access import AccessRules
from penstock.gateway.edge.protocol import WireLimits, with_limits
from penstock.gateway.runtime import Runtime
from penstock.gateway.views.admin import make_admin
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings
from rawserver import (
    CHUNKED_HEAD,
    CLOSE,
    RESET,
    Act,
    Peer,
    RawServer,
    Received,
    Step,
    answer,
    chunk,
)

Script = Sequence[Step]
JSON = b"content-type: application/json"
SERVER = b"Server: llama.cpp"
COUNTING = (b"/tokenize", b"/apply-template", b"/v1/chat/completions/input_tokens")


def reply(body: Any, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    """A JSON answer as llama.cpp gives it."""
    return answer(json.dumps(body).encode(), status, JSON, SERVER, *headers)


def event(value: Any) -> bytes:
    """One server-sent event in a chunk of its own."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return chunk(b"data: " + data + b"\n\n")


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    """A chat chunk."""
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}],
    }  # fmt: skip


def stream(*texts: str) -> list[Step]:
    """A whole good stream."""
    return [
        CHUNKED_HEAD,
        *(event(delta(text)) for text in texts),
        event(delta("", "stop")),
        event(b"[DONE]"),
        chunk(b""),
    ]


class ScriptedLlama:
    """
    Answers probes as a llama.cpp with a window of 4,096 and two slots does; each generating request plays
    the next script (the last one again when they are used up).

    Attributes:
        requests: the generating requests that came.
        counted: requests for token counts; a word is a token here. `counts`: whether it answers these.
        model: the only one.
        asking: POSTs that only ask.
    """

    asking: Container[bytes] = COUNTING

    def __init__(self, *scripts: Script, window: int = 4096, slots: int = 2) -> None:
        self._scripts = list(scripts)
        self.window = window
        self.slots = slots
        self.ready = True
        self.model = "m"
        self.requests: list[Received] = []
        self.counted = 0
        self.counts = True
        self.gone: list[asyncio.Event] = []
        self._raw = RawServer([self._serve])

    async def __aenter__(self) -> Self:
        await self._raw.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._raw.__aexit__(*exc)

    @property
    def url(self) -> str:
        """Base address."""
        return self._raw.url

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return self._raw.port

    def play(self, scripts: Sequence[Script]) -> None:
        """Generating requests from now on play these, the last one again and again."""
        self._scripts = list(scripts)
        self.requests.clear()

    async def leave(self) -> None:
        """End as a process does: connections break, nobody listens any more."""
        await self._raw.__aexit__()

    async def come_back(self) -> None:
        """Listen again, at the same address."""
        await self._raw.listen_again()

    async def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                request = await peer.read_request()
                method, target, _ = request.line.split(b" ")
                if method == b"GET":
                    await peer.send(self._probe(target.decode()))
                    continue
                if target in self.asking:
                    self.counted += 1
                    await peer.send(self._count(target, json.loads(request.body)))
                    continue
                self.requests.append(request)
                if not await self._play(peer, self.script_for(request)):
                    return

    def script_for(self, request: Received) -> Script:
        """What is played for a generating request, the newest in `requests`."""
        number = min(len(self.requests), len(self._scripts)) - 1
        return self._scripts[number] if self._scripts else stream("hello")

    async def _play(self, peer: Peer, script: Script) -> bool:
        for step in script:
            if isinstance(step, bytes):
                await peer.send(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is CLOSE:
                peer.writer.close()
                return False
            elif step is RESET:
                peer.reset()
                return False
            elif isinstance(step, Act):
                await peer.until_gone()
                peer.ended.set()
                return False
            else:
                await step(peer)
        return True

    def rendered(self, message: dict[str, Any]) -> str:
        """What the template makes of a message."""
        return f"<{message['role']}> {message.get('content') or ''}"

    def _count(self, target: bytes, body: dict[str, Any]) -> bytes:
        if not self.counts:
            return reply({"error": {"message": "File Not Found", "code": 404}}, b"404 Not Found")
        if target == b"/apply-template":
            rendered = [self.rendered(message) for message in body["messages"]]
            return reply(
                {"prompt": " ".join([*map(str, body.get("tools") or ()), *rendered, "<assistant>"])}
            )
        if target == b"/tokenize":
            given = body["content"]
            tokens: list[int] = []
            for part in given if isinstance(given, list) else [given]:
                tokens += [part] if isinstance(part, int) else [1000] * len(part.split())
            return reply({"tokens": tokens})
        return reply({"input_tokens": self.words(body)})

    def words(self, body: dict[str, Any]) -> int:
        """What `/v1/chat/completions/input_tokens` says."""
        return len(" ".join(self.rendered(message) for message in body["messages"]).split()) + 1

    def _probe(self, target: str) -> bytes:
        if not self.ready:
            error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
            return reply({"error": error}, b"503 Service Unavailable")
        if target == "/props":
            return reply(
                {"default_generation_settings": {"n_ctx": self.window}, "total_slots": self.slots,
                 "chat_template": "{{ messages }}", "build_info": "b1"}
            )  # fmt: skip
        if target == "/v1/models":
            row = {"id": self.model, "object": "model", "owned_by": "llamacpp",
                   "meta": {"n_ctx_train": 131072}}  # fmt: skip
            return reply({"object": "list", "data": [row]})
        if target == "/slots":
            return reply(
                [{"id": n, "n_ctx": self.window, "is_processing": False} for n in range(self.slots)]
            )
        if target == "/health":
            return reply({"status": "ok"})
        return reply({"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}},
                     b"404 Not Found")  # fmt: skip


class Here:
    """
    A gateway in this event loop.

    Attributes:
        url: where it listens.
        http: a client for it.
        runtime: its inside, for what cannot be seen from outside.
        transport: its connections to upstreams.
    """

    def __init__(
        self, runtime: Runtime, transport: Transport, server: uvicorn.Server, url: str
    ) -> None:
        self.runtime = runtime
        self.transport = transport
        self.url = url
        self.server = server
        # Plain HTTP only, so no CA bundle: reading one takes longer than most tests.
        self.http = httpx.AsyncClient(base_url=url, timeout=20.0, trust_env=False, verify=False)

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.rsplit(":", 1)[1])

    async def chat(self, **fields: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def raw(self, data: bytes, *, within_s: float = 10.0) -> bytes:
        """Send bytes, read until the gateway closes (send `connection: close`)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(within_s):
                return await reader.read(-1)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def gateway_here(
    upstream: str | Sequence[Upstream],
    *,
    settings: dict[str, Any] | None = None,
    keys: dict[str, str] | None = None,
    local: bool | None = None,
    rules: dict[str, Any] | None = None,
    on_request_stop: Callable[[], None] | None = None,
) -> AsyncIterator[Here]:
    """
    Run a gateway.

    Args:
        upstream: URL of the only one (called `box`), or several.
        settings: the tree of `penstock.yaml`.
        keys: client keys by name.
        local: declaration of the only upstream.
        rules: changed fields of `AccessRules`.
    """
    quick: dict[str, Any] = {"retry": {"local": {"first_delay_s": 0.01, "longest_delay_s": 0.05},
                       "cloud": {"first_delay_s": 0.01, "longest_delay_s": 0.05}}}  # fmt: skip
    # Nothing is asked of the server that no test asks.
    quick["resume"] = {"enabled": False}
    tree = {**quick, **(settings or {})}
    made = Settings.model_validate(tree)
    upstreams = (
        (Upstream("box", upstream, local=local),) if isinstance(upstream, str) else tuple(upstream)
    )
    runtime = Runtime(made, upstreams, LocalModelEnvironment(), started_by="test")
    transport = Transport()

    class Controls:
        def request_stop(self) -> None:
            if on_request_stop is not None:
                on_request_stop()

        def reload(self) -> None:
            return None

    given = AccessRules(
        **{
            "client_keys": keys or {}, "admin_token": runtime.admin_token, "allowed_hosts": (),
            "origins": (), "only_loopback": True, "metrics_open": False, **(rules or {}),
        }
    )  # fmt: skip
    app = Gateway(runtime, transport, given, make_admin(runtime, Controls()))
    listen = made.listen
    limits = WireLimits(
        header_bytes=listen.max_header_bytes, header_timeout_s=listen.header_timeout_s
    )
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=with_limits(limits), ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False, date_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    runtime.url = f"http://127.0.0.1:{port}"
    await runtime.start()
    here = Here(runtime, transport, server, runtime.url)
    try:
        yield here
    finally:
        await here.http.aclose()
        server.should_exit = True
        await task
        await runtime.stop()
        await transport.aclose()


__all__ = ["Here", "ScriptedLlama", "delta", "event", "gateway_here", "reply", "stream"]
