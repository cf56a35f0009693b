"""
What a client's dialect is: how its requests become neutral, and how an answer is said in it.

OpenAI chat is the hub: a request in another dialect is read into the neutral `ChatRequest`, rendered as an
OpenAI chat body and goes the way of every other from there; the server's answer is read into neutral events,
and an `AnswerWriter` says these in the client's dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Event


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A client's request, read.

    Attributes:
        chat: the neutral request.
        changes: what of it has no neutral form and is left out; announced to the client.
        echo: what the answer needs of the request, by names of the dialect's own choice.
    """

    chat: ChatRequest
    changes: tuple[Change, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """
    What an answer says of itself.

    Attributes:
        id: unique, letters and digits only; each dialect puts its own prefix before it (`msg_`, `resp_`).
        model: the model as the client asked for it.
        created_s: seconds since 1970.
    """

    id: str
    model: str
    created_s: int


class AnswerWriter(Protocol):
    """
    One answer as a stream in a client's dialect.

    Events come in this order: `PrefillProgress` (any number; nothing of it is relayed, but it tells the
    prompt's size early), then text, reasoning and tool calls in any mixture (the pieces of one call come one
    after the other, with nothing else between them, whatever the server does), `Finished`, `UsageReported`; the last
    two may be missing or come the other way round.
    """

    def write(self, event: Event) -> bytes:
        """The bytes of one event; b"" for what is said later or not at all."""

    def end(self, comment: bytes) -> bytes:
        """
        The end of a complete answer.

        Args:
            comment: a whole comment line (with its line feed) that stands directly before the `data:` line of
                the dialect's closing event; b"" for none. NDJSON ignores it.
        """

    def heartbeat(self) -> bytes:
        """A no-op event, possible at any moment before the end; b"" where there is none."""

    def failed(self, error: Mapping[str, Any], status: int) -> bytes:
        """
        The error that ends a stream which has begun; the dialect's closing event never follows.

        Args:
            error: the error object of contracts 5 (`message`, `type`, `code`, `source`, ...).
            status: the HTTP status that it would have had.
        """

    def fork(self) -> Self:
        """A writer in the same state: what it writes does not change this one."""


class ClientDialect(Protocol):
    """A dialect that is translated."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """
        The neutral request.

        Raises:
            RequestError: the body is not of the dialect; the message names the field.
        """

    def writer(self, head: AnswerHead, asked: Asked) -> AnswerWriter:
        """For a client that asked for a stream."""

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """The body for a client that did not, from all events of a complete answer."""
