"""A conversation's history that no server chokes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated_arguments import JSON, steps_of
from penstock.toolcalls import history
from penstock.toolcalls.history import ARGUMENTS_NOTE, IMAGE_NOTE, mend_history, unseen_image


def call(arguments: Any) -> dict[str, Any]:
    """An assistant message with one call."""
    function = {"name": "t", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        pytest.param("{'a': True}", '{"a":true}', id="Python"),
        pytest.param('{"a": 1,}', '{"a":1}', id="trailing comma"),
        pytest.param("", "{}", id="nothing"),
        pytest.param('"{\\"a\\": 1}"', '{"a":1}', id="encoded twice"),
        pytest.param('{"a": "half a fi', ARGUMENTS_NOTE, id="cut off: never completed"),
        pytest.param("[1]", ARGUMENTS_NOTE, id="no object"),
        pytest.param("hello", ARGUMENTS_NOTE, id="no JSON"),
        pytest.param(None, ARGUMENTS_NOTE, id="null"),
        pytest.param('{"a":' * 5_000 + "1" + "}" * 5_000, ARGUMENTS_NOTE, id="nested without end"),
    ],
)
def test_broken_arguments(arguments: Any, right: str) -> None:
    """They are repaired where that is certain, else a note stands in their place; both announced."""
    messages = [{"role": "user", "content": "x"}, call(arguments)]
    mended, changes = mend_history(messages)
    assert mended[0] is messages[0]
    assert mended[1] == call(right)
    assert isinstance(json.loads(right), dict)
    assert [(change.field, change.action) for change in changes] == [
        ("messages[1].tool_calls[0].function.arguments", "rewritten")
    ]
    again, nothing = mend_history(mended)
    assert again is mended
    assert nothing == ()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(call('{"a" : 1, "a":2}'), id="odd but right"),
        pytest.param(call({"a": 1}), id="Ollama's objects"),
        pytest.param({"role": "assistant", "tool_calls": None}, id="no calls"),
        pytest.param({"role": "assistant", "tool_calls": [None, {}, {"function": 5}, {"function": {"name": "x"}}]}, id="odd calls"),
        pytest.param({"role": "user", "content": [{"type": "text", "text": "x"}, "y", 5]}, id="no image"),
        pytest.param({"role": "user"}, id="nothing"),
    ],
)  # fmt: skip
def test_what_needs_nothing_stays(message: Any) -> None:
    """The identical messages."""
    messages = [message]
    assert mend_history(messages, vision=False) == (messages, ())
    assert mend_history(messages, vision=False)[0] is messages


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_images_for_a_model_that_sees_none() -> None:
    """A note stands in their place; where the model may see, they stay, and so does what is asked about now."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, PICTURE, PICTURE]},
        {"role": "user", "content": "look", "images": ["AAAA"]},
        {"role": "user", "content": [PICTURE], "name": "kept"},
        {"role": "user", "content": [PICTURE]},
    ]
    for vision in (None, True):
        assert mend_history(messages, vision=vision)[0] is messages
    mended, changes = mend_history(messages, vision=False)
    note = {"type": "text", "text": IMAGE_NOTE}
    assert mended == [
        {"role": "user", "content": [{"type": "text", "text": "look"}, note, note]},
        {"role": "user", "content": f"look\n{IMAGE_NOTE}"},
        {"role": "user", "content": [note], "name": "kept"},
        messages[-1],
    ]
    assert [change.detail.split(" left")[0] for change in changes] == [
        "2 images",
        "1 image",
        "1 image",
    ]
    assert mend_history(mended, vision=False)[0] is mended


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([{"role": "user", "content": "look"}], "", id="text"),
        pytest.param([{"role": "user", "content": [PICTURE]}], "messages[0].content[0]", id="asked now"),
        pytest.param([{"role": "user", "images": ["AAAA"]}], "messages[0].images[0]", id="Ollama's way"),
        pytest.param(
            [{"role": "user", "content": [PICTURE]}, {"role": "user", "content": "and?"}],
            "",
            id="asked before",
        ),
        pytest.param(
            [{"role": "user", "content": "look"}, call("{}"), {"role": "tool", "content": [PICTURE]}],
            "messages[2].content[0]",
            id="what a tool showed",
        ),
    ],
)  # fmt: skip
def test_an_image_that_is_asked_about(messages: list[dict[str, Any]], place: str) -> None:
    """The first one in the last user message and what follows it."""
    assert unseen_image(messages) == place


@given(
    st.lists(
        st.one_of(
            JSON.map(call), st.text(max_size=20).map(call), JSON.map(lambda v: call(json.dumps(v)))
        ),
        max_size=5,
    )
)
def test_every_history_ends_well(messages: list[Any]) -> None:
    """Whatever a model wrote, all arguments are objects afterwards, and stay so."""
    mended, _ = mend_history(messages, vision=False)
    for message in mended:
        arguments = message["tool_calls"][0]["function"]["arguments"]
        assert isinstance(json.loads(arguments) if isinstance(arguments, str) else arguments, dict)
    assert mend_history(mended, vision=False)[0] is mended


def test_a_long_history_costs_little() -> None:
    """Messages without calls a few steps, calls seen before a few more; what is kept is bounded."""
    plain = [{"role": "user", "content": "x" * 100}] * 10_000
    assert steps_of(lambda: mend_history(plain)) < 10
    calls = [call(json.dumps({"n": n})) for n in range(100)]
    mend_history(calls)
    assert steps_of(lambda: mend_history(calls)) < 100 * 25
    for n in range(3_000):
        mend_history([call(json.dumps({"m": n}))])
    kept = history._kept.cache_info()
    assert kept.currsize == kept.maxsize


def test_a_part_of_an_odd_type_is_no_picture() -> None:
    """It stays as it came, and nothing raises."""
    odd = {"role": "user", "content": [{"type": []}, {"type": {}}]}
    messages = [odd, {"role": "user", "content": "hi"}]
    assert mend_history(messages, vision=False)[0] == messages
