"""`/api/embed` and `/api/embeddings` in front of servers with `/v1/embeddings`."""

from __future__ import annotations

from typing import Any

import ollama
import pytest

from penstock.dialects.base import AnswerHead
from penstock.dialects.ollama.embeddings import (
    EMBED,
    EMBEDDINGS,
    embed_answer,
    embed_request,
    nothing_to_embed,
)
from penstock.errors import RequestError

HEAD = AnswerHead("abc", "e", 0)


@pytest.mark.parametrize(
    ("path", "body", "request_body", "announced"),
    [
        pytest.param(EMBED, {"model": "e", "input": "x"}, {"model": "e", "input": "x", "encoding_format": "float"}, [], id="one text"),
        pytest.param(EMBED, {"model": "e", "input": ["x", "y"], "dimensions": 64}, {"model": "e", "input": ["x", "y"], "encoding_format": "float", "dimensions": 64}, [], id="texts and dimensions"),
        pytest.param(EMBED, {"model": "e", "input": "x", "truncate": False, "dimensions": 0}, {"model": "e", "input": "x", "encoding_format": "float"}, [], id="what others do anyway"),
        pytest.param(EMBED, {"model": "e", "input": "x", "truncate": True, "keep_alive": "5m", "options": {"num_ctx": 1}, "odd": 1}, {"model": "e", "input": "x", "encoding_format": "float"}, ["odd", "truncate", "keep_alive", "options.num_ctx"], id="what others lack"),
        pytest.param(EMBEDDINGS, {"model": "e", "prompt": "x"}, {"model": "e", "input": "x", "encoding_format": "float"}, [], id="the older path"),
    ],
)  # fmt: skip
def test_requests(path: str, body: Any, request_body: Any, announced: list[str]) -> None:
    """The same texts; what has no word there is announced."""
    sent, changes = embed_request(body, path)
    assert sent == request_body
    assert [change.field for change in changes] == announced


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (EMBED, {"input": 1}, "input"), (EMBED, {"input": [1]}, "input"), (EMBED, {"input": "x", "dimensions": "many"}, "dimensions"),
        (EMBEDDINGS, {"prompt": ["x"]}, "prompt"), (EMBED, {"input": "x", "options": 1}, "options"), (EMBED, {"input": "x", "truncate": 1}, "truncate"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(path: str, body: Any, param: str) -> None:
    """By its field."""
    with pytest.raises(RequestError) as caught:
        embed_request(body, path)
    assert caught.value.param == param


def test_answers() -> None:
    """In the order of the inputs, whatever order they came in."""
    answer = {
        "data": [{"index": 1, "embedding": [0.2]}, {"index": 0, "embedding": [0.1]}],
        "usage": {"prompt_tokens": 7},
    }
    many = ollama.EmbedResponse.model_validate(embed_answer(answer, EMBED, HEAD))
    assert (many.model, many.embeddings, many.prompt_eval_count) == ("e", [[0.1], [0.2]], 7)
    one = ollama.EmbeddingsResponse.model_validate(embed_answer(answer, EMBEDDINGS, HEAD))
    assert one.embedding == [0.1]
    bare = embed_answer({"data": [{"embedding": [0.1]}]}, EMBED, HEAD)
    assert (bare["embeddings"], bare["prompt_eval_count"]) == ([[0.1]], 0)


@pytest.mark.parametrize(
    "answer", [{}, {"data": 1}, {"data": [1]}, {"data": [{"embedding": "AAAA"}]}]
)
def test_what_is_no_answer(answer: Any) -> None:
    """A body without embeddings is told as such."""
    with pytest.raises(ValueError, match=r"data|embedding"):
        embed_answer(answer, EMBED, HEAD)


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (EMBED, {"input": ""}, {"model": "e", "embeddings": []}), (EMBED, {"input": []}, {"model": "e", "embeddings": []}),
        (EMBED, {}, {"model": "e", "embeddings": []}), (EMBEDDINGS, {"prompt": ""}, {"embedding": []}), (EMBED, {"input": "x"}, None),
    ],
)  # fmt: skip
def test_nothing_to_embed(path: str, body: Any, answer: Any) -> None:
    """Ollama answers an empty input with no embeddings; others would refuse it."""
    assert nothing_to_embed(body, path, HEAD) == answer
