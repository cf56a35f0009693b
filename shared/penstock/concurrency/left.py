"""
What clients that hung up left behind, for whoever asks for the very same again within a minute.

A client that gives up after so many seconds and asks again would otherwise stand behind its own ghost, or at the end
of the queue, and give up once more before its turn, for ever. Only what was left can be taken: two equal requests
whose clients both wait are two requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

KEPT_S = 60.0
_MOST = 256

What = TypeVar("What")


class Left(Generic[What]):
    """Bounded in number and time; of several equal ones the last is kept."""

    __slots__ = ("_by_key", "_clients")

    def __init__(self) -> None:
        self._by_key: OrderedDict[tuple[str, Hashable], tuple[float, What]] = OrderedDict()
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def has_of(self, client: str) -> bool:
        """Whether this client left anything: a quick look before a request's bytes are looked at."""
        return client in self._clients

    def leave(self, client: str, request: Hashable, what: What, now_s: float) -> None:
        """A client hung up and left *what*."""
        self._forget_old(now_s)
        key = client, request
        if self._by_key.pop(key, None) is None:
            self._clients[client] = self._clients.get(client, 0) + 1
        self._by_key[key] = now_s, what
        while len(self._by_key) > _MOST:
            self._drop(next(iter(self._by_key)))

    def take(self, client: str, request: Hashable, now_s: float) -> What | None:
        """What was left by the same client with the same request; it is there no more."""
        self._forget_old(now_s)
        found = self._by_key.get((client, request))
        if found is None:
            return None
        self._drop((client, request))
        return found[1]

    def _forget_old(self, now_s: float) -> None:
        while self._by_key:
            key, (left_s, _) = next(iter(self._by_key.items()))
            if now_s - left_s <= KEPT_S:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, Hashable]) -> None:
        del self._by_key[key]
        left = self._clients[key[0]] - 1
        if left:
            self._clients[key[0]] = left
        else:
            del self._clients[key[0]]
