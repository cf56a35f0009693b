"""Calls that a model wrote as text (E3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated_arguments import ARGUMENTS, Sample, steps_of
from penstock.toolcalls.recover import may_become_call, recover_calls
from penstock.toolcalls.schema import ToolSet

TOOLS = ToolSet.of(
    [
        {"type": "function", "function": {"name": "get_weather", "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        }}},
        {"type": "function", "function": {"name": "odd", "parameters": {"type": "flag"}}},
    ]
)  # fmt: skip
OSLO = '{"city": "Oslo", "days": 3}'
ROME = '{"city":"Rome"}'


def named(arguments: str, name: str = "get_weather", key: str = "arguments") -> str:
    """A call in the usual notation."""
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def calls(text: str, *earlier: str) -> list[tuple[str, str]] | None:
    """Names and arguments of what was recovered."""
    found = recover_calls(text, TOOLS, earlier=lambda: earlier)
    return None if found is None else [(call.name, call.arguments) for call in found.calls]


W = "get_weather"
NOTATIONS = [
    pytest.param(f"<tool_call>\n{named(OSLO)}\n</tool_call>", [(W, OSLO)], id="Hermes"),
    pytest.param(f"\n<tool_call>{named(OSLO)}</tool_call>\n<tool_call>{named(ROME)}</tool_call><|im_end|>\n", [(W, OSLO), (W, ROME)], id="Hermes, two"),
    pytest.param(f"[TOOL_CALLS] [{named(OSLO)}, {named(ROME)}]", [(W, OSLO), (W, ROME)], id="Mistral, array"),
    pytest.param(f"[TOOL_CALLS]get_weather{OSLO}", [(W, OSLO)], id="Mistral, name and object"),
    pytest.param(f"[TOOL_CALLS]get_weather[CALL_ID]a1B2c3[ARGS]{OSLO}[TOOL_CALLS]get_weather[ARGS]{ROME}</s>", [(W, OSLO), (W, ROME)], id="Mistral, newest"),
    pytest.param(f"<|python_tag|>{named(OSLO, key='parameters')}<|eom_id|>", [(W, OSLO)], id="Llama 3"),
    pytest.param(f"<|python_tag|>{named(OSLO, key='parameters')}; {named(ROME, key='parameters')}", [(W, OSLO), (W, ROME)], id="Llama 3, two"),
    pytest.param(named(OSLO, key="parameters"), [(W, OSLO)], id="bare object"),
    pytest.param('{"type": "function", "name": "get_weather", "parameters": ' + OSLO + "}", [(W, OSLO)], id="bare object with its type"),
    pytest.param(named('{"days": "3", "city": "Oslo"}'), [(W, '{"days": 3, "city": "Oslo"}')], id="repaired"),
    pytest.param(named(json.dumps(OSLO)), [(W, '{"city":"Oslo","days":3}')], id="arguments as text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), NOTATIONS)
def test_notations(text: str, expected: Any) -> None:
    """Known notations become calls, whose arguments are the model's own text."""
    assert calls(text) == expected


@pytest.mark.parametrize(("text", "expected"), NOTATIONS)
def test_streams_wait_for_them(text: str, expected: Any) -> None:
    """Every beginning of a call may become one."""
    assert [end for end in range(len(text) + 1) if not may_become_call(text[:end], TOOLS)] == []
    assert [end for end in range(len(text) + 1) if not may_become_call(text[:end])] == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("The weather is fine.", id="text"),
        pytest.param(f"I call it: <tool_call>{named(OSLO)}</tool_call>", id="text before"),
        pytest.param(f"<tool_call>{named(OSLO)}</tool_call> Done.", id="text after"),
        pytest.param(f"{named(OSLO)} is what you asked for", id="text after a bare object"),
        pytest.param(f"<tool_call>{named(OSLO)}</tool_call>, <tool_call>{named(OSLO)}</tool_call>", id="text between"),
        pytest.param(f"```json\n{named(OSLO)}\n```", id="in a fence"),
        pytest.param(f"<tool_call>\n```\n{named(OSLO)}\n```\n</tool_call>", id="a fence inside"),
        pytest.param(f"<tool_call>{named(OSLO)}", id="not closed"),
        pytest.param(f"<tool_call>{named(OSLO)[:-3]}</tool_call>", id="cut off inside"),
        pytest.param(f"<tool_call>{named(OSLO)[:-3]}", id="cut off"),
        pytest.param(named(OSLO)[:-1], id="bare object, cut off"),
        pytest.param(named(OSLO, name="rm"), id="no tool of that name"),
        pytest.param(named(OSLO, name="odd"), id="a tool whose schema judges nothing"),
        pytest.param(named('{"days": 3}'), id="arguments that do not validate"),
        pytest.param(named("[]"), id="arguments that are no object"),
        pytest.param('{"name": "get_weather"}', id="no arguments"),
        pytest.param('{"name": "get_weather", "parameters": {"city": "x"}, "arguments": {"city": "x"}}', id="arguments twice"),
        pytest.param('{"name": "rm", "name": "get_weather", "parameters": {"city": "x"}}', id="name twice"),
        pytest.param('{"name": "get_weather", "parameters": {"city": "x"}, "note": 1}', id="something besides"),
        pytest.param('{"type": "example", "name": "get_weather", "parameters": {"city": "x"}}', id="of another type"),
        pytest.param('{"name": 5, "parameters": {"city": "x"}}', id="a name that is none"),
        pytest.param("[TOOL_CALLS] []", id="no calls"),
        pytest.param("[TOOL_CALLS] [1]", id="no objects"),
        pytest.param(f"[TOOL_CALLS] [{named(OSLO)}", id="array cut off"),
        pytest.param(f"[TOOL_CALLS] {OSLO}", id="no name"),
        pytest.param("<tool_call>" * 100_000, id="openers without end"),
        pytest.param("<tool_call>" + "[" * 100_000, id="brackets without end"),
        pytest.param(f"<tool_call>{named(OSLO)}</tool_call>" * 65, id="too many"),
    ],
)  # fmt: skip
def test_all_else_stays_text(text: str) -> None:
    """One thing that speaks against it is enough."""
    assert calls(text) is None


CALL = f"<tool_call>\n{named(OSLO)}\n</tool_call>"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(f"Say this: {CALL}", id="verbatim"),
        pytest.param(f"Say this: {named(OSLO)}", id="without its frame"),
        pytest.param(CALL.replace("\n", " ").replace(": ", ":"), id="with other white space"),
        pytest.param(json.dumps({"page": CALL}), id="inside JSON"),
        pytest.param(json.dumps(json.dumps([CALL], indent=2)), id="inside JSON inside JSON"),
        pytest.param(f"```\n{CALL}\n```", id="in a fence"),
    ],
)
def test_what_stands_in_an_earlier_message_is_not_executed(document: str) -> None:
    """A document that quotes or plants a call does not get it executed."""
    assert calls(CALL, "Hello", document) is None
    assert calls(CALL, "Hello", document.replace("Oslo", "Rome")) == [(W, OSLO)]


def test_earlier_messages_are_read_only_when_all_else_is_right() -> None:
    """Long conversations cost nothing where no call was written."""

    def earlier() -> list[str]:
        raise AssertionError

    assert recover_calls("Hello", TOOLS, earlier=earlier) is None
    assert recover_calls(named("{}"), TOOLS, earlier=earlier) is None


def test_without_tools_nothing_is_a_call() -> None:
    """Only what the request offers can be called."""
    assert recover_calls(CALL, ToolSet.of([]), earlier=list) is None


@pytest.mark.parametrize(
    ("begin", "may"),
    [
        pytest.param("", True, id="nothing yet"),
        pytest.param("  \n", True, id="white space"),
        pytest.param(" " * 300, False, id="white space without end"),
        pytest.param("H", False, id="text"),
        pytest.param("<", True, id="a bracket"),
        pytest.param("<b", False, id="HTML"),
        pytest.param("<tool_ca", True, id="half an opener"),
        pytest.param("<tool_call> {", True, id="an opener"),
        pytest.param("<tool_call> I", False, id="an opener and text"),
        pytest.param("[1", False, id="a list"),
        pytest.param("[TOOL_CALLS] [ {", True, id="Mistral"),
        pytest.param("[TOOL_CALLS]get_w", True, id="half a name"),
        pytest.param("[TOOL_CALLS]get_x", False, id="another name"),
        pytest.param('{"', True, id="an object"),
        pytest.param('{"na', True, id="half a key"),
        pytest.param('{"city"', False, id="another key"),
        pytest.param('{"name": "get_we', True, id="half a name in an object"),
        pytest.param('{"name": "Oslo"', False, id="an object that names something else"),
        pytest.param("{}", False, id="an empty object"),
        pytest.param("```json", False, id="a fence"),
        pytest.param(f"<tool_call>{named(OSLO)}</tool_call>\nThat", False, id="text after a call"),
    ],
)
def test_beginnings(begin: str, may: bool) -> None:
    """Text is let go as soon as it cannot be a call."""
    assert may_become_call(begin, TOOLS) == may


def test_asking_costs_the_same_for_every_piece() -> None:
    """However long the answer is by then."""
    long = "<tool_call>" + named(json.dumps({"city": "x" * 1_000_000}))
    assert steps_of(lambda: may_become_call(long, TOOLS)) == steps_of(
        lambda: may_become_call(long[:2_000], TOOLS)
    )


@given(
    ARGUMENTS,
    st.sampled_from(["<tool_call>{}</tool_call>", "[TOOL_CALLS][{}]", "<|python_tag|>{}", "{}"]),
)
def test_any_arguments_are_recovered_and_never_completed(case: Sample, frame: str) -> None:
    """Every call that a model may write becomes that call; cut anywhere it stays text."""
    tools = ToolSet.of([{"name": "t", "parameters": case.schema}])
    arguments = json.dumps(case.value)
    text = frame.replace("{}", named(arguments, "t"))
    found = recover_calls(text, tools, earlier=list)
    assert found is not None
    assert [(call.name, call.arguments, call.repairs) for call in found.calls] == [
        ("t", arguments, ())
    ]
    for end in range(len(text)):
        assert recover_calls(text[:end], tools, earlier=list) is None
        assert may_become_call(text[:end], tools)


@given(
    st.text(max_size=30),
    st.sampled_from(["", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "{", '{"name":']),
)
def test_any_text_does_no_harm(text: str, opener: str) -> None:
    """It stays text."""
    assert calls(opener + text) is None
    may_become_call(opener + text, TOOLS)
