"""What Codex sends, by its sources and as recorded, through the dialect and back."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from penstock.dialects.base import AnswerHead
from penstock.dialects.responses import RESPONSES
from penstock.domain.chat import (
    Finished,
    ImagePart,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from responses_stream import read_strictly
from tree import ROOT

FOLDER = ROOT / "tests" / "fixtures" / "clients" / "codex"
HEAD = AnswerHead("abc", "m", 1_700_000_000)


def body(name: str) -> dict[str, Any]:
    """The body of a request that is kept in the folder."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())["body"]
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_request_of_codex_is_served(path: pathlib.Path) -> None:
    """Read, every tool that a local model can have is offered, and its answer is a strict stream."""
    asked = RESPONSES.read(json.loads(path.read_text())["body"])
    assert asked.chat.stream
    writer = RESPONSES.writer(HEAD, asked)
    stream = writer.heartbeat() + writer.write(ReasoningDelta("hm"))
    for number, tool in enumerate(asked.chat.tools):
        stream += writer.write(ToolCallDelta(number, f"c{number}", tool.name, '{"input":"x"}'))
    reader = read_strictly(stream + writer.write(Finished("tool_calls")) + writer.end(b""))
    assert [item.get("name") for item in reader.done[1:]] == [
        asked.echo["names"][tool.name].name for tool in asked.chat.tools
    ]


def test_odd_tools() -> None:
    """Functions, free text and groups are offered; what OpenAI runs is left out, each by its place."""
    asked = RESPONSES.read(body("documented-odd-tools"))
    assert [tool.name for tool in asked.chat.tools] == [
        "exec_command", "update_plan", "apply_patch", "mcp__tickets__lookup", "mcp__tickets__close",
        "view_image",
    ]  # fmt: skip
    dropped = [change.field for change in asked.changes if change.action == "dropped"]
    assert dropped == [
        "tools[4]", "tools[5]", "tools[6]", "tools[7]", "text.verbosity", "client_metadata",
        "service_tier",
    ]  # fmt: skip


def test_a_round_with_a_patch_and_an_image() -> None:
    """One message per turn, calls by the names that the model knows, the image where it can be seen."""
    messages = RESPONSES.read(body("documented-patch-and-image")).chat.messages
    assert [message.role for message in messages] == [
        "system", "developer", "user", "user", "assistant", "tool", "assistant", "tool", "tool", "user",
        "assistant", "tool", "user",
    ]  # fmt: skip
    turn = messages[4]
    assert turn.reasoning == "The test expects 2."
    assert turn.text == "I change the value."
    assert json.loads(turn.tool_calls[0].arguments)["input"].startswith("*** Begin Patch")
    assert [call.name for call in messages[6].tool_calls] == ["mcp__tickets__lookup", "view_image"]
    assert isinstance(messages[9].parts[0], ImagePart)


def test_the_light_form() -> None:
    """Tools inside the input are tools; the namespace `functions` leaves no trace, in no direction."""
    asked = RESPONSES.read(body("documented-light-form"))
    names = [tool.name for tool in asked.chat.tools]
    assert names[:2] == ["exec_command", "apply_patch"]
    item = RESPONSES.whole([ToolCallDelta(0, "c", "exec_command", "{}")], HEAD, asked)["output"][0]
    assert item["name"] == "exec_command"
    assert "namespace" not in item
    item = RESPONSES.whole([ToolCallDelta(0, "c", names[2], "{}")], HEAD, asked)["output"][0]
    assert (item["namespace"], item["name"]) == ("mcp__tickets__", "lookup")


@pytest.mark.parametrize("reasoning", [{"summary": "auto"}, None], ids=["summary", "none"])
def test_the_next_turn_has_what_this_one_said(reasoning: Any) -> None:
    """An answer sent back as Codex does (older versions: thinking without its `content`) reads as the same turn."""
    first = body("documented-odd-tools") | {"reasoning": reasoning}
    events = [
        ReasoningDelta("hm, "),
        ReasoningDelta("so"),
        TextDelta("I look."),
        ToolCallDelta(0, "c1", "mcp__tickets__lookup", '{"id": "7"}'),
        ToolCallDelta(1, "c2", "apply_patch", '{"input":"*** Begin Patch\\n"}'),
        Finished("tool_calls"),
        UsageReported(Usage(5, 6, 1)),
    ]
    answer = RESPONSES.whole(events, HEAD, RESPONSES.read(first))
    back = [
        {k: v for k, v in item.items() if item["type"] != "reasoning" or k != "content"}
        for item in answer["output"]
    ]
    turn = RESPONSES.read({**first, "input": [*first["input"], *back]}).chat.messages[-1]
    assert turn.reasoning == "hm, so"
    assert turn.text == "I look."
    assert [(call.id, call.name, call.arguments) for call in turn.tool_calls] == [
        ("c1", "mcp__tickets__lookup", '{"id": "7"}'),
        ("c2", "apply_patch", '{"input":"*** Begin Patch\\n"}'),
    ]
