"""
Ollama's `/api/chat` as a client sends it -> the neutral request.

Its tool calls have no ids and tool results name at most the tool; OpenAI's servers want both linked. So
calls without an id get one by their place in the conversation (`call_0`, `call_1`, ...: the same on every
request of the conversation, which a prefix cache needs), and results are linked to the calls before them,
by name and then by order.

Sources: `api/types.go` (ChatRequest, Message, ToolCall), `server/routes.go` (ChatHandler: empty messages
load the model, with `keep_alive` 0 unload it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, Final, cast

import orjson

from penstock.dialects.base import Asked
from penstock.dialects.ollama import fields
from penstock.dialects.shapes import is_plain, wrong
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Message, Part, Role, TextPart, Tool, ToolCall

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_KNOWN = frozenset(
    {
        "model", "messages", "tools", "stream", "format", "options", "think", "keep_alive", "logprobs",
        "top_logprobs",
    }
)  # fmt: skip
_KNOWN_OF_MESSAGE = frozenset(
    {
        "role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id", "name",
    }
)  # fmt: skip

LOAD: Final = "load"
"""Key of `Asked.echo`: "load" or "unload" when the client wants that and no answer."""


def read_chat(body: Mapping[str, Any]) -> Asked:
    """
    The neutral request of a `/api/chat` body.

    Raises:
        RequestError: with the field that is at fault.
    """
    return asked_of(
        body,
        _KNOWN,
        lambda changes: _Messages().read(body.get("messages"), changes),
        tools=lambda: _tools(body.get("tools")),
    )


def asked_of(
    body: Mapping[str, Any],
    known: frozenset[str],
    messages: Callable[[list[Change]], tuple[Message, ...]],
    tools: Callable[[], tuple[Tool, ...]] = tuple,
) -> Asked:
    """
    The neutral request of a body: what `/api/chat` and `/api/generate` say in the same way, around their messages.

    Args:
        known: fields that are read.
        messages, tools: read what only one of them has.

    Raises:
        RequestError: with the field that is at fault.
    """
    changes = fields.left_out(body, known)
    options = fields.options_of(body)
    keep_alive = fields.keep_alive_of(body)
    logprobs, top_logprobs = fields.logprobs_of(body)
    if logprobs:
        changes.append(fields.unsaid_logprobs())
    conversation = messages(changes)
    rest = fields.server_options(options)
    chat = ChatRequest(
        model=fields.text_of(body, "model"),
        messages=conversation,
        tools=tools(),
        sampling=fields.sampling_of(options),
        max_output_tokens=fields.output_limit_of(options),
        stop=fields.stop_of(options),
        stream=fields.flag_of(body, "stream", True),
        include_usage=True,  # its last line has the counts, whether asked for or not
        response_format=fields.format_of(body),
        reasoning=fields.reasoning_of(body),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        keep_alive=keep_alive,
        extra={"options": rest} if rest else {},
    )
    echo = {} if conversation else {LOAD: "unload" if fields.lets_go(keep_alive) else "load"}
    return Asked(chat, tuple(changes), echo)


def _tools(value: Any) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong("tools", "an array", value)
    return tuple(_tool(tool, f"tools[{place}]") for place, tool in enumerate(value))


def _tool(value: Any, where: str) -> Tool:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict):
        raise wrong(where, "an object with a function", value)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.function.name", "a name", name)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{where}.function.parameters", "a JSON Schema", parameters)
    strict = function.get("strict")
    return Tool(
        name=name,
        description=fields.text_of(function, "description", f"{where}.function."),
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
    )


class _Messages:
    """
    Reads the messages in their order, and remembers which calls wait for their results.

    Attributes:
        _open: (id, name) of the calls of the last calling message that have no result yet.
    """

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._ids: Iterator[str] = iter(())

    def read(self, value: Any, changes: list[Change]) -> tuple[Message, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise wrong("messages", "an array", value)
        taken = _given_ids(value)
        self._ids = (name for number in count() if (name := f"call_{number}") not in taken)
        told: set[str] = set()
        messages = []
        for place, message in enumerate(value):
            if isinstance(message, dict) and is_plain(message):
                messages.append(Message(message["role"], (TextPart(message["content"]),)))
                continue
            where = f"messages[{place}]"
            if not isinstance(message, dict):
                raise wrong(where, "an object", message)
            for name in sorted(message.keys() - _KNOWN_OF_MESSAGE - told):
                if message[name] is not None:
                    told.add(name)
                    why = "Ollama's messages have no such field"
                    changes.append(Change("template", f"{where}.{name}", "dropped", why))
            messages.append(self._message(message, f"{where}."))
        return tuple(messages)

    def _message(self, message: Mapping[str, Any], where: str) -> Message:
        role = message.get("role")
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise wrong(f"{where}role", f"one of {', '.join(sorted(_ROLES))}", role)
        role = role.lower()
        text = fields.text_of(message, "content", where)
        parts: list[Part] = [TextPart(text)] if text else []
        parts += fields.images_of(message, where)
        calls = self._calls(message.get("tool_calls"), where)
        name = fields.text_of(message, "tool_name", where) or fields.text_of(message, "name", where)
        call_id = None
        if role == "tool":
            call_id = self._link(fields.text_of(message, "tool_call_id", where), name)
        return Message(
            role=cast("Role", role),
            parts=tuple(parts),
            tool_calls=calls,
            tool_call_id=call_id,
            name=name or None,
            reasoning=fields.text_of(message, "thinking", where) or None,
        )

    def _calls(self, value: Any, where: str) -> tuple[ToolCall, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise wrong(f"{where}tool_calls", "an array", value)
        calls = tuple(
            self._call(call, f"{where}tool_calls[{place}]") for place, call in enumerate(value)
        )
        if calls:
            self._open = [(call.id, call.name) for call in calls]
        return calls

    def _call(self, value: Any, where: str) -> ToolCall:
        function = value.get("function") if isinstance(value, dict) else None
        if not isinstance(function, dict):
            raise wrong(where, "an object with a function", value)
        name = function.get("name")
        if not isinstance(name, str):
            raise wrong(f"{where}.function.name", "a name", name)
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            try:
                arguments = orjson.dumps({} if arguments is None else arguments).decode()
            except orjson.JSONEncodeError:  # nested deeper than it writes
                name = f"{where}.function.arguments"
                raise wrong(name, "an object that is not nested so deep", arguments) from None
        given = value.get("id")
        return ToolCall(
            given if isinstance(given, str) and given else next(self._ids), name, arguments
        )

    def _link(self, given: str, name: str) -> str:
        """The id of the call that a result belongs to, which waits no longer then."""
        if given:
            self._open = [call for call in self._open if call[0] != given]
            return given
        place = next((n for n, call in enumerate(self._open) if name and call[1] == name), 0)
        if place < len(self._open):
            return self._open.pop(place)[0]
        return next(self._ids)  # a result of no call: servers want an id nevertheless


def _given_ids(messages: list[Any]) -> frozenset[str]:
    found: set[str] = set()
    for message in messages:
        if not isinstance(message, dict):
            continue
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                found.add(call["id"])
        if isinstance(message.get("tool_call_id"), str):
            found.add(message["tool_call_id"])
    return frozenset(found)
