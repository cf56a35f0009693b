"""
Step 9: one outcome is recorded. A log line, the metrics, the ring of recent requests, the event stream.

Prompts and answers are in none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Literal

from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.views.logs import SINK, RequestLog
from penstock.gateway.views.metrics import Gauge, Metrics
from penstock.settings import Settings

log = logging.getLogger("penstock.gateway")

_MOST_EVENTS_WAITING = 1024
_MOST_ACTS = 100
_MOST_LATE = 20_000

ActName = Literal[
    "paused", "resumed", "draining", "drained", "bypassed", "bypass_ended", "unloaded",
    "upstream_added", "upstream_forgotten", "breaker_opened", "breaker_closed",
    "limit_lowered", "window_reduced", "model_reloaded", "restart_ordered", "time_jumped",
    "server_started", "server_ready", "server_died", "server_given_up",
    "member_found", "member_gone",
]  # fmt: skip
"""What the gateway does to an upstream by itself or because somebody told it to."""
_ORDINARY: frozenset[ActName] = frozenset(
    {"resumed", "drained", "bypass_ended", "upstream_added", "upstream_forgotten", "breaker_closed",
     "server_started", "server_ready", "member_found"}
)  # fmt: skip
"""Nothing that somebody has to look at."""


@dataclass(frozen=True, slots=True)
class Act:
    """
    Something that was done, or that changed by itself, at an upstream.

    Attributes:
        at: wall-clock time, seconds since 1970.
        upstream: its name; empty for the gateway itself.
        act: what.
        why: one sentence.
    """

    at: float
    upstream: str
    act: ActName
    why: str


class Recorder:
    """
    Args:
        settings: for the size of the ring and whether requests are logged.
        gauges: read when metrics are asked for.

    Attributes:
        pieces_ended: of all requests that have ended.
        late: (tokens, from, to) for each that ended lately: what the server counted beyond the pieces it sent, and
            the monotonic times between which it made them. Who reads it takes it away.
    """

    def __init__(self, settings: Settings, gauges: Callable[[], Iterable[Gauge]]) -> None:
        self.metrics = Metrics(gauges)
        self.log = RequestLog(facts, SINK.write)
        self.acts: deque[Act] = deque(maxlen=_MOST_ACTS)
        self._recent: OrderedDict[str, Exchange] = OrderedDict()
        self.pieces_ended = 0
        self.late: deque[tuple[int, float, float]] = deque(maxlen=_MOST_LATE)
        # {queue of events: whether it is told only that something changed}
        self._subscribers: dict[asyncio.Queue[dict[str, Any] | None], bool] = {}
        self.settings_changed(settings)

    def settings_changed(self, settings: Settings) -> None:
        """New settings are in force."""
        self._most_recent = settings.status.recent_requests
        self._log_requests = settings.log.requests and settings.log.level in ("debug", "info")
        self.log.as_json = settings.log.format == "json"

    def finish(self, exchange: Exchange) -> None:
        """A request has ended."""
        self.metrics.request_ended(exchange)
        self.pieces_ended += exchange.chunks
        late = (exchange.completion_tokens or exchange.chunks) - exchange.chunks
        if late and exchange.ended_s is not None:
            self.late.append((late, exchange.answering_from_s, exchange.ended_s))
        if self._most_recent:
            recent = self._recent
            recent[exchange.id] = exchange
            while len(recent) > self._most_recent:
                recent.popitem(last=False)
        if self._log_requests:
            self.log.add(exchange, exchange.arrived_at + (exchange.duration_s or 0.0))
        if False in self._subscribers.values():
            self.publish({"event": "request", "request": describe(exchange)})

    def refused(self, exchange: Exchange) -> None:
        """
        A request was refused before it was looked at (no key, a foreign page, no such method): a line and
        a count, but no place among the recent ones, or strangers could push all others out.
        """
        self.metrics.request_ended(exchange)
        if self._log_requests:
            self.log.add(exchange, exchange.arrived_at + (exchange.duration_s or 0.0))

    def recent(self) -> list[Exchange]:
        """Ended requests, newest first."""
        return list(reversed(self._recent.values()))

    def find(self, request_id: str) -> Exchange | None:
        """An ended request that is still remembered."""
        return self._recent.get(request_id)

    def acted(self, upstream: str, act: ActName, why: str) -> None:
        """Something was done at *upstream*: it is logged, counted, remembered, and told to subscribers."""
        done = Act(round(time.time(), 3), upstream, act, why)
        self.acts.append(done)
        self.metrics.count("penstock_acts", (upstream, act))
        level = logging.INFO if act in _ORDINARY else logging.WARNING
        log.log(level, "%s", act, extra={"penstock": {"upstream": upstream, "why": why}})
        if self._subscribers:
            self.publish({"event": "act", **asdict(done)})
            self.changed()

    def changed(self, what: str = "upstreams") -> None:
        """Something that the status shows is different now."""
        if self._subscribers:
            self.publish({"event": "changed", "what": what})

    def publish(self, event: dict[str, Any]) -> None:
        """Tell all subscribers; one that does not keep up is let go."""
        for queue, quiet in list(self._subscribers.items()):
            if quiet and event["event"] != "changed":
                continue
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._end(queue)

    def subscribe(self, *, quiet: bool = False) -> asyncio.Queue[dict[str, Any] | None]:
        """A queue of events, with *quiet* only of those that say "changed"; None at its end."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MOST_EVENTS_WAITING)
        self._subscribers[queue] = quiet
        return queue

    def unsubscribe(self, queue: asyncio.Queue[dict[str, Any] | None]) -> None:
        """No more events."""
        self._subscribers.pop(queue, None)

    def end_streams(self) -> None:
        """End all event streams."""
        for queue in list(self._subscribers):
            self._end(queue)

    def _end(self, queue: asyncio.Queue[dict[str, Any] | None]) -> None:
        """End one stream. A full queue has no room for its end: what stands in it is left out then."""
        self._subscribers.pop(queue, None)
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(None)


def facts(exchange: Exchange) -> dict[str, Any]:
    """The pairs of a request's log line; what is not known is left out."""
    pairs: dict[str, Any] = {
        "id": exchange.id,
        "client": exchange.client,
        "op": exchange.operation,
    }
    if exchange.model:
        pairs["model"] = exchange.model
    if exchange.upstream:
        pairs["upstream"] = exchange.upstream
    if exchange.status is not None:
        pairs["status"] = exchange.status
    if exchange.error_code:
        pairs["code"] = exchange.error_code
    if exchange.outcome is not None:
        pairs["outcome"] = exchange.outcome._value_
    if exchange.ended_s is not None:
        pairs["s"] = round(exchange.ended_s - exchange.arrived_s, 4)
    if exchange.first_token_s is not None and exchange.sent_s is not None:
        pairs["ttft_s"] = round(exchange.first_token_s - exchange.sent_s, 4)
    if exchange.queued_s is not None and (waited_s := round(exchange.waited_s, 4)):
        pairs["waited_s"] = waited_s
    if len(exchange.attempts) > 1:
        pairs["attempts"] = len(exchange.attempts)
        pairs["delays_s"] = [round(a.delay_s, 2) for a in exchange.attempts[:-1]]
    if exchange.prompt_tokens is not None:
        pairs["prompt"] = exchange.prompt_tokens
    if exchange.cached_tokens is not None:
        pairs["cached"] = exchange.cached_tokens
    if exchange.completion_tokens is not None:
        pairs["output"] = exchange.completion_tokens
    if exchange.changes:
        pairs["changes"] = len(exchange.changes)
    if exchange.resumed:
        pairs["resumed"] = exchange.resumed
    if exchange.heartbeats:
        pairs["heartbeats"] = exchange.heartbeats
    if exchange.client_gone:
        pairs["gone"] = True
    if exchange.operation == "other":
        pairs["path"] = exchange.path
    return pairs


def describe(exchange: Exchange) -> dict[str, Any]:
    """A request as status and `/penstock/requests/{id}` show it."""
    return {
        "id": exchange.id,
        "arrived_at": round(exchange.arrived_at, 3),
        "method": exchange.method,
        "path": exchange.path,
        "operation": exchange.operation,
        "dialect": exchange.dialect,
        "client": exchange.client,
        "user_agent": exchange.user_agent,
        "conversation": _conversation(exchange),
        "model": exchange.model,
        "upstream": exchange.upstream,
        "upstream_model": exchange.upstream_model,
        "locality": exchange.locality.value if exchange.locality is not None else None,
        "stream": exchange.stream,
        "stage": exchange.stage,
        "status": exchange.status,
        "error_code": exchange.error_code or None,
        "error_message": exchange.error_message or None,
        "outcome": exchange.outcome.value if exchange.outcome is not None else None,
        "client_gone": exchange.client_gone,
        "duration_s": _round(exchange.duration_s),
        "waited_s": _round(exchange.waited_s),
        "ttft_s": _round(exchange.ttft_s),
        "queue": _place(exchange),
        "took_over": exchange.took_over or None,
        "heartbeats": exchange.heartbeats,
        "body_bytes": exchange.body_bytes,
        "answer_bytes": exchange.answer_bytes,
        "chunks": exchange.chunks,
        "window": exchange.window,
        "fitted": exchange.fitted or None,
        "prompt_tokens_original": exchange.prompt_tokens_original,
        "prompt_tokens_planned": exchange.prompt_tokens_planned,
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens,
        "cached_tokens": exchange.cached_tokens,
        "prefill": (
            {"processed": exchange.prefill_done, "total": exchange.prefill_total}
            if exchange.prefill_total
            else None
        ),
        "repaired": exchange.repaired,
        "resumed": exchange.resumed,
        "loop_ended": exchange.loop_ended,
        "attempts": [
            {
                "upstream": attempt.upstream,
                "status": attempt.status,
                "code": attempt.fault.code.value if attempt.fault is not None else None,
                "message": attempt.fault.message[:300] if attempt.fault is not None else None,
                "seconds": _round(
                    None if attempt.ended_s is None else attempt.ended_s - attempt.started_s
                ),
                "delay_s": round(attempt.delay_s, 3),
            }
            for attempt in exchange.attempts
        ],
        "changes": [
            {"step": c.step, "field": c.field, "action": c.action, "detail": c.detail}
            for c in exchange.changes
        ],
        "warnings": list(exchange.warnings),
    }


def _place(exchange: Exchange) -> dict[str, Any] | None:
    """Where a request stands in the queue; None when it does not wait there."""
    told = None if exchange.spot is None else exchange.spot.told()
    return None if told is None else {"position": told[0], "expected_wait_s": round(told[1], 1)}


def _conversation(exchange: Exchange) -> str | None:
    """The same for requests of one conversation, where the client says which; tells nothing of it."""
    name = exchange.conversation or exchange.session
    return blake2b(name.encode(), digest_size=6).hexdigest() if name else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
