"""
What the operator counts, as Prometheus reads it. Gauges are read when somebody asks, so a model that is gone is gone
here too.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused, NotLeading
from penstock_operator.seen import Key

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "penstock_operator_reconcile_seconds", "One look at one LocalModel.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._failed = Counter(
            "penstock_operator_reconcile_errors", "Looks that failed, by why.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self._listings = Counter(
            "penstock_operator_watch_listings", "Objects told by a watch that began with a listing.",
            ["kind"], registry=self.registry,
        )  # fmt: skip
        self.lag = Gauge(
            "penstock_operator_loop_lag_seconds", "How late the event loop was when it was asked last.",
            registry=self.registry,
        )  # fmt: skip

    def finished(self, key: Key, seconds: float, failure: Exception | None) -> None:
        """A look at *key* has ended."""
        self._seconds.observe(seconds)
        if failure is not None:
            self._failed.labels(_reason(failure)).inc()

    def listed(self, kind: str) -> None:
        """A watch told an object of *kind* as part of a listing."""
        self._listings.labels(kind).inc()

    def reads(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read from *value*."""
        Gauge(f"penstock_operator_{name}", text, registry=self.registry).set_function(value)

    def waiting(self, depth: Callable[[], int], leads: Callable[[], bool]) -> None:
        """LocalModels that wait, read from *depth*; none while this replica does not lead: they wait in all of them."""
        self.reads(
            "queue_depth",
            "LocalModels that wait to be looked at; 0 in a replica that does not lead.",
            lambda: depth() if leads() else 0,
        )

    def models(self, cache: Cache, leads: Callable[[], bool]) -> None:
        """LocalModels by phase, read from *cache*; none while this replica does not lead, so that replicas can be summed."""
        self.registry.register(_Models(cache, leads))


class _Models(Collector):
    def __init__(self, cache: Cache, leads: Callable[[], bool]) -> None:
        self._cache = cache
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        phases: Tally[str] = Tally()
        for key in self._cache.models() if self._leads() else ():
            body = self._cache.model(key) or {}
            phases[str((body.get("status") or {}).get("phase") or "Pending")] += 1
        family = GaugeMetricFamily(
            "penstock_operator_models",
            "LocalModels by phase; none in a replica that does not lead.",
            labels=["phase"],
        )
        for phase, number in sorted(phases.items()):
            family.add_metric([phase], number)
        yield family


def _reason(failure: Exception) -> str:
    """Few words: they are labels."""
    if isinstance(failure, NotLeading):
        return "NotLeading"
    if isinstance(failure, ApiRefused):
        return failure.reason or f"Status{failure.status}"
    return type(failure).__name__
