"""Responses requests, read into neutral ones."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.dialects.base import Asked
from penstock.dialects.responses import RESPONSES
from penstock.domain.chat import (
    ImagePart,
    Message,
    OtherPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from penstock.errors import ErrorCode, RequestError

FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}  # fmt: skip
CUSTOM = {"type": "custom", "name": "patch", "description": "Edits."}
GROUP = {
    "type": "namespace", "name": "crm", "description": "Customers.",
    "tools": [{"type": "function", "name": "find"}, {"type": "custom", "name": "note"}],
}  # fmt: skip
PNG = "data:image/png;base64,AAAA"


def read(**body: Any) -> Asked:
    """A request, read."""
    return RESPONSES.read({"model": "m", "input": "hi", **body})


def text(role: Any, *texts: str, **more: Any) -> Message:
    """A message of texts."""
    return Message(role, tuple(TextPart(one) for one in texts), **more)


def call(name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    """A function call item."""
    return {
        "type": "function_call",
        "call_id": "c1",
        "name": name,
        "arguments": arguments,
        **more,
    }


def result(output: Any, call_id: str = "c1") -> dict[str, Any]:
    """Its output."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(*texts: str, **more: Any) -> dict[str, Any]:
    """A reasoning item with a summary."""
    summary = [{"type": "summary_text", "text": one} for one in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": summary, **more}


CALL = ToolCall("c1", "f", "{}")


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        pytest.param("hi", [text("user", "hi")], id="one text"),
        pytest.param([{"role": "user", "content": "hi"}], [text("user", "hi")], id="easy"),
        pytest.param([{"type": "message", "role": "user", "content": "hi"}], [text("user", "hi")], id="typed"),
        pytest.param([{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}], [text("user", "a", "b")], id="parts"),
        pytest.param([{"role": "user", "content": [{"type": "text", "text": "a"}]}], [text("user", "a")], id="a part of the chat dialect"),
        pytest.param([{"role": "user", "content": None}], [text("user")], id="no content"),
        pytest.param([{"role": "user", "content": []}], [text("user")], id="no parts"),
        pytest.param([{"role": "developer", "content": "d"}, {"role": "user", "content": "hi"}], [text("developer", "d"), text("user", "hi")], id="developer"),
        pytest.param([{"role": "user", "content": "hi"}, {"role": "system", "content": "s"}], [text("user", "hi"), text("system", "s")], id="system in mid-conversation"),
        pytest.param([{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}], "id": "msg_1", "status": "completed"}], [text("assistant", "a")], id="assistant"),
        pytest.param([{"role": "assistant", "content": "a", "phase": "commentary"}], [text("assistant", "a")], id="assistant, easy, with a phase"),
        pytest.param([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}], [text("assistant", "no")], id="refusal"),
        pytest.param([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], [text("assistant", "a", "b")], id="two messages of one turn"),
        pytest.param([{"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "low"}]}], [Message("user", (ImagePart("AAAA", "image/png", None, "low"),))], id="image data"),
        pytest.param([{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/x.png", "detail": None}]}], [Message("user", (ImagePart(url="https://example.com/x.png"),))], id="image address"),
        pytest.param([{"role": "user", "content": [{"type": "input_image", "image_url": {"url": PNG}}]}], [Message("user", (ImagePart("AAAA", "image/png"),))], id="image of the chat dialect"),
        pytest.param([{"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": "data:x"}]}], [Message("user", (OtherPart({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}}),))], id="file"),
        pytest.param([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}], [Message("user", (OtherPart({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}),))], id="audio"),
        pytest.param([call()], [Message("assistant", (), (CALL,))], id="a call"),
        pytest.param([call(arguments={"a": 1})], [Message("assistant", (), (ToolCall("c1", "f", '{"a":1}'),))], id="arguments as an object"),
        pytest.param([call(arguments='{"a": ')], [Message("assistant", (), (ToolCall("c1", "f", '{"a": '),))], id="broken arguments stay broken"),
        pytest.param([call(), result("42")], [Message("assistant", (), (CALL,)), text("tool", "42", tool_call_id="c1")], id="a call and its output"),
        pytest.param([result([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}])], [text("tool", "a", "b", tool_call_id="c1")], id="output in parts"),
        pytest.param([result([])], [text("tool", tool_call_id="c1")], id="output of nothing"),
        pytest.param([result({"content": "no such file", "success": False})], [text("tool", "no such file", tool_call_id="c1")], id="output of an old Codex"),
        pytest.param([result({"a": 1})], [text("tool", '{"a":1}', tool_call_id="c1")], id="output as an object"),
        pytest.param([thought("hm"), {"role": "assistant", "content": "a"}, call(), {**call("g"), "call_id": "c2"}], [Message("assistant", (TextPart("a"),), (CALL, ToolCall("c2", "g", "{}")), reasoning="hm")], id="a whole turn is one message"),
        pytest.param([call(), result("1"), call(), result("2")], [Message("assistant", (), (CALL,)), text("tool", "1", tool_call_id="c1"), Message("assistant", (), (CALL,)), text("tool", "2", tool_call_id="c1")], id="rounds stay apart"),
        pytest.param([thought("a", "b")], [Message("assistant", reasoning="a\n\nb")], id="a summary of two parts"),
        pytest.param([thought("short", content=[{"type": "reasoning_text", "text": "long"}])], [Message("assistant", reasoning="long")], id="thinking wins over its summary"),
        pytest.param([thought(encrypted_content="penstock:exactly this")], [Message("assistant", reasoning="exactly this")], id="thinking that we sealed"),
        pytest.param([thought("s", encrypted_content="gAAAA")], [Message("assistant", reasoning="s")], id="sealed by another, with a summary"),
        pytest.param([thought("a"), thought("b")], [Message("assistant", reasoning="a\nb")], id="two thoughts of one turn"),
        pytest.param([{"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** \"x\""}], [Message("assistant", (), (ToolCall("c1", "patch", '{"input":"*** \\"x\\""}'),))], id="a custom call"),
        pytest.param([{"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}], [text("tool", "ok", tool_call_id="c1")], id="its output"),
        pytest.param([call("find", namespace="crm")], [Message("assistant", (), (ToolCall("c1", "crm__find", "{}"),))], id="a call in a namespace"),
        pytest.param([call("f", namespace="functions")], [Message("assistant", (), (CALL,))], id="a call in the namespace that means none"),
        pytest.param([{"type": "local_shell_call", "id": "l", "call_id": "c1", "status": "completed", "action": {"type": "exec", "command": ["ls"]}}], [Message("assistant", (), (ToolCall("c1", "local_shell", '{"command":["ls"]}'),))], id="a shell call"),
        pytest.param([{"type": "local_shell_call_output", "id": "c1", "output": "a.py"}], [text("tool", "a.py", tool_call_id="c1")], id="its output, by id"),
    ],
)  # fmt: skip
def test_input(given: Any, messages: list[Message]) -> None:
    """Items become the messages that templates know; nothing has to be announced."""
    asked = read(input=given)
    assert list(asked.chat.messages) == messages
    assert asked.changes == ()


def test_instructions_stand_at_the_head() -> None:
    """As a system message before all input."""
    asked = read(instructions="Be brief.", input=[{"role": "user", "content": "hi"}])
    assert asked.chat.messages == (text("system", "Be brief."), text("user", "hi"))


def test_images_of_results_follow_them() -> None:
    """A tool's message is text; images come in one user message after all results of the round."""
    image = {"type": "input_image", "image_url": PNG}
    asked = read(
        input=[
            call(),
            {**call(), "call_id": "c2"},
            result([{"type": "input_text", "text": "see"}, image]),
            result([image], "c2"),
            {"role": "user", "content": "and?"},
        ]
    )
    pointer = "[image: see the next message]"
    assert asked.chat.messages[1:] == (
        text("tool", "see", pointer, tool_call_id="c1"),
        text("tool", pointer, tool_call_id="c2"),
        Message("user", (ImagePart("AAAA", "image/png"),) * 2),
        text("user", "and?"),
    )
    told = [(change.field, change.action) for change in asked.changes]
    assert told == [("input[2].output", "rewritten"), ("input[3].output", "rewritten")]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "file_search_call", "id": "fs", "queries": [], "status": "completed"},
        {"type": "computer_call", "id": "c", "call_id": "c1"},
        {"type": "image_generation_call", "id": "i", "status": "completed", "result": "AA"},
        {"type": "code_interpreter_call", "id": "i"},
        {"type": "mcp_call", "id": "i", "name": "n", "arguments": "{}", "server_label": "s"},
        {"type": "compaction", "encrypted_content": "gAAA"},
        {"type": "tool_search_call", "arguments": {}},
        {"type": "from_the_future"},
        thought(encrypted_content="gAAAA"),
        {"role": "user", "content": [{"type": "from_the_future"}]},
    ],
    ids=lambda item: item.get("type", "a part"),
)  # fmt: skip
def test_items_that_no_local_model_understands(item: dict[str, Any]) -> None:
    """Left out and announced by their place; the rest is read."""
    asked = read(input=[item, {"role": "user", "content": "hi"}])
    assert asked.chat.messages[-1] == text("user", "hi")
    assert [change.action for change in asked.changes] == ["dropped"]
    assert asked.changes[0].field.startswith("input[0]")


def test_a_function_keeps_all_it_has() -> None:
    """The flat form is a neutral tool."""
    asked = read(tools=[FUNCTION])
    assert asked.chat.tools == (Tool("f", "d", {"type": "object"}, True),)
    assert asked.changes == ()


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    """Its grammar is told to the model; that it is not enforced is announced."""
    form = {"type": "grammar", "syntax": "lark", "definition": "start: X"}
    asked = read(tools=[{**CUSTOM, "format": form}])
    (tool,) = asked.chat.tools
    assert tool.parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert tool.description.startswith("Edits.")
    assert "start: X" in tool.description
    assert [change.action for change in asked.changes] == ["rewritten"]
    assert "not enforced" in asked.changes[0].detail


def test_a_namespace_is_a_prefix() -> None:
    """Its functions carry its name, its description stands at the first one, and that is announced."""
    asked = read(tools=[GROUP, {"type": "function", "name": "find"}])
    assert [tool.name for tool in asked.chat.tools] == ["crm__find", "crm__note", "find"]
    assert asked.chat.tools[0].description == "crm: Customers."
    assert [change.action for change in asked.changes] == ["renamed", "rewritten"]


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        pytest.param([{**GROUP, "name": "mcp__a__"}], ["mcp__a__find", "mcp__a__note"], id="a prefix that ends like one"),
        pytest.param([{**GROUP, "name": "functions"}], ["find", "note"], id="the namespace that means none"),
        pytest.param([{"type": "function", "name": "crm__find"}, GROUP], ["crm__find", "crm__find_2", "crm__note"], id="a name that is taken"),
        pytest.param([FUNCTION, FUNCTION], ["f"], id="a tool twice"),
    ],
)  # fmt: skip
def test_names_of_functions(tools: list[Any], names: list[str]) -> None:
    """One name for one tool."""
    assert [tool.name for tool in read(tools=tools).chat.tools] == names


@pytest.mark.parametrize(
    "kind",
    [
        "web_search", "web_search_preview", "file_search", "computer_use_preview", "mcp", "local_shell",
        "image_generation", "code_interpreter", "tool_search", "shell", "apply_patch", "odd",
    ],
)  # fmt: skip
def test_tools_that_no_local_server_runs(kind: str) -> None:
    """Left out and announced; a choice that insisted on one falls away with it."""
    asked = read(tools=[{"type": kind}, FUNCTION], tool_choice={"type": kind})
    assert [tool.name for tool in asked.chat.tools] == ["f"]
    assert asked.chat.tool_choice is None
    assert [change.field for change in asked.changes] == ["tools[0]", "tool_choice"]


@pytest.mark.parametrize(
    ("choice", "neutral", "names"),
    [
        ("auto", "auto", ["f", "crm__find", "crm__note"]),
        ("none", "none", ["f", "crm__find", "crm__note"]),
        ("required", "required", ["f", "crm__find", "crm__note"]),
        (None, None, ["f", "crm__find", "crm__note"]),
        ({"type": "function", "name": "f"}, {"name": "f"}, ["f", "crm__find", "crm__note"]),
        ({"type": "function", "name": "find", "namespace": "crm"}, {"name": "crm__find"}, ["f", "crm__find", "crm__note"]),
        ({"type": "custom", "name": "note", "namespace": "crm"}, {"name": "crm__note"}, ["f", "crm__find", "crm__note"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", ["f"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}, {"type": "mcp", "server_label": "x"}]}, "required", ["f"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, None, []),
    ],
    ids=str,
)  # fmt: skip
def test_tool_choice(choice: Any, neutral: Any, names: list[str]) -> None:
    """Each form of it; `allowed_tools` leaves only those."""
    chat = read(tools=[FUNCTION, GROUP], tool_choice=choice).chat
    assert chat.tool_choice == neutral
    assert [tool.name for tool in chat.tools] == names


@pytest.mark.parametrize(("choice", "told"), [("auto", 0), ("none", 0), ("required", 1)])
def test_a_choice_between_no_tools(choice: str, told: int) -> None:
    """Chat servers refuse it, so it is left out; only what that changes is announced."""
    asked = read(tool_choice=choice, parallel_tool_calls=True)
    assert asked.chat.tool_choice is None
    assert "parallel_tool_calls" not in asked.chat.extra
    assert len(asked.changes) == told


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"max_output_tokens": 7}, "max_output_tokens", 7),
        ({"max_output_tokens": None}, "max_output_tokens", None),
        ({"temperature": 0, "top_p": 0.5}, "sampling", {"temperature": 0, "top_p": 0.5}),
        ({"top_k": 5, "seed": 1}, "sampling", {"top_k": 5, "seed": 1}),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "reasoning", "high"),
        ({"reasoning": {"effort": "none"}}, "reasoning", False),
        ({"reasoning": {"summary": "auto"}}, "reasoning", None),
        ({"reasoning": None}, "reasoning", None),
        ({"text": {"format": {"type": "json_object"}}}, "response_format", ResponseFormat("json_object")),
        ({"text": {"format": {"type": "text"}}}, "response_format", ResponseFormat()),
        ({"text": {}}, "response_format", ResponseFormat()),
        ({"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}}}, "response_format", ResponseFormat("json_schema", {"type": "object"}, "n")),
        ({"stream": True}, "stream", True),
        ({"stream": True}, "include_usage", True),
        ({"stream": None}, "stream", False),
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"user": "u", "safety_identifier": "s"}, "extra", {"user": "u"}),
        ({"safety_identifier": "s"}, "extra", {"user": "s"}),
        ({"prompt_cache_key": "k"}, "extra", {"prompt_cache_key": "k"}),
        ({"parallel_tool_calls": False, "tools": [FUNCTION]}, "extra", {"parallel_tool_calls": False}),
        ({"include": ["reasoning.encrypted_content"]}, "extra", {}),
        ({"store": False, "background": False, "previous_response_id": None}, "extra", {}),
        ({"penstock": {"priority": "high"}}, "extra", {}),
        ({"service_tier": None, "metadata": None, "tools": None}, "extra", {}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_understood(body: dict[str, Any], field: str, value: Any) -> None:
    """Each field by its neutral name, without an announcement."""
    asked = read(**body)
    assert getattr(asked.chat, field) == value
    assert asked.changes == ()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"truncation": "disabled"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}, "include[1]"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"client_metadata": {"a": "b"}}, "client_metadata"),
        ({"from_the_future": 1}, "from_the_future"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_said_is_announced(body: dict[str, Any], field: str) -> None:
    """Never lost silently."""
    changes = read(**body).changes
    assert [(change.field, change.action) for change in changes] == [(field, "dropped")]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]}, "input[0].content[0].file_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]}, "input[0].content[0].file_data"),
    ],
    ids=str,
)  # fmt: skip
def test_what_lives_at_openai_is_refused(body: dict[str, Any], param: str) -> None:
    """An answer without it would be about something else; the sentence says what to send instead."""
    with pytest.raises(RequestError) as refused:
        read(**body)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.param == param
    assert "Penstock" in refused.value.message


def test_the_sentence_about_stored_responses() -> None:
    """It names the way out."""
    with pytest.raises(RequestError) as refused:
        read(previous_response_id="resp_1")
    assert refused.value.message == (
        "Penstock stores no responses, so previous_response_id cannot be continued; "
        "send the whole conversation as input and store: false."
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 1}, "model"),
        ({"input": None}, "input"),
        ({"input": {}}, "input"),
        ({"input": []}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": 1}]}, "input[0].type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [1]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]}, "input[0].content[0].image_url"),
        ({"input": [call(arguments=1)]}, "input[0].arguments"),
        ({"input": [call(name=1)]}, "input[0].name"),
        ({"input": [call(call_id=None)]}, "input[0].call_id"),
        ({"input": [call(namespace=1)]}, "input[0].namespace"),
        ({"input": [result(None)]}, "input[0].output"),
        ({"input": [result("x", call_id=1)]}, "input[0].call_id"),
        ({"input": [{"type": "custom_tool_call", "name": "n", "call_id": "c"}]}, "input[0].input"),
        ({"input": [{"type": "local_shell_call", "call_id": "c"}]}, "input[0].action"),
        ({"input": [{"type": "local_shell_call", "action": {}}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": ["x"]}]}, "input[0].summary[0]"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"input": [{"type": "reasoning", "encrypted_content": 1}]}, "input[0].encrypted_content"),
        ({"input": [{"type": "additional_tools", "tools": 1}]}, "input[0].tools"),
        ({"instructions": ["x"]}, "instructions"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
        ({"tools": [{"type": "function", "name": "f", "strict": "x"}]}, "tools[0].strict"),
        ({"tools": [{"type": "function", "name": "f", "description": 1}]}, "tools[0].description"),
        ({"tools": [{"type": "custom", "name": "f", "format": "x"}]}, "tools[0].format"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": {}}]}, "tools[0].tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"text": "x"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"include": "x"}, "include"),
        ({"include": [1]}, "include[0]"),
        ({"metadata": "x"}, "metadata"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"truncation": "some"}, "truncation"),
        ({"store": "no"}, "store"),
        ({"background": "no"}, "background"),
        ({"user": 1}, "user"),
        ({"prompt_cache_key": 1}, "prompt_cache_key"),
        ({"stop": 1}, "stop"),
        ({"stop": [1]}, "stop"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_request_names_the_field(body: dict[str, Any], param: str) -> None:
    """The field that is at fault stands in `param` and at the head of the sentence."""
    with pytest.raises(RequestError) as refused:
        read(**body)
    assert refused.value.param == param
    assert refused.value.message.startswith(param)
