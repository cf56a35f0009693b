"""The gateway in front of a real Ollama: settings take effect, nothing is cut silently."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import parts
from gateways import RunningGateway, until

pytestmark = pytest.mark.real

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[parts.Ollama, RunningGateway]]:
    """A real Ollama with a model of 2,048 tokens, and a gateway in front of it."""
    with parts.start_ollama() as server:
        server.create("tiny", parts.model("tiny"), num_ctx=2048)
        server.create("cool", parts.model("tiny"), num_ctx=2048, parameters={"temperature": 0})
        settings = {"upstreams": [{"name": "box", "url": f"{server.url}/v1"}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            yield server, gateway


def client_of(gateway: RunningGateway) -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def test_the_official_client_chats_streams_and_lists(
    pair: tuple[parts.Ollama, RunningGateway],
) -> None:
    """Plain, stream with usage, JSON by schema, models: as with any OpenAI server."""
    _, gateway = pair
    with client_of(gateway) as client:
        plain = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=8
        )
        assert plain.object == "chat.completion"
        assert plain.model == "tiny"
        assert plain.choices[0].finish_reason in ("length", "stop")
        assert plain.usage is not None
        assert plain.usage.prompt_tokens > 0
        assert plain.usage.completion_tokens <= 8
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage is not None
        assert chunks[-2].choices[0].finish_reason in ("length", "stop")
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=64,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
        assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)
        assert {m.id for m in client.models.list()} == {"tiny:latest", "cool:latest"}


def test_sampling_takes_effect(pair: tuple[parts.Ollama, RunningGateway]) -> None:
    """`temperature: 0` repeats itself through the gateway, and a seed does; top_k 1 is greedy too."""
    _, gateway = pair
    for fields in ({"temperature": 0}, {"temperature": 1.0, "extra_body": {"top_k": 1}}):
        with client_of(gateway) as client:
            answers = {
                client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": "hello"}],
                    max_tokens=24,
                    **fields,  # type: ignore[call-overload]
                )
                .choices[0]
                .message.content
                for _ in range(4)
            }
        assert len(answers) == 1, f"{fields}: {len(answers)} different answers"


def test_what_the_modelfile_says_is_not_replaced_by_one(
    pair: tuple[parts.Ollama, RunningGateway],
) -> None:
    """Ollama's own /v1 replaces a missing temperature by 1.0; through the gateway the Modelfile's 0 holds."""
    _, gateway = pair
    with client_of(gateway) as client:
        answers = {
            client.chat.completions.create(
                model="cool", messages=[{"role": "user", "content": "hello"}], max_tokens=24
            )
            .choices[0]
            .message.content
            for _ in range(4)
        }
    assert len(answers) == 1


def test_a_prompt_that_does_not_fit_is_never_cut_silently(
    pair: tuple[parts.Ollama, RunningGateway],
) -> None:
    """Ollama alone answers 200 to half of the conversation; through the gateway it works on all of it."""
    server, gateway = pair
    body = {
        "model": "cool",
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "hello the world " * 400}],
    }
    direct = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert direct.status_code == 200, (
        "Ollama no longer cuts silently; this test has lost its reason"
    )
    cut = direct.json()["usage"]["prompt_tokens"]
    assert cut <= 2048
    with client_of(gateway) as client:
        answer = client.chat.completions.create(**body)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 2048


def test_the_loaded_window_is_listed_and_follows_a_restart(
    pair: tuple[parts.Ollama, RunningGateway],
) -> None:
    """The window is what `/api/ps` says, in every field and on Ollama's own paths too."""
    server, gateway = pair
    assert gateway.chat(model="tiny", max_tokens=2).status_code == 200

    def listed() -> dict[str, Any]:
        models = gateway.http.get("/v1/models").json()["data"]
        return next(m for m in models if m["id"] == "tiny:latest")

    until(lambda: listed()["context_window"] == 2048, 10.0, "the loaded window")
    shown = gateway.http.post("/api/show", json={"model": "tiny"}).json()
    assert shown["model_info"]["llama.context_length"] == 2048

    def running() -> dict[str, int]:
        models = gateway.http.get("/api/ps").json()["models"]
        return {m["name"]: m["context_length"] for m in models}

    until(lambda: running().get("tiny:latest") == 2048, 10.0, "the loaded model")
    server.create("tiny", parts.model("tiny"), num_ctx=4096)
    server.restart()
    answer = gateway.chat("hello the world " * 250, model="tiny", max_tokens=2)
    assert answer.status_code == 200, answer.text
    until(lambda: listed()["context_window"] == 4096, 10.0, "the new window")


def test_a_window_that_only_the_server_knows(tmp_path: Path) -> None:
    """
    Nothing tells the window of a model without `num_ctx` before it is loaded: the first refusal shows the
    real one, so that a larger one is asked for; that holds while the model is out of memory.
    """
    with parts.start_ollama(num_ctx=None) as server:
        server.restart(OLLAMA_CONTEXT_LENGTH="1536")
        settings = {
            "upstreams": [{"name": "box", "url": server.url}],
            "profiles": {"refresh_s": 1},
        }
        with RunningGateway(tmp_path, settings) as gateway:

            def listed() -> tuple[int, str]:
                (model,) = gateway.http.get("/v1/models").json()["data"]
                return model["context_window"], model["window_source"]

            assert listed() == (8192, "fallback")
            short = gateway.chat("hello", model="tiny", max_tokens=2)
            assert short.status_code == 200, short.text
            until(lambda: listed() == (1536, "running"), 10.0, "the loaded model")
            server.post("/api/generate", {"model": "tiny", "keep_alive": 0, "stream": False})
            until(lambda: listed() == (1536, "learned"), 10.0, "the unloaded model")
            server.end()
            until(lambda: gateway.upstream()["state"] == "unreachable", 10.0, "the end")
            server.begin()
            until(lambda: listed() == (8192, "fallback"), 10.0, "another process")
            long = gateway.chat("hello the world " * 200, model="tiny", max_tokens=2)
            assert long.status_code == 200, long.text
            assert long.headers["penstock-attempts"] == "2"
            assert "options.num_ctx set" in long.headers["penstock-changed"]
            until(lambda: listed() == (4096, "running"), 10.0, "the larger window")
            server.create("tiny", parts.model("tiny"), num_ctx=2048)
            server.post("/api/generate", {"model": "tiny", "keep_alive": 0, "stream": False})
            until(lambda: listed() == (2048, "running"), 10.0, "what the new Modelfile says")


def test_a_model_that_is_missing_is_one_attempt(pair: tuple[parts.Ollama, RunningGateway]) -> None:
    """404 with the names that exist."""
    _, gateway = pair
    with client_of(gateway) as client, pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(
            model="absent", messages=[{"role": "user", "content": "hello"}]
        )
    assert "tiny:latest" in missing.value.message


def test_an_image_by_url_is_refused_clearly(pair: tuple[parts.Ollama, RunningGateway]) -> None:
    """Ollama fetches nothing; the client is told which part and what to do."""
    _, gateway = pair
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    answer = gateway.http.post(
        "/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": [image]}]},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_input"
    assert answer.json()["error"]["param"] == "messages[0].content[0]"


def test_native_requests_are_relayed_in_their_dialect(
    pair: tuple[parts.Ollama, RunningGateway],
) -> None:
    """`/api/chat` passes through the pipeline: lines verbatim, counted, its end recognised."""
    _, gateway = pair
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "options": {"num_predict": 4},
    }
    answer = gateway.http.post("/api/chat", json=body)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert lines[-1]["done"] is True
    request = gateway.request(answer.headers["penstock-request-id"])
    assert request["outcome"] == "success"
    assert request["prompt_tokens"] == lines[-1]["prompt_eval_count"]
    plain = gateway.http.post("/api/chat", json={**body, "stream": False}).json()
    assert plain["done"] is True


def test_a_prompt_that_goes_on_after_a_hang_up_counts_as_work(tmp_path: Path) -> None:
    """Ollama computes a prompt to its end; until then its slot counts as busy, and then no longer."""
    with parts.start_ollama("slow", name="slow", num_ctx=4096) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path, settings) as gateway:

            def ask(text: str) -> bytes:
                raw = json.dumps(
                    {
                        "model": "slow",
                        "max_tokens": 1,
                        "messages": [{"role": "user", "content": text}],
                    }
                ).encode()
                head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw

            def concurrency(name: str) -> Any:
                return gateway.upstream()["concurrency"][name]

            body = {
                "model": "slow",
                "max_tokens": 1,
                "messages": [{"role": "user", "content": "hello " * 10}],
            }
            assert gateway.http.post("/v1/chat/completions", json=body).status_code == 200
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(ask("the gate and the water " * 16))
                until(lambda: concurrency("in_flight") == 1, 10.0, "the request being sent")
            until(lambda: concurrency("ghosts") == 1, 10.0, "the ghost being counted")
            until(lambda: concurrency("in_flight") == 0, 120.0, "the ghost's end")


def test_pulling_needs_the_admin_token(pair: tuple[parts.Ollama, RunningGateway]) -> None:
    """State-changing paths of the server are closed to whoever can merely reach the gateway."""
    _, gateway = pair
    refused = gateway.http.request("DELETE", "/api/delete", json={"model": "cool"})
    assert refused.status_code == 403
    assert "admin token" in refused.text
    let_in = gateway.admin("DELETE", "/api/delete", json={"model": "nothing-like-this"})
    assert let_in.status_code == 404  # Ollama's own answer
