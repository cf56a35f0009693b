"""
The operator as a process: its parts put together, run until a signal or until one of them fails.

Order matters at the start: rights are asked for first (a missing one is named, not retried for ever), then `/healthz`
answers, then everything is listed once, and only then is anything watched or written. An API server that is away, or
that does not know LocalModel yet, is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused, Cluster
from penstock_operator.api.preflight import missing
from penstock_operator.api.resources import WATCHED
from penstock_operator.api.sweep import Sweep
from penstock_operator.gateways import tokens
from penstock_operator.gateways.pods import Gateways, directly
from penstock_operator.leading.leader import Leader
from penstock_operator.localmodel.names import PORT
from penstock_operator.process import health
from penstock_operator.process.metrics import Metrics
from penstock_operator.queueing.work_queue import WorkQueue
from penstock_operator.reading import read
from penstock_operator.reconcile import Reconciler
from penstock_operator.seen import Key, Manifest
from penstock_operator.watches.handlers import Backoff
from penstock_operator.watches.watching import Watches

_log = logging.getLogger(__name__)
OPTIONAL = ("HTTPRoute", "ServiceMonitor")
APIS_S = 15.0
_LISTED_S = 900.0
_LOOK_S = 5.0


class CannotRun(PenstockError):
    """The cluster does not allow or have what the operator needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Choices:
    """
    Attributes:
        kubeconfig: None for the pod's own account, else the user's.
        namespaces: that are watched; empty for all.
        lease: the name of the Lease by which one replica leads; it lies in *lease_namespace*.
        admitted: peers of a NetworkPolicy that reach every gateway.
    """

    kubeconfig: str | None
    namespaces: tuple[str, ...]
    master_key: Path
    host: str
    port: int
    image: str
    lease: str
    lease_namespace: str
    admitted: tuple[Manifest, ...] = ()


class OptionalApis:
    """
    Which optional kinds the API server serves; asked again once in a while, since they may come later.

    They are not watched: a watch of a kind that is not there would hold up everything. What there is of them is
    listed when they are found, and at long intervals; between, the cache knows what we wrote.

    Args:
        look: lists a kind into the cache.
    """

    def __init__(self, cluster: Cluster, look: Callable[[str], Awaitable[None]]) -> None:
        self._cluster = cluster
        self._look = look
        self._found: frozenset[str] = frozenset()
        self._asked_at: float | None = None
        self._listed_at: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def __call__(self) -> frozenset[str]:
        async with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at > APIS_S:
                self._found = frozenset([one for one in OPTIONAL if await self._usable(one, now)])
                self._asked_at = now
            return self._found

    async def _usable(self, kind: str, now: float) -> bool:
        if not await self._cluster.serves(kind):
            self._listed_at.pop(kind, None)
            return False
        if kind not in self._listed_at or now - self._listed_at[kind] > _LISTED_S:
            try:
                await self._look(kind)
            except ApiRefused as exc:
                _log.warning("%s is left alone: %s", kind, exc)
                return False
            self._listed_at[kind] = now
        return True


async def run(choices: Choices) -> None:
    """Until SIGTERM or SIGINT."""
    try:
        master = tokens.master_key(choices.master_key.read_bytes())
    except OSError as exc:
        raise tokens.NoMasterKey(
            f"The master key {choices.master_key} cannot be read ({exc.strerror}): give --master-key "
            "a file; `openssl rand -hex 32` makes one."
        ) from exc
    cluster = await Cluster.connect(choices.kubeconfig)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sent in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sent, stop.set)
    try:
        await _run(cluster, choices, master, stop)
    finally:
        await cluster.close()


async def _allowed(cluster: Cluster, choices: Choices, stop: asyncio.Event) -> None:
    """Raises when a right is missing; an API server that is away is waited for."""
    for wait_s in Backoff():
        try:
            problems = await missing(
                cluster, choices.namespaces, choices.lease_namespace, outside=not cluster.inside
            )
        except ApiRefused as exc:
            _log.warning("The cluster cannot be asked yet: %s", exc)
            if await _stopped(stop, wait_s):
                return
        else:
            if problems:
                raise CannotRun("\n  ".join(["Rights are missing:", *problems]))
            return


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), within_s)
    return stop.is_set()


async def _known(cluster: Cluster) -> None:
    """Until the API server knows LocalModel."""
    told = False
    while True:
        try:
            if await cluster.serves("LocalModel"):
                return
            said = "install its definition (the chart does)"
        except ApiRefused as exc:
            said = str(exc)
        if not told:
            _log.warning("The API server does not know LocalModel yet: %s.", said)
        told = True
        await asyncio.sleep(_LOOK_S)


async def _run(cluster: Cluster, choices: Choices, master: bytes, stop: asyncio.Event) -> None:
    await _allowed(cluster, choices, stop)
    namespaces: Sequence[str | None] = choices.namespaces or (None,)
    cache, metrics = Cache(), Metrics()
    leader = Leader(
        cluster,
        namespace=choices.lease_namespace,
        identity=f"{os.environ.get('POD_NAME') or socket.gethostname()}-{secrets.token_hex(4)}",
        name=choices.lease,
        led=lambda: begin(cache, work),
    )
    cluster.may_write = leader.leads

    def key_changed(key: Key) -> None:
        work.add(key)

    sweep = Sweep(cluster, cache, WATCHED, namespaces, key_changed)
    apis = OptionalApis(cluster, sweep.look)
    gateways = Gateways(directly() if cluster.inside else partial(cluster.proxied, port=PORT))
    reconciler = Reconciler(
        cluster,
        cache,
        read,
        image=choices.image,
        token=lambda key, uid: tokens.token(master, key, uid),
        ask=gateways.ask,
        hold=gateways.hold,
        resume=gateways.resume,
        apis=apis,
        admitted=choices.admitted,
        stale=sweep.owed,
    )
    work: WorkQueue[Key] = WorkQueue(
        reconciler, may_work=leader.leads, finished=metrics.finished, passing=passing
    )
    ready = False

    def heard(event: str | None, body: Mapping[str, Any]) -> None:
        if event is None:
            metrics.listed(str(body.get("kind", "")))
            sweep.owed(str(body.get("kind", "")))
        key = cache.heard(body, deleted=event == "DELETED")
        if key is not None:
            work.add(key)

    watches = Watches(choices.namespaces, heard, lambda: _known(cluster), cluster.access)
    metrics.models(cache, leader.leads)
    metrics.waiting(lambda: work.depth, leader.leads)
    metrics.reads("api_calls", "Calls to the API server since the start.", lambda: cluster.calls)
    metrics.reads("leads", "1 while this replica leads.", lambda: float(leader.leads()))
    metrics.reads("watches", "Watches that live.", watches.live)
    metrics.reads("watch_restarts", "How often all watches began anew.", lambda: watches.restarts)
    server = await health.serve(
        choices.host,
        choices.port,
        liveness=health.Liveness(watches.live, lambda: watches.expected if ready else 0),
        ready=lambda: ready,
        registry=metrics.registry,
    )
    _log.info("Metrics and probes answer on %s:%s.", choices.host, choices.port)
    try:
        await _first_listing(cluster, sweep, apis, stop)
        ready = True
        if not stop.is_set():
            await _until(stop, watches.run(), leader.run(), work.run(), sweep.run(), _lag(metrics))
    finally:
        await server.cleanup()


def begin(cache: Cache, work: WorkQueue[Key]) -> None:
    """
    At a take-over, also of one's own Lease after the API server was away: what failed with it has waited long enough, and
    gateways that hold requests wait for us.
    """
    work.forgive()
    for key in cache.models():
        body = cache.model(key)
        if body is not None and (body.get("status") or {}).get("rollout"):
            work.first(key)


def passing(failure: Exception) -> str:
    """Of what happens every day."""
    if isinstance(failure, ApiRefused) and failure.reason == "Conflict":
        return "Somebody else wrote in between, and nothing was changed."
    return ""


async def _first_listing(
    cluster: Cluster, sweep: Sweep, apis: OptionalApis, stop: asyncio.Event
) -> None:
    """List everything; a definition that is not there is waited for."""

    async def look() -> None:
        for wait_s in Backoff():
            await _known(cluster)
            try:
                await sweep.first()
                await apis()  # a route that is no longer wanted is found, too
                return
            except ApiRefused as exc:
                _log.warning("The cluster could not be listed yet: %s", exc)
                await asyncio.sleep(wait_s)

    await _until(stop, look())


async def _until(stop: asyncio.Event, *parts: Coroutine[Any, Any, None]) -> None:
    """Run *parts* until *stop*, or until one ends; one that fails raises. The leader gives its Lease back."""
    tasks = [asyncio.ensure_future(one) for one in parts]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for one in tasks:
            if one.done():
                one.result()
    finally:
        stopped.cancel()
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _lag(metrics: Metrics) -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(1.0)
        metrics.lag.set(max(0.0, time.monotonic() - before - 1.0))
