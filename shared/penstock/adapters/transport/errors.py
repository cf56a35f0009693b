"""How the way to an upstream can fail, with what the retry rules need to know."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "refused",
    "dns",
    "tls",
    "reset",
    "closed",
    "protocol",
    "timeout",
    "unix",
    "proxy",
    "unreachable",
    "descriptors",
]
Phase = Literal["connect", "send", "head", "body"]


class TransportError(Exception):
    """
    No answer, or not the whole of it.

    Attributes:
        kind: what happened.
        phase: when: connecting, sending the body, waiting for the head, reading the body.
        reused: the connection had served a request before.
        received_bytes: bytes of the answer that had come.
        os_error: the system's error number (`errno`), None where there is none.
        detail: the system's words; never empty.
    """

    def __init__(
        self,
        kind: Kind,
        phase: Phase,
        *,
        detail: str = "",
        reused: bool = False,
        received_bytes: int = 0,
        os_error: int | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.phase: Phase = phase
        self.reused = reused
        self.received_bytes = received_bytes
        self.os_error = os_error
        self.detail = detail.strip() or f"{kind} while in phase {phase}"
        super().__init__(self.detail)
