"""
Input items of a Responses request as neutral messages.

The dialect spells one turn of the assistant as several items (reasoning, message, calls); templates know
one message with all of it, so consecutive ones are joined. Item kinds: `openai.types.responses.
response_input_item`; what Codex sends: openai/codex, `codex-rs/protocol/src/models.rs`, `ResponseItem`.
Codex sends reasoning items back as they came; older versions leave out their `content`
(`should_serialize_reasoning_content` there), so our own answers keep it in `encrypted_content` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from penstock.dialects.responses.parts import read_parts
from penstock.dialects.responses.tools import Toolbox
from penstock.dialects.shapes import (
    array_in,
    dropped,
    is_plain,
    needed_text,
    refused,
    text_in,
    wrong,
)
from penstock.domain.change import Change
from penstock.domain.chat import ImagePart, Message, Part, TextPart, ToolCall

OUR_REASONING = "penstock:"
"""What stands before reasoning that an answer of ours carries in `encrypted_content`."""
ROLES = frozenset({"system", "developer", "user", "assistant"})
_IMAGE_FOLLOWS = "[image: see the next message]"


class Conversation:
    """Takes items one after the other, makes messages."""

    def __init__(self, box: Toolbox, changes: list[Change]) -> None:
        self._box = box
        self._changes = changes
        self._messages: list[Message] = []
        # The assistant's turn that is being put together, and images of tool results that wait for its end.
        self._has_turn = False
        self._reasoning: list[str] = []
        self._parts: list[Part] = []
        self._calls: list[ToolCall] = []
        self._images: list[Part] = []

    def messages(self) -> tuple[Message, ...]:
        """All of them, after the last item."""
        self._end_turn()
        self._end_results()
        return tuple(self._messages)

    def add_system(self, text: str) -> None:
        """Instructions at the head."""
        self._messages.append(Message("system", (TextPart(text),)))

    def add_user(self, text: str) -> None:
        """An input that is one text."""
        self._messages.append(Message("user", (TextPart(text),)))

    def take_plain(self, item: Any) -> bool:
        """Take an item that is a text and nothing else (`is_plain`); False leaves it to `add`."""
        if not isinstance(item, dict) or not is_plain(item):
            return False
        text = TextPart(item["content"])
        if item["role"] == "assistant":
            self._turn()
            self._parts.append(text)
            return True
        if self._has_turn:
            self._end_turn()
        if self._images:
            self._end_results()
        self._messages.append(Message("user", (text,)))
        return True

    def add(self, item: Any, where: str) -> None:
        """
        One item.

        Raises:
            RequestError: it is not what the API defines, or it refers to something stored.
        """
        if not isinstance(item, dict):
            raise wrong(where, "an object", item)
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else "item_reference" if "id" in item else None
        if not isinstance(kind, str):
            raise wrong(f"{where}.type", "the name of an item", kind)
        reader = _READERS.get(kind)
        if reader is not None:
            reader(self, item, where)
        elif kind != "additional_tools":  # those are read with the tools
            self._changes.append(dropped(where, f"no local model understands {kind[:60]} items"))

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise wrong(f"{where}.role", f"one of {', '.join(sorted(ROLES))}", role)
        content = item.get("content")
        parts = read_parts(content, f"{where}.content", self._changes)
        if role == "assistant":
            self._turn()
            self._parts += parts
            return
        self._end_turn()
        self._end_results()
        self._messages.append(Message(role, tuple(parts)))  # type: ignore[arg-type]

    def _thought(self, item: Mapping[str, Any], where: str) -> None:
        text = _texts(item, "content", where)
        sealed = text_in(item, "encrypted_content", f"{where}.encrypted_content")
        if not text and sealed is not None and sealed.startswith(OUR_REASONING):
            text = sealed.removeprefix(OUR_REASONING)
        text = text or _texts(item, "summary", where)
        if text:
            self._turn()
            self._reasoning.append(text)
        elif sealed:
            self._changes.append(dropped(where, "encrypted reasoning that only its maker can read"))

    def _function_call(self, item: Mapping[str, Any], where: str) -> None:
        arguments = item.get("arguments")
        if isinstance(arguments, dict):
            arguments = as_json(arguments, f"{where}.arguments")
        if not isinstance(arguments, str):
            raise wrong(f"{where}.arguments", "a string", arguments)
        self._call(item, arguments, where)

    def _custom_call(self, item: Mapping[str, Any], where: str) -> None:
        given = needed_text(item, "input", where)
        self._call(item, as_json({"input": given}, where), where)

    def _call(self, item: Mapping[str, Any], arguments: str, where: str) -> None:
        name = needed_text(item, "name", where)
        namespace = text_in(item, "namespace", f"{where}.namespace")
        call_id = needed_text(item, "call_id", where)
        self._turn()
        flat = self._box.function_name(name, namespace)
        self._calls.append(ToolCall(call_id, flat, arguments))

    def _shell_call(self, item: Mapping[str, Any], where: str) -> None:
        action = item.get("action")
        if not isinstance(action, dict):
            raise wrong(f"{where}.action", "an object", action)
        call_id = item.get("call_id") or item.get("id")
        if not isinstance(call_id, str):
            raise wrong(f"{where}.call_id", "a string", call_id)
        said = {name: value for name, value in action.items() if name != "type"}
        self._turn()
        self._calls.append(ToolCall(call_id, "local_shell", as_json(said, f"{where}.action")))

    def _result(self, item: Mapping[str, Any], where: str) -> None:
        call_id = item.get("call_id")
        if call_id is None and item.get("type") == "local_shell_call_output":
            call_id = item.get("id")
        if not isinstance(call_id, str):
            raise wrong(f"{where}.call_id", "a string", call_id)
        output = item.get("output")
        place = f"{where}.output"
        if isinstance(output, dict):  # older versions of Codex: {content, success}
            content = output.get("content")
            output = content if isinstance(content, str | list) else as_json(output, place)
        if not isinstance(output, str | list):
            raise wrong(place, "a string or an array", output)
        self._end_turn()
        parts = read_parts(output, place, self._changes)
        images = [part for part in parts if isinstance(part, ImagePart)]
        if images:
            self._images += images
            parts = [
                TextPart(_IMAGE_FOLLOWS) if isinstance(part, ImagePart) else part for part in parts
            ]
            detail = "images of a tool's result stand in a user message after it"
            self._changes.append(Change("template", place, "rewritten", detail))
        self._messages.append(Message("tool", tuple(parts), tool_call_id=call_id))

    def _reference(self, _item: Mapping[str, Any], where: str) -> None:
        raise refused(
            where,
            f"{where}: Penstock stores no responses, so an item cannot be referred to by its id; "
            "send the item itself.",
        )

    def _turn(self) -> None:
        """A piece of the assistant's turn comes."""
        if self._images:
            self._end_results()
        self._has_turn = True

    def _end_turn(self) -> None:
        if not self._has_turn:
            return
        self._messages.append(
            Message(
                "assistant",
                tuple(self._parts),
                tuple(self._calls),
                reasoning="\n".join(self._reasoning) if self._reasoning else None,
            )
        )
        self._has_turn = False
        self._parts = []
        if self._reasoning or self._calls:
            self._reasoning, self._calls = [], []

    def _end_results(self) -> None:
        if self._images:
            self._messages.append(Message("user", tuple(self._images)))
            self._images = []


_READERS: Mapping[str, Callable[[Conversation, Mapping[str, Any], str], None]] = {
    "message": Conversation._message,
    "reasoning": Conversation._thought,
    "function_call": Conversation._function_call,
    "custom_tool_call": Conversation._custom_call,
    "local_shell_call": Conversation._shell_call,
    "function_call_output": Conversation._result,
    "custom_tool_call_output": Conversation._result,
    "local_shell_call_output": Conversation._result,
    "item_reference": Conversation._reference,
}


def as_json(value: Any, where: str) -> str:
    """
    JSON text.

    Raises:
        RequestError: nested deeper than can be written.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise refused(where, f"{where}: nested too deeply.") from error


def _texts(item: Mapping[str, Any], name: str, where: str) -> str:
    """The texts of a reasoning item's `content` or `summary`."""
    place = f"{where}.{name}"
    texts = []
    for number, part in enumerate(array_in(item, name, place)):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise wrong(f"{place}[{number}]", "an object with a text", part)
        texts.append(part["text"])
    return "\n\n".join(texts)
