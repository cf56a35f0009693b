"""Answers that go on although their server died: on real servers, seen by real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import parts
from gateways import RunningGateway, until

pytestmark = pytest.mark.real

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
TEXT = "Words: " + " ".join(SYLLABLES[:36]) + ", Grüße 😀 und Schluss."
THOUGHT = "I ponder " + " ".join(SYLLABLES[36:56])
THINKS = f"<think>\n{THOUGHT}\n</think>\n\n{TEXT}"
RESUME = {"resume": {"probe_after_s": 0.05}, "log": {"level": "info"}}
GREEDY = {"temperature": 0, "max_tokens": 200}
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
