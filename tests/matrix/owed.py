"""
What is owed to a client when its upstream misbehaves: the table of the fault matrix, as rules.

The rules are those of the project's contracts, written down a second time and on purpose: this module imports
nothing of the gateway. `CODES` says what follows from each error code (its status, how often it is tried again,
whether it speaks against the server), `FAULTS` says which code each fault is at each moment, `owed` puts both
together. The driver (`matrix.play`) holds the gateway to it, `docs/fault_matrix.py` makes the page of it.

A fault strikes at a *moment* of the request itself; the *scene* says what else goes on at that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Moment = Literal["connect", "headers", "first_token", "midstream", "after_end", "keep_alive"]
Scene = Literal["alone", "heartbeat", "queued", "draining", "reload", "redeclared", "again"]
Mode = Literal["plain", "stream"]
Times = Literal["once", "always"]

MOMENTS: Mapping[Moment, str] = {
    "connect": "connecting",
    "headers": "the request is sent, no answer has begun",
    "first_token": "the answer has begun, before its first token",
    "midstream": "in the middle of the answer",
    "after_end": "after the answer's closing event",
    "keep_alive": "between two requests on one connection",
}
SCENES: Mapping[Scene, str] = {
    "alone": "nothing else goes on",
    "heartbeat": "the client has got heartbeats already, which commit its status",
    "queued": "another request waits behind it for the only slot",
    "draining": "the gateway is about to stop",
    "reload": "new settings come into force at that moment",
    "redeclared": "new settings declare the upstream anew at that moment",
    "again": "three requests before it met the same fault",
}

ATTEMPTS = 3
"""The policy's attempts towards a local server; the driver sets no others."""
SPENT_BY_DEATH = 2
"""A server that dies twice on one request died of it."""

Rule = Literal["never", "policy", "once", "unsent", "connect", "readiness", "refit"]


class CodeRow(NamedTuple):
    """
    What follows from an error code.

    Attributes:
        status: HTTP status.
        again: how it is tried again. `policy`: as often as the policy says; `once`: one time; `unsent`: by policy
            while nothing was relayed; `connect`: by policy when it was the connect; `readiness`: the server is
            waited for, which is no attempt; `refit`: once, if a shorter request can be made.
        speaks_against: the breaker counts it.
        waiting_helps: a `Retry-After` is owed.
    """

    status: int
    again: Rule
    speaks_against: bool
    waiting_helps: bool = False


CODES: Mapping[str, CodeRow] = {
    "upstream_unreachable": CodeRow(502, "policy", True),
    "upstream_loading": CodeRow(503, "readiness", False, True),
    "model_missing": CodeRow(404, "never", False),
    "out_of_memory": CodeRow(503, "never", True),
    "context_length_exceeded": CodeRow(400, "refit", False),
    "upstream_overloaded": CodeRow(503, "policy", False, True),
    "rate_limited": CodeRow(429, "policy", False, True),
    "connect_timeout": CodeRow(504, "connect", True),
    "first_token_timeout": CodeRow(504, "never", True),
    "stall_timeout": CodeRow(504, "never", True),
    "unsupported_input": CodeRow(400, "never", False),
    "grammar_refused": CodeRow(400, "once", False),
    "unparseable_generation": CodeRow(502, "once", False),
    "upstream_bad_request": CodeRow(400, "never", False),
    "upstream_auth": CodeRow(502, "never", False),
    "broken_stream": CodeRow(502, "unsent", True),
    "bad_answer": CodeRow(502, "unsent", True),
    "upstream_error": CodeRow(502, "policy", True),
}

WHOLE: tuple[str, ...] = ()
"""No code at all: the client gets the whole answer and never hears of the fault."""
REFUSALS: Mapping[str, int] = {"queue_full": 429, "breaker_open": 503, "draining": 503}
"""Our own decisions not to send, with their status: the client is told to try again, and when."""
FAILURES = 3
"""Requests in a row that end in a fault that speaks against the server: then the breaker is open."""

SHORTER = "context_length_exceeded"
"""Said by the upstream, or by us where the request cannot be made any shorter."""
_BROKEN = ("broken_stream", "bad_answer")
"""Two names that the contracts give to one row: it broke off, or nobody can read it."""
_DIED_TWICE = ("out_of_memory",)
_TOLD = ("upstream_error", "bad_answer")
"""An error in an answer that says 200: one row in the contracts, whichever of its names fits the words better."""


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Something that a server, or the way to it, does wrong.

    Attributes:
        id: short, for test ids.
        title: for people.
        at: the codes, any of which is right, at each moment at which it can strike.
        kills: the server is gone afterwards: attempts after the first find nobody.
        dies: without a byte on a fresh connection, which twice on one request is memory.
        status: of the upstream's own answer, where it is passed on.
        attempts: fewest and most, where the code does not say.
        passes: no feature needs to read what is wrong, so where client and server speak the same dialect it goes on as
            it came, and the client sees what the server said.
        says: the upstream's own words, with their status; None for words that stand within a stream.
        limits: time limits that make it end soon enough to be tested, seconds.
    """

    id: str
    title: str
    at: Mapping[Moment, tuple[str, ...]]
    kills: bool = False
    dies: bool = False
    status: int | None = None
    attempts: tuple[int, int] | None = None
    passes: bool = False
    says: tuple[int | None, bytes] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


_SOON = {"first_token_s": 0.4, "stall_s": 0.4}

FAULTS: tuple[Fault, ...] = (
    # The way to the server.
    Fault("refused", "connection refused", {"connect": ("upstream_unreachable",), "keep_alive": ("upstream_unreachable",)}),
    Fault("dns", "its name cannot be resolved", {"connect": ("upstream_unreachable",)}),
    Fault("no-handshake", "nobody answers the connect", {"connect": ("connect_timeout",)}, limits={"connect_s": 0.3}),
    Fault("descriptors", "the gateway has no descriptor left", {"connect": ("queue_full",)}, attempts=(1, 1)),
    # How a connection ends.
    Fault("reset", "the connection is reset", {
        "headers": _DIED_TWICE, "first_token": ("broken_stream",), "midstream": ("broken_stream",),
        "after_end": WHOLE, "keep_alive": WHOLE}, dies=True),
    Fault("close", "the connection is closed", {
        "headers": _DIED_TWICE, "first_token": ("broken_stream",), "midstream": ("broken_stream",),
        "after_end": WHOLE, "keep_alive": WHOLE}, dies=True),
    Fault("crash", "the server dies and nobody listens any more", {
        "headers": ("upstream_unreachable",), "first_token": ("upstream_unreachable",),
        "midstream": ("broken_stream",), "after_end": WHOLE}, kills=True),
    Fault("half-head", "closed in the middle of the head", {"headers": ("broken_stream",)}),
    Fault("half-event", "closed in the middle of an event", {"first_token": ("broken_stream",), "midstream": ("broken_stream",)}),
    Fault("cut", "the body ends properly, the answer does not", {"first_token": _BROKEN, "midstream": _BROKEN}),
    # Time.
    Fault("stall", "nothing more comes", {
        "headers": ("first_token_timeout",), "first_token": ("first_token_timeout",),
        "midstream": ("stall_timeout",), "after_end": WHOLE}, limits=_SOON),
    Fault("pings", "comments and nothing else come for ever", {
        "first_token": ("first_token_timeout",), "midstream": ("stall_timeout",)}, limits=_SOON),
    Fault("drip", "it comes a few bytes at a time", {
        "headers": WHOLE, "first_token": WHOLE, "midstream": WHOLE, "after_end": WHOLE}),
    Fault("loading", "it loads its model", {"headers": ("upstream_loading",)}, limits={"load_s": 0.7}),
    # What it says.
    Fault("error-event", "an error as an event", {"first_token": _TOLD, "midstream": _TOLD}),
    Fault("out-of-memory", "it says that memory ran out", {
        "headers": ("out_of_memory",), "first_token": ("out_of_memory",), "midstream": ("out_of_memory",)}),
    Fault("overloaded", "it says that it is busy", {"headers": ("upstream_overloaded",)}),
    Fault("busy-long", "busy, and `Retry-After` beyond the policy", {"headers": ("upstream_overloaded",)}, attempts=(1, 1)),
    Fault("http-500", "500 with words nobody knows", {"headers": ("upstream_error",)}),
    Fault("error-in-200", "200 with an error in it", {"headers": _TOLD}),
    Fault("html", "200 with a web page", {"headers": ("bad_answer",)}),
    Fault("half-json", "200 with half a JSON", {"headers": ("bad_answer",)}),
    Fault("empty", "200 without a body", {"headers": ("bad_answer",)}),
    Fault("too-short", "shorter than its content-length", {"headers": _BROKEN}),
    Fault("too-long", "longer than its content-length", {"headers": _BROKEN}),
    Fault("not-http", "bytes that are no HTTP", {"headers": ("bad_answer",)}),
    Fault("endless-head", "a head without end", {"headers": ("bad_answer",)}),
    Fault("bad-chunk", "a chunk size that is no number", {"first_token": _BROKEN, "midstream": _BROKEN}),
    Fault("junk-event", "an event that is no JSON", {"first_token": _BROKEN, "midstream": _BROKEN}, passes=True),
    Fault("more", "more events than there should be", {"after_end": WHOLE}),
    Fault("unasked", "bytes that nobody asked for", {"keep_alive": WHOLE}),
    # The machine that the gateway runs on.
    Fault("clock-jump", "the clock jumps by a day", {
        "headers": WHOLE, "first_token": WHOLE, "midstream": WHOLE}),
    Fault("disk-full", "the log cannot be written", {"headers": WHOLE, "midstream": WHOLE}),
)  # fmt: skip
BY_ID: Mapping[str, Fault] = {fault.id: fault for fault in FAULTS}


class Owed(NamedTuple):
    """
    What is owed for one request.

    Attributes:
        codes: the error's code is one of these; empty for the whole answer.
        status: HTTP status; within the event where the answer had begun.
        as_event: the error comes as an event of the client's dialect, behind a 200.
        attempts: fewest and most.
        sent: requests that the upstream saw, fewest and most.
        outcome: `success`, `dropped` (speaks against the server: the breaker counts it), `ignored`.
        retry_after: the answer says when to come back.
    """

    codes: tuple[str, ...]
    status: int
    as_event: bool
    attempts: tuple[int, int]
    sent: tuple[int, int]
    outcome: str
    retry_after: bool

    @property
    def is_refusal(self) -> bool:
        """It is our own decision not to send."""
        return bool(self.codes) and self.codes[0] in REFUSALS

    @property
    def is_whole(self) -> bool:
        """The client gets its whole answer."""
        return not self.codes


def owed(
    fault: Fault,
    moment: Moment,
    mode: Mode,
    times: Times,
    scene: Scene = "alone",
    *,
    verbatim: bool = False,
) -> Owed:
    """
    What a client is owed whose request meets *fault* at *moment*.

    Args:
        verbatim: client and server speak the same dialect, and the client wants a stream.
    """
    codes = WHOLE if verbatim and fault.passes else fault.at[moment]
    # A connection that was open before may be found closed: a fresh one is used, which nobody counts.
    unseen = 1 if moment == "keep_alive" and fault.id == "reset" else 0
    if not codes:
        return Owed((), 200, False, (1, 1), (1 + unseen, 1 + unseen), "success", False)
    if codes[0] in REFUSALS:
        return refused(codes[0], attempts=fault.attempts or (0, 0))
    relayed = moment == "midstream" and mode == "stream"
    most = _attempts(fault, codes[0], moment, relayed)
    if fault.kills and not relayed:
        most = (ATTEMPTS, ATTEMPTS)
        codes = ("upstream_unreachable",)
    if times == "once" and CODES[codes[0]].again == "readiness":
        return Owed((), 200, False, (1, 1), (2, 9), "success", False)
    second_chance = most[1] > 1
    if times == "once" and second_chance:
        is_away = fault.kills or fault.id == "refused" or moment == "connect"
        tries = (2, ATTEMPTS) if is_away else (2, 2)
        reached = _reached(fault, moment, tries)
        return Owed((), 200, False, tries, reached, "success", False)
    row = CODES[codes[0]]
    status = fault.status if fault.status and codes[0] == "upstream_bad_request" else row.status
    outcome = "dropped" if row.speaks_against else "ignored"
    as_event = relayed or (scene == "heartbeat" and mode == "stream")
    sent = (1, 50) if row.again == "readiness" else _reached(fault, moment, most, lasts=True)
    return Owed(codes, status, as_event, most, sent, outcome, row.waiting_helps)


def _attempts(fault: Fault, code: str, moment: Moment, relayed: bool) -> tuple[int, int]:
    """Fewest and most attempts when the fault stays."""
    if relayed:
        return (1, 1)
    if fault.attempts is not None:
        return fault.attempts
    if fault.dies and moment == "headers":
        return (SPENT_BY_DEATH, SPENT_BY_DEATH)
    again = CODES[code].again
    most = {
        "never": 1,
        "policy": ATTEMPTS,
        "once": 2,
        "unsent": ATTEMPTS,
        "connect": ATTEMPTS if moment == "connect" else 1,
        "readiness": 1,
        "refit": 2,
    }[again]
    return (1 if again == "refit" else most, most)


def _reached(
    fault: Fault, moment: Moment, attempts: tuple[int, int], *, lasts: bool = False
) -> tuple[int, int]:
    """Requests that the upstream sees: not those attempts for which nobody listened."""
    if moment == "connect" or (fault.id in ("refused", "crash") and moment == "keep_alive"):
        return (0, 0) if lasts else (1, 1)
    if fault.kills:
        return (1, 1) if lasts else (2, 2)
    return attempts


def said(id: str, code: str, status: int | None, body: bytes) -> Fault:
    """
    A fault that is an answer of some server.

    Args:
        status: None: *body* stood in a stream that had begun with 200.
    """
    as_sent = status if status is not None and 400 <= status < 500 else 400
    moments: tuple[Moment, ...] = ("first_token", "midstream") if status is None else ("headers",)
    # Which kinds of failure pass by themselves is knowledge of each server's texts, not of this table.
    attempts = (1, ATTEMPTS) if CODES[code].again in ("policy", "unsent") else None
    limits = {"load_s": 0.7} if code == "upstream_loading" else {}
    return Fault(
        id, id, dict.fromkeys(moments, (code,)), status=as_sent, attempts=attempts, says=(status, body), limits=limits
    )  # fmt: skip


def refused(code: str, *, attempts: tuple[int, int] = (0, 0)) -> Owed:
    """What is owed with a refusal of our own."""
    return Owed((code,), REFUSALS[code], False, attempts, (0, 0), "ignored", True)


def owed_after(before: Owed) -> Owed:
    """What the request is owed that comes behind `FAILURES` others that were owed *before*."""
    return refused("breaker_open") if before.outcome == "dropped" else before
