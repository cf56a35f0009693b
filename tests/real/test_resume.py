"""Answers that go on although their server died: on real servers, seen by real clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

import parts
from gateways import RunningGateway, free_port, until
from penstock.adapters.tiny_templates import THINKING_TEMPLATE

pytestmark = pytest.mark.real

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
TEXT = "Words: " + " ".join(SYLLABLES[:36]) + ", Grüße 😀 und Schluss."
THOUGHT = "I ponder " + " ".join(SYLLABLES[36:56])
THINKS = f"<think>\n{THOUGHT}\n</think>\n\n{TEXT}"
RESUME = {"resume": {"probe_after_s": 0.05}, "log": {"level": "info"}}
GREEDY = {"temperature": 0, "max_tokens": 200}
OPEN_TEMPLATE = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}"
    "<|im_start|>{{ .Role }}\n{{ .Content }}"
    '{{ if or (ne .Role "assistant") (not $last) }}<|im_end|>\n{{ end }}'
    '{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant\n{{ end }}{{- end }}'
)
"""Of Ollama's, like those of its library: an assistant's message at the end is left open."""
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def proven(gateway: RunningGateway) -> str:
    """Waits until the gateway has tried the server out; the line of its log that says what it found."""
    line = "answers that break off are continued"
    return str(until(lambda: next((row for row in gateway.log().splitlines() if line in row), "")))


def streamed(
    gateway: RunningGateway, server: parts.LlamaCpp, cut: int | None, **fields: Any
) -> tuple[str, str, list[dict[str, Any]], str]:
    """
    A stream whose server is killed and started again after *cut* pieces of output.

    Returns:
        its thinking, its text, its chunks, and the comment before its end.
    """
    body = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    thinking, text, comment = "", "", ""
    chunks: list[dict[str, Any]] = []
    pieces = 0
    with gateway.http.stream(
        "POST", "/v1/chat/completions", json={**body, **GREEDY, **fields}
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith(":"):
                comment = line
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            value = json.loads(line[6:])
            assert "error" not in value, value
            chunks.append(value)
            for choice in value["choices"]:
                said = choice["delta"].get("content") or ""
                thought = choice["delta"].get("reasoning_content") or ""
                text += said
                thinking += thought
                pieces += bool(said or thought)
            if cut is not None and pieces >= cut:
                cut = None
                server.kill()
                server.start_again()
    assert line == "" or line == "data: [DONE]"
    return thinking, text, chunks, comment


@pytest.fixture(scope="module")
def talker(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[parts.LlamaCpp, RunningGateway]]:
    """A server that speaks slowly enough to be killed in mid-sentence, and a gateway that knows it."""
    with parts.start_llamacpp("slow", says=TEXT, by_words=True, parallel=2) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}], **RESUME}
        with RunningGateway(tmp_path_factory.mktemp("gateway"), settings) as gateway:
            gateway.chat(**GREEDY)
            proven(gateway)
            yield server, gateway


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7, 11, 13, 17, 20, 23, 26, 29])
def test_a_stream_goes_on_after_its_server_was_killed(
    talker: tuple[parts.LlamaCpp, RunningGateway], cut: int
) -> None:
    """The client has the text of an uncut stream, once, in one stream of one id, with its counts and its end."""
    server, gateway = talker
    _, text, chunks, comment = streamed(
        gateway, server, cut, stream_options={"include_usage": True}
    )
    assert text == TEXT
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert sum("role" in choice["delta"] for chunk in chunks for choice in chunk["choices"]) == 1
    facts = json.loads(comment.removeprefix(": penstock "))
    assert facts["resumed"] == 1
    told = gateway.request(facts["request_id"])
    assert (told["resumed"], told["outcome"], len(told["attempts"])) == (1, "success", 2)
    usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
    assert usage["prompt_tokens"] == told["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    whole = gateway.chat(**GREEDY).json()["usage"]
    assert usage["prompt_tokens"] == whole["prompt_tokens"]
    assert usage["completion_tokens"] == whole["completion_tokens"]


@pytest.mark.parametrize("cut", [2, 9, 15, 19, 25, 30])
def test_thinking_goes_on_as_thinking(
    thinker: tuple[parts.LlamaCpp, RunningGateway],
    cut: int,
) -> None:
    """Cut in its thinking or in the text behind that: both are as they would have been."""
    server, gateway = thinker
    thinking, text, _, comment = streamed(gateway, server, cut)
    assert (thinking.strip(), text) == (THOUGHT, TEXT)
    assert json.loads(comment.removeprefix(": penstock "))["resumed"] == 1


@pytest.fixture(scope="module")
def thinker(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[parts.LlamaCpp, RunningGateway]]:
    """The same with a model that thinks."""
    template = THINKING_TEMPLATE
    with parts.start_llamacpp("slow", says=THINKS, template=template, by_words=True) as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}], **RESUME}
        with RunningGateway(tmp_path_factory.mktemp("thinker"), settings) as gateway:
            gateway.chat(**GREEDY)
            assert "text after thinking" in proven(gateway)
            yield server, gateway


def test_an_answer_to_a_request_with_tools_goes_on(
    talker: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """Agents always offer tools: text that is no call goes on."""
    server, gateway = talker
    assert streamed(gateway, server, 9, tools=[TOOL])[1] == TEXT


def test_the_openai_client_sees_one_answer(
    talker: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """Its stream helper adds up the text once, with one role, and usage."""
    server, gateway = talker
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    pieces = 0
    with client.chat.completions.stream(
        model="any",
        messages=[{"role": "user", "content": "hello"}],
        temperature=0,
        max_tokens=200,
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            pieces += event.type == "content.delta"
            if pieces == 8 and event.type == "content.delta":
                server.kill()
                server.start_again()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == TEXT
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"


def test_the_anthropic_client_sees_one_message(
    talker: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """A translated stream goes on in the same block."""
    server, gateway = talker
    client = anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0)
    with client.messages.stream(
        model="any",
        max_tokens=200,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "hello"}],
    ) as stream:
        for number, _ in enumerate(stream.text_stream, 1):
            if number == 8:
                server.kill()
                server.start_again()
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == TEXT  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    whole = client.messages.create(
        model="any",
        max_tokens=200,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "hello"}],
    )
    assert message.usage.output_tokens == whole.usage.output_tokens


def test_a_plain_answer_goes_on_too(
    talker: tuple[parts.LlamaCpp, RunningGateway],
) -> None:
    """What was generated before the server died is not generated again."""
    server, gateway = talker
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.chat, **GREEDY)
        until(
            lambda: any(
                r["stage"] == "streaming" for r in gateway.status()["requests"]["in_flight"]
            )
        )
        time.sleep(0.2)
        server.kill()
        server.start_again()
        answer = waiting.result(60)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    told = gateway.request(answer.headers["penstock-request-id"])
    assert (told["resumed"], len(told["attempts"])) == (1, 2)


def test_metrics_count_what_went_on(talker: tuple[parts.LlamaCpp, RunningGateway]) -> None:
    """By upstream and outcome."""
    server, gateway = talker
    streamed(gateway, server, 4)
    line = 'penstock_streams_resumed_total{outcome="resumed",upstream="box"}'
    assert line in gateway.http.get("/metrics").text


def test_another_server_with_the_same_model_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Where the first one stays away."""
    with (
        parts.start_llamacpp("slow", says=TEXT, by_words=True) as first,
        parts.start_llamacpp("slow", says=TEXT, by_words=True) as second,
    ):
        upstreams = [{"name": "one", "url": first.url}, {"name": "two", "url": second.url}]
        settings = {"upstreams": upstreams, **RESUME}
        with RunningGateway(tmp_path_factory.mktemp("two"), settings) as gateway:
            model = gateway.http.get("/v1/models").json()["data"][0]["id"]
            gateway.chat(**GREEDY, model=model)
            proven(gateway)
            servers = {"one": first, "two": second}
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "hello"}],
                "stream": True,
                **GREEDY,
            }
            text, killed = "", ""
            with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    value = json.loads(line[6:])
                    assert "error" not in value
                    text += value["choices"][0]["delta"].get("content") or ""
                    if len(text) > 20 and not killed:
                        killed = answer.headers["penstock-upstream"]
                        servers[killed].kill()
            assert text == TEXT
            told = gateway.request(answer.headers["penstock-request-id"])
            assert [a["upstream"] for a in told["attempts"]] == [
                killed,
                "two" if killed == "one" else "one",
            ]
            assert gateway.status()["requests"]["in_flight"] == []
            metrics = gateway.http.get("/metrics").text
            for name in ("one", "two"):
                assert f'penstock_requests_in_flight{{upstream="{name}"}} 0.0' in metrics


def broken(gateway: RunningGateway, and_then: Callable[[], None]) -> tuple[str, dict[str, Any]]:
    """A stream whose server is ended in the middle. Returns its text and its error."""
    body = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    text, error, done = "", {}, False
    with gateway.http.stream("POST", "/v1/chat/completions", json={**body, **GREEDY}) as answer:
        for line in answer.iter_lines():
            assert line != "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            value = json.loads(line[6:])
            if "error" in value:
                error = value["error"]
                continue
            text += value["choices"][0]["delta"].get("content") or ""
            if len(text) > 20 and not done:
                done = True
                and_then()
    return text, error


def test_a_server_that_came_back_as_another_one_goes_on_with_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The stream ends with an error event: what another model would say is not the rest of it."""
    with parts.start_llamacpp("slow", says=TEXT, by_words=True, alias="m") as server:
        settings = {"upstreams": [{"name": "box", "url": server.url}], **RESUME}
        with RunningGateway(tmp_path_factory.mktemp("other"), settings) as gateway:
            gateway.chat(**GREEDY)
            proven(gateway)

            def replace() -> None:
                server.kill()
                server.start_again(model=str(parts.model("tiny")))

            text, error = broken(gateway, replace)
            assert TEXT.startswith(text)
            assert text != TEXT
            assert error["code"] == "broken_stream"


def test_a_server_that_stays_away_ends_the_stream_with_an_error(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """After `resume.wait_s`, and with the setting off at once."""
    with parts.start_llamacpp("slow", says=TEXT, by_words=True) as server:
        settings = {
            "upstreams": [{"name": "box", "url": server.url}],
            "resume": {"probe_after_s": 0.05, "wait_s": 0.5},
        }
        with RunningGateway(tmp_path_factory.mktemp("away"), settings) as gateway:
            gateway.chat(**GREEDY)
            proven(gateway)
            text, error = broken(gateway, server.kill)
            assert TEXT.startswith(text)
            assert (error["code"], error["attempts"]) == ("broken_stream", 1)
            counted = 'penstock_streams_resumed_total{outcome="gave_up",upstream="box"} 1.0'
            assert counted in gateway.http.get("/metrics").text


def tried(gateway: RunningGateway, model: str, found: str) -> None:
    """Asks until the gateway has tried a model out: that it is loaded is known after a look."""
    for _ in range(4):
        gateway.chat(**GREEDY, model=model)
        with contextlib.suppress(AssertionError):
            until(lambda: found in gateway.log(), 15.0)
            return
    raise AssertionError(f"not in the log: {found}")


def test_ollama_is_proven_where_its_template_lets_it(
    ollama: Callable[..., parts.Ollama], tmp_path: Path
) -> None:
    """A template that leaves the last message open is, one that closes it is not."""
    server = ollama(name="open", says=TEXT, by_words=True, template=OPEN_TEMPLATE)
    server.create("closed", parts.model(says=TEXT, by_words=True), num_ctx=2048)
    settings = {"upstreams": [{"name": "box", "url": server.url}], **RESUME}
    with RunningGateway(tmp_path, settings) as gateway:
        for model, found in (
            ("closed", "answers are not continued"),
            ("open", "answers that break off are continued"),
        ):
            tried(gateway, model, found)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ten_streams_survive_their_supervised_server(tmp_path: Path) -> None:
    """A server that Penstock runs is killed while it writes: every client has its whole answer, once."""
    model = parts.model("slow", says=TEXT, by_words=True)
    command = (
        sys.executable, "-m", "penstock", "llama-server", str(model), "--port", str(free_port()),
        "--ctx-size", "4096", "--threads", "1", "--parallel", "2",
    )  # fmt: skip
    settings = {**RESUME, "supervise": {"first_delay_s": 0.1}}
    with RunningGateway(tmp_path, settings, flags=("--supervise", "--", *command)) as gateway:
        gateway.chat(**GREEDY)
        proven(gateway)
        texts = [""] * 10
        pid = int(gateway.upstream()["supervised"]["pid"])

        def ask(number: int) -> bool:
            said = f"Tell me story number {number}."
            body = {"model": "any", "messages": [{"role": "user", "content": said}], **GREEDY}
            done = False
            with (
                httpx.Client(timeout=90.0, trust_env=False) as http,
                http.stream(
                    "POST", f"{gateway.url}/v1/chat/completions", json={**body, "stream": True}
                ) as answer,
            ):
                for line in answer.iter_lines():
                    done = done or line == "data: [DONE]"
                    if line.startswith("data: {"):
                        value = json.loads(line[6:])
                        assert "error" not in value, value
                        texts[number] += value["choices"][0]["delta"].get("content") or ""
            return done

        with ThreadPoolExecutor(10) as pool:
            asking = [pool.submit(ask, number) for number in range(10)]
            until(lambda: sum(len(text) > 9 for text in texts) >= 2, 30.0, "two streams write")
            os.kill(pid, signal.SIGKILL)
            assert all(one.result() for one in asking)
        assert texts == [TEXT] * 10
        recent = gateway.status()["requests"]["recent"]
        assert sum(request["resumed"] for request in recent) >= 1
        assert gateway.status()["requests"]["in_flight"] == []
        assert gateway.upstream()["supervised"]["restarts"] == 1
