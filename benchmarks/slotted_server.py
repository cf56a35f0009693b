"""
A model server with real-looking timing, for `overload.py`: `slotted_server.py PORT SLOTS WINDOW`.

It answers the probes of a llama.cpp and works like one: so many requests at a time, each with a window of its own,
all others wait inside in the order of their coming. A prompt takes time in proportion to its tokens that are not in the
slot's cache (a word is a token), an answer of `max_tokens` tokens comes token by token. Who hangs up is forgotten.

Times are ten to a hundred times shorter than those of real models, so that a run takes minutes; they are kept by the
clock (a token that came late does not make the next one late), so that a busy machine does not change the capacity.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any

PREFILL_TOKENS_PER_S = 20_000.0
TOKEN_S = 0.004


def prefill_s(tokens: int) -> float:
    """How long a prompt takes of which nothing is cached."""
    return tokens / PREFILL_TOKENS_PER_S


def service_s(prompt_tokens: int, answer_tokens: int) -> float:
    """How long a request keeps its slot."""
    return prefill_s(prompt_tokens) + answer_tokens * TOKEN_S


def prompt_tokens(messages: list[dict[str, Any]]) -> int:
    """A word is a token, and each message costs one more; the template adds one."""
    return 1 + sum(1 + len(message["content"].split()) for message in messages)


class Server:
    """The slots, and who waits for one."""

    def __init__(self, slots: int, window: int) -> None:
        self.slots = slots
        self.window = window
        self.caches: list[list[str]] = [[] for _ in range(slots)]
        self.free = list(range(slots))
        self.waiting: deque[asyncio.Future[int]] = deque()

    async def slot(self) -> int:
        """A slot, when it is this one's turn."""
        if self.free and not self.waiting:
            return self.free.pop()
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(turn.result())
            raise

    def give_back(self, slot: int) -> None:
        """To the next one that is still there."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(slot)
                return
        self.free.append(slot)


class Connection(asyncio.Protocol):
    """One client, keep-alive, one request after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""
        self.work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Its request is forgotten."""
        if self.work is not None:
            self.work.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + length:
                return
            path = self.data.split(b" ", 2)[1].decode()
            body = self.data[end + 4 : end + 4 + length]
            self.data = self.data[end + 4 + length :]
            if path == "/v1/chat/completions":
                self.work = asyncio.ensure_future(self.chat(json.loads(body)))
            else:
                self.answer(self.probe(path, body))

    def answer(self, body: Any, status: str = "200 OK") -> None:
        """A JSON answer."""
        data = json.dumps(body).encode()
        self.transport.write(
            b"HTTP/1.1 %s\r\nServer: llama.cpp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (status.encode(), len(data), data)
        )

    def probe(self, path: str, body: bytes) -> Any:
        """What a llama.cpp says of itself, and how it counts."""
        server = self.server
        if path == "/props":
            settings = {"n_ctx": server.window}
            return {"default_generation_settings": settings, "total_slots": server.slots,
                    "chat_template": "{{ messages }}", "build_info": "b1"}  # fmt: skip
        if path == "/v1/models":
            row = {
                "id": "m",
                "object": "model",
                "owned_by": "llamacpp",
                "meta": {"n_ctx_train": 131072},
            }
            return {"object": "list", "data": [row]}
        if path == "/slots":
            return [
                {"id": n, "n_ctx": server.window, "is_processing": n not in server.free}
                for n in range(server.slots)
            ]
        if path == "/tokenize":
            given = json.loads(body)["content"]
            parts = given if isinstance(given, list) else [given]
            return {"tokens": [7] * sum(1 if isinstance(p, int) else len(p.split()) for p in parts)}
        if path == "/apply-template":
            texts = [f"<{m['role']}> {m['content']}" for m in json.loads(body)["messages"]]
            return {"prompt": " ".join([*texts, "<assistant>"])}
        if path == "/v1/chat/completions/input_tokens":
            return {"input_tokens": prompt_tokens(json.loads(body)["messages"])}
        return {"status": "ok"}

    async def chat(self, body: dict[str, Any]) -> None:
        """Wait for a slot, work on the prompt, write the answer."""
        server, loop = self.server, asyncio.get_running_loop()
        tokens, answer = prompt_tokens(body["messages"]), int(body.get("max_tokens") or 30)
        if tokens + answer > server.window:
            error = {"code": 400, "type": "exceed_context_size_error", "n_ctx": server.window,
                     "n_prompt_tokens": tokens, "message": "the request exceeds the available context size"}  # fmt: skip
            self.answer({"error": error}, "400 Bad Request")
            return
        slot = await server.slot()
        try:
            at = loop.time()
            words = [word for message in body["messages"] for word in message["content"].split()]
            cached = _common(words, server.caches[slot])
            server.caches[slot] = words
            at += prefill_s(tokens - cached)
            await asyncio.sleep(max(0.0, at - loop.time()))
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for number in range(answer):
                if number:
                    at += TOKEN_S
                    await asyncio.sleep(max(0.0, at - loop.time()))
                # No answer repeats itself: a gateway may end one that does.
                word = f"{(tokens * 31 + number) * 2654435761 % 99991} "
                delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                self.event({"choices": [delta]})
            at += TOKEN_S
            await asyncio.sleep(max(0.0, at - loop.time()))
        finally:
            server.give_back(slot)
        usage = {"prompt_tokens": tokens, "completion_tokens": answer, "total_tokens": tokens + answer,
                 "prompt_tokens_details": {"cached_tokens": cached}}  # fmt: skip
        timings = {"cache_n": cached, "prompt_n": tokens - cached, "prompt_ms": 1e3 * prefill_s(tokens - cached),
                   "prompt_per_second": PREFILL_TOKENS_PER_S, "predicted_n": answer,
                   "predicted_ms": 1e3 * answer * TOKEN_S, "predicted_per_second": 1 / TOKEN_S}  # fmt: skip
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": usage, "timings": timings})
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self.work = None

    def event(self, fields: dict[str, Any]) -> None:
        """One server-sent event in a chunk of its own."""
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            **fields,
        }
        data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))


def _common(one: list[str], other: list[str]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


async def main() -> None:
    """Listen until it is ended."""
    port, slots, window = map(int, sys.argv[1:4])
    server = Server(slots, window)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: Connection(server), "127.0.0.1", port, backlog=2048
    )
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
