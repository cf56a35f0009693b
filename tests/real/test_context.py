"""Long conversations on real servers: they never fail, and nothing is lost silently."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import parts
from gateways import RunningGateway, until

pytestmark = pytest.mark.real

WORDS = [
    "river",
    "turbine",
    "gate",
    "meter",
    "water",
    "level",
    "pressure",
    "valve",
    "pipe",
    "flow",
    "motor",
    "sensor",
    "alarm",
    "report",
    "north",
    "south",
    "open",
    "closed",
    "early",
    "late",
    "seven",
    "twelve",
    "check",
    "repair",
    "drain",
    "hold",
]
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}  # fmt: skip
SPOKEN = {"grammar": "root ::= [a-z ]+", "ignore_eos": True}


def words(chance: random.Random, number: int) -> str:
    """So many words."""
    return " ".join(chance.choice(WORDS) for _ in range(number))


def turn(chance: random.Random, number: int) -> list[dict[str, Any]]:
    """What a turn leaves in the history before its last answer; every third one calls a tool."""
    asked = {"role": "user", "content": f"Turn {number}: {words(chance, chance.randint(5, 60))}"}
    if number % 3:
        return [asked]
    call = {"id": f"call_{number}", "type": "function",
            "function": {"name": "read_file", "arguments": json.dumps({"path": f"src/{number}.py"})}}  # fmt: skip
    result = "\n".join(words(chance, 12) for _ in range(chance.choice((2, 5, 40))))
    return [
        asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": result},
    ]


def client_of(gateway: RunningGateway) -> openai.OpenAI:
    """The official client, without tries of its own."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For gateways."""
    return tmp_path_factory.mktemp("gateways")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[parts.LlamaCpp, RunningGateway]]:
    """Two slots of 2,048 tokens, and a gateway in front of them."""
    with parts.start_llamacpp(ctx_size=4096, parallel=2) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url, "exclusive": True}]}
        with RunningGateway(folder / "long", settings) as gateway:
            yield server, gateway


def test_a_conversation_of_two_hundred_turns_never_fails(
    pair: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """With tool calls, through the official client; and what it costs is bounded by what is new."""
    server, gateway = pair
    chance = random.Random(4)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You watch a power plant."}]
    fitted = 0
    with client_of(gateway) as client:
        for number in range(200):
            messages += turn(chance, number)
            answer = client.chat.completions.with_raw_response.create(
                model=server.get("/v1/models")["data"][0]["id"],
                messages=messages,  # type: ignore[arg-type]
                tools=[TOOL],  # type: ignore[list-item]
                tool_choice="none",
                max_tokens=4,
                extra_body=SPOKEN,
            )
            fitted += "penstock-fitted" in answer.headers
            said = answer.parse().choices[0].message.content
            assert said is not None
            messages.append({"role": "assistant", "content": f"{said} {words(chance, 8)}"})
    assert fitted > 100
    recent = gateway.http.get("/penstock/status").json()["requests"]["recent"]
    assert {request["error_code"] or "" for request in recent} == {""}
    assert max(request["prompt_tokens"] for request in recent) <= 2048


def test_a_client_that_asked_for_no_cut_gets_none(
    pair: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """`off` is a 400 with the numbers; `client` is told once, and then `window` answers."""
    _, gateway = pair
    chance = random.Random(5)
    messages = [m for number in range(60) for m in (
        {"role": "user", "content": words(chance, 40)}, {"role": "assistant", "content": words(chance, 20)})]  # fmt: skip
    body = {
        "model": "any",
        "messages": [*messages, {"role": "user", "content": "go on"}],
        "max_tokens": 4,
    }

    def ask(strategy: str) -> httpx.Response:
        return gateway.http.post(
            "/v1/chat/completions", json=body, headers={"penstock-strategy": strategy}
        )

    off = ask("off")
    assert off.status_code == 400
    assert off.json()["error"]["code"] == "context_length_exceeded"
    assert "2048" in off.json()["error"]["message"]
    assert off.headers["x-should-retry"] == "false"
    assert [ask("client").status_code for _ in range(3)] == [400, 200, 200]
    cut = ask("reset")
    assert cut.headers["penstock-fitted"] == "reset"
    assert int(cut.headers["penstock-prompt-tokens-original"]) > 2048


def test_a_window_that_shrinks_under_traffic_costs_no_client_an_error(folder: Path) -> None:
    """The server comes back with half the window; who comes then is fitted to it."""
    with parts.start_llamacpp(ctx_size=8192, parallel=2) as server:
        settings = {
            "upstreams": [{"name": "box", "url": server.url}],
            "retry": {"local": {"attempts": 10, "first_delay_s": 0.2}},
        }
        with RunningGateway(folder / "shrinks", settings) as gateway:
            chance = random.Random(6)
            long = [{"role": "user", "content": words(chance, 30)} if place % 2 == 0 else
                    {"role": "assistant", "content": words(chance, 30)} for place in range(61)]  # fmt: skip
            done = threading.Event()
            statuses: list[int] = []

            def traffic() -> None:
                with httpx.Client(base_url=gateway.url, timeout=60, trust_env=False) as http:
                    while not done.is_set():
                        body = {"model": "any", "messages": long, "max_tokens": 4}
                        statuses.append(http.post("/v1/chat/completions", json=body).status_code)

            threads = [threading.Thread(target=traffic) for _ in range(2)]
            for thread in threads:
                thread.start()
            until(lambda: len(statuses) > 4)
            server.restart(ctx_size=2048)
            seen = len(statuses)
            until(lambda: len(statuses) > seen + 6, within_s=60)
            done.set()
            for thread in threads:
                thread.join()
            assert set(statuses) == {200}
            model = gateway.http.get("/v1/models").json()["data"][0]
            assert model["context_window"] == 1024


def test_ollama_serves_a_long_conversation_whole(folder: Path) -> None:
    """A Modelfile of 2,048 tokens, a conversation of 5,000: the model is loaded with a larger window."""
    chance = random.Random(7)
    messages = [{"role": "user" if place % 2 == 0 else "assistant", "content": words(chance, 50)}
                for place in range(19)]  # fmt: skip
    with parts.start_ollama(num_ctx=2048) as server:
        with RunningGateway(
            folder / "ollama", {"upstreams": [{"name": "box", "url": server.url}]}
        ) as gateway:
            body = {"model": "tiny", "messages": messages, "max_tokens": 4}
            first = gateway.http.post(
                "/v1/chat/completions", json={**body, "messages": messages[:1]}
            )
            assert first.headers["penstock-window"] == "2048"
            answer = gateway.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert "penstock-fitted" not in answer.headers
            counted = answer.json()["usage"]["prompt_tokens"]
            told = gateway.http.get(
                f"/penstock/requests/{answer.headers['penstock-request-id']}"
            ).json()
            assert counted > 5000
            assert abs(told["prompt_tokens_planned"] - counted) < 0.05 * counted
            assert "options.num_ctx set" in answer.headers["penstock-changed"]
            assert server.get("/api/ps")["models"][0]["context_length"] >= counted
            small = gateway.http.post(
                "/v1/chat/completions",
                json={**body, "messages": messages[:1], "num_ctx": 2048, "keep_alive": 0},
            )
            assert small.status_code == 200
            loaded = server.get("/api/ps")["models"]
            assert loaded
            assert loaded[0]["context_length"] >= counted, "a side request made it load again"
            # Beyond that the model's own window ends it: then it is fitted, and said to be. A prefill of eight thousand
            # tokens may take minutes on a busy machine.
            gateway.http.timeout = httpx.Timeout(240.0)
            longer = [*messages[:-1], *messages]
            answer = gateway.http.post("/v1/chat/completions", json={**body, "messages": longer})
            assert answer.status_code == 200, answer.text
            assert int(answer.headers["penstock-prompt-tokens-original"]) > 8192
            assert answer.headers["penstock-fitted"] == "window"
            told = gateway.http.get(
                f"/penstock/requests/{answer.headers['penstock-request-id']}"
            ).json()
            counted = answer.json()["usage"]["prompt_tokens"]
            assert abs(told["prompt_tokens_planned"] - counted) < 0.1 * counted
            assert not told["warnings"]


def test_ollama_that_may_not_grow_is_fitted(folder: Path) -> None:
    """With the window set by the user, the oldest turns go, announced, and nothing is cut silently."""
    chance = random.Random(8)
    messages = [{"role": "user" if place % 2 == 0 else "assistant", "content": words(chance, 50)}
                for place in range(41)]  # fmt: skip
    settings = {"limits": {"window": 2048}}
    with parts.start_ollama(num_ctx=2048) as server:
        settings["upstreams"] = [{"name": "box", "url": server.url}]  # type: ignore[assignment]
        with RunningGateway(folder / "fitted", settings) as gateway:
            body = {"model": "tiny", "messages": messages, "max_tokens": 4}
            answer = gateway.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["penstock-fitted"] == "window"
            counted = answer.json()["usage"]["prompt_tokens"]
            assert 500 < counted <= 2048
            assert server.get("/api/ps")["models"][0]["context_length"] == 2048
