"""Real servers are recognised and read, and the recorded answers are still what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import parts
from penstock import faults
from penstock.adapters import discover, probe
from penstock.domain.profile import ModelReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode as E
from penstock.servers import spec
from server_scenes import scene

pytestmark = pytest.mark.real

LlamaCpp = Callable[..., parts.LlamaCpp]
Ollama = Callable[..., parts.Ollama]


def look(url: str, **how: Any) -> probe.Look:
    """A look at a real server."""

    async def main() -> probe.Look:
        async with probe.make_client() as client:
            return await probe.look(url, client=client, **how)

    return asyncio.run(main())


def only_model(found: probe.Look) -> ModelReading:
    """The reading of the only model there."""
    assert found.reading is not None
    (model,) = found.reading.models
    return model


def test_llamacpp_is_recognised_with_its_window_per_slot(llamacpp: LlamaCpp) -> None:
    """Real llama.cpp with two slots is known by its header, and each slot has half of its window."""
    found = look(llamacpp(ctx_size=4096, parallel=2).url)
    assert found.kind is ServerKind.LLAMACPP
    assert found.recognition.confidence > 0.9
    model = only_model(found)
    assert (model.running_window, model.slots, model.trained_window) == (2048, 2, 8192)


def test_llamacpp_restarted_with_another_window_is_read_anew(llamacpp: LlamaCpp) -> None:
    """After a restart the next look says the new window."""
    server = llamacpp(ctx_size=1024)
    assert only_model(look(server.url)).running_window == 1024
    server.restart(ctx_size=2048)
    assert only_model(look(server.url, known=ServerKind.LLAMACPP)).running_window == 2048


def test_llamacpp_with_a_key(llamacpp: LlamaCpp) -> None:
    """Without its key a server is recognised but not read; with the key it is read."""
    server = llamacpp(api_key="secret-of-the-test")
    without = look(server.url)
    assert without.kind is ServerKind.LLAMACPP
    assert without.reading is not None
    assert without.reading.models == ()
    assert without.error == "it asks for a key"
    assert look(server.url, api_key="another").error == "it refuses the key"
    assert only_model(look(server.url, api_key="secret-of-the-test")).running_window == 4096


def test_llamacpp_tells_how_many_slots_work(llamacpp: LlamaCpp) -> None:
    """A slot that is decoding is counted, and no longer when the stream has been closed."""
    server = llamacpp("slow", ctx_size=4096, parallel=2)
    kind = spec(ServerKind.LLAMACPP)
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 2000,
    }

    async def main() -> tuple[int | None, int | None, int | None]:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            before = await probe.busy(server.url, kind, client=client)
            async with client.stream(
                "POST", f"{server.url}/v1/chat/completions", json=body
            ) as answer:
                async for _ in answer.aiter_bytes():
                    break
                during = await probe.busy(server.url, kind, client=client)
            async with asyncio.timeout(10):
                while (after := await probe.busy(server.url, kind, client=client)) != 0:
                    await asyncio.sleep(0.02)
            return before, during, after

    assert asyncio.run(main()) == (0, 1, 0)


def test_ollama_is_recognised_and_its_window_follows_what_is_loaded(ollama: Ollama) -> None:
    """Not loaded: what the Modelfile asks for. Loaded: what runs, also with another num_ctx."""
    server = ollama(num_ctx=2048, parameters={"temperature": 0.6})
    found = look(server.url)
    assert found.kind is ServerKind.OLLAMA
    model = only_model(found)
    assert (model.running_window, model.loaded, model.trained_window) == (2048, False, 8192)
    assert model.published["temperature"] == 0.6
    question = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    server.post("/api/chat", {**question, "options": {"num_predict": 2, "num_ctx": 4096}})
    model = only_model(look(server.url, known=ServerKind.OLLAMA))
    assert (model.running_window, model.loaded) == (4096, True)
    assert model.window_origin == "/api/ps context_length"


def test_both_are_discovered(llamacpp: LlamaCpp, ollama: Ollama) -> None:
    """Discovery finds both servers where the environment and the settings say, as what they are."""
    one, other = llamacpp(), ollama()
    environ = {"OLLAMA_HOST": other.url.removeprefix("http://")}
    looks, _ = asyncio.run(discover.discover(environ, extra_ports=(one.port,)))
    found = {look.url: look.kind for look in looks}
    assert found[one.url] is ServerKind.LLAMACPP
    assert found[other.url] is ServerKind.OLLAMA


def shape(found: probe.Look, keys: set[str]) -> dict[str, tuple[int, str]]:
    """Status and server of each answer: what tells servers apart."""
    return {
        key: (answer.status, answer.headers.get("server", ""))
        for key, answer in found.answers.items()
        if key in keys
    }


def test_the_recorded_llamacpp_is_still_true(llamacpp: LlamaCpp) -> None:
    """The real server answers every probe as in the recording."""
    recorded = scene("llamacpp/two_slots").answers
    found = look(llamacpp(ctx_size=2048, parallel=2).url)
    expected = {
        key: (answer.status, answer.headers.get("server", "")) for key, answer in recorded.items()
    }
    assert shape(found, set(expected)) == expected


def test_the_recorded_ollama_is_still_true(ollama: Ollama) -> None:
    """The real server answers every probe as in the recording."""
    recorded = scene("ollama/nothing_loaded").answers
    found = look(ollama().url)
    keys = set(recorded) & set(found.answers)
    assert len(keys) > 15
    assert {key: found.answers[key].status for key in keys} == {
        key: recorded[key].status for key in keys
    }


def classified(answer: httpx.Response, kind: ServerKind) -> faults.Fault | None:
    """A real answer as the gateway classifies it."""
    return faults.classify_answer(
        status=answer.status_code,
        headers={k.lower(): v for k, v in answer.headers.items()},
        body=answer.content,
        spec=spec(kind),
        now_s=0.0,
        own_key=True,
    )


_WORDS = [{"role": "user", "content": "hello the world " * 400}]
_HELLO = [{"role": "user", "content": "hello"}]
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


def test_what_real_llamacpp_says_is_understood(llamacpp: LlamaCpp) -> None:
    """Real refusals of llama.cpp come out as the right class, with the counts they name."""
    server = llamacpp(ctx_size=2048, parallel=2)
    image = [{"type": "image_url", "image_url": {"url": _PIXEL}}]
    schema = {"name": "x", "schema": {"$ref": "#/nope"}}
    cases: list[tuple[dict[str, Any], E]] = [
        ({"messages": _WORDS}, E.CONTEXT_LENGTH_EXCEEDED),
        ({"messages": [{"role": "user", "content": image}]}, E.UNSUPPORTED_INPUT),
        ({"messages": _HELLO, "grammar": "root ::= ["}, E.GRAMMAR_REFUSED),
        (
            {
                "messages": _HELLO,
                "response_format": {"type": "json_schema", "json_schema": schema},
            },
            E.GRAMMAR_REFUSED,
        ),
        ({"messages": _HELLO, "tools": [{"type": "function"}]}, E.UPSTREAM_BAD_REQUEST),
        ({"messages": "hello"}, E.UPSTREAM_BAD_REQUEST),
        ({"messages": _HELLO, "n": 9}, E.UPSTREAM_BAD_REQUEST),
    ]
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        for body, code in cases:
            fault = classified(
                client.post("/v1/chat/completions", json={"max_tokens": 4, **body}),
                ServerKind.LLAMACPP,
            )
            assert fault is not None, body
            assert fault.code is code, fault.message
            if code is E.CONTEXT_LENGTH_EXCEEDED:
                assert fault.window == 1024
                assert fault.prompt_tokens is not None
                assert fault.prompt_tokens > 4000


def test_what_real_ollama_says_is_understood(ollama: Ollama) -> None:
    """Real refusals of Ollama come out as the right class."""
    server = ollama(num_ctx=2048)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    cases: list[tuple[dict[str, Any], E]] = [
        ({"model": "nope", "messages": _HELLO}, E.MODEL_MISSING),
        ({"messages": _WORDS, "truncate": False}, E.CONTEXT_LENGTH_EXCEEDED),
        ({"messages": _HELLO, "tools": [tool]}, E.UPSTREAM_BAD_REQUEST),
        ({"messages": _HELLO, "think": True}, E.UPSTREAM_BAD_REQUEST),
        ({"messages": _HELLO, "format": {"$ref": "#/nope"}}, E.GRAMMAR_REFUSED),
        ({"messages": _HELLO, "options": {"temperature": "hot"}}, E.UPSTREAM_BAD_REQUEST),
    ]
    with httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client:
        for body, code in cases:
            whole = {"model": "tiny", "stream": False, "options": {"num_predict": 2}, **body}
            fault = classified(client.post("/api/chat", json=whole), ServerKind.OLLAMA)
            assert fault is not None, body
            assert fault.code is code, fault.message
