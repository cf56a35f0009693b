"""
Which slot of the server a conversation gets (`id_slot`), where this gateway is its only client (contracts 13).

A slot keeps the prefix of whatever it worked on last. A conversation that comes back to its slot is
prefilled by its new messages only; one that is given somebody else's throws two prefixes away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

_MOST_CONVERSATIONS = 4096


class Slots:
    """
    The slots of one model at one server. Plain bookkeeping; a wrong guess costs a prefill, nothing else.
    """

    __slots__ = ("_busy", "_owners", "_used")

    def __init__(self) -> None:
        self._owners: OrderedDict[int, int] = OrderedDict()
        self._busy: set[int] = set()
        self._used: dict[int, int] = {}

    def take(self, conversation: int, slots: int) -> int | None:
        """
        A slot for a request of *conversation*; None leaves the choice to the server.

        Args:
            conversation: what tells it from others.
            slots: how many the server has, counted from 0.
        """
        slot = self._owners.get(conversation)
        if slot is not None and slot < slots:
            if slot in self._busy:
                return (
                    None  # two requests of one conversation side by side: the second one is a guest
                )
            return self._taken(conversation, slot)
        free = [number for number in range(slots) if number not in self._busy]
        if not free:
            return None
        return self._taken(conversation, min(free, key=lambda number: self._used.get(number, -1)))

    def give_back(self, slot: int) -> None:
        """The request has ended."""
        self._busy.discard(slot)

    def _taken(self, conversation: int, slot: int) -> int:
        self._busy.add(slot)
        # Higher is later; the slot that was used longest ago is the first to be given away.
        self._used[slot] = max(self._used.values(), default=-1) + 1
        for other in [
            key for key, owned in self._owners.items() if owned == slot and key != conversation
        ]:
            del self._owners[other]
        self._owners[conversation] = slot
        self._owners.move_to_end(conversation)
        while len(self._owners) > _MOST_CONVERSATIONS:
            self._owners.popitem(last=False)
        return slot


class HeldSlot:
    """The slot that one request has been given, if any."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: tuple[Slots, int] | None = None

    def take(self, wanted: tuple[Slots, int] | None, conversation: Callable[[], int]) -> int | None:
        """
        The server's slot for a request. Asked before each attempt: the server may be another one by then, with
        fewer slots, and would wait for ever for one that it lacks.

        Args:
            wanted: the slots to choose from, and how many they are; None where the server chooses.
            conversation: asked only if it matters; 0 when nothing tells it from others.
        """
        held, self._held = self._held, None
        if held is not None:
            slots, number = held
            if wanted is not None and wanted[0] is slots and number < wanted[1]:
                self._held = held
                return number
            slots.give_back(number)
        if wanted is None or not (found := conversation()):
            return None
        taken = wanted[0].take(found, wanted[1])
        if taken is not None:
            self._held = wanted[0], taken
        return taken

    def give_back(self) -> None:
        """The request has left its slot, if it had one."""
        held, self._held = self._held, None
        if held is not None:
            held[0].give_back(held[1])


def with_slot(body: bytes, slot: int) -> bytes:
    """A JSON object's bytes with `id_slot` in it, spliced in before the last brace."""
    return b'%b,"id_slot":%d}' % (body.rstrip()[:-1], slot)
