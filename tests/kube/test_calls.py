"""How often the operator calls the API server, counted on the way between the two."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

import kube_parts
from kube_faults import FaultyApi
from operators import Models, Operator, account, until
from penstock_operator.api.resources import WATCHED

pytestmark = pytest.mark.real
MODELS = 20
CHILDREN = 9
QUIET_S = 8.0


def test_a_new_model_costs_little_and_a_settled_one_nothing(
    cluster: kube_parts.ApiServer, tmp_path: Path
) -> None:
    """At most children + 4 calls for each of some models that come at once; then only the lease and the watches."""
    models = Models(cluster, cluster.namespace())
    place = models.namespace
    spec = {"model": {"uri": "hf://a/b/b.gguf"}, "cache": {"retentionPolicy": "Delete"}}
    items = [
        {**models.body(f"m-{one}", spec), "metadata": {"name": f"m-{one}", "namespace": place}}
        for one in range(MODELS)
    ]
    with FaultyApi(cluster) as proxy:
        config = proxy.kubeconfig(account(cluster, place, "operator", watched=(place,)))
        with Operator(tmp_path / "operator", config, namespace=place, watched=(place,)) as operator:
            operator.wait_leads()
            until(lambda: sum(at.startswith("WATCH ") for at in proxy.calls) == len(WATCHED), "the watches")  # fmt: skip
            before = Counter(proxy.calls)
            cluster.apply({"apiVersion": "v1", "kind": "List", "items": items})

            def told() -> bool:
                found = cluster.get("lm", "-n", place)["items"]
                return all("status" in one for one in found)

            until(told, "all statuses")
            until(lambda: len(cluster.get("pods", "-n", place)["items"]) == 2 * MODELS, "all pods")
            quiet(proxy)
            made = work(proxy.calls - before)
            assert made.total() <= MODELS * (CHILDREN + 4), made
            assert not [at for at in made if at.startswith("GET ")], "all is known from the watches"
            before = Counter(proxy.calls)
            time.sleep(QUIET_S)
            assert not work(proxy.calls - before), "nothing but the lease and the watches"
            assert operator.stop() == 0


def work(calls: Counter[str]) -> Counter[str]:
    """Without the lease and the watches."""
    return Counter({
        at: number for at, number in calls.items()
        if not at.startswith("WATCH ") and not at.endswith(" leases")
    })  # fmt: skip


def quiet(proxy: FaultyApi) -> None:
    """Until nothing was written for some time."""
    last, since = -1, time.monotonic()

    def look() -> bool:
        nonlocal last, since
        now = work(proxy.calls).total()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 3.0

    until(look, "quiet")
