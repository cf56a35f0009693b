"""
The head of a request, read once for all requests of a connection that say the same.

A client's requests on one connection differ in nothing but their length. So what was made of a head is
kept with the connection, and with it what was decided by the head alone: who it is from (`access`), and
which headers go to an upstream (`sent`). Both are checked for what else they depend on by whoever reads
them.
"""

from __future__ import annotations

from itertools import repeat
from operator import itemgetter
from typing import Any

Headers = list[tuple[bytes, bytes]]

_LARGEST_KEPT_BYTES = 8 * 1024
_LENGTH = b"content-length"
_first, _second = itemgetter(0), itemgetter(1)
_LATIN = repeat("latin-1")


class Head:
    """
    Attributes:
        raw: the headers as the client sent them, case and order kept.
        lowered: the same with names in lower case.
        text: value by lower-case name, the last one of each.
        hosts: how many `Host` there are.
        wants_continue: the client waits for `100 Continue` before it sends the body.
        access: the last decision on it, see `app`.
        caller: who asks, see `callers`.
        sent: what goes to upstreams, see `upstream_headers`.
        is_small: worth to be kept.
    """

    __slots__ = (
        "_length_at", "access", "caller", "hosts", "is_small", "lowered", "raw", "sent", "text", "wants_continue",
    )  # fmt: skip

    def __init__(self, raw: Headers) -> None:
        names = [*map(bytes.lower, map(_first, raw))]
        self.raw = raw
        self.lowered: Headers = [*zip(names, map(_second, raw), strict=True)]
        self.text: dict[str, str] = dict(
            zip(
                map(str, names, _LATIN),
                map(str, map(_second, raw), _LATIN),
                strict=True,
            )
        )
        self.hosts = names.count(b"host")
        self.wants_continue = b"expect" in names and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.lowered
        )
        self.access: Any = None
        self.caller: str | None = None
        self.sent: dict[Any, Headers] = {}
        self.is_small = (
            sum(map(len, names)) + sum(map(len, map(_second, raw))) <= _LARGEST_KEPT_BYTES
        )
        self._length_at = names.index(_LENGTH) if names.count(_LENGTH) == 1 else -1

    def is_said_again_by(self, raw: Headers) -> bool:
        """
        Whether another request's headers are the same, up to the length of its body. Then they are taken
        over: this head is that request's from now on.
        """
        if raw == self.raw:
            self.raw = raw
            return True
        at = self._length_at
        if at < 0 or len(raw) != len(self.raw):
            return False
        name, value = raw[at]
        if (
            name != self.raw[at][0]
            or raw[:at] != self.raw[:at]
            or raw[at + 1 :] != self.raw[at + 1 :]
        ):
            return False
        # The request before may still be read: what it has of this head stays as it is.
        self.raw = raw
        self.lowered = self.lowered.copy()
        self.lowered[at] = (_LENGTH, value)
        self.text = {**self.text, "content-length": value.decode("latin-1")}
        return True
