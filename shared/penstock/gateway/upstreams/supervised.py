"""
A server that the gateway runs itself: how it is started, and what is known of its process.

`supervisor` keeps it alive and writes these; the gate, the status and the router read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from penstock.adapters.child import Launch
from penstock.domain.upstream import ServerKind

NOWHERE = "http://127.0.0.1:1"
"""Stands for the address of a server that has not shown yet where it listens. Port 1 is refused at once."""

Phase = Literal["starting", "running", "restarting", "given_up"]


@dataclass(frozen=True, slots=True)
class Server:
    """
    A server that the gateway shall run.

    Attributes:
        upstream: the name of the upstream that it is.
        launch: makes the way it is started, from the seconds that it has to end when it is asked to.
        address_is_given: somebody said where it listens; else its upstream's address is a guess, or `NOWHERE`.
        kind: the server kind that the command looks like.
        must_start: when it dies before it was ready for the first time, nothing is tried again.
    """

    upstream: str
    launch: Callable[[float], Launch]
    address_is_given: bool = True
    kind: ServerKind | None = None
    must_start: bool = False


class Supervised:
    """
    What is known of the process behind an upstream.

    Attributes:
        command: as people know it.
        phase: what is going on; `since_s`: since when, loop time.
        pid: of the server, None while there is none.
        restarts: how often it was started again.
        why: how it ended last, or why it was given up; "" when it never ended.
        log_file: where its output is, None for standard error.
        try_again: has a server that was given up started again.
    """

    __slots__ = (
        "command", "log_file", "phase", "pid", "restarts", "since_s", "try_again", "why",
    )  # fmt: skip

    def __init__(self, command: str, try_again: Callable[[], None]) -> None:
        self.command = command
        self.phase: Phase = "starting"
        self.since_s = 0.0
        self.pid: int | None = None
        self.restarts = 0
        self.why = ""
        self.log_file: str | None = None
        self.try_again = try_again

    @property
    def is_given_up(self) -> bool:
        """Whether it is not started again by itself."""
        return self.phase == "given_up"
