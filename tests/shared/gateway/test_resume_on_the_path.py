"""A stream whose server dies at any byte, and goes on: a scripted llama.cpp that continues what it said."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from loops import until
from penstock.domain.upstream import Upstream
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.pipeline import LocalRun
from rawserver import CHUNKED_HEAD, CLOSE, RESET, Received, Step, chunk
from scripted import Here, ScriptedLlama, delta, event, gateway_here

WORDS = [
    f"{word} "
    for word in [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
    ]
]
TEXT = "".join(WORDS)
PROMPT = 11
SETTINGS = {"resume": {"probe_after_s": 0.01, "wait_s": 2.0}}


class Continuing(ScriptedLlama):
    """
    Says the same words to everybody, and continues them when they stand in the last message.

    Attributes:
        breaks: what it does instead of the whole stream, by number of the request that is no probe; None for
            the whole stream.
        continues: it does so; else it begins again.
        progresses: it tells how far the prompt is, and so how long.
    """

    def __init__(
        self, *breaks: Callable[[bytes], list[Step]] | None, continues: bool = True
    ) -> None:
        super().__init__()
        self.breaks = list(breaks)
        self.continues = continues
        self.asked: list[dict[str, Any]] = []
        self.probes = 0
        self.progresses = True

    def script_for(self, request: Received) -> list[Step]:
        body = json.loads(request.body)
        last = body["messages"][-1]
        said = last["content"] if last["role"] == "assistant" and self.continues else ""
        rest = TEXT[len(said) :] if TEXT.startswith(said) else ""
        words = [word + " " for word in rest.split()]
        prompt = PROMPT + len(said.split())
        role = delta("")
        role["choices"][0]["delta"] = {"role": "assistant", "content": None}
        role["id"] = f"chatcmpl-{len(self.requests)}"
        progress = {**role, "prompt_progress": {"total": prompt, "cache": 0, "processed": prompt}}
        end = {**delta("", "stop"), "id": role["id"]}
        end["timings"] = {"cache_n": 0, "prompt_n": prompt, "predicted_n": len(words),
                          "prompt_per_token_ms": 1.0, "predicted_per_token_ms": 2.0}  # fmt: skip
        chunks: list[Any] = [progress] if self.progresses and body.get("return_progress") else []
        chunks += [role, *({**delta(word), "id": role["id"]} for word in words), end]
        data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks)
        data += b"data: [DONE]\n\n"
        if "Count from one" in body["messages"][0]["content"]:
            self.probes += 1
        else:
            self.asked.append(body)
            breaks = self.breaks.pop(0) if self.breaks else None
            if breaks is not None:
                return breaks(data)
        return [CHUNKED_HEAD, chunk(data), chunk(b"")]


def after(size: int, act: Step = RESET) -> Callable[[bytes], list[Step]]:
    """Breaks after so many bytes of the stream."""
    return lambda data: [CHUNKED_HEAD, chunk(data[:size]), act]


async def proven(here: Here, llama: Continuing) -> None:
    """Wait until the gateway knows the server."""
    breaks, llama.breaks = llama.breaks, []
    await here.chat()
    state = here.runtime.fleet.get("box")

    def known() -> bool:
        profile = state.profile("m")
        proofs = here.runtime.proofs
        return profile is not None and proofs is not None and "text" in proofs.of(state, profile)

    await until(known)
    llama.breaks, llama.asked = breaks, []


def read(stream: bytes) -> tuple[str, list[dict[str, Any]], bool]:
    """Text, chunks, and whether it ended as a stream should."""
    lines = [line for line in stream.decode().splitlines() if line.startswith("data: ")]
    values = [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
    text = "".join(
        choice["delta"].get("content") or "" for v in values for choice in v.get("choices", ())
    )
    return text, values, bool(lines) and lines[-1] == "data: [DONE]"


def whole_stream() -> bytes:
    """What the server sends when nothing happens."""
    server = Continuing()
    body = {"messages": [{"role": "user", "content": "hi"}], "return_progress": True}
    script = server.script_for(Received(b"", [], json.dumps(body).encode(), b""))
    assert isinstance(script[1], bytes)
    return script[1]


def test_cut_at_any_byte_the_text_is_whole_and_said_once() -> None:
    """Between events and within them, by a reset, a close, and a body that ends too early."""

    async def scene() -> None:
        size = len(whole_stream()) - 30
        async with Continuing() as llama, gateway_here(llama.url, settings=SETTINGS) as here:
            await proven(here, llama)
            acts: list[Step] = [RESET, CLOSE, chunk(b"")]
            for number, at in enumerate(range(40, size, 37)):
                llama.breaks = [after(at, acts[number % 3])]
                llama.asked = []
                answer = await here.chat(stream=True, temperature=0)
                text, values, done = read(answer.content)
                assert (text, done) == (TEXT, True), (at, text)
                ids = {value["id"] for value in values}
                assert len(ids) == 1, (at, ids)
                roles = [v for v in values for c in v["choices"] if "role" in c["delta"]]
                assert len(roles) <= 1
                told = values[-1]["timings"]
                assert told["prompt_n"] + told["cache_n"] == PROMPT
                assert told["predicted_n"] == len(WORDS)
                assert len(llama.asked) == 2

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/chat/completions", {}, id="openai"),
        pytest.param("/v1/messages", {"max_tokens": 50}, id="anthropic"),
        pytest.param("/v1/responses", {"input": "hi"}, id="responses"),
        pytest.param("/api/chat", {}, id="ollama"),
    ],
)
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
def test_every_dialect_goes_on(path: str, body: dict[str, Any], streams: bool) -> None:
    """The answer equals the uncut one but for ids, times and what is announced; tokens are counted as a whole."""

    async def scene() -> None:
        async with Continuing() as llama, gateway_here(llama.url, settings=SETTINGS) as here:
            await proven(here, llama)
            asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
            if "input" in asked:
                del asked["messages"]
            answers = []
            for breaks in (None, after(700)):
                llama.breaks = [breaks]
                answer = await here.http.post(path, json={**asked, "stream": streams})
                assert answer.status_code == 200
                answers.append((answer.text, here.runtime.recorder.recent()[0]))
            (plain, first), (cut, second) = answers
            assert cut.count("kappa") == plain.count("kappa") >= 1
            assert cut.count("alpha") == plain.count("alpha")
            assert (first.resumed, second.resumed) == (0, 1)
            assert second.prompt_tokens == first.prompt_tokens == PROMPT
            assert second.completion_tokens == first.completion_tokens == len(WORDS)

    asyncio.run(scene())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"response_format": {"type": "json_object"}}, id="structured output"),
        pytest.param({"grammar": "root ::= [a-z]"}, id="grammar"),
        pytest.param({"n": 2}, id="n"),
        pytest.param({"logprobs": True}, id="logprobs"),
    ],
)
def test_what_must_not_be_continued_ends_with_an_error(fields: dict[str, Any]) -> None:
    """One attempt, and an error event in the place of the end."""

    async def scene() -> None:
        async with Continuing(after(700)) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                answer = await here.chat(stream=True, **fields)
                _, values, done = read(answer.content)
                assert not done
                assert values[-1]["error"]["code"] == "broken_stream"
                assert len(llama.asked) == 1

    asyncio.run(scene())


def test_a_server_that_begins_again_is_never_trusted() -> None:
    """The probe finds it out, so that nothing is said twice."""

    async def scene() -> None:
        async with Continuing(continues=False) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await here.chat()
                proofs = here.runtime.proofs
                assert proofs is not None
                await until(lambda: proofs._found)
                assert set(proofs._found.values()) == {frozenset()}
                probes = llama.probes
                llama.breaks = [after(700)]
                answer = await here.chat(stream=True)
                text, values, done = read(answer.content)
                assert TEXT.startswith(text)
                assert not done
                assert "error" in values[-1]
                await here.chat()
                await asyncio.sleep(0.05)
                assert llama.probes == probes  # once is enough

    asyncio.run(scene())


def test_with_the_setting_off_nothing_is_asked_and_nothing_continued() -> None:
    """No probe, one attempt."""

    async def scene() -> None:
        async with Continuing(None, after(700)) as llama, gateway_here(llama.url) as here:
            await here.chat()
            answer = await here.chat(stream=True)
            assert not read(answer.content)[2]
            assert (len(llama.asked), llama.probes) == (2, 0)

    asyncio.run(scene())


def test_a_server_that_dies_of_the_request_again_and_again_is_left_alone() -> None:
    """All attempts together stay within the policy, and what it looks like is said."""

    async def scene() -> None:
        breaks = [after(size) for size in (1100, 800, 500, 500)]
        async with Continuing(*breaks) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                answer = await here.chat(stream=True)
                text, values, done = read(answer.content)
                assert TEXT.startswith(text)
                assert not done
                error = values[-1]["error"]
                assert (error["code"], error["attempts"]) == ("out_of_memory", 3)
                assert len(llama.asked) == 3
                exchange = here.runtime.recorder.recent()[0]
                assert (exchange.resumed, exchange.resume_outcome) == (2, "gave_up")

    asyncio.run(scene())


@pytest.mark.parametrize("progresses", [True, False], ids=["tells progress", "does not"])
@pytest.mark.parametrize("first", range(690, 900, 31))
def test_an_answer_is_continued_twice(first: int, progresses: bool) -> None:
    """What the first continuation said is part of what the second one continues, whole events only."""

    async def scene() -> None:
        async with Continuing(after(first), after(900)) as llama:
            llama.progresses = progresses
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                text, values, done = read((await here.chat(stream=True)).content)
                assert (text, done) == (TEXT, True)
                assert values[-1]["timings"]["predicted_n"] == len(WORDS)
                assert here.runtime.recorder.recent()[0].resumed == 2

    asyncio.run(scene())


def test_it_waits_while_the_server_is_away_and_while_it_loads() -> None:
    """Heartbeats go on meanwhile; waiting is no attempt."""

    async def scene() -> None:
        settings = {**SETTINGS, "timeouts": {"heartbeat_s": 0.05}}
        async with Continuing(after(700)) as llama:
            async with gateway_here(llama.url, settings=settings) as here:
                await proven(here, llama)
                asking = asyncio.create_task(here.chat(stream=True))
                await until(lambda: llama.asked)
                await llama.leave()
                await asyncio.sleep(0.3)
                llama.ready = False
                await llama.come_back()
                await asyncio.sleep(0.3)
                assert not asking.done()
                llama.ready = True
                text, _, done = read((await asking).content)
                assert (text, done) == (TEXT, True)
                exchange = here.runtime.recorder.recent()[0]
                assert exchange.heartbeats
                assert len(exchange.attempts) == 2

    asyncio.run(scene())


def test_another_server_goes_on_and_learns_nothing_from_half_an_answer() -> None:
    """Both permits come back; times that are the first server's do not move the second one's limit."""

    async def scene() -> None:
        settings = {"resume": {"probe_after_s": 0.01, "wait_s": 0.1}}
        async with Continuing(after(700)) as box, Continuing() as spare:
            upstreams = (Upstream("box", box.url), Upstream("spare", spare.url))
            async with gateway_here(upstreams, settings=settings) as here:
                await until(lambda: all(state.profiles for state in here.runtime.fleet))
                first, second = here.runtime.fleet.states.values()
                second.gate.refusing = "paused"
                await proven(here, box)
                taught: list[str] = []
                for state in (first, second):

                    def noted(exchange: Exchange, *_: Any, **__: Any) -> None:
                        taught.append(exchange.upstream)

                    state.limit.learn = noted  # type: ignore[method-assign, assignment]
                asking = asyncio.create_task(here.chat(stream=True))
                await until(lambda: box.asked)
                await box.leave()
                second.gate.refusing = None
                text, _, done = read((await asking).content)
                assert (text, done) == (TEXT, True)
                assert len(spare.asked) == 1
                await until(lambda: not here.runtime.in_flight)
                exchange = here.runtime.recorder.recent()[0]
                assert (exchange.upstream, exchange.resumed) == ("spare", 1)
                assert [state.limiter.running for state in (first, second)] == [0, 0]
                assert not taught

    asyncio.run(scene())


def test_the_budget_of_the_continuation_is_what_is_left() -> None:
    """What was relayed counts."""

    async def scene() -> None:
        async with Continuing(after(1100)) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                await here.chat(stream=True, max_tokens=40)
                said = llama.asked[1]["messages"][-1]["content"]
                assert llama.asked[1]["max_tokens"] == 40 - len(said.split())

    asyncio.run(scene())


def test_a_client_that_leaves_while_its_answer_waits_leaves_nothing_behind() -> None:
    """No permit, no task, no further request."""

    async def scene() -> None:
        async with Continuing(after(700)) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                body = {
                    "model": "m",
                    "messages": [{"role": "user", "content": "hi"}],
                    "stream": True,
                }
                async with here.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    await llama.leave()
                    async for _ in answer.aiter_raw():
                        break
                state = here.runtime.fleet.get("box")
                await until(lambda: not here.runtime.in_flight)
                await until(lambda: not state.limiter.running)
                assert here.runtime.recorder.recent()[0].client_gone

    asyncio.run(scene())


def test_an_answer_that_is_whole_is_not_asked_for_again() -> None:
    """A connection that breaks behind the closing event is nobody's business."""

    async def scene() -> None:
        async with Continuing(lambda data: [CHUNKED_HEAD, chunk(data), RESET]) as llama:
            async with gateway_here(llama.url, settings=SETTINGS) as here:
                await proven(here, llama)
                answer = await here.chat(stream=True)
                assert read(answer.content)[::2] == (TEXT, True)
                assert len(llama.asked) == 1
                exchange = here.runtime.recorder.recent()[0]
                assert (exchange.resume_outcome, exchange.warnings) == ("", [])

    asyncio.run(scene())


def test_a_resumed_request_leaves_nothing_to_the_collector() -> None:
    """The error that broke the first part keeps nothing of the request alive."""

    async def scene() -> list[str]:
        async with Continuing() as llama, gateway_here(llama.url, settings=SETTINGS) as here:
            await proven(here, llama)
            gc.collect()
            before = {id(one) for one in gc.get_objects() if isinstance(one, LocalRun)}
            gc.disable()
            try:
                for _ in range(3):
                    llama.breaks = [after(700)]
                    assert read((await here.chat(stream=True)).content)[2]
                await asyncio.sleep(0)
                return [
                    type(one).__name__
                    for one in gc.get_objects()
                    if isinstance(one, LocalRun) and id(one) not in before
                ]
            finally:
                gc.enable()

    assert asyncio.run(scene()) == []


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("/v1/chat/completions", {"tools": TOOLS}, id="mended"),
        pytest.param(
            "/v1/messages",
            {"max_tokens": 9, "tools": [{"name": "look", "input_schema": {"type": "object"}}]},
            id="translated",
        ),
    ],
)
def test_what_was_held_back_is_sent_before_the_error(path: str, more: dict[str, Any]) -> None:
    """Text that might have become a call is the client's when the stream breaks; it never becomes one."""

    async def scene() -> None:
        held = '{"name": "look", "arguments": {"a": 1'
        thought = delta("")
        thought["choices"][0]["delta"] = {"reasoning_content": "hm"}
        script = [CHUNKED_HEAD, event(thought), event(delta(held)), RESET]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as here:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            answer = await here.http.post(path, json={**body, **more})
            assert answer.status_code == 200
            assert json.dumps(held)[1:-1] in answer.text
            assert answer.text.index("arguments") < answer.text.index("broken_stream")
            assert "tool_use" not in answer.text
            assert '"tool_calls"' not in answer.text

    asyncio.run(scene())


def test_a_heartbeat_tells_how_far_the_prompt_is() -> None:
    """In the comment line before its data, in dialects that have one."""

    async def scene() -> None:
        go_on = asyncio.Event()
        progress = {"choices": [], "prompt_progress": {"total": 900, "cache": 0, "processed": 300}}
        script = [CHUNKED_HEAD, event(progress), go_on, event(delta("hi", "stop")), event(b"[DONE]"), chunk(b"")]  # fmt: skip
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        async with (
            ScriptedLlama(script) as llama,
            gateway_here(llama.url, settings=settings) as here,
        ):
            asking = asyncio.create_task(here.chat(stream=True))
            await until(lambda: any(e.heartbeats > 1 for e in here.runtime.in_flight.values()))
            go_on.set()
            lines = (await asking).text.splitlines()
            told = lines.index(': penstock {"prefill":{"processed":300,"total":900}}')
            assert lines[told + 1].startswith("data: {")

    asyncio.run(scene())
