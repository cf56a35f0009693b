"""
Holds the Lease: the effects of `lease`. One replica leads and writes; the others watch and wait.

The Lease is written by its version (a plain PUT), so of two that reach for it one is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from kubernetes.aio.config import ConfigException

from penstock_operator.api.cluster import ApiRefused, Cluster
from penstock_operator.leading.lease import Election, Holding, Move, Terms
from penstock_operator.seen import Manifest

_log = logging.getLogger(__name__)
# The last: a kubeconfig's command that fetches a token failed.
_AWAY = (ApiRefused, OSError, TimeoutError, ConfigException)


class Leader:
    """
    Args:
        identity: of this replica: the pod's name and something of chance.
        led: called when this replica begins to lead.
        clock: monotonic seconds; goes on while the process is stopped.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        identity: str,
        name: str = "penstock-operator",
        terms: Terms | None = None,
        led: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._terms = terms or Terms()
        self._election = Election(identity, self._terms)
        self._led = led
        self._clock = clock

    def leads(self) -> bool:
        """Whether this replica may write now."""
        return self._election.leads(self._clock())

    async def run(self) -> None:
        """Keep or reach for the Lease until cancelled; then give it back."""
        before = False
        try:
            while True:
                try:
                    async with asyncio.timeout(self._terms.renew_deadline_s / 2):
                        await self._turn()
                except _AWAY as exc:
                    _log.warning("The lease %s could not be held or read: %s", self._name, exc)
                after = self.leads()
                if after and not before:
                    _log.info("This replica leads now.")
                    self._led()
                elif before and not after:
                    _log.warning("This replica no longer leads.")
                before = after
                await asyncio.sleep(self._terms.retry_s)
        finally:
            if self.leads():
                await self._give_back()

    async def _turn(self) -> None:
        found = await self._cluster.get("Lease", self._namespace, self._name)
        holding = None
        if found is not None:
            holder = str((found.get("spec") or {}).get("holderIdentity") or "")
            holding = Holding(holder, str(found["metadata"]["resourceVersion"]))
        move = self._election.move(holding, self._clock())
        if move is Move.WAIT:
            return
        sent_at = self._clock()
        try:
            if found is None:
                written = await self._cluster.create_unfenced("Lease", self._filled(None))
            else:
                written = await self._cluster.replace("Lease", self._filled(found), fenced=False)
        except ApiRefused as exc:
            if exc.status == 409:
                return  # another was quicker; the next look says who
            raise
        self._election.renewed(sent_at, str(written["metadata"]["resourceVersion"]))

    def _filled(self, found: Manifest | None, *, holder: str | None = None) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((found or {}).get("spec") or {})
        identity = self._election.identity
        if spec.get("holderIdentity") != identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (found is not None)
        spec["holderIdentity"] = identity if holder is None else holder
        spec["leaseDurationSeconds"] = max(1, round(self._terms.duration_s))
        spec["renewTime"] = now
        metadata = (found or {}).get("metadata") or {
            "name": self._name, "namespace": self._namespace,
        }  # fmt: skip
        return {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": metadata, "spec": spec,
        }  # fmt: skip

    async def _give_back(self) -> None:
        self._election.lost()  # no write of ours after another may lead
        try:
            found = await self._cluster.get("Lease", self._namespace, self._name)
            mine = self._election.identity
            if found is not None and found["spec"].get("holderIdentity") == mine:
                await self._cluster.replace("Lease", self._filled(found, holder=""), fenced=False)
        except _AWAY as exc:
            _log.warning("The lease %s could not be given back: %s", self._name, exc)
