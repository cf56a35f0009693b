"""
The relay for chat streams of requests that offer tools (OpenAI's server-sent events): tool calls are made
right on the way, see `penstock.toolcalls.stream`.

Events that need nothing are the server's own bytes, also when they were held for a while. An event whose
parts have different fates (its text is held, its role is not) is taken apart into several of the same id,
model, time and unknown fields. Once an answer has turned out to be text, its events are looked at for
`"tool_calls"` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from penstock.dialects.surfaces import Surface
from penstock.domain.chat import TextDelta, ToolCallDelta
from penstock.gateway.relays.loop_watch import LoopWatch
from penstock.gateway.relays.relay import VerbatimRelay
from penstock.toolcalls.jsontext import write
from penstock.toolcalls.stream import AnswerMender, Out, Rules

_OURS = ("content", "tool_calls")
_AT_THE_END = ("usage", "timings")


@dataclass(slots=True, eq=False)
class _Event:
    """A chunk that came: its bytes, its value, how many parts it was taken into."""

    raw: bytes
    value: dict[str, Any]
    parts: int = 0
    ends: bool = False


@dataclass(slots=True, eq=False)
class _Piece:
    """One part of a chunk: what one decision is made about."""

    event: _Event
    choice: dict[str, Any]
    kind: Literal["rest", "text", "call", "end"]
    delta: dict[str, Any]
    call: dict[str, Any] | None = None
    reason: str | None = None
    changed: bool = False

    def render(self, delta: TextDelta | ToolCallDelta | None) -> bytes:
        """This part as a chunk, with *delta* in its place."""
        if delta is None:
            if self.event.parts == 1 and not self.changed:
                return self.event.raw
            return self._chunk(self.delta)
        if isinstance(delta, TextDelta):
            return self._chunk({"content": delta.text})
        call: dict[str, Any] = {"index": delta.call}
        function: dict[str, Any] = {"arguments": delta.arguments}
        if delta.id:
            call = {**(self.call or {}), **call, "id": delta.id, "type": "function"}
        if delta.name:
            function = {"name": delta.name, **function}
        call["function"] = function
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        value = self.event.value
        is_end = self.kind == "end"
        if self.event.ends and not is_end:
            value = {name: field for name, field in value.items() if name not in _AT_THE_END}
        kept = (
            ("delta", "finish_reason")
            if self.kind in ("text", "end")
            else ("delta", "finish_reason", "logprobs")
        )
        choice = {name: field for name, field in self.choice.items() if name not in kept}
        choice |= {"delta": delta, "finish_reason": self.reason if is_end else None}
        return b"data: " + orjson.dumps({**value, "choices": [choice]}) + b"\n\n"


class MendingRelay(VerbatimRelay):
    """
    `VerbatimRelay` that mends.

    Args:
        rules: what is mended by.
        one_choice: the request asks for one answer.
    """

    __slots__ = ("_menders", "_one_choice", "_rules")

    def __init__(
        self,
        surface: Surface,
        rules: Rules,
        *,
        one_choice: bool = True,
        drop_progress: bool = False,
        drop_usage: bool = False,
        late: Callable[[], dict[str, Any] | None] | None = None,
        watch: LoopWatch | None = None,
    ) -> None:
        super().__init__(
            surface, drop_progress=drop_progress, drop_usage=drop_usage, late=late, watch=watch
        )
        self._rules = rules
        self._one_choice = one_choice
        self._menders: dict[int, AnswerMender] = {}

    def end(self) -> bytes:
        """See `Relay`."""
        out = super().end()
        held = b"" if self.seen.closed else self._before_end(broken=True)
        if out and held and not out.endswith(b"\n\n"):
            out += b"\n\n"
        return out + held

    def cut(self) -> bool:
        """See `Relay`: not in a call, nor where text may become one."""
        return not any(mender.has_call for mender in self._menders.values()) and super().cut()

    def _pass(self, batch: bytes) -> bytes:
        if self._one_choice and b'"tool_calls"' not in batch:
            mender = self._menders.get(0)
            if mender is not None and mender.is_idle:
                return super()._pass(batch)
        out = self._look(batch)
        if out:
            self._tail = out if len(out) > 600 else (self._tail + out)[-1200:]
        return out

    def _mender(self, choice: dict[str, Any]) -> AnswerMender:
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        mender = self._menders.get(number)
        if mender is None:
            mender = self._menders[number] = AnswerMender(self._rules, number, self.seen.mended)
        return mender

    def _mend(self, raw: bytes, value: Any) -> bytes:
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or not choices:
            return raw
        event = _Event(raw, value)
        outs: list[Out] = []
        for choice in choices:
            if isinstance(choice, dict):
                outs += self._choice(event, choice)
        if all(out.delta is None and out.token.event is event for out in outs):
            pieces = [out.token for out in outs]
            if len(pieces) == event.parts and not any(piece.changed for piece in pieces):
                return raw
        return b"".join(out.token.render(out.delta) for out in outs)

    def _choice(self, event: _Event, choice: dict[str, Any]) -> list[Out]:
        mender = self._mender(choice)
        given = choice.get("delta")
        delta: dict[str, Any] = given if isinstance(given, dict) else {}
        text, calls = delta.get("content"), delta.get("tool_calls")
        has_text = isinstance(text, str) and text != ""
        has_calls = isinstance(calls, list) and bool(calls)
        reason = choice.get("finish_reason")
        ends = isinstance(reason, str) and reason != ""
        event.ends |= ends
        outs: list[Out] = []
        rest = {name: field for name, field in delta.items() if name not in _OURS}
        if rest if has_text or has_calls else not ends:
            event.parts += 1
            outs.append(
                Out(_Piece(event, choice, "rest", rest if has_text or has_calls else delta))
            )
        if isinstance(text, str) and has_text:
            event.parts += 1
            outs += mender.text(_Piece(event, choice, "text", {"content": text}), text)
        for call in calls if isinstance(calls, list) else ():
            event.parts += 1
            outs += self._call(mender, event, choice, call)
        if ends:
            event.parts += 1
            more, true_reason = mender.finish(reason)
            end = _Piece(
                event, choice, "end", {} if has_text or has_calls else delta, reason=true_reason
            )
            end.changed = true_reason != reason
            self.seen.finished, self.seen.finish_reason = True, true_reason or ""
            outs += [*more, Out(end)]
        return outs

    def _call(
        self, mender: AnswerMender, event: _Event, choice: dict[str, Any], call: Any
    ) -> list[Out]:
        piece = _Piece(event, choice, "call", {"tool_calls": [call]})
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not (function is None or isinstance(function, dict)):
            return [Out(piece)]
        if call.get("type") not in (None, "", "function"):
            return [Out(piece)]  # a call of another kind: not ours to judge
        function = function or {}
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            piece.changed = arguments is not None
            arguments = "" if arguments is None else write(arguments)
            piece.delta = {
                "tool_calls": [{**call, "function": {**function, "arguments": arguments}}]
            }
        piece.call = {n: f for n, f in call.items() if n not in ("index", "id", "type", "function")}
        index, identifier, name = call.get("index"), call.get("id"), function.get("name")
        return mender.call(
            piece,
            index=index if isinstance(index, int) else None,
            id=identifier if isinstance(identifier, str) else "",
            name=name if isinstance(name, str) else "",
            arguments=arguments,
        )

    def _before_end(self, *, broken: bool = False) -> bytes:
        outs: list[Out] = []
        for mender in self._menders.values():
            outs += mender.broken() if broken else mender.finish(None)[0]
        return b"".join(out.token.render(out.delta) for out in outs)
