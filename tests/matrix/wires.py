"""
What servers say on the wire: the pieces that scripts of the matrix are made of, for each way of streaming that
a local server has. And the two servers themselves: one that answers probes as llama.cpp does, one as Ollama.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rawserver import CHUNKED_HEAD, answer, chunk
from scripted import ScriptedLlama, delta, event, reply

TEXTS = ("It ", "is ", "fine ", "in ", "Oslo.")
SENTENCE = "".join(TEXTS)


@dataclass(frozen=True)
class Wire:
    """
    Attributes:
        head: of a stream.
        piece: a piece of text.
        closing: what ends an answer; the end of the body comes behind it.
        error: (message, code) -> an error inside a stream.
        refusal: (message, status) -> an answer that is an error.
        whole: a plain answer with this text.
        junk: an event that nobody can read; `half`: a part of one; `ping`: a sign of life that says nothing.
        before, after: stand around the JSON of an event.
    """

    head: bytes
    piece: Callable[[str], bytes]
    closing: bytes
    error: Callable[[str, int], bytes]
    refusal: Callable[..., bytes]
    junk: bytes
    half: bytes
    ping: bytes
    before: bytes = b"data: "
    after: bytes = b"\n\n"


def _completion(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}  # fmt: skip


def _line(text: str, **more: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    value = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
    return chunk(json.dumps({**value, **more}).encode() + b"\n")


def _llama_refusal(message: str, status: bytes, *headers: bytes) -> bytes:
    number = int(status.split()[0])
    value = {"message": message, "type": "server_error", "code": number}
    return reply({"error": value}, status, *headers)


def _llama_error(message: str, code: int) -> bytes:
    return event({"error": {"message": message, "type": "server_error", "code": code}})


CHAT = Wire(
    CHUNKED_HEAD,
    lambda text: event(delta(text)),
    event(delta("", "stop")) + event(b"[DONE]"),
    _llama_error,
    _llama_refusal,
    event(b"{not JSON"),
    chunk(b'data: {"choices": [{"index": 0, "del'),
    chunk(b": ping\n\n"),
)
COMPLETIONS = Wire(
    CHUNKED_HEAD,
    lambda text: event(_completion(text)),
    event(_completion("", "stop")) + event(b"[DONE]"),
    _llama_error,
    _llama_refusal,
    event(b"{not JSON"),
    chunk(b'data: {"choices": [{"index": 0, "te'),
    chunk(b": ping\n\n"),
)
LINES = Wire(
    CHUNKED_HEAD.replace(b"text/event-stream", b"application/x-ndjson"),
    _line,
    _line("", done=True, done_reason="stop", prompt_eval_count=9, eval_count=5),
    lambda message, _: chunk(json.dumps({"error": message}).encode() + b"\n"),
    lambda message, status, *headers: reply({"error": message}, status, *headers),
    chunk(b"{not JSON\n"),
    chunk(b'{"model": "m", "message": {"ro'),
    chunk(b"\n"),
    b"",
    b"\n",
)
OUT_OF_MEMORY = {
    "llamacpp": "CUDA error: out of memory",
    "ollama": "llama-server reported out-of-memory during startup",
}
BUSY = {
    "llamacpp": "no slot available",
    "ollama": "server busy, please try again.  maximum pending requests exceeded",
}
LOADING = {
    "llamacpp": _llama_refusal("Loading model", b"503 Service Unavailable"),
    "ollama": LINES.refusal(
        "unexpected server status: llm server loading model", b"500 Internal Server Error"
    ),
}
PAGE = answer(b"<html><body>It works</body></html>", b"200 OK", b"content-type: text/html")


def wire_of(kind: str, front: str) -> Wire:
    """How a server of *kind* streams to a client of the dialect *front*."""
    if front == "completions":
        return COMPLETIONS
    return LINES if kind == "ollama" else CHAT


class Ollama(ScriptedLlama):
    """The same with Ollama's probes. Its model is loaded; `ready` changes nothing: it loads in silence."""

    asking = (b"/api/show",)

    def _count(self, target: bytes, body: dict[str, Any]) -> bytes:
        info = {"general.architecture": "llama", "llama.context_length": 131072}
        return reply({"parameters": "", "model_info": info, "capabilities": ["completion"]})

    def _probe(self, target: str) -> bytes:
        details = {"family": "llama", "parameter_size": "7B"}
        row = {"name": self.model, "model": self.model, "size": 1, "digest": "a" * 64, "details": details}  # fmt: skip
        if target == "/api/version":
            return reply({"version": "0.17.4"})
        if target == "/api/tags":
            return reply({"models": [row]})
        if target == "/api/ps":
            return reply({"models": [{**row, "context_length": self.window}]})
        if target == "/":
            return answer(b"Ollama is running", b"200 OK", b"content-type: text/plain")
        return reply({"error": "not found"}, b"404 Not Found")


class _AllButGeneration:
    """Paths that only ask."""

    def __contains__(self, target: object) -> bool:
        return isinstance(target, bytes) and not target.endswith((b"/completions", b"/api/chat"))


class Stranger(ScriptedLlama):
    """A server of another kind: it lists its model as most do, and counts no tokens."""

    asking = _AllButGeneration()

    def __init__(self) -> None:
        super().__init__()
        self.counts = False
