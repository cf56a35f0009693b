"""
A Responses request -> neutral.

Everything in it that lives at OpenAI (stored responses, conversations, prompt templates, background runs)
is refused with a sentence, since an answer without it would be about something else; what only tunes
OpenAI's service is left out and announced.
Fields: platform.openai.com/docs/api-reference/responses/create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from penstock.dialects.base import Asked
from penstock.dialects.responses.items import Conversation
from penstock.dialects.responses.tools import Toolbox, read_choice, read_tools
from penstock.dialects.shapes import (
    array_in,
    dropped,
    flag_in,
    number_in,
    object_in,
    refused,
    text_in,
    wrong,
)
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Message, ResponseFormat

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n",
    "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_READ = frozenset(
    {
        *_SAMPLING, "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls",
        "max_output_tokens", "reasoning", "text", "include", "prompt_cache_key", "user",
        "safety_identifier", "metadata", "stream", "stream_options", "truncation", "store",
        "previous_response_id", "conversation", "prompt", "background", "stop", "penstock",
    }
)  # fmt: skip
_STORED = {
    "previous_response_id": "previous_response_id cannot be continued; send the whole conversation "
    "as input and store: false.",
    "conversation": "conversation cannot be continued; send the whole conversation as input and "
    "store: false.",
}


def read_request(body: Mapping[str, Any]) -> Asked:
    """
    The neutral request; `echo` is for `response.fields_of` and the writer.

    Raises:
        RequestError: the body is not of the dialect, or needs something stored.
    """
    changes: list[Change] = []
    _refuse_stored(body)
    model = text_in(body, "model") or ""
    given = body.get("input")
    if not isinstance(given, str | list):
        raise wrong("input", "a string or an array", given)
    box = read_tools(_groups(body, given), changes)
    messages = _messages(body, given, box, changes)
    choice, tools = read_choice(body.get("tool_choice"), box, changes)
    reasoning = object_in(body, "reasoning")
    effort = text_in(reasoning, "effort", "reasoning.effort")
    text = object_in(body, "text")
    stream = flag_in(body, "stream") is True
    extra = _extra(body, tools_given=bool(tools))
    chat = ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        sampling={
            name: value for name in _SAMPLING if (value := number_in(body, name)) is not None
        },
        max_output_tokens=_limit(body),
        stop=_stops(body),
        stream=stream,
        include_usage=stream,
        response_format=_format(text),
        reasoning=False if effort == "none" else effort,
        extra=extra,
    )
    object_in(body, "metadata")
    _announce(body, text, changes)
    return Asked(chat, tuple(changes), _echo(body, box, reasoning, text))


def _refuse_stored(body: Mapping[str, Any]) -> None:
    for name, sentence in _STORED.items():
        if body.get(name) is not None:
            raise refused(name, f"Penstock stores no responses, so {sentence}")
    if body.get("prompt") is not None:
        raise refused(
            "prompt", "Penstock has no prompt templates; send the prompt as instructions and input."
        )
    if flag_in(body, "background"):
        raise refused(
            "background",
            "Penstock stores no responses, so background: true cannot be fetched later; "
            "leave it out, or stream.",
        )


def _groups(body: Mapping[str, Any], given: str | list[Any]) -> list[tuple[str, list[Any]]]:
    """Where tools stand: in `tools`, and in items of their own (Codex' light form)."""
    groups = [("tools", array_in(body, "tools"))]
    for number, item in enumerate(given if isinstance(given, list) else ()):
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            where = f"input[{number}].tools"
            groups.append((where, array_in(item, "tools", where)))
    return groups


def _messages(
    body: Mapping[str, Any], given: str | list[Any], box: Toolbox, changes: list[Change]
) -> tuple[Message, ...]:
    conversation = Conversation(box, changes)
    instructions = text_in(body, "instructions")
    if instructions:
        conversation.add_system(instructions)
    if isinstance(given, str):
        conversation.add_user(given)
    else:
        for number, item in enumerate(given):
            if not conversation.take_plain(item):
                conversation.add(item, f"input[{number}]")
    messages = conversation.messages()
    if not messages:
        raise refused("input", "input: at least one message is needed.")
    return messages


def _limit(body: Mapping[str, Any]) -> int | None:
    value = body.get("max_output_tokens")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong("max_output_tokens", "a whole number of at least 1", value)
    return value


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Not of the API, but llama.cpp takes it there, so clients of local servers send it."""
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise wrong("stop", "a string or an array of strings", stop)
    return tuple(stops)


def _format(text: Mapping[str, Any]) -> ResponseFormat:
    value = text.get("format")
    if value is None:
        return ResponseFormat()
    if not isinstance(value, dict):
        raise wrong("text.format", "an object", value)
    kind = value.get("type")
    if kind == "text":
        return ResponseFormat()
    if kind == "json_object":
        return ResponseFormat("json_object")
    if kind != "json_schema":
        raise wrong("text.format.type", "one of text, json_object, json_schema", kind)
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise wrong("text.format.schema", "an object", schema)
    return ResponseFormat("json_schema", schema, text_in(value, "name", "text.format.name"))


def _extra(body: Mapping[str, Any], *, tools_given: bool) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    parallel = flag_in(body, "parallel_tool_calls")
    if parallel is not None and tools_given:
        extra["parallel_tool_calls"] = parallel
    user = text_in(body, "user")
    user = user if user is not None else text_in(body, "safety_identifier")
    if user is not None:
        extra["user"] = user
    key = text_in(body, "prompt_cache_key")
    if key is not None:
        extra["prompt_cache_key"] = key
    return extra


def _announce(body: Mapping[str, Any], text: Mapping[str, Any], changes: list[Change]) -> None:
    """What is left out, field by field."""
    if flag_in(body, "store"):
        changes.append(dropped("store", "Penstock stores no responses", "output"))
    if text.get("verbosity") is not None:
        changes.append(dropped("text.verbosity", "no local server has it", "output"))
    truncation = text_in(body, "truncation")
    if truncation not in (None, "auto", "disabled"):
        raise wrong("truncation", "one of auto, disabled", truncation)
    if truncation is not None:
        changes.append(dropped("truncation", "Penstock fits conversations by its strategy", "fit"))
    for number, name in enumerate(array_in(body, "include")):
        if not isinstance(name, str):
            raise wrong(f"include[{number}]", "a string", name)
        if name != "reasoning.encrypted_content":
            detail = f"no local server gives {name[:60]}"
            changes.append(dropped(f"include[{number}]", detail, "output"))
    if object_in(body, "stream_options").get("include_obfuscation"):
        detail = "events are not padded"
        changes.append(dropped("stream_options.include_obfuscation", detail, "stream"))
    for name, value in body.items():
        if name not in _READ and value is not None:
            changes.append(dropped(name[:60], "Penstock has no such field on Responses"))


def _echo(
    body: Mapping[str, Any], box: Toolbox, reasoning: Mapping[str, Any], text: Mapping[str, Any]
) -> dict[str, Any]:
    """
    For the answer: `fields` of the response object that repeat the request, the same as `json`, the
    tools' `names`, and whether reasoning goes as a `summary`.
    """
    asked = reasoning.get("summary") or reasoning.get("generate_summary")
    summary = asked if asked in ("auto", "concise", "detailed") else None
    fields = {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": summary},
        "safety_identifier": body.get("safety_identifier"),
        "store": False,
        "temperature": body.get("temperature"),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in body.get("tools") or ()],
        "top_p": body.get("top_p"),
        "truncation": body.get("truncation") or "disabled",
        "user": body.get("user"),
    }
    try:
        json = orjson.dumps(fields)
    except TypeError as error:
        raise refused("tools", "tools, text or metadata: nested too deeply.") from error
    return {
        "fields": fields,
        "json": json,
        "names": box.names,
        "summary": summary is not None,
    }


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """As sent; a function has all fields that the official clients' types insist on."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}
