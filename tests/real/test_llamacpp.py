"""The gateway in front of a real llama.cpp server: what a user relies on, as a user does it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateways import RunningGateway, free_port, until
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.adapters.tiny_model import SLOW, write_model

pytestmark = pytest.mark.real

BATCH = 256
ASCII = {"grammar": "root ::= [a-z ]+"}
GREEDY = {"temperature": 0, "seed": 1, "top_k": 1}
CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models, made once."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny": str(write_model(folder / "tiny.gguf")),
        "slow": str(write_model(folder / "slow.gguf", shape=SLOW)),
        "caller": str(write_model(folder / "caller.gguf", says=CALL)),
    }


def serve(
    model: str, *, port: int = 0, ctx: int = 4096, slots: int = 2, **more: Any
) -> EmbeddedServer:
    """A real llama.cpp server."""
    more.setdefault(
        "threads", 1
    )  # two spin while they wait for each other, on a busy machine for long
    options = LlamaServerOptions(
        model, port=port, ctx_size=ctx, parallel=slots, alias=Path(model).stem, **more
    )
    return EmbeddedServer(options).wait_ready()


@pytest.fixture(scope="module")
def tiny(
    models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EmbeddedServer, RunningGateway]]:
    """A quick server with two slots, and a gateway in front of it."""
    with serve(models["tiny"]) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            yield server, gateway


@pytest.fixture(scope="module")
def slow(
    models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EmbeddedServer, RunningGateway]]:
    """A server slow enough to be caught in the act."""
    with serve(models["slow"], ctx=24576, slots=2, batch_size=BATCH) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            yield server, gateway


def busy(server: EmbeddedServer) -> int:
    """Slots that the server itself says are working."""
    slots = httpx.get(f"{server.url}/slots", trust_env=False).json()
    return sum(1 for slot in slots if slot["is_processing"])


def test_the_window_listed_is_the_one_of_a_slot(
    tiny: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """`/v1/models` shows what one request may occupy, not `-c` and not the trained window."""
    _, gateway = tiny
    model = gateway.http.get("/v1/models").json()["data"][0]
    assert model["context_window"] == 2048
    assert model["max_model_len"] == model["context_length"] == model["meta"]["n_ctx"] == 2048
    assert model["window_source"] == "running"
    assert gateway.http.get(f"/v1/models/{model['id']}").json()["context_window"] == 2048


def test_the_official_client_chats_streams_and_lists(
    tiny: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """The openai package works unchanged: plain, stream with usage, JSON mode, models."""
    _, gateway = tiny
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    plain = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=8,
        extra_body={**ASCII, "ignore_eos": True},
    )
    assert plain.choices[0].message.content
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 8
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={**ASCII, "ignore_eos": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)
    assert [m.id for m in client.models.list()] == ["tiny"]
    client.close()


def test_a_stream_without_usage_asked_has_none(
    tiny: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """What the gateway asks for itself never reaches a client that did not ask."""
    _, gateway = tiny
    text = gateway.chat(stream=True, max_tokens=4, **ASCII).text
    assert "prompt_progress" not in text
    assert '"choices":[]' not in text
    assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="plain text"),
        pytest.param({"n": 2}, id="two answers"),
        pytest.param({"logprobs": True, "top_logprobs": 2}, id="logprobs"),
        pytest.param({"stop": ["e"]}, id="stop"),
        pytest.param({"max_tokens": 1}, id="one token"),
        pytest.param({"response_format": {"type": "json_object"}}, id="json"),
        pytest.param({"timings_per_token": True}, id="timings per token"),
    ],
)
def test_a_collected_answer_is_the_servers_own(
    tiny: tuple[EmbeddedServer, RunningGateway], fields: dict[str, Any]
) -> None:
    """A client that did not ask for a stream gets the very body that the server would have sent."""
    server, gateway = tiny
    grammar = {} if "response_format" in fields else ASCII
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the answer"}],
        "max_tokens": 24,
        "top_p": 1.0,
        "repeat_penalty": 1.0,
        "cache_prompt": False,
        **GREEDY,
        **grammar,
        **fields,
    }
    direct = httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False, timeout=60)
    through = gateway.http.post("/v1/chat/completions", json=body)
    assert through.status_code == direct.status_code == 200
    assert masked(through.json()) == masked(direct.json())


def masked(body: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one answer to the next."""
    return {k: v for k, v in body.items() if k not in ("id", "created", "timings")}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_tool_calls_of_a_model_that_makes_one(
    models: dict[str, str], tmp_path: Path, stream: bool
) -> None:
    """A call that llama.cpp parsed arrives as a call, with the finish reason of one."""
    with serve(models["caller"]) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path, settings) as gateway:
            client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
            request: dict[str, Any] = {
                "model": "caller",
                "messages": [{"role": "user", "content": "weather?"}],
                "tools": [TOOL],
                "temperature": 0,
                "extra_body": {"repeat_penalty": 1.0},
            }
            if stream:
                with client.chat.completions.stream(**request) as events:
                    choice = events.get_final_completion().choices[0]
            else:
                choice = client.chat.completions.create(**request).choices[0]
            client.close()
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0].function
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Oslo", "days": 3}


def test_embeddings_where_the_model_can(models: dict[str, str], tmp_path: Path) -> None:
    """Embeddings pass, and their number is right."""
    with serve(models["tiny"], embedding=True, pooling="mean", slots=1) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path, settings) as gateway:
            client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
            made = client.embeddings.create(
                model="tiny", input=["one", "two"], encoding_format="float"
            )
            client.close()
    assert len(made.data) == 2
    assert len(made.data[0].embedding) == 128


def test_a_prompt_that_does_not_fit_is_refused_in_numbers(
    tiny: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """The official client raises BadRequestError with the code and wording that agents recognise."""
    _, gateway = tiny
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello the world " * 1000}],
            extra_headers={"penstock-strategy": "client"},
        )
    client.close()
    assert refused.value.code == "context_length_exceeded"
    assert "prompt is too long: " in refused.value.message
    assert "maximum context length is 2048 tokens" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_hanging_up_in_a_plain_request_frees_the_slot(
    slow: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """llama.cpp alone would compute a plain request to its end; through the gateway it stops."""
    server, gateway = slow
    hung = _ask_and_hang_up(gateway, server, {"max_tokens": 3000, "ignore_eos": True})
    until(lambda: busy(server) == 0, 2.0, "the slot being free")
    assert time.monotonic() - hung < 2.0
    until(lambda: gateway.upstream()["concurrency"]["in_flight"] == 0, 5.0, "the permit being back")


def test_hanging_up_in_the_middle_of_a_stream_frees_the_slot(
    slow: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """Within a second, whatever is left of the answer."""
    server, gateway = slow
    body = {
        "model": "slow", "stream": True, "max_tokens": 3000, "ignore_eos": True,
        "messages": [{"role": "user", "content": "hello"}],
    }  # fmt: skip
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = response.iter_raw()  # kept: a forgotten iterator closes the stream
        next(chunks)
        assert (response.status_code, busy(server)) == (200, 1)
    until(lambda: busy(server) == 0, 1.5, "the slot being free")


def test_hanging_up_in_prefill_frees_the_slot_within_two_batches(
    slow: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """A long prompt stops being computed when nobody waits for it any more: counted in tokens."""
    server, gateway = slow
    text = "hello the world " * 800  # 9,600 tokens, 38 batches
    _ask_and_hang_up(gateway, server, {"max_tokens": 1}, text)
    at_hangup = processed(server)
    furthest = at_hangup

    def is_free() -> bool:
        nonlocal furthest
        furthest = max(furthest, processed(server))
        return busy(server) == 0

    until(is_free, 60.0, "the slot being free")
    assert furthest - at_hangup <= 2 * BATCH
    request = gateway.status()["requests"]["recent"][0]
    assert request["client_gone"]
    assert request["outcome"] == "ignored"
    until(
        lambda: gateway.upstream()["concurrency"]["in_flight"] == 0, 12.0, "the permit being back"
    )


@pytest.mark.parametrize("text", ["hello", "hello the world " * 800], ids=["decoding", "prefill"])
def test_hanging_up_in_llamacpps_own_completion_frees_the_slot(
    slow: tuple[EmbeddedServer, RunningGateway], text: str
) -> None:
    """A plain `/completion` is streamed towards the server, so that it notices; and stops."""
    server, gateway = slow
    fields = {"prompt": text, "n_predict": 3000, "ignore_eos": True}
    _ask_and_hang_up(gateway, server, fields, path="/completion")
    furthest = at_hangup = processed(server)

    def is_free() -> bool:
        nonlocal furthest
        furthest = max(furthest, processed(server))
        return busy(server) == 0

    until(is_free, 60.0, "the slot being free")
    assert furthest - at_hangup <= 2 * BATCH
    until(
        lambda: gateway.upstream()["concurrency"]["in_flight"] == 0, 12.0, "the permit being back"
    )


def test_llamacpps_own_completion_is_the_servers_own_body(
    tiny: tuple[EmbeddedServer, RunningGateway],
) -> None:
    """Collected from a stream, and equal to what the server answers plain but for times and slots."""
    server, gateway = tiny
    body = {
        "prompt": "hello the world", "n_predict": 12, "temperature": 0, "grammar": "root ::= [a-z ]+",
    }  # fmt: skip
    direct = httpx.post(f"{server.url}/completion", json=body, trust_env=False).json()
    through = gateway.http.post("/completion", json=body)
    assert through.headers["penstock-attempts"] == "1"
    for one in (direct, answer := through.json()):
        for name in ("timings", "id_slot", "tokens_cached"):
            one.pop(name, None)
    assert answer == direct


def processed(server: EmbeddedServer) -> int:
    """Prompt tokens that the server has computed for what it works on."""
    slots = httpx.get(f"{server.url}/slots", trust_env=False).json()
    return sum(s.get("n_prompt_tokens_processed", 0) for s in slots if s["is_processing"])


def _ask_and_hang_up(
    gateway: RunningGateway,
    server: EmbeddedServer,
    fields: dict[str, Any],
    text: str = "hello",
    path: str = "/v1/chat/completions",
) -> float:
    """Send a plain request, wait until the server works on it, hang up. Returns when."""
    body = {"model": "slow", "messages": [{"role": "user", "content": text}], **fields}
    if path == "/completion":
        body = {"model": "slow", **fields}
    raw = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(raw), raw)
        )
        until(lambda: busy(server) == 1, 5.0, "the server working")
        return time.monotonic()


def test_a_restart_with_another_window_under_traffic(
    models: dict[str, str], tmp_path: Path
) -> None:
    """The profile follows; what fits the new window is answered, what does not gets its numbers."""
    port = free_port()
    server = serve(models["tiny"], port=port, ctx=4096, slots=2)
    settings = {
        "upstreams": [{"name": "box", "url": server.url}],
        # A restart takes what it takes; on a busy machine longer than three attempts.
        "retry": {"local": {"attempts": 8}},
    }
    stop = threading.Event()
    failures: list[str] = []
    try:
        with RunningGateway(tmp_path, settings) as gateway:
            assert gateway.http.get("/v1/models").json()["data"][0]["context_window"] == 2048

            def traffic() -> None:
                while not stop.is_set():
                    answer = gateway.chat(max_tokens=2, **ASCII)
                    if answer.status_code != 200:
                        failures.append(answer.text)

            thread = threading.Thread(target=traffic)
            thread.start()
            server.stop()
            server = serve(models["tiny"], port=port, ctx=1024, slots=2)
            long = gateway.chat(
                "hello the world " * 200, max_tokens=2, penstock={"strategy": "off"}
            )
            assert long.status_code == 400
            assert "maximum context length is 512 tokens" in long.json()["error"]["message"]
            until(
                lambda: gateway.http.get("/v1/models").json()["data"][0]["context_window"] == 512,
                10.0,
                "the smaller window",
            )
            server.stop()
            server = serve(models["tiny"], port=port, ctx=8192, slots=2)
            fits = gateway.chat("hello the world " * 200, max_tokens=2, **ASCII)
            assert fits.status_code == 200, fits.text
            until(
                lambda: gateway.http.get("/v1/models").json()["data"][0]["context_window"] == 4096,
                10.0,
                "the larger window",
            )
            stop.set()
            thread.join()
    finally:
        stop.set()
        server.stop()
    assert not failures


def test_a_server_that_is_not_there_yet_is_waited_for(
    models: dict[str, str], tmp_path: Path
) -> None:
    """Connection refused twice, then fine: one answer, three attempts in headers and log."""
    port = free_port()
    settings = {"upstreams": [{"name": "box", "url": f"http://127.0.0.1:{port}"}]}
    with RunningGateway(tmp_path, settings) as gateway:
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(gateway.chat(max_tokens=2, **ASCII))
        )
        thread.start()

        def attempts() -> int:
            running = gateway.status()["requests"]["in_flight"]
            return sum(1 for a in running[0]["attempts"] if a["code"]) if running else 0

        until(lambda: attempts() == 2, 10.0, "two refused attempts")
        with serve(models["tiny"], port=port):
            thread.join()
            assert answers[0].status_code == 200, answers[0].text
            assert answers[0].headers["penstock-attempts"] == "3"
            request = gateway.request(answers[0].headers["penstock-request-id"])
    first, second, third = request["attempts"]
    assert first["code"] == second["code"] == "upstream_unreachable"
    assert third["code"] is None
    assert 0.75 <= first["delay_s"] <= 1.0
    assert 1.12 <= second["delay_s"] <= 1.5
    assert "attempts=3" in gateway.log()
