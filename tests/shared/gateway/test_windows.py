"""The window that is believed, when servers load, unload, restart, and refuse without a number."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from loops import until
from penstock.breaker import Breaker
from penstock.domain.profile import ModelReading, ServerReading, WindowSource
from penstock.domain.upstream import ServerKind, Upstream
from penstock.gateway.steps.limiter import Limiter
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.settings import Settings
from scripted import ScriptedLlama, event, gateway_here, reply, stream

HI = [{"role": "user", "content": "hi"}]
VAGUE = reply(
    {"error": {"message": "the input length exceeds the context length", "type": "x"}},
    b"400 Bad Request",
)


def loaded(window: int, digest: str = "a") -> ServerReading:
    """Ollama with its model in memory."""
    model = ModelReading("tiny:latest", window, "/api/ps", loaded=True, details={"digest": digest})
    return ServerReading((model,), version="0.17.4")


def idle(digest: str = "a", version: str = "0.17.4") -> ServerReading:
    """Ollama that has put its model out of memory."""
    model = ModelReading("tiny:latest", loaded=False, details={"digest": digest})
    return ServerReading((model,), version=version)


def after(*readings: ServerReading) -> tuple[int, WindowSource]:
    """What is believed after these looks."""
    state = fresh()
    for reading in readings:
        learn(state, reading)
    return believed(state)


def fresh() -> UpstreamState:
    """An Ollama that was never looked at."""
    upstream = Upstream("box", "http://127.0.0.1:1", kind=ServerKind.OLLAMA)
    return UpstreamState(upstream, Limiter(1, Settings().concurrency), Breaker(Settings().breaker))


def learn(state: UpstreamState, reading: ServerReading) -> None:
    """One look."""
    state.learn(reading, settings=Settings(), token_limit=None, now_s=0.0)


def believed(state: UpstreamState) -> tuple[int, WindowSource]:
    """Its only model's window."""
    profile = state.profile("tiny:latest")
    assert profile is not None
    return profile.window.tokens, profile.window.source


@pytest.mark.parametrize(
    ("readings", "window", "source"),
    [
        pytest.param([idle()], 8192, "fallback", id="never loaded"),
        pytest.param([loaded(1536)], 1536, "running", id="loaded"),
        pytest.param([loaded(1536), idle()], 1536, "learned", id="unloaded"),
        pytest.param([loaded(1536), idle(), idle()], 1536, "learned", id="unloaded for long"),
        pytest.param([loaded(1536), idle(), loaded(4096)], 4096, "running", id="loaded with another"),
        pytest.param([loaded(1536), loaded(4096), idle()], 4096, "learned", id="the last one counts"),
        pytest.param([loaded(1536), idle("b")], 8192, "fallback", id="another model of that name"),
        pytest.param([loaded(1536), idle(version="0.18.0")], 8192, "fallback", id="another version"),
        pytest.param([loaded(1536), ServerReading(), idle()], 8192, "fallback", id="the model was away"),
    ],
)  # fmt: skip
def test_what_a_model_ran_with_holds_when_it_is_unloaded(
    readings: list[ServerReading], window: int, source: str
) -> None:
    """Until the server, or the model, is another one."""
    assert after(*readings) == (window, WindowSource(source))


def test_a_server_that_was_away_may_load_with_another_window() -> None:
    """What its last process ran with is not believed of the next one."""
    state = fresh()
    learn(state, loaded(1536))
    state.forget_loaded()
    learn(state, idle())
    assert believed(state) == (8192, WindowSource.FALLBACK)


def test_what_a_refusal_named_holds_until_the_server_was_away() -> None:
    """Also where the server does not tell its window: its next process may take what this one refused."""
    state = fresh()
    learn(state, idle())
    state.refused("tiny:latest", 1024, settings=Settings(), token_limit=None)
    learn(state, idle())
    assert believed(state) == (1024, WindowSource.REFUSAL)
    state.forget_loaded()
    learn(state, idle())
    assert believed(state) == (8192, WindowSource.FALLBACK)


def test_a_refused_look_forgets_what_the_process_ran_with() -> None:
    """Nobody listens there: whoever comes back is another process."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            state = gateway.runtime.fleet.get("box")
            await gateway.runtime.keeper.look(state)
            state.last_windows["m"] = (1536, "")
            await llama.__aexit__(None, None, None)
            assert not await gateway.runtime.keeper.look(state)
            assert not state.last_windows
            await llama.__aenter__()

    asyncio.run(main())


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_a_refusal_without_a_number_is_told_in_the_servers_own(streams: bool) -> None:
    """The server is looked at before its refusal is told: it may run with another window by now."""

    class Smaller(ScriptedLlama):
        async def refuse(self, peer: Any) -> None:
            self.window = 1536
            await peer.send(VAGUE)

    async def main() -> None:
        llama = Smaller()
        llama._scripts = [[llama.refuse]]
        async with llama, gateway_here(llama.url) as gateway:
            await gateway.runtime.keeper.look(gateway.runtime.fleet.get("box"))
            answer = await gateway.chat(stream=streams)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
            assert "more than 1536 tokens > 1536 maximum" in error["message"]
            assert answer.headers["penstock-window"] == "1536"
            listed = (await gateway.http.get("/v1/models")).json()["data"][0]
            assert (listed["context_window"], listed["window_source"]) == (1536, "running")

    asyncio.run(main())


def test_a_prompt_beyond_the_window_contradicts_it() -> None:
    """An answer to more than the server was believed to take has it looked at at once."""

    async def main() -> None:
        usage = {"choices": [], "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}
        long = [*stream("hello")[:-2], event(usage), *stream()[-2:]]
        async with ScriptedLlama(long) as llama, gateway_here(llama.url) as gateway:
            state = gateway.runtime.fleet.get("box")
            await gateway.runtime.keeper.look(state)
            llama.window = 8192
            assert (await gateway.chat()).status_code == 200
            await until(lambda: state.profiles["m"].window.tokens == 8192, within_s=5.0)

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_output_budget_that_does_not_fit_is_reduced(path: str) -> None:
    """By the server's own numbers, once, announced; the client gets its answer instead of an error."""

    async def main() -> None:
        words = (
            "This model's maximum context length is 4096 tokens. However, you requested 4110 tokens "
            "(20 in the messages, 4090 in the completion). Please reduce the length."
        )
        refusal = reply({"object": "error", "message": words, "code": 400}, b"400 Bad Request")
        async with (
            ScriptedLlama([refusal], stream("ok")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            body = {"model": "m", "max_tokens": 4090, "stream": True}
            body |= {"prompt": "hi"} if path == "/v1/completions" else {"messages": HI}
            got = await gateway.http.post(path, json=body)
            assert got.status_code == 200
            assert got.headers["penstock-attempts"] == "2"
            assert "max_tokens reduced" in got.headers["penstock-changed"]
            sent = [json.loads(request.body)["max_tokens"] for request in llama.requests]
            assert sent == [4090, 4076]

    asyncio.run(main())


def test_an_output_budget_that_never_fits_is_told_truly() -> None:
    """A server that refuses again is not asked a third time, and its words are told."""

    async def main() -> None:
        words = "'max_tokens' is too large: 4090. This model's maximum context length is 4096 tokens and your request has 20 input tokens"
        refusal = reply({"error": {"message": words}}, b"400 Bad Request")
        async with ScriptedLlama([refusal]) as llama, gateway_here(llama.url) as gateway:
            got = await gateway.chat(max_tokens=4090)
            error = got.json()["error"]
            assert (got.status_code, error["attempts"], error["param"]) == (400, 2, "max_tokens")
            assert error["message"].startswith(
                "max_tokens is too large: 4090 tokens after a prompt of 20"
            )

    asyncio.run(main())


def test_an_id_that_is_a_files_path_is_found() -> None:
    """llama.cpp's ids may begin with a slash; in the path of a request doubled slashes become one."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            llama.model = "/models/tiny.gguf"
            for path in ("/v1/models//models/tiny.gguf", "/v1/models/%2Fmodels%2Ftiny.gguf",
                         "/v1/models/models/tiny.gguf", "/v1/models/box//models/tiny.gguf"):  # fmt: skip
                found = await gateway.http.get(path)
                assert (path, found.status_code) == (path, 200)
                assert found.json()["id"] == "/models/tiny.gguf"
            assert (await gateway.http.get("/v1/models/tiny.gguf")).status_code == 404
            assert (await gateway.http.get("/v1/models/x/..%2Ftiny.gguf")).status_code == 400

    asyncio.run(main())
