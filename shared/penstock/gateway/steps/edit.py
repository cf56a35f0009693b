"""
Changes to a request's body, collected and then applied at once.

A body that stays in its dialect is edited, not rebuilt: unknown fields survive, and when fields are only
added, the client's own bytes go on with the new ones spliced in before the last brace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock.domain.change import Change
from penstock.errors import ErrorCode, RequestError

_ABSENT = object()


@dataclass(slots=True)
class Edit:
    """Changes to a JSON object at its top level, collected and then applied at once."""

    body: dict[str, Any]
    set_fields: dict[str, Any] = field(default_factory=dict)
    drop_fields: set[str] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)

    def set(self, name: str, value: Any) -> None:
        """Give *name* a value; nothing happens when it has it already."""
        if self.body.get(name, _ABSENT) != value or type(self.body.get(name)) is not type(value):
            self.set_fields[name] = value
            self.drop_fields.discard(name)

    def replace(self, name: str, value: Any) -> None:
        """Give *name* a value that is known to differ (comparing long conversations costs)."""
        self.set_fields[name] = value

    def drop(self, name: str) -> None:
        """Take *name* out."""
        if name in self.body:
            self.drop_fields.add(name)
        self.set_fields.pop(name, None)

    def apply(self, raw: bytes) -> bytes:
        """The edited body. *raw* is what the client sent, byte for byte where nothing changed."""
        if not self.set_fields and not self.drop_fields:
            return raw
        if not self.drop_fields and self.body and not self.set_fields.keys() & self.body.keys():
            cut = raw.rstrip()
            return b"%b,%b" % (cut[:-1], written(self.set_fields)[1:])
        merged = {k: v for k, v in self.body.items() if k not in self.drop_fields}
        merged.update(self.set_fields)
        return written(merged)


def written(body: Mapping[str, Any]) -> bytes:
    """
    A body as bytes.

    Raises:
        RequestError: it can be read and not be written. orjson writes at most 254 levels and numbers of 64 bits; RFC
            8259 allows such limits (sections 6 and 9).
    """
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as exc:
        told = "nested too deeply: 200 levels can be sent on (a tool's schema?)"
        if "64-bit" in str(exc):
            told = "a number in it has more than 64 bits"
        raise RequestError(
            ErrorCode.INVALID_REQUEST, f"The request cannot be sent on: {told}."
        ) from exc
