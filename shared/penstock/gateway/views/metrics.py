"""
Metrics as plain numbers, made into Prometheus text only when somebody asks.

Names are OpenTelemetry's GenAI conventions where there is one (`gen_ai.server.time_to_first_token` ->
`gen_ai_server_time_to_first_token_seconds`), `penstock_*` otherwise. Label sets are bounded: after 100
models the rest is called `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from penstock.domain.upstream import declared_name
from penstock.errors import ERROR_TABLE, ErrorCode
from penstock.gateway.edge.exchange import Exchange

_MOST_MODELS = 100
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_TOKENS = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)

# name -> (kind, what it says, labels). The documentation and its test are made from this table.
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gen_ai_server_request_duration_seconds": (
        "histogram", "From a request's arrival to the end of its answer.", ("upstream", "model", "operation")),
    "gen_ai_server_time_to_first_token_seconds": (
        "histogram", "From sending a request upstream to its first token.", ("upstream", "model", "operation")),
    "gen_ai_client_token_usage": (
        "histogram", "Tokens of a request, as the server counted them.", ("upstream", "model", "token_type")),
    "penstock_requests": (
        "counter", "Requests that have ended.", ("upstream", "operation", "outcome", "code")),
    "penstock_attempts": ("counter", "Attempts made at upstreams.", ("upstream",)),
    "penstock_retries": ("counter", "Attempts that were repeated, by what failed.", ("upstream", "code")),
    "penstock_heartbeats": ("counter", "Heartbeats sent to waiting clients.", ("upstream",)),
    "penstock_changes": ("counter", "Changes made to requests.", ("step", "action")),
    "penstock_toolcall_repairs": (
        "counter", "Tool calls that were repaired, recovered from text, renumbered, flagged or cut off.",
        ("upstream", "model", "verdict")),
    "penstock_loops_ended": (
        "counter", "Answers that repeated themselves without end and were ended.", ("upstream", "model")),
    "penstock_streams_resumed": (
        "counter", "Answers that broke off, by what became of them: resumed, gave_up, not_possible.",
        ("upstream", "outcome")),
    "penstock_hangups": ("counter", "Clients that left before their answer was complete.", ("upstream",)),
    "penstock_queue_wait_seconds": ("histogram", "Waiting for a permit.", ("upstream",)),
    "penstock_take_overs": (
        "counter", "Requests that took over what the same one left when its client hung up.", ("upstream", "what")),
    "penstock_slots_kept": (
        "counter", "Requests that waited a moment rather than take the slot of another conversation.", ("upstream",)),
    "penstock_prompt_cached_tokens": ("counter", "Prompt tokens that the server had in its cache.", ("upstream",)),
    "penstock_cloud_window_advice": (
        "counter", "Requests to a cloud that filled 0.9 of the model's documented window.", ("upstream",)),
    "penstock_prefix_breaks": (
        "counter", "Requests that changed an earlier part of their conversation.", ("upstream",)),
    "penstock_silent_truncations": (
        "counter", "Prompts that a server cut without a word.", ("upstream",)),
    "penstock_failovers": (
        "counter", "Requests that went to another upstream after one had failed or refused.", ("upstream", "other")),
    "penstock_acts": (
        "counter", "What was done at upstreams: breakers opened, servers restarted, requests held and more.",
        ("upstream", "act")),
    "penstock_server_restarts": (
        "counter", "Starts of a server that the gateway runs, after the first one.", ("upstream",)),
    "penstock_requests_in_flight": ("gauge", "Requests that have a permit now.", ("upstream",)),
    "penstock_requests_queued": ("gauge", "Requests that wait for a permit now.", ("upstream",)),
    "penstock_client_requests_queued": (
        "gauge", "Requests of a client key that wait for a permit now; `anonymous` for all others.",
        ("upstream", "client")),
    "penstock_requests_held": ("gauge", "Requests that are held in front of an upstream now.", ("upstream",)),
    "penstock_concurrency_limit": ("gauge", "Permits.", ("upstream",)),
    "penstock_breaker_open": (
        "gauge", "1 while the upstream is left alone because it fails, 0.5 while a probe decides, else 0.", ("upstream",)),
    "penstock_ghost_requests": (
        "gauge", "Requests whose clients are gone and that the server still works on.", ("upstream",)),
    "penstock_upstream_up": ("gauge", "1 when the last contact with the upstream succeeded.", ("upstream",)),
    "penstock_member_up": (
        "gauge", "1 when the last contact with this server of several under one name succeeded.", ("upstream", "member")),
    "penstock_member_requests_in_flight": (
        "gauge", "Requests that have a permit of this server of several now.", ("upstream", "member")),
    "penstock_window_tokens": ("gauge", "Window in force.", ("upstream", "model", "source")),
    "penstock_memory_used_share": ("gauge", "Used share of the tighter of memory and cgroup limit.", ()),
    "penstock_build_info": ("gauge", "Always 1; the label tells the version.", ("version",)),
}  # fmt: skip


_OF_UPSTREAMS = {
    name: tuple(number for number, label in enumerate(labels) if label in ("upstream", "other"))
    for name, (_, _, labels) in METRICS.items()
}


def _bounded(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels as they are counted: under the declared upstream, since members come with each rollout."""
    places = _OF_UPSTREAMS[name]
    if not any("/" in labels[place] for place in places):
        return labels
    return tuple(
        declared_name(label) if place in places else label for place, label in enumerate(labels)
    )


class Histogram:
    """Counts by bucket, a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found, running = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            found.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(running)))
        return found


@dataclass(frozen=True, slots=True)
class Gauge:
    """One value of a gauge, read when somebody asks."""

    name: str
    labels: tuple[str, ...]
    value: float


class Metrics(Collector):
    """
    All numbers of a gateway.

    Args:
        gauges: reads the gauges.
    """

    def __init__(self, gauges: Callable[[], Iterable[Gauge]]) -> None:
        self._gauges = gauges
        self._counters: dict[tuple[str, tuple[str, ...]], float] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], Histogram] = {}
        self._models: set[str] = set()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, name: str, labels: tuple[str, ...], by: float = 1.0) -> None:
        """Raise a counter."""
        labels = _bounded(name, labels)
        key = (name, labels)
        self._counters[key] = self._counters.get(key, 0.0) + by

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Count a value into a histogram."""
        labels = _bounded(name, labels)
        key = (name, labels)
        histogram = self._histograms.get(key)
        if histogram is None:
            bounds = _TOKENS if name == "gen_ai_client_token_usage" else _SECONDS
            histogram = self._histograms[key] = Histogram(bounds)
        histogram.counts[bisect_left(histogram.bounds, value)] += 1
        histogram.total += value

    def request_ended(self, exchange: Exchange) -> None:
        """Take in a request that has ended."""
        upstream = exchange.upstream or "none"
        outcome = exchange.outcome._value_ if exchange.outcome is not None else "ignored"
        self.count(
            "penstock_requests", (upstream, exchange.operation, outcome, exchange.error_code)
        )
        attempts = exchange.attempts
        if len(attempts) == 1:
            self.count("penstock_attempts", (attempts[0].upstream,))
        elif attempts:
            for attempt in attempts:
                self.count("penstock_attempts", (attempt.upstream,))
            for attempt in attempts[:-1]:
                code = attempt.fault.code.value if attempt.fault is not None else ""
                self.count("penstock_retries", (attempt.upstream, code))
        if exchange.heartbeats:
            self.count("penstock_heartbeats", (upstream,), exchange.heartbeats)
        if exchange.resume_outcome:
            self.count("penstock_streams_resumed", (upstream, exchange.resume_outcome))
        if exchange.took_over:
            self.count("penstock_take_overs", (upstream, exchange.took_over))
        if exchange.kept_a_slot:
            self.count("penstock_slots_kept", (upstream,))
        if exchange.client_gone:
            self.count("penstock_hangups", (upstream,))
        for change in exchange.changes:
            self.count("penstock_changes", (change.step, change.action))
        if exchange.queued_s is not None:
            self.observe("penstock_queue_wait_seconds", (upstream,), exchange.waited_s)
        if not exchange.upstream:
            return
        model = self._model(exchange.upstream_model)
        labels = (upstream, model, exchange.operation)
        for verdict in exchange.tool_calls_mended:
            self.count("penstock_toolcall_repairs", (upstream, model, verdict))
        if exchange.loop_ended:
            self.count("penstock_loops_ended", (upstream, model))
        if (duration_s := exchange.duration_s) is not None:
            self.observe("gen_ai_server_request_duration_seconds", labels, duration_s)
        if (ttft_s := exchange.ttft_s) is not None:
            self.observe("gen_ai_server_time_to_first_token_seconds", labels, ttft_s)
        if exchange.prompt_tokens is not None:
            self.observe(
                "gen_ai_client_token_usage", (upstream, model, "input"), exchange.prompt_tokens
            )
        if exchange.completion_tokens is not None:
            self.observe(
                "gen_ai_client_token_usage", (upstream, model, "output"), exchange.completion_tokens
            )
        if exchange.cached_tokens:
            self.count("penstock_prompt_cached_tokens", (upstream,), exchange.cached_tokens)

    def errors(self) -> list[dict[str, Any]]:
        """`{upstream, code, meaning, count}` of requests that ended with an error, since the gateway started."""
        found: dict[tuple[str, str], int] = {}
        for (name, labels), number in self._counters.items():
            if name == "penstock_requests" and labels[3]:
                key = (labels[0], labels[3])
                found[key] = found.get(key, 0) + int(number)
        return [
            {"upstream": u, "code": c, "meaning": ERROR_TABLE[ErrorCode(c)].meaning, "count": n}
            for (u, c), n in found.items()
        ]

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """See prometheus_client: nothing to check at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        gauges: dict[str, list[Gauge]] = {}
        for gauge in self._gauges():
            gauges.setdefault(gauge.name, []).append(gauge)
        for name, (kind, text, labels) in METRICS.items():
            if kind == "counter":
                counter = CounterMetricFamily(name, text, labels=labels)
                for (found, values), number in self._counters.items():
                    if found == name:
                        counter.add_metric(values, number)
                yield counter
            elif kind == "histogram":
                family = HistogramMetricFamily(name, text, labels=labels)
                for (found, values), histogram in self._histograms.items():
                    if found == name:
                        family.add_metric(values, histogram.buckets(), histogram.total)
                yield family
            else:
                metric = GaugeMetricFamily(name, text, labels=labels)
                for gauge in gauges.get(name, ()):
                    metric.add_metric(gauge.labels, gauge.value)
                yield metric

    def _model(self, model: str) -> str:
        if model in self._models:
            return model
        if len(self._models) >= _MOST_MODELS:
            return "other"
        self._models.add(model)
        return model
