"""What Claude Code sends, as recorded, through the dialect and back."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from messages_stream import read_strictly
from penstock.compress.nonce import without_nonces
from penstock.dialects.anthropic import MESSAGES, read_for_count
from penstock.dialects.base import AnswerHead
from penstock.dialects.openai.body import render_request
from penstock.domain.chat import (
    Event,
    Finished,
    Message,
    ReasoningDelta,
    TextDelta,
    TextPart,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from tree import ROOT

FOLDER = ROOT / "tests" / "fixtures" / "clients" / "claude-code"
TURNS = [path for path in sorted(FOLDER.glob("*.json")) if json.loads(path.read_text()).get("body")]
HEAD = AnswerHead("abc", "m", 1_700_000_000)


def body(name: str) -> dict[str, Any]:
    """The body of a recorded request."""
    found: dict[str, Any] = json.loads((FOLDER / f"recorded-{name}.json").read_text())["body"]
    return found


def sent(asked: dict[str, Any]) -> Sequence[Any]:
    """The messages as a local server gets them."""
    return without_nonces(render_request(MESSAGES.read(asked).chat)["messages"]).messages


def test_there_are_recordings() -> None:
    """Else nothing would be tested here."""
    assert len(TURNS) == 5


@pytest.mark.parametrize("path", TURNS, ids=lambda path: path.stem)
def test_every_request_of_claude_code_is_served(path: pathlib.Path) -> None:
    """Read, all its tools are offered, and what is left out is what a local server has no use for."""
    given = json.loads(path.read_text())["body"]
    asked = MESSAGES.read(given)
    assert asked.chat.stream
    assert asked.chat.max_output_tokens == given["max_tokens"]
    assert [tool.name for tool in asked.chat.tools] == [tool["name"] for tool in given["tools"]]
    assert asked.chat.extra["user"] == given["metadata"]["user_id"]
    assert {change.field for change in asked.changes} <= {
        "thinking.display", "thinking.budget_tokens", "context_management", "messages[1].output_config",
    }  # fmt: skip
    writer = MESSAGES.writer(HEAD, asked)
    stream = writer.write(ReasoningDelta("hm"))
    for number, tool in enumerate(asked.chat.tools):
        stream += writer.write(ToolCallDelta(number, f"c{number}", tool.name, "{}"))
    reader = read_strictly(stream + writer.write(Finished("tool_calls")) + writer.end(b""))
    assert [block["name"] for block in reader.blocks[1:]] == [
        tool["name"] for tool in given["tools"]
    ]


@pytest.mark.parametrize("path", TURNS, ids=lambda path: path.stem)
def test_every_request_of_claude_code_can_be_counted(path: pathlib.Path) -> None:
    """With the fields that it sends to `count_tokens`, which has no limit."""
    given = json.loads(path.read_text())["body"]
    counted = {name: given[name] for name in ("model", "messages", "system", "tools", "thinking")}
    assert read_for_count(counted).chat.messages == MESSAGES.read(given).chat.messages


@pytest.mark.parametrize("path", TURNS, ids=lambda path: path.stem)
def test_the_changing_line_is_found(path: pathlib.Path) -> None:
    """It is a line of its own at the head of the one system message, so it can be removed."""
    given = json.loads(path.read_text())["body"]
    first = MESSAGES.read(given).chat.messages[0]
    assert first.role == "system"
    assert first.text.startswith("x-anthropic-billing-header: ")
    assert first.text.split("\n")[0] == given["system"][0]["text"]
    content = sent(given)[0]["content"]
    assert content.startswith(given["system"][1]["text"])
    assert content.endswith(given["system"][2]["text"])
    assert "billing" not in content


@pytest.mark.parametrize(
    ("name", "effort"),
    [("first-turn", "high"), ("opus-first-turn", "medium"), ("sonnet-first-turn", True)],
)
def test_how_hard_to_think(name: str, effort: Any) -> None:
    """`adaptive` with an effort, and `enabled` with a budget."""
    assert MESSAGES.read(body(name)).chat.reasoning == effort


def test_the_system_message_in_mid_conversation() -> None:
    """A list first, a text from then on: the same message."""
    first, later = body("first-turn"), body("tool-result")
    assert isinstance(first["messages"][1]["content"], list)
    assert isinstance(later["messages"][1]["content"], str)
    one, other = (MESSAGES.read(given).chat.messages[2] for given in (first, later))
    assert one.role == "system"
    assert one == other


def test_the_next_request_has_this_one_as_its_prefix() -> None:
    """What the server has cached is sent again, message by message, although the session's nonce changed."""
    first, later = sent(body("first-turn")), sent(body("tool-result"))
    assert later[: len(first)] == first
    assert [message["role"] for message in later[len(first) :]] == ["assistant", "tool"]


def test_a_round_with_thinking_and_two_calls() -> None:
    """One turn of the assistant, then a message for each result."""
    messages = MESSAGES.read(body("thinking-and-two-calls")).chat.messages
    assert [message.role for message in messages] == [
        "system", "user", "system", "assistant", "tool", "tool",
    ]  # fmt: skip
    turn = messages[3]
    assert turn.reasoning == "I should write two files."
    assert turn.text == "Writing two files."
    assert [(call.id, call.name) for call in turn.tool_calls] == [
        ("toolu_1", "Write"),
        ("toolu_2", "Write"),
    ]
    assert json.loads(turn.tool_calls[0].arguments)["content"] == "hello"
    assert [message.tool_call_id for message in messages[4:]] == ["toolu_1", "toolu_2"]


def test_the_next_turn_has_what_this_one_said() -> None:
    """An answer that is sent back reads as the turn that it was."""
    events: list[Event] = [
        ReasoningDelta("hm, "),
        ReasoningDelta("so"),
        TextDelta("I look."),
        ToolCallDelta(0, "c1", "Read", '{"file_path":"a"}'),
        ToolCallDelta(1, "", "Bash"),
        Finished("tool_calls"),
        UsageReported(Usage(5, 6, 1)),
    ]
    first = body("first-turn")
    answer = MESSAGES.whole(events, HEAD, MESSAGES.read(first))
    back = {"role": answer["role"], "content": answer["content"]}
    turn = MESSAGES.read({**first, "messages": [*first["messages"], back]}).chat.messages[-1]
    assert turn == Message("assistant", (TextPart("I look."),), turn.tool_calls, reasoning="hm, so")
    assert [(call.id, call.name, call.arguments) for call in turn.tool_calls] == [
        ("c1", "Read", '{"file_path":"a"}'),
        ("toolu_abc_1", "Bash", "{}"),
    ]
