"""
The official SDKs in front of real model servers: one set of scenarios for every dialect, server and way of
answering. docs/dialects.md has the table of what is said here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateways import until
from sdk_clients import SDKS, Ask, BrokenOff, Messages, Native, Refusal, Responses, Sdk
from sdk_fronts import BATCH, FRONTS, KEY, SENTENCE, THOUGHT, WINDOW, Front

pytestmark = pytest.mark.real

TOOL = {
    "name": "get_weather",
    "description": "Tells the weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """A real server of each kind with a gateway before it."""
    with FRONTS[request.param](tmp_path_factory.mktemp(request.param)) as front:
        yield front


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest, front: Front) -> Sdk:
    """Each SDK as a client of that gateway."""
    return front.clients[request.param]


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def refusal(sdk: Sdk, ask: Ask) -> Refusal:
    """The SDK's own exception for a request that is refused."""
    with pytest.raises(sdk.errors) as raised:
        sdk.ask(ask)
    return sdk.told(raised.value)


def record(front: Front, headers: Any) -> dict[str, Any]:
    """What the gateway remembers of a request."""
    answer = front.gateway.http.get(
        f"/penstock/requests/{headers['penstock-request-id']}",
        headers={"authorization": f"Bearer {KEY}"},
    )
    return dict(answer.json())


@both_ways
def test_chat(sdk: Sdk, front: Front, stream: bool) -> None:
    """The model's words arrive, with the dialect's word for their end and the server's own usage."""
    history = [*sdk.user("How are you?"), *sdk.assistant("Well."), *sdk.user("And in Oslo?")]
    reply = sdk.ask(Ask("say", history, stream, system="You know the weather."))
    assert (reply.text, reply.thinking, reply.calls) == (SENTENCE, "", ())
    assert reply.stop == sdk.stops.end
    assert reply.order == ("text",)
    assert reply.model == "say"
    assert reply.pieces > 1 or not stream
    told = record(front, reply.headers)
    assert (reply.read, reply.written) == (told["prompt_tokens"], told["completion_tokens"])
    own = front.prompt_tokens(
        "say",
        [
            {"role": "system", "content": "You know the weather."},
            {"role": "user", "content": "How are you?"},
            {"role": "assistant", "content": "Well."},
            {"role": "user", "content": "And in Oslo?"},
        ],
    )
    assert reply.read == own


@both_ways
def test_output_limit(sdk: Sdk, stream: bool) -> None:
    """An answer that its limit cuts says so, and holds what came until then."""
    reply = sdk.ask(Ask("say", sdk.user("And in Oslo?"), stream, limit=3))
    assert reply.stop == sdk.stops.limit
    assert reply.written == 3
    assert reply.text
    assert SENTENCE.startswith(reply.text)
    assert reply.text != SENTENCE


@both_ways
def test_tools(sdk: Sdk, front: Front, stream: bool) -> None:
    """A call after a thought, carried out, its result sent back by the SDK's own objects, then the answer."""
    history = sdk.user("How is the weather in Oslo?")
    reply = sdk.ask(Ask("calls", history, stream, tools=[TOOL], thinking=True))
    assert reply.order == ("thinking", "call")
    assert reply.text == ""
    assert reply.thinking.strip() == THOUGHT
    assert reply.stop == sdk.stops.calls
    (call,) = reply.calls
    assert (call.name, call.arguments) == ("get_weather", {"city": "Oslo"})
    assert call.id
    history = [*history, *reply.again, *sdk.results([(call, "sunny, 12 degrees")])]
    answer = sdk.ask(Ask("say", history, stream, tools=[TOOL]))
    assert (answer.text, answer.stop) == (SENTENCE, sdk.stops.end)
    function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    said = {
        "role": "assistant",
        "content": "",
        "reasoning_content": reply.thinking,
        "reasoning": reply.thinking,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    own = front.prompt_tokens(
        "say",
        [
            {"role": "user", "content": "How is the weather in Oslo?"},
            said,
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 12 degrees"},
        ],
        [TOOL],
    )
    assert answer.read == own


@both_ways
def test_parallel_tools(sdk: Sdk, stream: bool) -> None:
    """Two calls of one answer stay two, in their order, and both results find their call."""
    history = sdk.user("How is the weather in Oslo and Bergen?")
    reply = sdk.ask(Ask("two", history, stream, tools=[TOOL]))
    assert [dict(call.arguments) for call in reply.calls] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert len({call.id for call in reply.calls}) == 2
    assert reply.stop == sdk.stops.calls
    assert reply.order == ("call", "call")
    results = [(call, f"{call.arguments['city']}: 12 degrees") for call in reply.calls]
    history = [*history, *reply.again, *sdk.results(results)]
    answer = sdk.ask(Ask("say", history, stream, tools=[TOOL]))
    assert (answer.text, answer.stop) == (SENTENCE, sdk.stops.end)


@both_ways
def test_thinking(sdk: Sdk, stream: bool) -> None:
    """A thought comes as a thought, before the text and never in it, and may be sent back."""
    history = sdk.user("How is the weather?")
    reply = sdk.ask(Ask("think", history, stream, thinking=True))
    assert (reply.thinking.strip(), reply.text) == (THOUGHT, SENTENCE)
    assert reply.order == ("thinking", "text")
    assert reply.stop == sdk.stops.end
    again = [*history, *reply.again, *sdk.user("And tomorrow?")]
    assert sdk.ask(Ask("think", again, stream, thinking=True)).text == SENTENCE


def white_png() -> bytes:
    """One white pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = len(data), zlib.crc32(kind + data)
        return length.to_bytes(4, "big") + kind + data + check.to_bytes(4, "big")

    head = b"\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00\xff"))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


@both_ways
def test_images(sdk: Sdk, stream: bool) -> None:
    """An image to a model that reads text only is refused in a sentence, never left out silently."""
    told = refusal(sdk, Ask("say", sdk.picture("What is this?", white_png()), stream))
    assert (told.kind, told.status) == (sdk.kind_of(400), 400)
    assert told.code in ("unsupported_input", "")
    assert "image" in told.message


@both_ways
def test_overflow_is_fitted(sdk: Sdk, front: Front, stream: bool) -> None:
    """A conversation longer than the window is answered, and what was done stands in the headers."""
    history = [
        message
        for turn in range(60)
        for message in (
            *sdk.user(f"Turn {turn}: the gate and the water level of the north pipe"),
            *sdk.assistant("The water level is low and the gate is open."),
        )
    ]
    reply = sdk.ask(Ask("say", [*history, *sdk.user("And now?")], stream, limit=32))
    assert reply.text == SENTENCE
    assert reply.headers["penstock-fitted"] == "window"
    assert int(reply.headers["penstock-prompt-tokens-original"]) > WINDOW
    assert int(reply.headers["penstock-window"]) == WINDOW
    assert 0 < reply.read < WINDOW
    assert record(front, reply.headers)["changes"]


@both_ways
def test_overflow_that_cannot_be_fitted(sdk: Sdk, stream: bool) -> None:
    """A client that wants no cut gets the refusal by which agents compact, as its SDK's own exception."""
    ask = Ask("say", sdk.user("the gate and the water " * 1000), stream)
    told = refusal(sdk, replace(ask, headers={"penstock-strategy": "off"}))
    assert (told.kind, told.status) == (sdk.kind_of(400), 400)
    assert told.code in ("context_length_exceeded", "")
    assert "prompt is too long: " in told.message
    assert f"maximum context length is {WINDOW} tokens" in told.message


@both_ways
def test_a_model_that_is_not_there(sdk: Sdk, front: Front, stream: bool) -> None:
    """404, with the names that exist."""
    told = refusal(sdk, Ask("absent", sdk.user("Hello"), stream))
    assert (told.kind, told.status) == (sdk.kind_of(404), 404)
    assert told.code in ("model_not_found", "")
    assert front.id_of("say") in told.message


@both_ways
def test_a_bad_request(sdk: Sdk, stream: bool) -> None:
    """400, with the field that is wrong."""
    told = refusal(sdk, Ask("say", [{"role": "nobody", "content": "Hello"}], stream))
    assert (told.kind, told.status) == (sdk.kind_of(400), 400)
    assert "role" in told.message


@both_ways
def test_a_wrong_key(sdk: Sdk, front: Front, stream: bool) -> None:
    """401."""
    stranger = SDKS[sdk.name](front.gateway.url, "not-the-key")
    told = refusal(stranger, Ask("say", stranger.user("Hello"), stream))
    stranger.close()
    assert (told.kind, told.status) == (sdk.kind_of(401), 401)
    assert told.code in ("unauthorized", "")


@both_ways
def test_a_server_that_is_down(sdk: Sdk, stream: bool) -> None:
    """502, after our attempts; the SDK is told not to multiply them."""
    told = refusal(sdk, Ask("gone/any", sdk.user("Hello"), stream))
    assert (told.kind, told.status) == (sdk.kind_of(502), 502)
    assert told.code in ("upstream_unreachable", "")


@both_ways
def test_a_full_queue(sdk: Sdk, front: Front, stream: bool) -> None:
    """429 where the SDK's clients wait and try again on it; Codex does so on 503 only."""
    body = {
        "model": "slow",
        "stream": True,
        "max_tokens": 3000,
        "messages": [{"role": "user", "content": "hi"}],
    }
    until(lambda: front.busy() == 0, 30.0, "a free slot")
    client = SDKS[sdk.name](front.narrow.url, KEY)
    with httpx.stream(
        "POST",
        f"{front.narrow.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
        trust_env=False,
    ) as first:
        chunks = first.iter_raw()
        next(chunks)
        told = refusal(client, Ask("slow", client.user("Hello"), stream))
    client.close()
    status = 503 if sdk.name == Responses.name else 429
    assert (told.kind, told.status) == (sdk.kind_of(status), status)
    assert told.code in ("queue_full", "")


@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["text", "tools"])
def test_count_tokens(front: Front, tools: tuple[dict[str, Any], ...]) -> None:
    """
    Anthropic's clients learn before they ask what a conversation weighs: llama.cpp's own count. Ollama counts for
    nobody, and shows tools to a model in a way that only its template knows: there these are an estimate.
    """
    sdk = front.clients["anthropic"]
    assert isinstance(sdk, Messages)
    text = "How are the gate and the water level in Oslo? " * 10
    ask = Ask("say", sdk.user(text), system="You know the weather.", tools=tools)
    body = sdk.body(ask)
    counted = sdk.client.messages.count_tokens(
        **{name: body[name] for name in ("model", "messages", "system", "tools") if name in body}
    ).input_tokens
    weighed = sdk.ask(ask).read
    if front.kind == "llamacpp":
        assert counted == weighed
    elif not tools:
        assert counted == pytest.approx(weighed, rel=0.1)
    else:
        assert counted > weighed / 2


@pytest.mark.parametrize("model", ["say", "calls", "two", "think"])
def test_the_stream_helpers(sdk: Sdk, model: str) -> None:
    """What the SDK's own helper folds a stream into is the plain answer."""
    tools = [TOOL] if model in ("calls", "two") else []
    history = sdk.user("How is the weather?")
    ask = Ask(model, history, tools=tools, thinking=model in ("calls", "think"))
    helped = sdk.helped(ask)
    if sdk.name == Native.name:
        assert helped is None
        return
    assert helped is not None
    plain = sdk.ask(ask)
    assert (helped.text, helped.thinking, helped.stop) == (plain.text, plain.thinking, plain.stop)
    assert (helped.order, helped.written) == (plain.order, plain.written)
    assert [(c.name, c.arguments) for c in helped.calls] == [
        (c.name, c.arguments) for c in plain.calls
    ]


def test_heartbeats(sdk: Sdk, front: Front) -> None:
    """While a long prompt is read, heartbeats keep the client waiting, and its SDK makes nothing of them."""
    until(lambda: front.busy() == 0, 60.0, "a free slot")
    text = f"{sdk.name}: " + "the gate and the water " * (1 if front.kind == "ollama" else 25)
    client = SDKS[sdk.name](front.narrow.url, KEY)
    reply = client.ask(Ask("slow", client.user(text), stream=True, limit=4))
    client.close()
    assert reply.written == 4
    told = front.narrow.http.get(
        f"/penstock/requests/{reply.headers['penstock-request-id']}",
        headers={"authorization": f"Bearer {KEY}"},
    ).json()
    assert told["heartbeats"] > 1


def test_models(sdk: Sdk, front: Front) -> None:
    """Every model stands in the listing that the SDK reads."""
    names = {front.id_of(name) for name in ("say", "calls", "two", "think", "embed", "slow")}
    assert set(sdk.models()) == names


def test_embeddings(sdk: Sdk) -> None:
    """Vectors, where the dialect has them; equal for equal texts."""
    made = sdk.embed("embed", ["the gate", "the water", "the gate"])
    if sdk.name == Messages.name:
        assert made is None
        return
    assert made is not None
    assert [len(one) for one in made] == [128] * 3
    assert made[0] == pytest.approx(made[2], abs=1e-3)
    assert made[0] != pytest.approx(made[1], abs=1e-3)


@both_ways
def test_what_only_ollamas_clients_ask(front: Front, stream: bool) -> None:
    """A prompt without a conversation, what a model is, and what is loaded, with the window that really runs."""
    sdk = front.clients["ollama"]
    assert isinstance(sdk, Native)
    client = sdk.client
    sdk.ask(Ask("say", sdk.user("Hello")))  # loads it
    given: Any = client.generate("say", "How is it in Oslo?", stream=stream)
    parts = list(given) if stream else [given]
    assert "".join(part.response for part in parts) == SENTENCE
    assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 7)
    shown = client.show("say")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == WINDOW
    assert {"completion", "tools"} <= set(shown.capabilities or ())
    until(
        lambda: (
            {m.model: m.context_length for m in client.ps().models}.get(front.id_of("say"))
            == WINDOW
        ),
        10.0,
        "the loaded model",
    )


# Hanging up

LONG = "the gate and the water " * 200
"""More than 2,500 tokens: twenty batches of the slow model."""


@pytest.mark.parametrize("stage", ["decoding", "prefill"])
@both_ways
def test_hanging_up(sdk: Sdk, front: Front, stream: bool, stage: str) -> None:
    """
    The slot is free soon after the SDK's asynchronous client was cancelled: in decoding within two seconds,
    in llama.cpp's prefill within two batches. Ollama computes a prompt to its end; the next request waits.
    """
    if stage == "prefill" and front.kind == "ollama":
        text = "the gate and the water "
    else:
        text = LONG if stage == "prefill" else "Hello"

    async def holds(condition: Callable[[], object], within_s: float) -> None:
        await asyncio.to_thread(until, condition, within_s)

    async def hang_up() -> None:
        for _ in range(5):  # the model says what comes: at times its end, with the first tokens
            ask = Ask("slow", sdk.user(text), stream, limit=4000)
            task = asyncio.create_task(sdk.wait(ask))
            await holds(lambda task=task: front.busy() == 1 or task.done(), 30.0)
            if stage == "decoding" and front.kind == "llamacpp":
                await holds(lambda task=task: front.decoded() > 0 or task.done(), 30.0)
            if not task.done():
                break
        assert not task.done()
        before = front.processed() if front.kind == "llamacpp" else 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        furthest = before

        def is_free() -> bool:
            nonlocal furthest
            if front.kind == "llamacpp":
                furthest = max(furthest, front.processed())
            return front.busy() == 0

        await holds(is_free, 2.0 if stage == "decoding" else 60.0)
        if stage == "prefill":
            assert furthest - before <= 2 * BATCH
        await holds(lambda: front.in_flight() == 0, 15.0)

    until(lambda: front.busy() == 0 and front.in_flight() == 0, 30.0, "a free slot")
    asyncio.run(hang_up())
    assert sdk.ask(Ask("slow", sdk.user("Hello"), limit=1)).written == 1


def test_a_server_that_dies_in_the_middle(sdk: Sdk, front: Front) -> None:
    """Half an answer is never taken for a whole one: an exception, or on Responses `response.failed`."""
    until(lambda: front.busy() == 0 and front.in_flight() == 0, 60.0, "a free slot")
    raised: Exception | None = None
    for _ in range(5):  # the model says what comes: at times its end, in the moment of its death
        pieces = sdk.pieces(Ask("slow", sdk.user("Hello"), stream=True, limit=4000))
        next(pieces)
        try:
            front.end_slow()
            for _ in pieces:
                pass
        except (*sdk.errors, BrokenOff) as exc:
            raised = exc
            break
        finally:
            front.revive_slow()
    assert raised is not None
    assert isinstance(raised, BrokenOff) == (sdk.name == Responses.name)
    assert "box" in str(raised)
