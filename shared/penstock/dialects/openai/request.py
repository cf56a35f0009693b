"""OpenAI chat completions: what a client asks, checked and read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from penstock.dialects.shapes import wrong
from penstock.domain.chat import (
    ChatRequest,
    ImagePart,
    Message,
    OtherPart,
    Part,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from penstock.errors import ErrorCode, RequestError

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_KNOWN = frozenset(
    {
        "model", "messages", "tools", "tool_choice", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "stop", "response_format", "n", "logprobs", "top_logprobs",
        "reasoning_effort", "keep_alive", "penstock",
    }
)  # fmt: skip


def validate(body: Mapping[str, Any]) -> None:
    """
    Refuse what cannot work at any server; everything else passes as it is.

    Costs a pass over the top-level fields and the messages' roles.

    Raises:
        RequestError: with the field that is at fault.
    """
    messages = body.get("messages")
    if messages is None:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, "messages: the field is missing.", param="messages"
        )
    if not isinstance(messages, list):
        raise wrong("messages", "an array", messages)
    if not messages:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, "messages: at least one message is needed.", param="messages"
        )
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong(f"messages[{place}]", "an object", message)
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise wrong(f"messages[{place}].role", f"one of {', '.join(sorted(ROLES))}", role)
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise wrong(f"messages[{place}].content", "a string or an array", content)
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise wrong("stream", "a boolean", stream)
    if not _CHECKED.isdisjoint(body):
        _validate_fields(body)


_CHECKED = frozenset(
    {
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "tools", "stream_options", "n",
    }
)  # fmt: skip


def _validate_fields(body: Mapping[str, Any]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is None or (value == -1 and value is not True):
            continue  # -1 is llama.cpp's and LM Studio's word for "no limit"
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise wrong(name, "a whole number of at least 1", value)
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise wrong(name, "a number", value)
    for name, kind, expected in (
        ("tools", list, "an array"),
        ("stream_options", dict, "an object"),
    ):
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            raise wrong(name, expected, value)
    n = body.get("n")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 128):
        raise wrong("n", "a whole number from 1 to 128", n)


def parse_request(body: Mapping[str, Any]) -> ChatRequest:
    """
    The neutral request. Sampling fields are left to `penstock.sampling` and not repeated here.

    Raises:
        RequestError: see `validate`.
    """
    validate(body)
    options = body.get("stream_options")
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    stop = body.get("stop")
    stops = (stop,) if isinstance(stop, str) else tuple(s for s in stop or () if isinstance(s, str))
    choice = body.get("tool_choice")
    return ChatRequest(
        model=body.get("model") or "",
        messages=tuple(parse_message(m, f"messages[{i}]") for i, m in enumerate(body["messages"])),
        tools=tuple(_tool(t, i) for i, t in enumerate(body.get("tools") or ())),
        tool_choice=choice if isinstance(choice, str | dict) else None,
        max_output_tokens=None if limit == -1 else limit,
        stop=stops,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        response_format=_format(body.get("response_format")),
        reasoning=_reasoning(body),
        n=body.get("n") or 1,
        logprobs=body.get("logprobs") is True,
        top_logprobs=body.get("top_logprobs"),
        keep_alive=body.get("keep_alive"),
        extra={k: v for k, v in body.items() if k not in _KNOWN},
    )


def parse_message(message: Mapping[str, Any], where: str) -> Message:
    """One message; *where* names it in errors."""
    role = message["role"]
    calls = []
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong(f"{where}.tool_calls[{place}]", "a function call", call)
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = orjson.dumps(arguments if arguments is not None else {}).decode()
        calls.append(ToolCall(str(call.get("id") or ""), function["name"], arguments))
    reasoning = next(
        (
            message[k]
            for k in ("reasoning_content", "reasoning", "thinking")
            if isinstance(message.get(k), str)
        ),
        None,
    )
    name = message.get("name")
    call_id = message.get("tool_call_id")
    return Message(
        role="tool" if role == "function" else role,
        parts=tuple(_parts(message.get("content"), where)),
        tool_calls=tuple(calls),
        tool_call_id=call_id if isinstance(call_id, str) else None,
        name=name if isinstance(name, str) else None,
        reasoning=reasoning,
    )


def _parts(content: Any, where: str) -> Iterable[Part]:
    if content is None:
        return
    if isinstance(content, str):
        yield TextPart(content)
        return
    for place, part in enumerate(content):
        if isinstance(part, str):
            yield TextPart(part)
            continue
        if not isinstance(part, dict):
            raise wrong(f"{where}.content[{place}]", "an object", part)
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            yield TextPart(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            yield TextPart(part["refusal"])
        elif kind in ("image_url", "input_image"):
            yield _image(part, f"{where}.content[{place}]")
        else:
            yield OtherPart(part)


def _image(part: Mapping[str, Any], where: str) -> ImagePart:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    detail = image.get("detail") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise wrong(f"{where}.image_url", "an object with a url", image)
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        if not comma or not head.endswith(";base64"):
            raise wrong(f"{where}.image_url.url", "a base64 data URL", url[:40])
        return ImagePart(data=data, media_type=head.removesuffix(";base64"), detail=detail)
    return ImagePart(url=url, detail=detail)


def _tool(tool: Any, place: int) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong(f"tools[{place}]", "a function with a name", tool)
    parameters = function.get("parameters")
    return Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=parameters if isinstance(parameters, dict) else None,
        strict=function.get("strict"),
    )


def _format(value: Any) -> ResponseFormat:
    if not isinstance(value, dict):
        return ResponseFormat()
    kind = value.get("type")
    if kind == "json_object":
        schema = value.get("schema")  # llama.cpp takes one here
        if isinstance(schema, dict):
            return ResponseFormat("json_schema", schema)
        return ResponseFormat("json_object")
    if kind == "json_schema" and isinstance(value.get("json_schema"), dict):
        inner = value["json_schema"]
        schema = inner.get("schema")
        return ResponseFormat(
            "json_schema", schema if isinstance(schema, dict) else {}, inner.get("name")
        )
    return ResponseFormat()


def _reasoning(body: Mapping[str, Any]) -> bool | str | None:
    effort = body.get("reasoning_effort")
    if effort is None and isinstance(body.get("reasoning"), dict):
        effort = body["reasoning"].get("effort")
    if isinstance(effort, str):
        return False if effort == "none" else effort
    think = body.get("think")
    if isinstance(think, bool | str):
        return think
    kwargs = body.get("chat_template_kwargs")
    if isinstance(kwargs, dict) and isinstance(kwargs.get("enable_thinking"), bool):
        return bool(kwargs["enable_thinking"])
    return None
