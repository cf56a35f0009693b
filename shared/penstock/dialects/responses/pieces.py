"""
Output items of an answer: what is sent when one begins, grows and ends.

The order of events per kind of item is that of OpenAI's own streams
(platform.openai.com/docs/api-reference/responses-streaming): added, part added, deltas, done, part done,
item done. Event names come with their data here; `answer` numbers and frames them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from penstock.dialects.responses.items import OUR_REASONING
from penstock.dialects.responses.tools import ToolName

Told = tuple[str, dict[str, Any]]
_NO_TOOL = ToolName("")


@dataclass(slots=True)
class OpenItem:
    """
    The item that is being written.

    Attributes:
        kind: `message`, `thought` (reasoning as it is), `summary` (reasoning as a summary), `function`,
            `custom`.
        call: which call of the answer it is; -1 for none.
        head: the delta event up to its text; b"" where nothing is said before the end.
        pieces: the text so far.
    """

    kind: str
    id: str
    place: int
    call: int = -1
    call_id: str = ""
    tool: ToolName = _NO_TOOL
    head: bytes = b""
    pieces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = _DELTAS.get(self.kind)
        if name is None:
            return
        data = {"type": name, "item_id": self.id, "output_index": self.place, **_PLACES[self.kind]}
        self.head = b"event: %b\ndata: %b" % (name.encode(), orjson.dumps(data)[:-1])
        self.head += b',"delta":'

    def fork(self) -> Self:
        """An independent copy."""
        return type(self)(
            self.kind, self.id, self.place, self.call, self.call_id, self.tool, self.head,
            list(self.pieces),
        )  # fmt: skip

    def began(self) -> list[Told]:
        """The events that say that it begins."""
        told: list[Told] = [
            (
                "response.output_item.added",
                {"output_index": self.place, "item": self._item("", "in_progress", is_begun=True)},
            )
        ]
        if self.kind in _PART_EVENTS:
            told.append((f"{_PART_EVENTS[self.kind]}.added", self._with(part=self._part(""))))
        return told

    def ended(self, status: str) -> tuple[list[Told], dict[str, Any]]:
        """The events that say that it ended, and the item as it stands in the answer."""
        text = "".join(self.pieces)
        told: list[Told] = []
        if self.kind == "custom":
            text = free_text(text)
            told.append(("response.custom_tool_call_input.delta", self._with(delta=text)))
            told.append(("response.custom_tool_call_input.done", self._with(input=text)))
        elif self.kind == "function":
            done = {"name": self.tool.name, "arguments": text}
            told.append(("response.function_call_arguments.done", self._with(**done)))
        else:
            more: dict[str, Any] = {"logprobs": []} if self.kind == "message" else {}
            done_name = _DELTAS[self.kind].removesuffix("delta") + "done"
            told.append((done_name, self._with(text=text, **more)))
            part = self._with(part=self._part(text))
            told.append((f"{_PART_EVENTS[self.kind]}.done", part))
        item = self._item(text, status)
        told.append(("response.output_item.done", {"output_index": self.place, "item": item}))
        return told, item

    def _with(self, **more: Any) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.place, **_PLACES[self.kind], **more}

    def _part(self, text: str) -> dict[str, Any]:
        if self.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        kind = "summary_text" if self.kind == "summary" else "reasoning_text"
        return {"type": kind, "text": text}

    def _item(self, text: str, status: str, *, is_begun: bool = False) -> dict[str, Any]:
        parts = [] if is_begun else [self._part(text)]
        base: dict[str, Any] = {"id": self.id, "status": status}
        if self.kind == "message":
            return {**base, "type": "message", "role": "assistant", "content": parts}
        if self.kind == "summary":
            return {**base, "type": "reasoning", "summary": parts, "encrypted_content": None}
        if self.kind == "thought":
            # Older Codex sends no `content` back; without this the next turn would lack the thinking.
            sealed = None if is_begun else OUR_REASONING + text
            item = {**base, "type": "reasoning", "summary": [], "content": parts}
            return {**item, "encrypted_content": sealed}
        call = {**base, "call_id": self.call_id, "name": self.tool.name}
        if self.tool.namespace:
            call["namespace"] = self.tool.namespace
        if self.kind == "custom":
            return {**call, "type": "custom_tool_call", "input": text}
        return {**call, "type": "function_call", "arguments": text}


_DELTAS = {
    "message": "response.output_text.delta",
    "thought": "response.reasoning_text.delta",
    "summary": "response.reasoning_summary_text.delta",
    "function": "response.function_call_arguments.delta",
}
_PART_EVENTS = {
    "message": "response.content_part",
    "thought": "response.content_part",
    "summary": "response.reasoning_summary_part",
}
_PLACES: dict[str, dict[str, int]] = {
    "message": {"content_index": 0},
    "thought": {"content_index": 0},
    "summary": {"summary_index": 0},
    "function": {},
    "custom": {},
}


def free_text(arguments: str) -> str:
    """
    The text for a tool that takes free text, from the arguments of the function that stands for it.

    A model that wrote the text itself instead of an object around it meant that text. What is neither
    (cut off, other fields) goes on as it is and is the tool's to refuse: it is never completed.
    """
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    if isinstance(value, dict) and isinstance(value.get("input"), str):
        text: str = value["input"]
        return text
    return value if isinstance(value, str) else arguments
