"""What of a message costs tokens, and under which key its count is remembered."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens import (
    Countable,
    countable,
    message_key,
    thinking_bytes,
    without_spent_thinking,
)
from penstock.tokens.message import json_bytes

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param({"role": "user", "content": "hi"}, Countable(("hi",)), id="text"),
        pytest.param({"role": "user", "content": ""}, Countable(()), id="empty text"),
        pytest.param({"role": "assistant", "content": None}, Countable(()), id="no content"),
        pytest.param({}, Countable(()), id="nothing at all"),
        pytest.param(
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            Countable(("a", "b")),
            id="text parts",
        ),
        pytest.param(
            {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
            Countable(("a",), images=1),
            id="an image",
        ),
        pytest.param(
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}],
            },
            Countable((), small_images=1),
            id="an image of low detail",
        ),
        pytest.param(
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]},
            Countable((), audio_or_other=1),
            id="audio",
        ),
        pytest.param(
            {"role": "user", "content": "see", "images": ["AAAA", "BBBB"]},
            Countable(("see",), images=2),
            id="images as Ollama has them",
        ),
        pytest.param(
            {"role": "assistant", "content": "so", "reasoning_content": "hm", "name": "bob"},
            Countable(("so", "hm", "bob")),
            id="thinking and a name",
        ),
        pytest.param(
            {"role": "assistant", "content": "", "thinking": "hm"},
            Countable(("hm",)),
            id="thinking as Ollama has it",
        ),
        pytest.param(
            {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
            Countable(("look", '{"at": 1}', "look", '{"at": 1}'), calls=2),
            id="tool calls",
        ),
        pytest.param(
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "look", "arguments": {"at": 1}}}],
            },
            Countable(("look", '{"at":1}'), calls=1),
            id="arguments as Ollama has them",
        ),
        pytest.param(
            {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
            Countable(("look", "{}"), calls=1),
            id="the old function call",
        ),
        pytest.param(
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            Countable(("found",)),
            id="a tool's result",
        ),
        pytest.param({"role": "user", "content": {"odd": 1}}, Countable(('{"odd":1}',)), id="odd"),
        pytest.param(
            {"role": 7, "content": [None, 3, "x"], "tool_calls": [None, "x", {"function": 3}]},
            Countable(("null", "3", "x"), calls=1),
            id="rubbish",
        ),
        pytest.param(["no", "message"], Countable(()), id="no object"),
    ],
)
def test_what_costs_tokens(message: Any, expected: Countable) -> None:
    """Content, names, thinking and calls are texts; images and other parts are counted; nothing raises."""
    assert countable(message) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"content": "b"}, {"content": "a"}, id="content"),
        pytest.param({"role": "system"}, {"role": "user"}, id="role"),
        pytest.param({"name": "x"}, {}, id="name"),
        pytest.param({"content": None}, {"content": ""}, id="none and empty"),
        pytest.param({"tool_calls": [CALL]}, {"tool_calls": []}, id="calls"),
        pytest.param({"content": ["a"]}, {"content": "a"}, id="list and text"),
    ],
)
def test_keys_tell_messages_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Messages that differ in anything have different keys; equal ones the same."""
    usual = {"role": "user", "content": "a"}
    assert message_key({**usual, **one}) != message_key({**usual, **other})
    assert message_key({**usual, **one}) == message_key(
        orjson.loads(orjson.dumps({**usual, **one}))
    )


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(levels):
        value = [value, {"a": 1}]
    return value


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(deep(20_000), id="nested 20,000 levels deep"),
        pytest.param("\ud800", id="half a surrogate"),
        pytest.param(2**70, id="a large number"),
        pytest.param(int("7" * 4000 + "0" * 4000, 16), id="a huge number"),
        pytest.param({"a": [1.5, True, None, {"b": ()}]}, id="plain"),
    ],
)
def test_odd_values_have_keys_and_texts(odd: Any) -> None:
    """What the fast writer refuses is written out without recursion."""
    message = {
        "role": "user",
        "content": "x",
        "odd": odd,
        "tool_calls": [{"function": {"arguments": [odd]}}],
    }
    assert message_key(message) == message_key(dict(message))
    assert countable(message).calls == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet="ab\u00e9"),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_json_written_out_here_has_the_size_of_json(value: Any) -> None:
    """The own writer agrees with the fast one on what both take, but for the size of commas and escapes."""
    plain = json_bytes(value)
    ours = json_bytes([value, 2**70])
    assert len(plain) <= len(ours) <= 2 * len(plain) + 60


@pytest.mark.parametrize(
    ("message", "size"),
    [
        pytest.param({"role": "assistant", "content": "x", "reasoning_content": "h\u00fc"}, 3, id="a field"),
        pytest.param({"role": "assistant", "content": "<think>a</think>b"}, 16, id="in the text"),
        pytest.param({"role": "assistant", "content": "a</think>b"}, 9, id="begun by the template"),
        pytest.param({"role": "assistant", "content": "a", "thinking": 3}, 0, id="nonsense"),
        pytest.param({"role": "user", "content": "say <think>a</think>"}, 0, id="a user's words"),
    ],
)  # fmt: skip
def test_thinking_is_what_templates_may_leave_out(message: dict[str, Any], size: int) -> None:
    """In bytes; of what the model said only."""
    assert thinking_bytes([message]) == size


@pytest.mark.parametrize("kind", [[], {}, ["image_url"], None, 3])
def test_a_part_of_an_odd_type_is_weighed(kind: Any) -> None:
    """Nothing of a stranger's message raises: its text counts, whatever it is said to be."""
    part = {"type": kind, "text": "hi"}
    assert countable({"role": "user", "content": [part]}) == Countable(("hi",))


def test_thinking_of_earlier_turns_is_left_out_as_templates_do() -> None:
    """That of the last turn stays; messages without any come back as the identical object."""
    plain = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert without_spent_thinking(plain) is plain
    thought = {"role": "assistant", "content": "b", "reasoning_content": "hm", "thinking": "hm"}
    messages = [plain[0], thought, plain[2], thought]
    assert without_spent_thinking(messages) == [*plain, thought]
    assert "reasoning_content" in thought
    assert without_spent_thinking([thought]) == [thought]
    assert without_spent_thinking([]) == []
