"""
Ollama's `/api/embed` and the older `/api/embeddings` in front of servers with `/v1/embeddings`.

Sources: `api/types.go` (EmbedRequest, EmbedResponse, EmbeddingRequest), `server/routes.go` (EmbedHandler:
an empty input loads the model and answers with no embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.dialects.base import AnswerHead
from penstock.dialects.ollama import fields
from penstock.dialects.shapes import wrong
from penstock.domain.change import Change

EMBED: Final = "/api/embed"
EMBEDDINGS: Final = "/api/embeddings"
_KNOWN = {
    EMBED: frozenset({"model", "input", "dimensions", "truncate", "keep_alive", "options"}),
    EMBEDDINGS: frozenset({"model", "prompt", "keep_alive", "options"}),
}


def embed_request(body: Mapping[str, Any], path: str) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """
    The body for `/v1/embeddings`, and what of the request is left out.

    Args:
        path: `/api/embed` or `/api/embeddings`.

    Raises:
        RequestError: with the field that is at fault.
    """
    changes = fields.left_out(body, _KNOWN[path])
    request: dict[str, Any] = {
        "model": fields.text_of(body, "model"),
        "input": _input(body, path),
        "encoding_format": "float",
    }
    if path == EMBED:
        dimensions = body.get("dimensions")
        if dimensions is not None:
            if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 0:
                raise wrong("dimensions", "a whole number", dimensions)
            if dimensions:
                request["dimensions"] = dimensions
        if fields.flag_of(body, "truncate", False):
            why = "other servers refuse a text that is too long, rather than embed its beginning"
            changes.append(Change("fit", "truncate", "dropped", why))
    if fields.keep_alive_of(body) is not None:
        changes.append(Change("sampling", "keep_alive", "dropped", "only Ollama lets models go"))
    changes += [
        Change("sampling", f"options.{name}", "dropped", "embeddings have no such option elsewhere")
        for name in sorted(fields.options_of(body))
    ]
    return request, tuple(changes)


def _input(body: Mapping[str, Any], path: str) -> str | list[str]:
    if path == EMBEDDINGS:
        return fields.text_of(body, "prompt")
    value = body.get("input")
    if value is None:
        return []
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise wrong("input", "a string or an array of strings", value)
    return value


def nothing_to_embed(body: Mapping[str, Any], path: str, head: AnswerHead) -> dict[str, Any] | None:
    """The answer to a request with an empty input, which other servers refuse; None when there is one."""
    if _input(body, path):
        return None
    if path == EMBEDDINGS:
        return {"embedding": []}
    return {"model": head.model, "embeddings": []}


def embed_answer(answer: Mapping[str, Any], path: str, head: AnswerHead) -> dict[str, Any]:
    """
    Ollama's body from the one of `/v1/embeddings`.

    Raises:
        ValueError: it is no such body; the sentence says what is missing.
    """
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError("the answer has no `data`")
    found: list[tuple[int, list[Any]]] = []
    for place, row in enumerate(rows):
        vector = row.get("embedding")
        if not isinstance(vector, list):
            raise ValueError(f"data[{place}] has no embedding of numbers")
        index = row.get("index")
        found.append((index if isinstance(index, int) else place, vector))
    vectors = [vector for _, vector in sorted(found, key=lambda pair: pair[0])]
    if path == EMBEDDINGS:
        return {"embedding": vectors[0] if vectors else []}
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return {
        "model": head.model,
        "embeddings": vectors,
        "total_duration": 0,
        "load_duration": 0,
        "prompt_eval_count": tokens if isinstance(tokens, int) else 0,
    }
