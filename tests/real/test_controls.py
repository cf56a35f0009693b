"""The switches in front of real servers: nobody sees a server being replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from gateways import RunningGateway, until
from parts import LlamaCpp, Ollama
from penstock.client import Client, DrainProgress, GatewayError

pytestmark = pytest.mark.real

TURN = "The committee met again on the third day and wrote down all that had been said. " * 12


def client_of(gateway: RunningGateway) -> Client:
    """As the operator reaches it."""
    return Client(gateway.url, token=gateway.token)


def conversation(turns: int) -> list[dict[str, str]]:
    """About 190 tokens a turn."""
    said = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": f"{n}. {TURN}"}
        for n in range(2 * turns)
    ]
    return [*said, {"role": "user", "content": "And now?"}]


class Traffic:
    """A few clients that ask on and on, each the next thing once it has its answer."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self._url = url
        self._stop = threading.Event()
        self.answers: list[tuple[int, str, str]] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def _run(self, number: int) -> None:
        body: dict[str, Any] = {"model": "any", "max_tokens": 24, "stream": number % 2 == 0}
        with httpx.Client(base_url=self._url, timeout=120.0, trust_env=False) as http:
            while not self._stop.is_set():
                body["messages"] = conversation(4)
                try:
                    answer = http.post("/v1/chat/completions", json=body)
                except httpx.HTTPError as exc:
                    self.answers.append((0, "", repr(exc)))
                    return
                whole = answer.text.rstrip().endswith("[DONE]") or not body["stream"]
                told = "" if whole and "error" not in answer.text else answer.text
                window = answer.headers.get("penstock-window", "")
                self.answers.append((answer.status_code, window, told))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def failures(self) -> list[tuple[int, str, str]]:
        """Whatever was no whole answer."""
        return [answer for answer in self.answers if answer[0] != 200 or answer[2]]


def last_of(lines: Iterator[DrainProgress]) -> DrainProgress:
    """How a drain ended."""
    return list(lines)[-1]


def test_a_server_is_replaced_and_nobody_sees_it(
    llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """Drain with hold, another window on the same port, resume: no error, and what was held fits the new one."""
    server = llamacpp(ctx_size=8192, parallel=2)
    upstream = {"name": "box", "url": server.url}
    with (
        RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway,
        client_of(gateway) as admin,
    ):
        with Traffic(gateway.url) as traffic:
            until(lambda: len(traffic.answers) >= 6, 60.0, "some traffic")
            done = last_of(admin.drain("box", hold=True, timeout_s=60.0))
            assert (done.state, done.running) == ("drained", 0)
            until(lambda: gateway.upstream()["concurrency"]["held"] == 3, 20.0, "all are held")
            assert gateway.upstream()["held_because"] == ["drained"]
            before = len(traffic.answers)
            server.restart(ctx_size=1024, parallel=1)
            assert len(traffic.answers) == before
            resumed = admin.resume("box", wait_s=30.0)
            assert (resumed.resumed, resumed.away) == (("box",), ())
            until(lambda: len(traffic.answers) >= before + 6, 60.0, "traffic goes on")
        assert traffic.failures() == []
        assert {window for _, window, _ in traffic.answers[:before]} == {"4096"}
        assert {window for _, window, _ in traffic.answers[before:]} == {"1024"}
        assert [a["act"] for a in gateway.status()["acts"]] == ["draining", "drained", "resumed"]
        at_rest = gateway.upstream()["concurrency"]
        assert (at_rest["in_flight"], at_rest["queued"], at_rest["held"]) == (0, 0, 0)


def test_a_resume_before_the_server_is_back_waits_for_it(
    llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """What is held goes on when the new server answers, not into the gap."""
    server = llamacpp(ctx_size=4096, parallel=1)
    upstream = {"name": "box", "url": server.url}
    with (
        RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway,
        client_of(gateway) as admin,
    ):
        assert gateway.chat(max_tokens=4).status_code == 200
        assert last_of(admin.drain(hold=True, timeout_s=30.0)).state == "drained"
        server.stop()
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(gateway.chat(max_tokens=4)))
        asking.start()
        until(lambda: gateway.upstream()["concurrency"]["held"] == 1, 20.0, "it is held")
        assert admin.resume(wait_s=0.2).away == ("box",)
        assert gateway.upstream()["concurrency"]["held"] == 1
        server.restart(ctx_size=2048)
        asking.join(30)
        assert [answer.status_code for answer in answers] == [200]
        assert answers[0].headers["penstock-window"] == "2048"


def test_a_drain_waits_for_a_long_answer_and_refuses_new_ones(
    llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """Without a hold new requests get a 503 that says when to ask again; one that takes longer is told."""
    server = llamacpp("slow", ctx_size=4096, parallel=1)
    upstream = {"name": "box", "url": server.url}
    with (
        RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway,
        client_of(gateway) as admin,
    ):
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(gateway.chat("tell me", max_tokens=300, ignore_eos=True))
        )
        asking.start()
        until(lambda: gateway.upstream()["concurrency"]["in_flight"] == 1, 30.0, "it runs")
        late = last_of(admin.drain("box", timeout_s=0.1))
        assert (late.state, late.running) == ("expired", 1)
        with httpx.Client(base_url=gateway.url, trust_env=False) as other:
            body = {"model": "any", "messages": [{"role": "user", "content": "me too"}]}
            refused = other.post("/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert last_of(admin.drain("box", timeout_s=60.0)).state == "drained"
        asking.join(30)
        assert [answer.status_code for answer in answers] == [200]
        admin.resume()
        assert gateway.chat(max_tokens=4).status_code == 200


def test_bypass_gives_what_the_server_gives(
    llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """No header, no change, the server's own errors; the limiter and the metrics stay."""
    server = llamacpp(ctx_size=1024, parallel=1)
    upstream = {"name": "box", "url": server.url}
    too_long = {"model": "tiny", "messages": conversation(10), "max_tokens": 8}
    with (
        RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway,
        client_of(gateway) as admin,
    ):
        assert gateway.http.post("/v1/chat/completions", json=too_long).status_code == 200
        admin.bypass(True)
        own = httpx.post(f"{server.url}/v1/chat/completions", json=too_long, trust_env=False)
        passed = gateway.http.post("/v1/chat/completions", json=too_long)
        assert (passed.status_code, passed.json()) == (400, own.json())
        assert not any(name.startswith("penstock") for name in passed.headers)
        short = gateway.chat("hello", max_tokens=8, stream=True)
        assert short.text.rstrip().endswith("[DONE]")
        assert ": penstock" not in short.text
        count = gateway.http.post("/v1/messages/count_tokens", json={**too_long, "model": "tiny"})
        assert (
            count.json()
            == httpx.post(
                f"{server.url}/v1/messages/count_tokens", json=too_long, trust_env=False
            ).json()
        )
        assert gateway.upstream()["bypass"] is True
        assert gateway.upstream()["concurrency"]["in_flight"] == 0
        admin.bypass(False)
        assert gateway.http.post("/v1/chat/completions", json=too_long).status_code == 200


def test_a_hang_up_under_bypass_frees_the_server(
    llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """The slot is free again, there and here."""
    server = llamacpp("slow", ctx_size=4096, parallel=1)
    upstream = {"name": "box", "url": server.url}
    with (
        RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway,
        client_of(gateway) as admin,
    ):
        admin.bypass(True, "box")
        said = [{"role": "user", "content": "go on"}]
        body = {"model": "x", "stream": True, "messages": said, "ignore_eos": True}
        with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
            assert gateway.upstream()["concurrency"]["in_flight"] == 1
        until(lambda: gateway.upstream()["concurrency"]["in_flight"] == 0, 20.0, "the permit")
        until(lambda: not server.get("/slots")[0]["is_processing"], 20.0, "the slot")


def test_unload_where_the_server_can(
    ollama: Callable[..., Ollama], llamacpp: Callable[..., LlamaCpp], tmp_path: Path
) -> None:
    """Ollama does; a llama.cpp that is no router says clearly that it cannot."""
    first, second = ollama(), llamacpp(ctx_size=1024)
    upstreams = [{"name": "ollama", "url": first.url}, {"name": "llama", "url": second.url}]
    with RunningGateway(tmp_path, {"upstreams": upstreams}) as gateway, client_of(gateway) as admin:
        until(lambda: all(gateway.upstream(n)["models"] for n in (0, 1)), 20.0, "their models")
        model = gateway.upstream()["models"][0]["id"]
        assert gateway.chat(model=model, max_tokens=4).status_code == 200
        until(lambda: gateway.upstream()["models"][0]["loaded"], 20.0, "it is loaded")
        assert admin.unload(model) == ("ollama", model)
        until(lambda: gateway.upstream()["models"][0]["loaded"] is False, 20.0, "it is unloaded")
        other = gateway.upstream(1)["models"][0]["id"]
        with pytest.raises(GatewayError, match="cannot unload"):
            admin.unload(other, "llama")
