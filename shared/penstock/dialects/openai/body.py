"""
The neutral request as a body of OpenAI's chat completions: what was read from another dialect goes on from here
as if the client had spoken OpenAI's.

Texts of one message are one string wherever that loses nothing: every server and every template takes it. Their
parts are joined by line feeds, as llama.cpp joins them (`common/chat.cpp`, `to_json_oaicompat` with
`concat_typed_text`). Fields are always in the same order, so equal requests are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.domain.chat import ChatRequest, ImagePart, Message, Part, TextPart, Tool

_NOTHING_ELSE = Message("user")[2:]


def render_request(chat: ChatRequest) -> dict[str, Any]:
    """
    The body. Sampling stands there by logical names, which tuning turns into the server's own; `extra` fields
    come last and replace nothing.
    """
    body: dict[str, Any] = {"model": chat.model, "messages": [*map(render_message, chat.messages)]}
    if chat.tools:
        body["tools"] = [_tool(tool) for tool in chat.tools]
    if chat.tool_choice is not None and chat.tools:
        body["tool_choice"] = _choice(chat.tool_choice)
    body.update(chat.sampling)
    if chat.max_output_tokens is not None:
        body["max_tokens"] = chat.max_output_tokens
    if chat.stop:
        body["stop"] = list(chat.stop)
    if chat.response_format.kind == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif chat.response_format.kind == "json_schema":
        named = {
            "name": chat.response_format.name or "answer",
            "schema": dict(chat.response_format.schema or {}),
        }
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if isinstance(chat.reasoning, bool):
        body["chat_template_kwargs"] = {"enable_thinking": chat.reasoning}
    elif chat.reasoning is not None:
        body["reasoning_effort"] = chat.reasoning
    if chat.n != 1:
        body["n"] = chat.n
    if chat.logprobs:
        body["logprobs"] = True
        if chat.top_logprobs is not None:
            body["top_logprobs"] = chat.top_logprobs
    if chat.keep_alive is not None:
        body["keep_alive"] = chat.keep_alive
    if chat.stream:
        body["stream"] = True
        if chat.include_usage:
            body["stream_options"] = {"include_usage": True}
    for name, value in chat.extra.items():
        body.setdefault(name, value)
    return body


def render_message(message: Message) -> dict[str, Any]:
    """One message."""
    parts = message.parts
    if len(parts) == 1 and type(parts[0]) is TextPart and message[2:] == _NOTHING_ELSE:
        return {"role": message.role, "content": parts[0].text}
    body: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        body["name"] = message.name
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _content(message: Message) -> str | list[dict[str, Any]] | None:
    parts = message.parts
    if not parts:
        return None if message.tool_calls else ""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) == len(parts):
        return "\n".join(texts)
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        url = part.url
        if part.data is not None:
            url = f"data:{part.media_type or 'image/png'};base64,{part.data}"
        image: dict[str, Any] = {"url": url}
        if part.detail is not None:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    return dict(part.raw)


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: str | Mapping[str, Any]) -> Any:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.get("name", "")}}
