"""Real llama.cpp servers that die, and a real gateway in front of them."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateways import RunningGateway, free_port, until
from parts import Kind, model
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions

pytestmark = pytest.mark.real

QUICK = {"retry": {"local": {"first_delay_s": 0.05, "longest_delay_s": 0.2}}}


def serve(port: int, alias: str = "tiny", kind: Kind = "tiny") -> EmbeddedServer:
    """A real llama.cpp with two slots."""
    options = LlamaServerOptions(
        str(model(kind)), port=port, ctx_size=4096, parallel=2, threads=1, alias=alias
    )
    return EmbeddedServer(options).wait_ready()


@pytest.fixture
def ports() -> list[int]:
    """Two free ports."""
    return [free_port(), free_port()]


def test_a_dead_server_is_left_alone_and_taken_back(tmp_path: Path, ports: list[int]) -> None:
    """Three clients learn of its death by attempts, later ones at once; back again, one request is enough."""
    settings = {
        **QUICK,
        "upstreams": [{"name": "box", "url": f"http://127.0.0.1:{ports[0]}"}],
        "breaker": {"first_delay_s": 60},
        "profiles": {"refresh_s": 1},
    }
    server = serve(ports[0])
    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        try:
            assert gateway.chat(max_tokens=4).status_code == 200
            server.kill()
            answers = [gateway.chat(max_tokens=4) for _ in range(3)]
            assert {answer.json()["error"]["code"] for answer in answers} == {
                "upstream_unreachable"
            }
            assert all(int(answer.headers["penstock-attempts"]) == 3 for answer in answers)
            refused = gateway.chat(max_tokens=4)
            assert refused.json()["error"]["code"] == "breaker_open"
            assert int(refused.headers["retry-after"]) > 30
            assert gateway.upstream()["breaker"]["state"] == "open"
            assert "breaker_opened" in gateway.log()
            server = serve(ports[0])
            # Its return is seen by a look, long before the delay is over.
            until(lambda: gateway.chat(max_tokens=4).status_code == 200, 15, "an answer")
            assert gateway.upstream()["breaker"]["state"] == "closed"
            assert [act["act"] for act in gateway.status()["acts"]] == [
                "breaker_opened",
                "breaker_closed",
            ]
        finally:
            server.stop()


def test_one_of_two_servers_dies_under_load(tmp_path: Path, ports: list[int]) -> None:
    """Six clients without a pause, streaming and plain: none of them sees an error."""
    settings = {
        **QUICK,
        "upstreams": [
            {"name": f"box{n}", "url": f"http://127.0.0.1:{port}"} for n, port in enumerate(ports)
        ],
    }
    servers = [serve(port) for port in ports]
    seen: Counter[str] = Counter()
    problems: list[str] = []
    done = threading.Event()

    def client(gateway: RunningGateway, number: int) -> None:
        with httpx.Client(base_url=gateway.url, timeout=30.0, trust_env=False) as http:
            while not done.is_set():
                body = {
                    "model": "tiny",
                    "messages": [{"role": "user", "content": f"hello {number}"}],
                    "max_tokens": 4,
                }
                answer = http.post("/v1/chat/completions", json=body)
                seen[answer.headers.get("penstock-upstream", "none")] += 1
                if answer.status_code != 200:
                    problems.append(answer.text[:300])

    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        try:
            until(lambda: all(u["models"] for u in gateway.status()["upstreams"]))
            threads = [threading.Thread(target=client, args=(gateway, n)) for n in range(6)]
            for thread in threads:
                thread.start()
            until(lambda: seen["box0"] > 20 and seen["box1"] > 20, 30, "both at work")
            servers[0].kill()
            before = seen["box1"]
            until(lambda: seen["box1"] > before + 60, 30, "the other one at work")
            done.set()
            for thread in threads:
                thread.join()
            assert problems == []
            until(
                lambda: all(
                    u["concurrency"]["in_flight"] == u["concurrency"]["queued"] == 0
                    for u in gateway.status()["upstreams"]
                )
            )
        finally:
            done.set()
            for server in servers:
                server.stop()


def test_the_fallback_answers_while_a_server_is_away(tmp_path: Path, ports: list[int]) -> None:
    """Before it was ever seen, after it died, and while its breaker is open: with the model that the other one has."""
    settings = {
        **QUICK,
        "upstreams": [
            {"name": "box", "url": f"http://127.0.0.1:{ports[0]}", "fallback": "spare"},
            {"name": "spare", "url": f"http://127.0.0.1:{ports[1]}"},
        ],
        "breaker": {"first_delay_s": 60},
        "profiles": {"refresh_s": 1},
    }
    spare = serve(ports[1], "other")
    box = None

    def ask() -> httpx.Response:
        return gateway.chat(model="tiny", max_tokens=4)

    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        try:
            until(lambda: gateway.upstream(1)["models"], 15, "the spare one")
            answer = ask()
            assert answer.status_code == 200, answer.text
            assert answer.headers["penstock-upstream"] == "spare"
            assert "box does not answer" in answer.headers["penstock-warning"]
            box = serve(ports[0])
            until(lambda: ask().headers["penstock-upstream"] == "box", 15, "an answer of its own")
            box.kill()
            answers = [ask() for _ in range(5)]
            assert {answer.headers["penstock-upstream"] for answer in answers} == {"spare"}
            assert all(int(answer.headers["penstock-attempts"]) <= 3 for answer in answers)
            # It was given up after three; from then on nothing is tried there.
            assert gateway.upstream()["breaker"]["state"] == "open"
            assert answers[-1].headers["penstock-attempts"] == "1"
        finally:
            spare.stop()
            if box is not None:
                box.stop()


def test_requests_that_run_and_wait_when_a_server_dies_go_to_the_other_one(
    tmp_path: Path, ports: list[int]
) -> None:
    """Twelve plain requests on two slots, the server is killed: all are answered by the other one, none is lost."""
    settings = {
        **QUICK,
        "upstreams": [
            {"name": f"box{n}", "url": f"http://127.0.0.1:{port}"} for n, port in enumerate(ports)
        ],
    }
    first, other = serve(ports[0], kind="slow"), None
    answers: list[httpx.Response] = []

    def client(number: int) -> None:
        answers.append(gateway.chat(f"tell me {number}", model="tiny", max_tokens=200))

    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        try:
            until(lambda: gateway.upstream(0)["models"], 15, "the first one")
            threads = [threading.Thread(target=client, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            until(lambda: gateway.upstream(0)["concurrency"]["queued"] == 10, 15, "a queue")
            other = serve(ports[1])
            until(lambda: gateway.upstream(1)["models"], 15, "the other one")
            first.kill()
            for thread in threads:
                thread.join()
            assert [answer.status_code for answer in answers] == [200] * 12
            assert {"box1"} <= {answer.headers["penstock-upstream"] for answer in answers}
            assert all(int(answer.headers["penstock-attempts"]) <= 3 for answer in answers)
            for state in gateway.status()["upstreams"]:
                assert state["concurrency"]["in_flight"] == state["concurrency"]["queued"] == 0
        finally:
            first.stop()
            if other is not None:
                other.stop()
