"""The queue in front of real servers: what was given up is taken over, models are grouped, a cache is shared."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

import parts
from gateways import RunningGateway, until

pytestmark = pytest.mark.real

WORDS = "the gate and the water "


def settings_for(url: str, **more: Any) -> dict[str, Any]:
    """A gateway in front of one server."""
    return {"upstreams": [{"name": "box", "url": url}], **more}


class Client:
    """One that sends a request and can hang up."""

    def __init__(self, gateway: RunningGateway, model: str, text: str, **fields: Any) -> None:
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": text}], **fields}  # fmt: skip
        raw = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nuser-agent: one\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\nconnection: close\r\n\r\n"
        )
        self._socket = socket.create_connection(("127.0.0.1", gateway.port))
        self._socket.sendall(head.encode() + raw)

    def answer(self) -> str:
        """All of the answer."""
        self._socket.settimeout(120)
        got = b""
        while data := self._socket.recv(65536):
            got += data
        self._socket.close()
        return got.decode()

    def hang_up(self) -> None:
        """Give up."""
        self._socket.close()


def concurrency(gateway: RunningGateway, name: str) -> Any:
    """A number of the only upstream."""
    return gateway.upstream()["concurrency"][name]


def finished(gateway: RunningGateway) -> list[dict[str, Any]]:
    """Requests that have ended, in the order in which they did."""
    return list(reversed(gateway.status()["requests"]["recent"]))


def at_rest(gateway: RunningGateway) -> None:
    """Nothing is left over."""
    for name in ("in_flight", "queued", "ghosts", "held"):
        until(lambda n=name: concurrency(gateway, n) == 0, 60.0, f"no {name}")


def test_a_client_that_gives_up_and_asks_again_is_next(tmp_path: Path) -> None:
    """llama.cpp works on its long prompt; it hangs up, asks again, and is answered before those that wait."""
    with parts.start_llamacpp("slow", ctx_size=12288, batch_size=128) as server:
        with RunningGateway(tmp_path, settings_for(server.url)) as gateway:
            first = Client(gateway, "slow", WORDS * 120)
            until(lambda: concurrency(gateway, "in_flight") == 1, 20.0, "the first being sent")
            until(
                lambda: gateway.status()["requests"]["in_flight"][0]["stage"] == "prefilling",
                20.0,
                "prefill",
            )
            others = [Client(gateway, "slow", f"other {n} {WORDS}") for n in range(3)]
            until(lambda: concurrency(gateway, "queued") == 3, 20.0, "the others waiting")
            first.hang_up()
            until(
                lambda: any(r["client_gone"] for r in gateway.status()["requests"]["recent"]),
                20.0,
                "the hang-up being noticed",
            )
            again = Client(gateway, "slow", WORDS * 120)
            assert again.answer().startswith("HTTP/1.1 200")
            ended = finished(gateway)
            for other in others:
                assert other.answer().startswith("HTTP/1.1 200")
            mine = next(r for r in ended if r["took_over"])
            assert mine["took_over"] in ("ghost", "place")
            assert mine["cached_tokens"]
            # At most one of the others got the slot in the moment between the two.
            assert sum(r["status"] == 200 for r in ended if r is not mine) <= 1
            at_rest(gateway)


def test_a_load_that_was_given_up_is_taken_over(tmp_path: Path) -> None:
    """Ollama loads the model for a client that leaves; the load goes on, and the same request waits for it."""
    with parts.start_ollama("slow", name="slow", num_ctx=4096) as server:
        with RunningGateway(tmp_path, settings_for(server.url)) as gateway:
            gateway.http.get("/v1/models")
            first = Client(gateway, "slow", WORDS)
            until(lambda: concurrency(gateway, "in_flight") == 1, 20.0, "the load")
            first.hang_up()
            until(lambda: bool(gateway.status()["requests"]["recent"]), 20.0, "the hang-up")
            again = Client(gateway, "slow", WORDS)
            assert again.answer().startswith("HTTP/1.1 200")
            given_up, mine = finished(gateway)[-2:]
            assert given_up["client_gone"]
            assert mine["took_over"] in ("load", "place")
            at_rest(gateway)


def test_requests_for_one_model_go_together(tmp_path: Path) -> None:
    """Ollama with room for one model: requests that come in turns are answered in groups."""
    environment = {"OLLAMA_MAX_LOADED_MODELS": "1"}
    with parts.start_ollama(name="one", environment=environment) as server:
        server.create("two", parts.model("tiny"), num_ctx=2048, parameters={"temperature": 0})
        settings = settings_for(server.url, concurrency={"max_concurrency": 1})
        with RunningGateway(tmp_path, settings) as gateway:
            assert gateway.chat(model="one", max_tokens=2).status_code == 200
            until(lambda: concurrency(gateway, "models_at_once") == 1, 20.0, "the loaded model")
            clients = [Client(gateway, ("one", "two")[n % 2], f"{n} {WORDS}") for n in range(8)]
            for client in clients:
                assert client.answer().startswith("HTTP/1.1 200")
            order = [r["model"] for r in finished(gateway)][1:]
            assert sorted(order) == ["one"] * 4 + ["two"] * 4
            changes = sum(a != b for a, b in itertools.pairwise(order))
            assert changes <= 2, order
            at_rest(gateway)


def test_two_long_prompts_on_one_shared_cache(tmp_path: Path) -> None:
    """llama.cpp with a unified KV fails both when they meet; seen once, permits carry tokens, and they do not."""
    with parts.start_llamacpp("tiny", ctx_size=4096, parallel=2, kv_unified=True) as server:
        with RunningGateway(tmp_path, settings_for(server.url)) as gateway:
            assert gateway.chat(
                model="tiny", max_tokens=1, messages=[{"role": "user", "content": WORDS * 50}]
            ).status_code == 200  # fmt: skip
            each = finished(gateway)[0]["prompt_tokens"] / 50
            long = WORDS * int(3000 / each)

            def both(what: str) -> list[int]:
                found: list[int] = []

                def ask(number: int) -> None:
                    body = {
                        "model": "tiny", "max_tokens": 8,
                        "messages": [{"role": "user", "content": f"{what} {number} {long}"}],
                    }  # fmt: skip
                    answer = httpx.post(
                        f"{gateway.url}/v1/chat/completions",
                        json=body,
                        timeout=120,
                        trust_env=False,
                    )
                    found.append(answer.status_code)

                threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                return found

            for number in range(5):  # until they do meet in the server
                assert both(f"first {number}") == [200, 200]
                if concurrency(gateway, "shared_kv_tokens"):
                    break
            assert concurrency(gateway, "shared_kv_tokens") == 4096
            assert both("second") == [200, 200]
            assert [len(r["attempts"]) for r in finished(gateway)[-2:]] == [1, 1]
            at_rest(gateway)
