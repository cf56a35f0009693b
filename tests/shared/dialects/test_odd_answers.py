"""Servers' answers that no server should give: an error of the server's, never one of ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dialects.ollama.generate import CompletionReader
from penstock.dialects.ollama.upstream import ChatReader
from penstock.dialects.openai.chunks import ChunkReader
from penstock.domain.chat import StreamError, ToolCallDelta


def nested(depth: int) -> Any:
    """An object in an object in an object."""
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def chunk(arguments: Any) -> Any:
    """A chunk with a call."""
    call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": arguments}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def line(arguments: Any) -> Any:
    """The same as a line of Ollama's."""
    return {"message": {"tool_calls": [{"function": {"name": "look", "arguments": arguments}}]}}


@pytest.mark.parametrize(
    ("reader", "value"),
    [(ChunkReader("s"), chunk(nested(600))), (ChatReader("s"), line(nested(600)))],
    ids=["chunk", "line"],
)
def test_arguments_that_cannot_be_written_are_the_servers_error(reader: Any, value: Any) -> None:
    """They can be read and not be written again: nested deeper than JSON is written here."""
    (event,) = reader.read(value)
    assert isinstance(event, StreamError)


@pytest.mark.parametrize("calls", [7, 1.5, True, "look", {"function": {}}], ids=str)
def test_calls_that_are_no_list_are_none(calls: Any) -> None:
    """What has another shape is no call."""
    said = ChatReader("s").read({"message": {"content": "so", "tool_calls": calls}})
    assert not any(isinstance(event, ToolCallDelta) for event in said)


_NAMES = [
    "choices", "delta", "message", "tool_calls", "function", "arguments", "name", "id", "index", "text",
    "finish_reason", "usage", "timings", "prompt_progress", "content", "thinking", "done", "total",
    "prompt_tokens", "prompt_n", "prompt_eval_count", "function_call", "logprobs",
]  # fmt: skip
_ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_NAMES), inner),
    max_leaves=12,
)


@given(_ODD, st.sampled_from(["delta", "message"]))
def test_no_value_breaks_a_reader(value: Any, place: str) -> None:
    """Whatever JSON comes, wherever it stands, it becomes events."""
    for odd in (
        value,
        {"choices": [{place: value}]},
        chunk(value),
        line(value),
        {"message": value},
    ):
        for reader in (ChunkReader("s"), ChatReader("s"), CompletionReader()):
            assert isinstance(reader.read(odd), list)
            assert isinstance(reader.whole(odd), list)
