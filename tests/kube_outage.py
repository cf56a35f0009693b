"""
A long outage of a real API server under two operators, for the chaos tests and for a longer run by hand
(`python3 benchmarks operator_outage`).
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import kube_parts
from kube_faults import FaultyApi
from operators import Models, Operator, account, until
from penstock_operator.localmodel.crd import crd


class Outage:
    """Two operators whose API server goes away: one is refused, the other, behind a proxy, is answered by 503."""

    def __init__(self, folder: Path, stack: ExitStack, long_s: float) -> None:
        self.server = stack.enter_context(kube_parts.ApiServer())
        self.server.define(crd())
        self.proxy = stack.enter_context(FaultyApi(self.server))
        self.refused, self.unavailable = (Models(self.server, self.server.namespace()) for _ in range(2))  # fmt: skip
        self.operators: list[Operator] = []
        for models, way in ((self.refused, None), (self.unavailable, self.proxy)):
            place = models.namespace
            config = account(self.server, place, "operator", watched=(place,))
            config = way.kubeconfig(config) if way else config
            operator = Operator(folder / place, config, namespace=place, watched=(place,))
            self.operators.append(stack.enter_context(operator))
            models.make("before")
            models.make("doomed")
        for operator, models in zip(self.operators, (self.refused, self.unavailable), strict=True):
            operator.wait_leads()
            models.settled("before")
            models.settled("doomed")
        self._doomed = {
            models.namespace: _uids(models) for models in (self.refused, self.unavailable)
        }
        self._long_s = long_s
        self.health: list[tuple[int, str]] = []
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def _guarded(self) -> None:
        try:
            self._happens()
        except BaseException as exc:  # noqa: BLE001 - told by `over`
            self.failure = exc

    def _happens(self) -> None:
        self.proxy.unavailable = True
        self.server.stop_apiserver(kill=True)
        time.sleep(self._long_s)
        self.health = [one.get("/healthz") for one in self.operators]
        self.server.start_apiserver()
        # While the second still hears nothing, more happens than it could hear later: the past is forgotten.
        for models in (self.refused, self.unavailable):
            models.make("after")
            self.server.kubectl("delete", "lm/doomed", "configmap/before-gateway", "-n", models.namespace)  # fmt: skip
        self.server.compact()
        self.server.stop_apiserver()
        self.server.start_apiserver()
        self.proxy.unavailable = False

    def over(self) -> None:
        """Wait for its end."""
        self._thread.join(self._long_s + 180.0)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def check(self) -> float:
        """
        The same processes have found out what happened meanwhile; the seconds that it took from the return on.

        The children of what was deleted are collected by Kubernetes' controllers, which wait between attempts of their
        own, for minutes after a long outage. An operator is to know that it is gone, and to make none again.
        """
        began = time.monotonic()
        assert self.health == [(200, "ok\n")] * 2, self.health
        for operator, models in zip(self.operators, (self.refused, self.unavailable), strict=True):
            try:
                models.settled("after")
                until(lambda one=models: len(one.children("before")) == 5, "the ConfigMap that was deleted")  # fmt: skip
                until(lambda one=operator: one.metric("models") == 2.0, "the model that is gone")
            except AssertionError as exc:
                exc.add_note(operator.log[-4000:])
                raise
            assert _uids(models) <= self._doomed[models.namespace], "made again without an owner"
            assert operator.process.poll() is None, operator.log
            assert operator.metric("leads") == 1.0
        return time.monotonic() - began


def _uids(models: Models) -> set[str]:
    """Of the children of what is deleted meanwhile."""
    return {one["metadata"]["uid"] for one in models.children("doomed").values()}
