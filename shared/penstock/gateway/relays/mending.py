"""
Tool calls made right in answers of local upstreams: what decides is `penstock.toolcalls.stream`, this
connects it to bodies, to neutral events, and to what is announced. The relay for server-sent events stands
in `mending_relay`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from penstock.domain.change import Change
from penstock.domain.chat import (
    Event,
    Finished,
    FinishReason,
    StreamEnd,
    StreamError,
    TextDelta,
    ToolCallDelta,
)
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.relays.relay import Seen
from penstock.gateway.steps.translate import Work
from penstock.settings import Settings
from penstock.toolcalls.jsontext import write
from penstock.toolcalls.schema import ToolSet
from penstock.toolcalls.stream import AnswerMender, Became, Mended, Out, Rules

_CHANGED = frozenset({Became.REPAIRED, Became.RECOVERED, Became.RENUMBERED})
_FIELDS = {
    Became.REPAIRED: "function.arguments",
    Became.RECOVERED: "function",
    Became.RENUMBERED: "index",
}
_LOOPED = "the answer repeated itself without end and was ended by the gateway"


def mending_rules(work: Work, exchange: Exchange, settings: Settings) -> Rules | None:
    """What answers to this request are mended by; None when it offers no tools: then nothing is held."""
    body = work.body
    tools = body.get("tools")
    options = settings.tool_calls
    if (
        not tools
        or not isinstance(tools, list)
        or body.get("tool_choice") == "none"
        or not work.is_chat
        or not (options.repair or options.recover)
    ):
        return None
    made: list[ToolSet] = []

    def toolset() -> ToolSet:
        if not made:
            made.append(ToolSet.of(tools))
        return made[0]

    messages = body.get("messages")
    return Rules(
        tools=toolset,
        repair=options.repair,
        recover=options.recover,
        earlier=lambda: _texts(messages),
        seed=exchange.id.removeprefix("req_"),
    )


def _texts(messages: Any) -> Iterator[str]:
    """All texts of a conversation."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            if isinstance(part, str):
                yield part
            elif isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def tell(seen: Seen, exchange: Exchange) -> None:
    """Announce what a relay did to an answer; what was told once is not told again."""
    if seen.ended_by_us and not exchange.loop_ended:
        exchange.loop_ended = True
        exchange.warnings.append(_LOOPED)
    tell_mended(seen.mended, exchange)


def tell_mended(mended: list[Mended], exchange: Exchange) -> None:
    """Announce what became of tool calls, and empty the list."""
    for one in mended:
        where = f"choices[{one.choice}]." if one.choice else ""
        where += f"tool_calls[{one.call}]"
        exchange.tool_calls_mended.append(one.became.value)
        if one.became in _CHANGED:
            field = f"{where}.{_FIELDS[one.became]}"
            exchange.changes.append(Change("repair", field, "rewritten", one.detail))
            exchange.repaired += one.became is not Became.RENUMBERED
        else:
            exchange.warnings.append(f"{where} ({one.name[:64]}): {one.detail}")
    mended.clear()


# Whole bodies


def mend_completion(body: dict[str, Any], rules: Rules, mended: list[Mended]) -> bool:
    """Mend a whole `chat.completion` in place. Returns whether anything changed."""
    changed = False
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
            index = choice.get("index")
            mender = AnswerMender(rules, index if isinstance(index, int) else 0, mended)
            changed |= _mend_choice(choice, choice["message"], mender)
    return changed


def mend_plain(raw: bytes, rules: Rules, mended: list[Mended]) -> bytes:
    """The same for a body as bytes; what is no completion stays as it is."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw
    return (
        orjson.dumps(body)
        if isinstance(body, dict) and mend_completion(body, rules, mended)
        else raw
    )


def _mend_choice(choice: dict[str, Any], message: dict[str, Any], mender: AnswerMender) -> bool:
    content, calls = message.get("content"), message.get("tool_calls")
    outs: list[Out] = []
    if isinstance(content, str) and content:
        outs += mender.text(content, content)
    given = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for number, call in enumerate(given):
        function = call.get("function")
        if not isinstance(function, dict):
            return False  # a call of another type: not ours to judge
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else write(arguments)
            call["function"] = {**function, "arguments": arguments}
        outs += mender.call(
            call,
            index=number,
            id=call["id"] if isinstance(call.get("id"), str) else "",
            name=str(function.get("name") or ""),
            arguments=arguments,
        )
    reason = choice.get("finish_reason")
    more, true_reason = mender.finish(reason if isinstance(reason, str) else None)
    outs += more
    changed = true_reason != reason and isinstance(reason, str)
    if changed:
        choice["finish_reason"] = true_reason
    if all(out.delta is None for out in outs):
        return changed
    texts = [
        out.delta.text if isinstance(out.delta, TextDelta) else out.token
        for out in outs
        if isinstance(out.delta, TextDelta) or (out.delta is None and isinstance(out.token, str))
    ]
    message["content"] = "".join(texts) or (None if content is None or not given else content)
    message["tool_calls"] = _calls(outs)
    return True


def _calls(outs: list[Out]) -> list[dict[str, Any]]:
    """The calls of a message from the pieces that would have gone into a stream."""
    calls: dict[int, dict[str, Any]] = {}
    for out in outs:
        delta = out.delta
        if isinstance(delta, ToolCallDelta):
            known = calls.get(delta.call)
            if known is None:
                given = out.token if isinstance(out.token, dict) else {}
                function = {"name": delta.name, "arguments": delta.arguments}
                calls[delta.call] = {
                    **given,
                    "id": delta.id,
                    "type": "function",
                    "function": function,
                }
            else:
                known["function"]["arguments"] += delta.arguments
        elif delta is None and isinstance(out.token, dict):
            call = {**out.token, "function": {**out.token["function"]}}
            calls[len(calls)] = call
    return [calls[number] for number in sorted(calls)]


# Neutral events


class EventMender:
    """
    The same for a stream of neutral events, as translation from another dialect makes them.

    Args:
        rules: see `AnswerMender`.
        mended: takes what is to be announced.
    """

    def __init__(self, rules: Rules, mended: list[Mended]) -> None:
        self._mender = AnswerMender(rules, 0, mended)
        self._finished = False

    def mend(self, events: list[Event]) -> list[Event]:
        """What goes on in the place of *events*."""
        out: list[Event] = []
        mender = self._mender
        for event in events:
            if isinstance(event, TextDelta):
                out += _events(mender.text(event, event.text))
            elif isinstance(event, ToolCallDelta):
                pieces = mender.call(
                    event,
                    index=event.call,
                    id=event.id,
                    name=event.name,
                    arguments=event.arguments,
                )
                out += _events(pieces)
            elif isinstance(event, Finished):
                pieces, reason = mender.finish(event.reason)
                self._finished = True
                out += [*_events(pieces), _finished(event, reason)]
            elif isinstance(event, StreamEnd | StreamError):
                if not self._finished:
                    out += _events(mender.broken())
                out.append(event)
            else:
                out.append(event)
        return out

    @property
    def has_call(self) -> bool:
        """See `AnswerMender`."""
        return self._mender.has_call

    def broken(self) -> list[Event]:
        """The stream ends without an end of its own: what is held goes on as it came."""
        return _events(self._mender.broken())


def _finished(event: Finished, reason: str | None) -> Finished:
    reasons: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}
    return event if reason == event.reason else Finished(reasons[reason or ""], event.index)


def _events(outs: list[Out]) -> list[Event]:
    return [out.token if out.delta is None else out.delta for out in outs]
