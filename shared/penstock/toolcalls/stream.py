"""
One answer's stream on its way to the client: tool calls in it are made right while they are written.

What comes in goes on at once as long as it cannot need repair (`penstock.toolcalls.scan`). From where it may,
a call's arguments are held until the call has ended; then they go on as they came, or the repaired rest does.
Text is held only while it may still turn out to be a call that the model wrote as text. Arguments that were
cut off are never completed: they go on as they are, and the finish reason says `length` (behaviours E).

Calls get the numbers and ids that clients rely on, whatever the server does: counted from 0 in the order in
which they begin, each id once, name and id in a call's first piece only (clients add pieces up).

Pure, and in no dialect. Everything that comes in carries a token, everything that goes out names one: `Out`
without a delta is that token unchanged, so a relay can send the very bytes that it got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock.domain.chat import ToolCallDelta
from penstock.toolcalls.arguments import Checked, Verdict, check_arguments, is_unterminated
from penstock.toolcalls.mended import Became, Mended, Out, Rules
from penstock.toolcalls.resume import ending
from penstock.toolcalls.scan import ArgumentScanner
from penstock.toolcalls.spoken import SpokenText

__all__ = ["AnswerMender", "Became", "Mended", "Out", "Rules"]

_WRONG = "the arguments are not what the tool's schema asks for and could not be repaired"
_WHOLE_REASONS = frozenset({"stop", "tool_calls", "function_call", "", None})


@dataclass(slots=True)
class _Held:
    token: Any
    piece: str
    as_it_came: bool  # else it needs another number, or its head went out before it


@dataclass(slots=True)
class _Call:
    number: int
    id: str
    name: str
    given_id: str
    token: Any
    scanner: ArgumentScanner | None = None
    parts: list[str] = field(default_factory=list)
    held: list[_Held] = field(default_factory=list)
    released: int = 0
    settled: bool = False


class AnswerMender:
    """
    Mends one choice of one answer.

    Args:
        rules: see there.
        choice: its index.
        mended: takes what is to be announced.
    """

    def __init__(self, rules: Rules, choice: int, mended: list[Mended]) -> None:
        self._rules = rules
        self._choice = choice
        self._calls: list[_Call] = []
        self._by_index: dict[Any, _Call] = {}
        self._text = SpokenText(rules, choice)
        self._said_renumbered = False
        self._was_cut = False
        self._mended = mended

    @property
    def is_idle(self) -> bool:
        """Whether only a call could make a difference now: text goes on as it comes."""
        return self._text.is_closed and not self._calls

    @property
    def has_call(self) -> bool:
        """Whether a call has begun, or text waits that may become one."""
        return bool(self._calls) or self._text.holds

    def text(self, token: Any, text: str) -> list[Out]:
        """A piece of the answer's text."""
        return self._text.take(token, text)

    def _recover(self) -> list[Out]:
        """The calls that the held text is; it goes on as it came when it is none."""
        found = self._text.recover()
        if found is None:
            return self._text.let_go()
        token, calls = found
        outs: list[Out] = []
        for call in calls:
            number = len(self._calls)
            made = _Call(number, self._new_id(number), call.name, "", token, settled=True)
            self._calls.append(made)
            detail = "; ".join(("text that the model wrote became a call", *call.repairs))
            self._note(Became.RECOVERED, made, detail)
            delta = ToolCallDelta(number, made.id, call.name, call.arguments, self._choice)
            outs.append(Out(token, delta))
        return outs

    # Calls

    def call(
        self, token: Any, *, index: int | None, id: str = "", name: str = "", arguments: str = ""
    ) -> list[Out]:
        """A piece of a tool call, as the server numbered it."""
        outs = self._text.let_go()
        call = self._find(index, id, name)
        if call is None:
            outs += self._begin(token, index, id, name, arguments)
        else:
            outs += self._continue(call, token, index, id, name, arguments)
        return outs

    def _find(self, index: int | None, id: str, name: str) -> _Call | None:
        """The call that a piece belongs to; None when it begins a new one."""
        if not self._calls:
            return None
        call = self._calls[-1] if index is None else self._by_index.get(index)
        if call is None or not (id or name):
            return call
        if id and call.given_id:
            if id == call.given_id:
                return call
            return next((c for c in self._calls if c.given_id == id), None)
        if not call.parts:
            whole = call.name + name
            begun = any(offered.startswith(whole) for offered in self._rules.tools().names)
            return call if not name or name == call.name or begun else None
        return None if name and (name != call.name or self._is_whole(call)) else call

    def _is_whole(self, call: _Call) -> bool:
        if call.scanner is not None and not call.scanner.stuck:
            return call.scanner.done is not None
        return not is_unterminated("".join(call.parts))

    def _begin(
        self, token: Any, index: int | None, id: str, name: str, arguments: str
    ) -> list[Out]:
        number = len(self._calls)
        outs: list[Out] = []
        if index is not None and index in self._by_index:
            outs = self._settle(self._by_index[index], cut_off=False)  # nothing more of it can come
        taken = {call.id for call in self._calls}
        given, id = id, id if id and id not in taken else self._new_id(number)
        call = _Call(number, id, name, given, token)
        self._calls.append(call)
        self._by_index[index if index is not None else number] = call
        as_it_came = index == number and id == given
        if not as_it_came:
            self._renumbered(call)
        if self._rules.repair and arguments:
            call.scanner = ArgumentScanner(self._rules.tools().get(name))
        following = self._take(call, _Held(token, arguments, as_it_came))
        if following and following[0].token is token:
            if not as_it_came:
                following[0] = Out(token, ToolCallDelta(number, id, name, arguments, self._choice))
            return outs + following
        # Its head goes first, at once: clients want to see calls begin in the order of their numbers.
        call.held[0].as_it_came = False
        head = Out(token, ToolCallDelta(number, id, name, "", self._choice))
        return [*outs, head, *following]

    def _continue(
        self, call: _Call, token: Any, index: int | None, id: str, name: str, arguments: str
    ) -> list[Out]:
        call.token = token
        if call.settled:
            return []
        as_it_came = index == call.number and not id and not name
        outs: list[Out] = []
        if name and name != call.name:  # the rest of a name
            call.name += name
            outs = [Out(token, ToolCallDelta(call.number, "", name, "", self._choice))]
        elif name or id:
            self._renumbered(call)
        if not arguments:
            return outs or ([Out(token)] if as_it_came else [])
        if call.scanner is None and self._rules.repair:
            call.scanner = ArgumentScanner(self._rules.tools().get(call.name))
        return outs + self._take(call, _Held(token, arguments, as_it_came))

    def _take(self, call: _Call, held: _Held) -> list[Out]:
        """One more piece of arguments, and what can go on now."""
        scanner = call.scanner
        call.held.append(held)
        if held.piece:
            call.parts.append(held.piece)
        if scanner is not None and held.piece:
            scanner.feed(held.piece)
            if scanner.done is not None and scanner.safe < scanner.done and not scanner.stuck:
                self._judge(call, scanner, scanner.done)
        return self._release(call, None if scanner is None else scanner.safe)

    def _judge(self, call: _Call, scanner: ArgumentScanner, end: int) -> None:
        """The arguments are whole, and nothing in them was suspicious: look at them as a whole."""
        text = "".join(call.parts)[:end]
        if self._check(call, text, cut_off=False).verdict is Verdict.VALID:
            scanner.accept()
        else:
            scanner.stuck = True  # what is to be done is decided when the call has ended

    def _release(self, call: _Call, safe: int | None) -> list[Out]:
        """Let go what stands before *safe* (None: everything), piece by piece."""
        outs: list[Out] = []
        for place, held in enumerate(call.held):
            end = call.released + len(held.piece)
            if safe is not None and end > safe:
                del call.held[:place]
                return outs
            call.released = end
            if held.as_it_came:
                outs.append(Out(held.token))
            else:
                delta = ToolCallDelta(call.number, arguments=held.piece, index=self._choice)
                outs.append(Out(held.token, delta))
        call.held.clear()
        return outs

    def _check(self, call: _Call, text: str, *, cut_off: bool) -> Checked:
        return check_arguments(text, self._rules.tools().get(call.name), cut_off=cut_off)

    def _settle(self, call: _Call, *, cut_off: bool) -> list[Out]:
        """A call has ended: decide about what is held of it."""
        if call.settled:
            return []
        call.settled = True
        text = "".join(call.parts)
        scanner = call.scanner
        if scanner is not None and not scanner.stuck and scanner.done is not None:
            return self._release(call, None)  # judged already, and right
        if scanner is None and not self._rules.repair:
            if cut_off or is_unterminated(text):
                self._note(Became.CUT_OFF, call, "the arguments were cut off")
            return self._release(call, None)
        checked = self._check(call, text, cut_off=cut_off)
        if checked.verdict is Verdict.REPAIRED:
            begun = text[: scanner.safe] if scanner is not None else ""
            rest = self._rest(call, begun, checked.text)
            if rest is not None:
                self._note(Became.REPAIRED, call, "; ".join(checked.repairs))
                rest = text[call.released : len(begun)] + rest
                call.held.clear()
                if not rest:
                    return []
                delta = ToolCallDelta(call.number, arguments=rest, index=self._choice)
                return [Out(call.token, delta)]
            self._note(Became.FLAGGED, call, _WRONG)
        elif checked.verdict is Verdict.CUT_OFF:
            self._note(Became.CUT_OFF, call, "the arguments were cut off")
        elif checked.verdict is Verdict.FLAGGED:
            self._note(Became.FLAGGED, call, _WRONG)
        return self._release(call, None)

    def _rest(self, call: _Call, begun: str, repaired: str) -> str | None:
        """What leads from the beginning that is out to arguments that validate; None when nothing does."""
        if repaired.startswith(begun):
            return repaired[len(begun) :]
        try:
            rest = ending(begun, orjson.loads(repaired))
        except orjson.JSONDecodeError:
            return None
        if (
            rest is None
            or self._check(call, begun + rest, cut_off=False).verdict is not Verdict.VALID
        ):
            return None
        return rest

    # Ends

    def finish(self, reason: str | None) -> tuple[list[Out], str | None]:
        """
        The server ended this choice.

        Args:
            reason: its finish reason; None when it said none.

        Returns:
            what goes out before the end, and the finish reason that is true.
        """
        is_whole = reason in _WHOLE_REASONS
        outs: list[Out] = []
        if not self._calls:
            outs = self._recover() if is_whole else self._text.let_go()
        for call in self._calls:
            # An output limit cuts the last call only.
            may_be_cut = not is_whole and call is self._calls[-1] and not self._has_ended(call)
            outs += self._settle(call, cut_off=may_be_cut)
        if not self._calls or not is_whole:
            return outs, reason
        if self._was_cut:
            return outs, "length"
        return outs, "tool_calls" if reason == "stop" else reason

    @staticmethod
    def _has_ended(call: _Call) -> bool:
        return call.scanner is not None and call.scanner.done is not None

    def broken(self) -> list[Out]:
        """The stream broke, or is ended by us: everything held goes on as it came."""
        outs = self._text.let_go()
        for call in self._calls:
            if not call.settled:
                call.settled = True
                if not self._is_whole(call):
                    self._note(Became.CUT_OFF, call, "the arguments were cut off")
                outs += self._release(call, None)
        return outs

    # Numbers and ids

    def _new_id(self, number: int) -> str:
        choice = f"{self._choice}_" if self._choice else ""
        return f"call_{self._rules.seed[-16:]}_{choice}{number}"

    def _renumbered(self, call: _Call) -> None:
        if not self._said_renumbered:
            self._said_renumbered = True
            detail = "calls got an index and an id of their own, each said once"
            self._note(Became.RENUMBERED, call, detail)

    def _note(self, became: Became, call: _Call, detail: str) -> None:
        self._was_cut |= became is Became.CUT_OFF
        self._mended.append(Mended(became, call.number, call.name, detail, self._choice))
