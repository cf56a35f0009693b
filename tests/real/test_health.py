"""Upstreams are looked after, on real servers: what is found, and what is done about it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest

import parts
from gateways import RunningGateway, until
from loops import until as soon
from penstock.adapters.machine import Machine, read_machine
from penstock.client import Client
from penstock.gateway.runtime import Runtime
from scripted import Here, gateway_here

pytestmark = pytest.mark.real

GIB = 1024**3
MOMENTS = {"health": {"every_s": 1}}


def of_machine(runtime: Runtime, **changed: Any) -> None:
    """From now on the machine is what it is and no container, but for this."""

    def read() -> Machine:
        return replace(read_machine(), in_container=False, **changed)

    runtime.memory._read = read
    runtime.memory.look_soon()


async def ask(here: Here, model: str, **fields: Any) -> httpx.Response:
    """One request to *model*."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return await here.http.post("/v1/chat/completions", json={**body, **fields}, timeout=60)


def loaded(server: parts.Ollama) -> set[str]:
    """Models that Ollama holds in memory, by its own word."""
    return {row["name"].removesuffix(":latest") for row in server.get("/api/ps")["models"]}


def test_an_idle_model_is_unloaded(ollama: Callable[..., parts.Ollama]) -> None:
    """Short of memory, Ollama is told to let go of the model that has rested longest, and nobody is disturbed."""
    server = ollama(name="first", environment={"OLLAMA_MAX_LOADED_MODELS": "2"})
    server.create("second", parts.model("tiny", says="Hello there."), num_ctx=2048)

    async def main() -> None:
        async with gateway_here(server.url, settings=MOMENTS) as here:
            for model in ("first", "second"):
                assert (await ask(here, model)).status_code == 200
            assert loaded(server) == {"first", "second"}
            of_machine(here.runtime, used_share=0.85)
            await soon(lambda: loaded(server) == {"second"})
            await soon(lambda: here.runtime.recorder.acts)
            (act,) = here.runtime.recorder.acts
            assert (act.upstream, act.act) == ("box", "unloaded")
            assert act.why == "first:latest: 85% of the memory is used, and it is idle"
            status = (await here.http.get("/penstock/status")).json()
            assert status["upstreams"][0]["health"]["findings"] == [
                {"name": "memory", "detail": "85% of the memory is used"}
            ]
            metrics = (await here.http.get("/metrics")).text
            assert 'penstock_acts_total{act="unloaded",upstream="box"} 1.0' in metrics
            # It is loaded when somebody wants it, and not unloaded again before two minutes have passed.
            assert (await ask(here, "first")).status_code == 200
            assert (await ask(here, "second")).status_code == 200
            await here.runtime.health.probe(here.runtime.fleet)
            assert "first" in loaded(server)

    asyncio.run(main())


def test_a_smaller_window_after_out_of_memory(ollama: Callable[..., parts.Ollama]) -> None:
    """A model that ran out of memory is loaded with half of its window by the next request, and says so."""
    server = ollama(num_ctx=8192)

    async def main() -> None:
        async with gateway_here(server.url, settings=MOMENTS) as here:
            assert (await ask(here, "tiny")).status_code == 200
            assert server.get("/api/ps")["models"][0]["context_length"] == 8192
            (state,) = here.runtime.fleet
            now_s = asyncio.get_running_loop().time()
            # As a request that failed so notes it; no real server can be asked to run out of memory.
            state.last_out_of_memory_s = now_s
            state.vitals.note_out_of_memory("tiny:latest", now_s)
            here.runtime.health.wake()
            await soon(lambda: here.runtime.recorder.acts)
            (act,) = here.runtime.recorder.acts
            assert (act.act, act.why) == (
                "window_reduced", "tiny:latest to 4096 tokens: it ran out of memory",
            )  # fmt: skip
            answer = await ask(here, "tiny")
            assert answer.status_code == 200
            assert answer.headers["penstock-window"] == "4096"
            assert server.get("/api/ps")["models"][0]["context_length"] == 4096

    asyncio.run(main())


def test_llamacpp_is_left_alone(llamacpp: Callable[..., parts.LlamaCpp]) -> None:
    """A server that is its model, and took all its memory at the start, is not touched, however short it is."""
    server = llamacpp()

    async def main() -> None:
        async with gateway_here(server.url, settings=MOMENTS) as here:
            of_machine(here.runtime, used_share=0.97, available_bytes=1024**2)
            await soon(lambda: here.runtime.memory.pressure.value == "heavy")
            assert (await here.chat(max_tokens=4)).status_code == 200
            (found,) = await here.runtime.health.probe(here.runtime.fleet)
            assert [one["name"] for one in found["findings"]] == ["memory"]
            assert not here.runtime.recorder.acts
            assert server.get("/health") == {"status": "ok"}

    asyncio.run(main())


def test_a_request_waits_for_memory(ollama: Callable[..., parts.Ollama]) -> None:
    """A window that the memory does not hold is waited for, and goes on when there is memory."""
    server = ollama()

    async def main() -> None:
        async with gateway_here(server.url, settings=MOMENTS) as here:
            assert (await ask(here, "tiny")).status_code == 200
            of_machine(here.runtime, available_bytes=0, gpus=())
            await soon(lambda: here.runtime.memory.machine.available_bytes == 0)  # type: ignore[union-attr]
            text = "word " * 600
            asking = asyncio.create_task(
                ask(here, "tiny", messages=[{"role": "user", "content": text}])
            )
            await soon(lambda: here.runtime.memory.waiting["box"] == 1)
            shown = (await here.http.get("/penstock/status")).json()["requests"]["in_flight"]
            assert [one["stage"] for one in shown] == ["queued"]
            of_machine(here.runtime)
            answer = await asking
            assert answer.status_code == 200, answer.text
            assert not here.runtime.memory.waiting

    asyncio.run(main())


def test_a_request_is_refused_in_numbers(ollama: Callable[..., parts.Ollama]) -> None:
    """What the memory does not hold within the queue's deadline is refused: why, how much, and what to do."""
    server = ollama()
    settings = {**MOMENTS, "concurrency": {"queue_deadline_s": 0.3}}

    async def main() -> None:
        async with gateway_here(server.url, settings=settings) as here:
            assert (await ask(here, "tiny")).status_code == 200
            of_machine(here.runtime, available_bytes=0, gpus=())
            await soon(lambda: here.runtime.memory.machine.available_bytes == 0)  # type: ignore[union-attr]
            messages = [{"role": "user", "content": "word " * 600}]
            answer = await ask(here, "tiny", messages=messages)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "memory_short")
            assert error["source"] == "penstock"
            assert "MiB" in error["message"]
            assert 0 < int(answer.headers["retry-after"]) <= 60
            # What needs no more memory is answered all the while.
            assert (await ask(here, "tiny")).status_code == 200

    asyncio.run(main())


def test_probe_on_demand(llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Any) -> None:
    """Somebody who asks gets a look of now: reachable, how quick, and what is wrong."""
    server = llamacpp()
    with RunningGateway(tmp_path, {"upstreams": [{"name": "box", "url": server.url}]}) as gateway:
        assert gateway.chat(max_tokens=4).status_code == 200
        client = Client(gateway.url, token=gateway.token)
        (well,) = client.probe()
        assert (well["upstream"], well["reachable"], well["findings"]) == ("box", True, [])
        assert well["response_ms"] > 0
        assert well["ttft_ms"] > 0
        server.stop()
        (gone,) = client.probe("box")
        assert gone["reachable"] is False
        assert [one["name"] for one in gone["findings"]] == ["unreachable"]
        refused = httpx.post(f"{gateway.url}/penstock/probe", trust_env=False)
        assert refused.status_code == 403
        assert gateway.admin("POST", "/penstock/probe?upstream=nobody").status_code == 404
        client.close()


def connect(port: int) -> socket.socket:
    """A client that connects and says nothing."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def refusal_of(client: httpx.Client) -> httpx.Response | None:
    """The gateway's refusal, once it refuses in words."""
    try:
        answer = client.get("/v1/models")
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 429 else None


def gateway_answers(gateway: RunningGateway) -> bool:
    """Whether a request is answered, on a new connection."""
    try:
        return httpx.get(f"{gateway.url}/v1/models", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def notices(gateway: RunningGateway) -> dict[str, str]:
    """Of the status, over a connection that is there."""
    try:
        return dict(gateway.status()["notices"])
    except httpx.HTTPError:
        return {}


def test_descriptors_run_out(llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Any) -> None:
    """With few descriptors a crowd is refused politely, a running stream survives, and all is well afterwards."""
    server = llamacpp("slow", parallel=2)
    settings = {"upstreams": [{"name": "box", "url": server.url}]}
    with (
        RunningGateway(tmp_path, settings, shell='ulimit -n 128; exec "$@"') as gateway,
        contextlib.ExitStack() as stack,
    ):
        assert gateway.status()["descriptors"]["limit"] == 128
        body = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "stream": True,
                "max_tokens": 60, "ignore_eos": True}  # fmt: skip
        with gateway.http.stream("POST", "/v1/chat/completions", json=body) as running:
            lines = running.iter_lines()
            next(lines)
            crowd = [
                stack.enter_context(httpx.Client(base_url=gateway.url, trust_env=False))
                for _ in range(60)
            ]
            answers = []
            for one in crowd:
                try:
                    answers.append(one.get("/v1/models").status_code)
                except httpx.HTTPError:
                    answers.append(0)
            # An idle connection makes room for the next, so all of them are answered.
            assert set(answers) == {200}
            silent = [stack.enter_context(connect(gateway.port)) for _ in range(150)]
            late = stack.enter_context(httpx.Client(base_url=gateway.url, trust_env=False))
            told = until(lambda: refusal_of(late), what="a refusal")
            assert (told.status_code, told.json()["error"]["code"]) == (429, "queue_full")
            assert told.headers["retry-after"] == "5"
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in rest[-3:]
        for one in silent:
            one.close()
        until(lambda: gateway_answers(gateway), what="an answer after the crowd")
        assert gateway.log().count("\n") < 100
        assert gateway.upstream()["state"] == "ok"


def test_not_one_descriptor_is_left(llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Any) -> None:
    """Not even one for a new client: no storm in log or processor, nothing blamed on the upstream, and it recovers."""
    server = llamacpp()
    settings = {"upstreams": [{"name": "box", "url": server.url}]}
    with RunningGateway(tmp_path / "roomy", settings) as gateway:
        assert gateway.chat(max_tokens=4).status_code == 200
        at_rest = psutil.Process(gateway.process.pid).num_fds()
    narrow = f'ulimit -n {at_rest + 3}; exec "$@"'
    with RunningGateway(tmp_path / "narrow", settings, shell=narrow) as gateway:
        assert "descriptors" not in gateway.status()["notices"]
        assert gateway.chat(max_tokens=4).status_code == 200
        process = psutil.Process(gateway.process.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(gateway.port))
            until(lambda: process.num_fds() >= at_rest + 3, what="the last descriptor")
            used_s = sum(process.cpu_times()[:2])
            for _ in range(
                5
            ):  # where nobody listens any more for want of descriptors, nobody answers
                with contextlib.suppress(OSError):
                    stack.enter_context(connect(gateway.port))
            until(lambda: "descriptors" in notices(gateway), what="the notice")
            assert sum(process.cpu_times()[:2]) - used_s < 2.0
        until(lambda: gateway_answers(gateway), what="an answer after the crowd")
        assert gateway.chat(max_tokens=4).status_code == 200
        assert gateway.upstream()["state"] == "ok"
        assert not gateway.status()["acts"]
        assert gateway.log().count("\n") < 50


def test_a_full_disk_under_the_log(llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Any) -> None:
    """A log that cannot be written keeps no request from its answer, and the status says so."""
    server = llamacpp()
    settings = {"upstreams": [{"name": "box", "url": server.url}], "log": {"file": "/dev/full"}}
    with RunningGateway(tmp_path, settings, shell='exec "$@" 2>/dev/full') as gateway:
        for _ in range(3):
            assert gateway.chat(max_tokens=4).status_code == 200
        until(lambda: "No space left" in str(gateway.status()), what="the notice")
        assert gateway.chat(max_tokens=4).status_code == 200
        assert gateway.stop() == 0
