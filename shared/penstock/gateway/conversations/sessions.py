"""
One number for a conversation, from its beginning and from the client's own name for the session.

The beginning decides where it goes on from a request that is known. Where it does not (the client compacted, or
changes something at the front each time) the session's name helps, but only for a request with the same tools: what
agents ask on the side under the same name (a title, a summary) shares no prefix with the conversation, and giving it
that slot would throw the conversation's away.
"""

from __future__ import annotations

from collections import OrderedDict

from penstock.compress import PrefixReport

_MOST = 1024


class Sessions:
    """The conversations that sessions are at. Bounded; can be lost at any time."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[int, int] = OrderedDict()

    def number(self, report: PrefixReport, client: str, session: str, tools: int) -> int:
        """
        Which conversation a request belongs to.

        Args:
            session: the client's name for it, empty for none.
            tools: what tells its tools from others.
        """
        if not session:
            return report.conversation
        key = hash((client, session, tools))
        number = self._known.get(key)
        if number is None or report.previous_messages:
            number = self._known[key] = report.conversation
        self._known.move_to_end(key)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return number
