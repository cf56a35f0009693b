"""Messages requests, read into neutral ones."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.dialects.anthropic import MESSAGES, read_for_count
from penstock.dialects.base import Asked
from penstock.domain.chat import (
    ImagePart,
    Message,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from penstock.errors import ErrorCode, RequestError

HI: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL: dict[str, Any] = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IMAGE = ImagePart(data="AAAA", media_type="image/png")
FOLLOWS = TextPart("[image: see the next message]")


def read(**body: Any) -> Asked:
    """A request, read."""
    return MESSAGES.read({"model": "m", "max_tokens": 9, "messages": [HI], **body})


def text(role: Any, *texts: str, **more: Any) -> Message:
    """A message of texts."""
    return Message(role, tuple(TextPart(one) for one in texts), **more)


def said(value: str, **more: Any) -> dict[str, Any]:
    """A text block."""
    return {"type": "text", "text": value, **more}


def user(*blocks: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": [*blocks]}


def turn(*blocks: Any) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": [*blocks]}


def use(call_id: str = "c1", name: str = "f", **given: Any) -> dict[str, Any]:
    """A call."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def result(content: Any = None, call_id: str = "c1", **more: Any) -> dict[str, Any]:
    """Its result."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def thought(value: str) -> dict[str, Any]:
    """A thinking block."""
    return {"type": "thinking", "thinking": value, "signature": "s"}


def tool_message(*texts: str, call_id: str = "c1") -> Message:
    """A result as a neutral message."""
    return text("tool", *texts, tool_call_id=call_id)


def document(source: Any, **more: Any) -> dict[str, Any]:
    """A document block."""
    return {"type": "document", "source": source, **more}


PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([HI], [text("user", "hi")], id="one text"),
        pytest.param([user(said("hi"))], [text("user", "hi")], id="the same as a block"),
        pytest.param([user(said("a"), said("b"))], [text("user", "a", "b")], id="blocks"),
        pytest.param([user(said("a", cache_control={"type": "ephemeral"}))], [text("user", "a")], id="a cached block"),
        pytest.param([user()], [text("user")], id="no blocks"),
        pytest.param([{"role": "user", "content": ""}], [text("user", "")], id="an empty text"),
        pytest.param([user(PNG, said("a"))], [Message("user", (IMAGE, TextPart("a")))], id="an image"),
        pytest.param([user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})], [Message("user", (ImagePart(url="https://x/y.png"),))], id="an image by its url"),
        pytest.param([user(document({"type": "text", "media_type": "text/plain", "data": "d"}))], [text("user", "d")], id="a document of text"),
        pytest.param([user(document({"type": "text", "data": "d"}, title="t", context="c"))], [text("user", "t", "c", "d")], id="a document with a name"),
        pytest.param([user(document({"type": "content", "content": "d"}))], [text("user", "d")], id="a document of one text"),
        pytest.param([user(document({"type": "content", "content": [said("d"), PNG]}))], [Message("user", (TextPart("d"), IMAGE))], id="a document of blocks"),
        pytest.param([{"role": "assistant", "content": "a"}], [text("assistant", "a")], id="the assistant, one text"),
        pytest.param([turn(said("a"), said("b"))], [text("assistant", "ab")], id="the assistant, blocks"),
        pytest.param([turn(use(x=1))], [Message("assistant", (), (ToolCall("c1", "f", '{"x":1}'),))], id="a call"),
        pytest.param([turn(use())], [Message("assistant", (), (ToolCall("c1", "f", "{}"),))], id="a call without arguments"),
        pytest.param([turn(thought("hm"), said("a"), use("c1"), use("c2", "g"))], [text("assistant", "a", reasoning="hm", tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}")))], id="a whole turn is one message"),
        pytest.param([turn(thought("hm"), thought("so"))], [text("assistant", reasoning="hmso")], id="thinking only"),
        pytest.param([turn(thought(""), said("a"))], [text("assistant", "a")], id="thinking that was omitted"),
        pytest.param([user(result("r"))], [tool_message("r")], id="a result"),
        pytest.param([user(result())], [tool_message()], id="a result without content"),
        pytest.param([user(result([said("a"), said("b")]))], [tool_message("a", "b")], id="a result of blocks"),
        pytest.param([user(result("r"), said("next"))], [tool_message("r"), text("user", "next")], id="a result and a text"),
        pytest.param([user(result("r"), result("q", "c2"))], [tool_message("r"), tool_message("q", call_id="c2")], id="two results"),
        pytest.param([user(result([document({"type": "text", "data": "d"})]))], [tool_message("d")], id="a document as a result"),
        pytest.param([user(result("no such file", is_error=True))], [tool_message("Error: no such file")], id="a failure"),
        pytest.param([user(result("ValueError: x", is_error=True))], [tool_message("ValueError: x")], id="a failure that says so"),
        pytest.param([user(result("<tool_use_error>no</tool_use_error>", is_error=True))], [tool_message("<tool_use_error>no</tool_use_error>")], id="a failure in Claude Code's words"),
        pytest.param([user(result("x\nerror", is_error=True))], [tool_message("Error: x\nerror")], id="a failure that says so late"),
        pytest.param([user(result(" " * 5000 + "x", is_error=True))], [tool_message("Error: " + " " * 5000 + "x")], id="a failure with much before it"),
        pytest.param([user(result(is_error=True))], [tool_message("Error")], id="a failure without a word"),
        pytest.param([user(result([said("bad"), said("b")], is_error=True))], [tool_message("Error: bad", "b")], id="a failure of blocks"),
        pytest.param([user(result("fine: no error", is_error=False))], [tool_message("fine: no error")], id="no failure"),
        pytest.param([HI, {"role": "system", "content": "s"}], [text("user", "hi"), text("system", "s")], id="system in mid-conversation"),
        pytest.param([HI, {"role": "system", "content": [said("s", cache_control={"type": "ephemeral"})]}], [text("user", "hi"), text("system", "s")], id="the same as a list"),
        pytest.param([HI, {"role": "system", "content": [said("s"), said("t")]}], [text("user", "hi"), text("system", "s\n\nt")], id="system of two blocks"),
    ],
)  # fmt: skip
def test_messages(given: list[Any], expected: list[Message]) -> None:
    """What means the same is the same neutral message; nothing of it has to be announced."""
    asked = read(messages=given)
    assert list(asked.chat.messages) == expected
    assert asked.changes == ()


@pytest.mark.parametrize(
    ("given", "expected", "announced"),
    [
        pytest.param([user(result([said("a"), PNG]), said("b"))], [tool_message("a", FOLLOWS.text), Message("user", (IMAGE, TextPart("b")))], [("messages[0].content[0].content", "rewritten")], id="an image in a result"),
        pytest.param([user(result([PNG], is_error=True))], [tool_message("Error: " + FOLLOWS.text), Message("user", (IMAGE,))], [("messages[0].content[0].content", "rewritten")], id="a failure with a picture"),
        pytest.param([user(said("a"), result("r"))], [tool_message("r"), text("user", "a")], [("messages[0].content[1]", "rewritten")], id="a text before a result"),
        pytest.param([turn({"type": "redacted_thinking", "data": "x"}, said("a"))], [text("assistant", "a")], [("messages[0].content[0]", "dropped")], id="sealed thinking"),
        pytest.param([turn({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, said("a"))], [text("assistant", "a")], [("messages[0].content[0]", "dropped")], id="a call of Anthropic's"),
        pytest.param([user({"type": "container_upload", "file_id": "x"}, said("a"))], [text("user", "a")], [("messages[0].content[0]", "dropped")], id="an unknown block"),
        pytest.param([user(result([{"type": "tool_reference", "tool_name": "g"}]))], [tool_message("The tool g can be called.")], [("messages[0].content[0].content[0]", "rewritten")], id="a reference to a tool"),
        pytest.param([user({"type": "search_result", "title": "t", "source": "s", "content": [said("a"), said("b")]})], [text("user", "t\ns\na\n\nb")], [("messages[0].content[0]", "rewritten")], id="a search result"),
        pytest.param([user(document(PDF, title="t.pdf"))], [text("user", "t.pdf", "[A document (application/pdf) that could not be read stood here.]")], [("messages[0].content[0]", "dropped")], id="a PDF"),
        pytest.param([user(document({"type": "text", "data": "d"}, citations={"enabled": True}))], [text("user", "d")], [("messages[0].content[0].citations", "dropped")], id="citations wanted"),
        pytest.param([turn(said("a", citations=[{"type": "char_location"}]))], [text("assistant", "a")], [("messages[0].content[0].citations", "dropped")], id="citations given"),
        pytest.param([user({**PNG, "transformations": {"x": "y"}})], [Message("user", (IMAGE,))], [("messages[0].content[0].transformations", "dropped")], id="an image to be scaled"),
        pytest.param([{**HI, "output_config": {}}, {**HI, "output_config": {}}], [text("user", "hi"), text("user", "hi")], [("messages[0].output_config", "dropped")], id="an unknown field, said once"),
    ],
)  # fmt: skip
def test_messages_that_lose_something(
    given: list[Any], expected: list[Message], announced: list[tuple[str, str]]
) -> None:
    """What is left is sent on; what is lost or moved is announced by its place."""
    asked = read(messages=given)
    assert list(asked.chat.messages) == expected
    assert [(change.field, change.action) for change in asked.changes] == announced


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("s", "s", id="a text"),
        pytest.param([said("s")], "s", id="a block"),
        pytest.param([said("a"), said("", cache_control={"type": "ephemeral"}), said("b")], "a\n\nb", id="blocks are paragraphs"),
        pytest.param("", None, id="an empty text"),
        pytest.param([], None, id="no blocks"),
        pytest.param(None, None, id="nothing"),
    ],
)  # fmt: skip
def test_system(given: Any, expected: str | None) -> None:
    """It is the first message, in one text."""
    messages = read(system=given).chat.messages
    assert messages == (
        (text("user", "hi"),)
        if expected is None
        else (text("system", expected), text("user", "hi"))
    )


FORM = {"type": "json_schema", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("given", "field", "expected", "announced"),
    [
        pytest.param({}, "max_output_tokens", 9, [], id="a limit"),
        pytest.param({}, "model", "m", [], id="the model"),
        pytest.param({"model": None}, "model", "", [], id="no model"),
        pytest.param({}, "stream", False, [], id="no stream"),
        pytest.param({"stream": True}, "stream", True, [], id="a stream"),
        pytest.param({"stream": True}, "include_usage", True, [], id="with its usage"),
        pytest.param({"temperature": 0, "top_p": 0.5, "top_k": 40}, "sampling", {"temperature": 0, "top_p": 0.5, "top_k": 40}, [], id="sampling"),
        pytest.param({"temperature": None}, "sampling", {}, [], id="no temperature"),
        pytest.param({"stop_sequences": ["a", "b"]}, "stop", ("a", "b"), [], id="stops"),
        pytest.param({"stop_sequences": []}, "stop", (), [], id="no stops"),
        pytest.param({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "reasoning", True, ["thinking.budget_tokens"], id="thinking"),
        pytest.param({"thinking": {"type": "disabled"}}, "reasoning", False, [], id="no thinking"),
        pytest.param({"thinking": {"type": "adaptive"}}, "reasoning", None, [], id="thinking as it likes"),
        pytest.param({"thinking": {"type": "adaptive", "display": "omitted"}}, "reasoning", None, ["thinking.display"], id="thinking that is not to be seen"),
        pytest.param({"thinking": {"type": "between_tools"}}, "reasoning", None, ["thinking.type"], id="thinking between tools"),
        pytest.param({"thinking": None}, "reasoning", None, [], id="thinking is null"),
        pytest.param({"output_config": {"effort": "low"}}, "reasoning", "low", [], id="an effort"),
        pytest.param({"output_config": {"effort": "max"}}, "reasoning", "high", ["output_config.effort"], id="an effort above all"),
        pytest.param({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "reasoning", "medium", [], id="adaptive, with an effort"),
        pytest.param({"thinking": {"type": "enabled"}, "output_config": {"effort": "high"}}, "reasoning", "high", [], id="enabled, with an effort"),
        pytest.param({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "reasoning", False, ["output_config.effort"], id="disabled, with an effort"),
        pytest.param({"output_config": {"task_budget": {"total": 5}}}, "reasoning", None, ["output_config.task_budget"], id="a budget"),
        pytest.param({"output_config": {"format": FORM}}, "response_format", ResponseFormat("json_schema", {"type": "object"}), [], id="a form"),
        pytest.param({"output_format": FORM}, "response_format", ResponseFormat("json_schema", {"type": "object"}), [], id="a form by its older name"),
        pytest.param({"metadata": {"user_id": "u"}}, "extra", {"user": "u"}, [], id="a user"),
        pytest.param({"metadata": {"user_id": None, "x": 1}}, "extra", {}, ["metadata.x"], id="other metadata"),
        pytest.param({"service_tier": "auto"}, "extra", {}, ["service_tier"], id="a tier"),
        pytest.param({"mcp_servers": []}, "extra", {}, ["mcp_servers"], id="MCP servers"),
        pytest.param({"container": "c", "context_management": {}}, "extra", {}, ["container", "context_management"], id="what lives at Anthropic"),
        pytest.param({"odd": 1, "none": None}, "extra", {}, ["odd"], id="an unknown field"),
        pytest.param({"cache_control": {"type": "ephemeral"}}, "extra", {}, [], id="caching needs no word"),
        pytest.param({"penstock": {"priority": "high"}}, "extra", {}, [], id="our own field"),
        pytest.param({"tools": [TOOL]}, "tools", (Tool("f", "d", {"type": "object"}),), [], id="a tool"),
        pytest.param({"tools": [{**TOOL, "type": "custom", "strict": True, "defer_loading": True, "cache_control": {}, "eager_input_streaming": True}]}, "tools", (Tool("f", "d", {"type": "object"}, True),), [], id="a tool with all that matters at Anthropic only"),
        pytest.param({"tools": [{"name": "f", "input_schema": {}}]}, "tools", (Tool("f", "", {}),), [], id="a bare tool"),
        pytest.param({"tools": [{**TOOL, "input_examples": []}]}, "tools", (Tool("f", "d", {"type": "object"}),), ["tools[0].input_examples"], id="a tool with examples"),
        pytest.param({"tools": [SEARCH, TOOL]}, "tools", (Tool("f", "d", {"type": "object"}),), ["tools[0]"], id="a tool that Anthropic runs"),
        pytest.param({"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "e"}, {"type": "computer_20250124", "name": "c"}, {"type": "mcp_toolset"}]}, "tools", (), ["tools[0]", "tools[1]", "tools[2]", "tools[3]"], id="tools that only Claude knows"),
        pytest.param({"tools": [TOOL, {**TOOL, "description": "other"}]}, "tools", (Tool("f", "d", {"type": "object"}),), ["tools[1]"], id="a name twice"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "auto"}}, "tool_choice", "auto", [], id="auto"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice", "required", [], id="any"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "none"}}, "tool_choice", "none", [], id="none"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice", {"name": "f"}, [], id="one tool"),
        pytest.param({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice", None, ["tools[0]", "tool_choice"], id="one tool that is not here"),
        pytest.param({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search", "disable_parallel_tool_use": True}}, "extra", {}, ["tools[0]", "tool_choice"], id="one tool that is not here, once"),
        pytest.param({"tool_choice": {"type": "auto"}}, "tool_choice", None, [], id="auto, of nothing"),
        pytest.param({"tool_choice": {"type": "any"}}, "tool_choice", None, ["tool_choice"], id="any, of nothing"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "extra", {"parallel_tool_calls": False}, [], id="one at a time"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}}, "extra", {"parallel_tool_calls": False}, [], id="one tool, once"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": False}}, "extra", {}, [], id="any number at a time"),
    ],
)  # fmt: skip
def test_fields(given: dict[str, Any], field: str, expected: Any, announced: list[str]) -> None:
    """Each has its neutral form, or is announced."""
    asked = read(**given)
    assert getattr(asked.chat, field) == expected
    assert [change.field for change in asked.changes] == announced


@pytest.mark.parametrize(
    ("given", "param"),
    [
        pytest.param({"max_tokens": None}, "max_tokens", id="no limit"),
        pytest.param({"max_tokens": 0}, "max_tokens", id="a limit of nothing"),
        pytest.param({"max_tokens": True}, "max_tokens", id="a limit that is none"),
        pytest.param({"max_tokens": 1.5}, "max_tokens", id="half a token"),
        pytest.param({"model": 1}, "model", id="a model that is a number"),
        pytest.param({"messages": None}, "messages", id="no messages"),
        pytest.param({"messages": []}, "messages", id="no message"),
        pytest.param({"messages": {}}, "messages", id="messages are an object"),
        pytest.param({"messages": ["hi"]}, "messages[0]", id="a message is a text"),
        pytest.param({"messages": [HI, {"role": "tool", "content": "x"}]}, "messages[1].role", id="a role of OpenAI's"),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0].content", id="no content"),
        pytest.param({"messages": [user("hi")]}, "messages[0].content[0]", id="a block is a text"),
        pytest.param({"messages": [user({"text": "hi"})]}, "messages[0].content[0].type", id="a block without a type"),
        pytest.param({"messages": [user({"type": "text"})]}, "messages[0].content[0].text", id="a text without text"),
        pytest.param({"messages": [user({"type": "image"})]}, "messages[0].content[0].source", id="an image without a source"),
        pytest.param({"messages": [user({"type": "image", "source": {"type": "base64", "data": "A"}})]}, "messages[0].content[0].source.media_type", id="an image of no kind"),
        pytest.param({"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]}, "messages[0].content[0].source", id="an image stored at Anthropic"),
        pytest.param({"messages": [user({"type": "image", "source": {"type": "odd"}})]}, "messages[0].content[0].source.type", id="an odd image"),
        pytest.param({"messages": [user(document({"type": "url", "url": "https://x"}))]}, "messages[0].content[0].source", id="a document to be fetched"),
        pytest.param({"messages": [user(document({"type": "odd"}))]}, "messages[0].content[0].source.type", id="an odd document"),
        pytest.param({"messages": [user(document({"type": "content", "content": [document(PDF)]}))]}, "messages[0].content[0].source.content[0].type", id="a document in a document"),
        pytest.param({"messages": [user(use())]}, "messages[0].content[0]", id="a call by the user"),
        pytest.param({"messages": [user(thought("x"))]}, "messages[0].content[0]", id="thinking by the user"),
        pytest.param({"messages": [turn(result("x"))]}, "messages[0].content[0]", id="a result by the assistant"),
        pytest.param({"messages": [turn({**use(), "input": "{}"})]}, "messages[0].content[0].input", id="arguments as a text"),
        pytest.param({"messages": [turn({**use(), "id": None})]}, "messages[0].content[0].id", id="a call without an id"),
        pytest.param({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id", id="a result of nothing"),
        pytest.param({"messages": [user(result(5))]}, "messages[0].content[0].content", id="a result that is a number"),
        pytest.param({"messages": [user(result([5]))]}, "messages[0].content[0].content[0]", id="a result of a number"),
        pytest.param({"messages": [user(result("x", is_error="yes"))]}, "messages[0].content[0].is_error", id="a failure, perhaps"),
        pytest.param({"messages": [{"role": "system", "content": [PNG]}]}, "messages[0].content[0].type", id="a picture as system"),
        pytest.param({"system": 5}, "system", id="a system that is a number"),
        pytest.param({"system": [PNG]}, "system[0].type", id="a system that is a picture"),
        pytest.param({"stream": "yes"}, "stream", id="a stream, perhaps"),
        pytest.param({"temperature": "hot"}, "temperature", id="a hot temperature"),
        pytest.param({"top_k": 1.5}, "top_k", id="half a token to choose from"),
        pytest.param({"top_k": 1e30}, "top_k", id="more tokens than can be written"),
        pytest.param({"stop_sequences": "x"}, "stop_sequences", id="a stop that is no list"),
        pytest.param({"stop_sequences": ["x", 1]}, "stop_sequences[1]", id="a stop that is a number"),
        pytest.param({"thinking": True}, "thinking", id="thinking that is a flag"),
        pytest.param({"thinking": {}}, "thinking.type", id="thinking of no kind"),
        pytest.param({"thinking": {"type": "odd"}}, "thinking.type", id="odd thinking"),
        pytest.param({"output_config": {"effort": "odd"}}, "output_config.effort", id="an odd effort"),
        pytest.param({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", id="an odd form"),
        pytest.param({"output_format": {"type": "json_schema"}}, "output_format.schema", id="a form without a schema"),
        pytest.param({"metadata": "u"}, "metadata", id="metadata that is a text"),
        pytest.param({"metadata": {"user_id": 5}}, "metadata.user_id", id="a user that is a number"),
        pytest.param({"tools": {}}, "tools", id="tools are an object"),
        pytest.param({"tools": ["f"]}, "tools[0]", id="a tool is a text"),
        pytest.param({"tools": [{"name": "f"}]}, "tools[0].input_schema", id="a tool without a schema"),
        pytest.param({"tools": [{**TOOL, "name": ""}]}, "tools[0].name", id="a tool without a name"),
        pytest.param({"tools": [{**TOOL, "strict": 1}]}, "tools[0].strict", id="a tool, nearly strict"),
        pytest.param({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice", id="a choice in OpenAI's form"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "odd"}}, "tool_choice.type", id="an odd choice"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name", id="a tool that is not there"),
        pytest.param({"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use", id="one at a time, perhaps"),
    ],
)  # fmt: skip
def test_refused(given: dict[str, Any], param: str) -> None:
    """The sentence begins with the field's place."""
    with pytest.raises(RequestError) as caught:
        read(**given)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert caught.value.message.endswith(".")


def test_a_refusal_says_what_was_expected() -> None:
    """In words for people."""
    with pytest.raises(RequestError) as caught:
        read(messages=[HI, user(5)])
    assert caught.value.message == "messages[1].content[0]: expected an object, got 5."


def test_counting_needs_no_limit() -> None:
    """It asks for no answer; all else is the same request."""
    body = {"model": "m", "messages": [HI], "system": "s", "tools": [TOOL]}
    with pytest.raises(RequestError, match="max_tokens: the field is missing"):
        MESSAGES.read(body)
    counted = read_for_count(body).chat
    assert counted.max_output_tokens is None
    assert counted.messages == read(system="s", tools=[TOOL]).chat.messages
    assert counted.tools == read(tools=[TOOL]).chat.tools
    with pytest.raises(RequestError, match="max_tokens: expected"):
        read_for_count({**body, "max_tokens": "x"})
