"""How each kind is asked to count, and what is read from its answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from penstock.domain.upstream import ServerKind as K
from penstock.servers import SPECS, spec
from penstock.servers.base import Counting
from penstock.servers.counting import SEPARATOR

CHAT = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function"}],
    "temperature": 0.5,
}


def counting(kind: K) -> Counting:
    found = spec(kind).counting
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "path", "body", "answer"),
    [
        pytest.param(
            K.LLAMACPP, "/tokenize", {"model": "m", "content": ["one two"]}, {"tokens": [5, 6]},
            id="llama.cpp",
        ),
        pytest.param(
            K.VLLM, "/tokenize", {"model": "m", "prompt": "one two", "add_special_tokens": False},
            {"count": 2, "max_model_len": 4096, "tokens": [5, 6]}, id="vLLM",
        ),
        pytest.param(
            K.SGLANG, "/v1/tokenize",
            {"model": "m", "prompt": ["one two"], "add_special_tokens": False},
            {"tokens": [[5, 6]], "count": [2], "max_model_len": 4096}, id="SGLang",
        ),
        pytest.param(
            K.TGI, "/tokenize", {"inputs": "one two", "add_special_tokens": False},
            [{"id": 5, "text": "one"}, {"id": 6, "text": " two"}], id="TGI",
        ),
        pytest.param(
            K.KOBOLDCPP, "/api/extra/tokencount", {"prompt": "one two", "special": False},
            {"value": 2, "ids": [5, 6]}, id="KoboldCpp",
        ),
        pytest.param(
            K.TEXTGEN, "/v1/internal/token-count", {"text": "one two"}, {"length": 2}, id="textgen"
        ),
        pytest.param(
            K.TABBYAPI, "/v1/token/encode",
            {"text": "one two", "add_bos_token": False, "encode_special_tokens": True},
            {"tokens": [5, 6], "length": 2}, id="TabbyAPI",
        ),
        pytest.param(
            K.LOCALAI, "/v1/tokenize", {"model": "m", "content": "one two"}, {"tokens": [5, 6]},
            id="LocalAI",
        ),
    ],
)  # fmt: skip
def test_a_text_is_counted(kind: K, path: str, body: Any, answer: Any) -> None:
    """The question by the server's own words, and the count from its answer."""
    how = counting(kind)
    assert how.path == path
    assert how.body("m", ["one two"]) == body
    assert how.read(answer, 1) == [2]


@pytest.mark.parametrize("kind", [one.kind for one in SPECS.values() if one.counting])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="no JSON"),
        pytest.param({}, id="empty"),
        pytest.param({"error": "Unexpected endpoint or method. (POST /tokenize)"}, id="an error with 200"),
        pytest.param(
            {"count": -1, "tokens": "x", "value": True, "length": 2.5, "tokenize_response": 3,
             "input_tokens": None, "prompt": ""},
            id="wrong types",
        ),
        pytest.param("text", id="a text"),
    ],
)  # fmt: skip
def test_answers_that_say_nothing_are_none(kind: K, answer: Any) -> None:
    """Nothing that a stranger answers raises or is taken for a count."""
    how = counting(kind)
    assert how.read(answer, 1) is None
    assert [chat.read(answer) for chat in how.chats] == [None] * len(how.chats)


def test_llamacpp_counts_many_texts_in_one_question() -> None:
    """Numbers between the texts come back between their tokens."""
    how = counting(K.LLAMACPP)
    body = how.body("m", ["a", "bb", "c"])
    assert body["content"] == ["a", SEPARATOR, "bb", SEPARATOR, "c"]
    assert how.read({"tokens": [1, SEPARATOR, 2, 3, SEPARATOR, 4]}, 3) == [1, 2, 1]
    assert how.read({"tokens": [SEPARATOR, SEPARATOR]}, 3) == [0, 0, 0]
    assert how.read({"tokens": [1, 2, 3]}, 3) is None


def test_sglang_counts_several_texts() -> None:
    """A list of prompts has a list of counts."""
    how = counting(K.SGLANG)
    assert how.read({"count": [3, 4]}, 2) == [3, 4]
    assert how.read({"count": 3}, 1) == [3]
    assert how.read({"count": [3]}, 2) is None


@pytest.mark.parametrize(
    ("kind", "place", "answer", "found"),
    [
        pytest.param(K.LLAMACPP, 0, {"input_tokens": 18}, 18, id="llama.cpp counts"),
        pytest.param(K.LLAMACPP, 1, {"prompt": "<s>hi"}, "<s>hi", id="older llama.cpp renders"),
        pytest.param(K.VLLM, 0, {"count": 9}, 9, id="vLLM"),
        pytest.param(K.TGI, 0, {"tokenize_response": [1, 2, 3]}, 3, id="TGI"),
        pytest.param(K.TABBYAPI, 0, {"tokens": [], "length": 7}, 7, id="TabbyAPI"),
    ],
)
def test_a_whole_conversation_is_counted(kind: K, place: int, answer: Any, found: object) -> None:
    """What is rendered goes along (sampling does not), and the count or the text is read."""
    way = counting(kind).chats[place]
    body = way.body("m", CHAT)
    assert "temperature" not in body
    assert orjson.dumps(CHAT["messages"]) in orjson.dumps(body)
    assert way.read(answer) == found


def test_what_is_known_only_from_documentation_is_marked() -> None:
    """Only a server that was really asked counts as recorded."""
    recorded = {
        one.kind for one in SPECS.values() if one.counting and one.counting.knowledge == "recorded"
    }
    assert recorded == {K.LLAMACPP}
