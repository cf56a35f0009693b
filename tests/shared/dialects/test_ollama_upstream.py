"""OpenAI chat <-> Ollama's native dialect, by way of the neutral model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from penstock.dialects.base import AnswerHead
from penstock.dialects.ollama.upstream import ChatReader, RenderedChat, render_chat, think_value
from penstock.dialects.openai.answer import ChunkWriter, render_completion
from penstock.dialects.openai.request import parse_request
from penstock.dialects.sse import parse_event, split_events
from penstock.domain.chat import Event, Finished, StreamEnd, StreamError, TextDelta, UsageReported
from penstock.errors import RequestError

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


def rendered(**body: Any) -> RenderedChat:
    """A request as Ollama gets it."""
    given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    return render_chat(
        parse_request(given), model="m:latest", options={"temperature": 0}, max_output_tokens=7
    )


def test_the_plain_request() -> None:
    """Options by Ollama's names; a falsy temperature is a value; nothing may be cut silently."""
    assert rendered(stop="x").body == {
        "model": "m:latest",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "truncate": False,
        "options": {"temperature": 0, "num_predict": 7, "stop": ["x"]},
    }


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "format", "json"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}, "format", {"type": "object"}),
        ({"reasoning_effort": "high"}, "think", "high"),
        ({"reasoning_effort": "none"}, "think", False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "think", True),
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs", 2),
        ({"tools": [TOOL]}, "tools", [TOOL]),
    ],
)  # fmt: skip
def test_what_has_a_word_there(body: dict[str, Any], field: str, value: Any) -> None:
    """Each by its native name."""
    assert rendered(**body).body[field] == value


def test_tools_are_withheld_when_none_may_be_called() -> None:
    """`tool_choice: none` means it."""
    assert "tools" not in rendered(tools=[TOOL], tool_choice="none").body


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2},
        {"logit_bias": {"1": 2}},
        {"tool_choice": "required", "tools": [TOOL]},
        {"user": "u"},
    ],
    ids=str,
)
def test_what_cannot_be_said_is_announced(body: dict[str, Any]) -> None:
    """Never lost silently."""
    assert [change.action for change in rendered(**body).changes] == ["dropped"]


def test_a_whole_round_of_tools_images_and_thinking() -> None:
    """Arguments become objects, results know their tool, images are base64, thinking is kept."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    body = rendered(
        messages=[
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    ).body["messages"]
    assert body == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "look", "images": ["AAAA"]},
        {"role": "assistant", "content": "", "thinking": "hm",
         "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "42", "tool_name": "f", "tool_call_id": "c1"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": "data:image/png,notbase64"}},
    ],
)
def test_images_that_ollama_cannot_take(part: dict[str, Any]) -> None:
    """Refused, with the part's place."""
    with pytest.raises(RequestError) as refused:
        rendered(messages=[{"role": "user", "content": [part]}])
    assert refused.value.param is not None
    assert refused.value.param.startswith("messages[0].content[0]")


LINES: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
    {"message": {"role": "assistant", "content": "Hel"}, "done": False},
    {"message": {"role": "assistant", "content": "lo"}, "done": False},
    {"message": {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": {}}}]}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
     "prompt_eval_count": 9, "eval_count": 4, "load_duration": 2_000_000_000},
]  # fmt: skip


def read(lines: list[Any]) -> list[Event]:
    """Lines as neutral events."""
    reader = ChatReader("chatcmpl-1")
    return [event for line in lines for event in reader.read(line)]


def test_lines_become_a_completion() -> None:
    """One that the official client's own types accept."""
    body = render_completion(read(LINES), AnswerHead("1", "m", 1))
    made = ChatCompletion.model_validate(body)
    choice = made.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Hello"
    assert body["choices"][0]["message"]["reasoning_content"] == "hm"
    assert choice.message.tool_calls is not None
    first, second = choice.message.tool_calls
    assert json.loads(first.function.arguments) == {"a": 1}  # type: ignore[union-attr]
    assert first.id != second.id
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (9, 13)


@pytest.mark.parametrize("include_usage", [True, False])
def test_lines_become_chunks(include_usage: bool) -> None:
    """The role once, first; usage only when asked for; [DONE] last."""
    writer = ChunkWriter(AnswerHead("1", "m", 1), include_usage=include_usage)
    written = b"".join(writer.write(e) for e in read(LINES)) + writer.end(b"")
    events = [parse_event(e).data for e in split_events(written)]
    assert events[-1] == b"[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(e) for e in events[:-1]]
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert [d.role for d in deltas].count("assistant") == 1
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == "Hello"
    assert (chunks[-1].usage is not None) == include_usage
    assert [c.index for d in deltas for c in d.tool_calls or ()] == [0, 1]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "stop"), ("length", "length"), ("load", "stop"), (None, "stop")],
)
def test_finish_reasons(reason: Any, expected: str) -> None:
    """Without a call; with one it is `tool_calls` unless the answer was cut."""
    events = read([{"message": {"content": "x"}, "done": True, "done_reason": reason}])
    assert Finished(expected) in events  # type: ignore[arg-type]
    assert isinstance(events[-1], StreamEnd)


@pytest.mark.parametrize(
    "line", [{"error": "boom"}, [], "x", None, {"message": {"tool_calls": [5]}}]
)
def test_lines_that_are_errors(line: Any) -> None:
    """An error in the stream is an error, whatever came before."""
    assert any(isinstance(event, StreamError) for event in read([LINES[1], line]))


def test_the_same_answer_has_the_same_ids() -> None:
    """Ollama gives no ids; ours do not differ between two tries."""
    assert read(LINES) == read(LINES)
    assert isinstance(read(LINES)[1], TextDelta)
    assert any(isinstance(event, UsageReported) for event in read(LINES))


@pytest.mark.parametrize(
    ("wish", "thinks", "family", "sent", "told"),
    [
        pytest.param(None, True, "qwen3", None, False, id="nothing said"),
        pytest.param(False, False, "llama", False, False, id="no thinking is what it does"),
        pytest.param(True, True, "qwen3", True, False, id="it can"),
        pytest.param(True, None, "", True, False, id="not known"),
        pytest.param(True, False, "llama", None, True, id="it cannot"),
        pytest.param("high", False, "llama", None, True, id="an effort, and it cannot"),
        pytest.param("high", True, "qwen3", True, True, id="an effort where there is none"),
        pytest.param("high", True, "gptoss", "high", False, id="an effort where there are"),
        pytest.param("minimal", True, "gptoss", "low", True, id="an effort that it lacks"),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(
    wish: bool | str | None, thinks: bool | None, family: str, sent: bool | str | None, told: bool
) -> None:
    """Ollama refuses efforts and thinking where a model has none; what changes is announced."""
    value, changes = think_value(wish, thinks, family)
    assert value is sent or value == sent
    assert bool(changes) is told
