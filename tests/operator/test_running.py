"""The operator's probes, metrics and command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from penstock.cli import main as cli
from penstock_operator.api.cache import Cache
from penstock_operator.api.cluster import ApiRefused
from penstock_operator.api.preflight import missing
from penstock_operator.command import operator
from penstock_operator.gateways.pods import Gateways, directly
from penstock_operator.gateways.tokens import NoMasterKey
from penstock_operator.process import health
from penstock_operator.process.metrics import Metrics
from penstock_operator.process.running import Choices, run
from penstock_operator.seen import Key


def test_a_dead_watcher_is_told_after_a_while_and_not_before() -> None:
    """A watch between two connections is alive, one that stays away is not, and one that came back is."""
    now, live = [0.0], [8]
    liveness = health.Liveness(lambda: live[0], lambda: 8, patience_s=30.0, clock=lambda: now[0])
    assert liveness.problem() == ""
    live[0], now[0] = 7, 29.0
    assert liveness.problem() == ""
    now[0] = 30.0
    assert liveness.problem() == "Only 7 of 8 watches live, for 30 s."
    live[0] = 8
    assert liveness.problem() == ""


@pytest.mark.parametrize(("outside", "asked"), [(False, set()), (True, {"get", "create"})])
def test_an_operator_outside_is_asked_for_its_way_to_the_gateways(
    outside: bool, asked: set[str]
) -> None:
    """In the cluster nobody needs the API server's proxy, and from outside there is no other way."""

    class Refuses:
        async def allowed(self, verb: str, group: str, resource: str, place: str | None) -> bool:
            return resource != "pods/proxy"

    found = asyncio.run(missing(Refuses(), (), "system", outside=outside))  # type: ignore[arg-type]
    assert {one.split()[4] for one in found} == asked


def test_probes_and_metrics_answer() -> None:
    """Ready only after the first listing; alive while watches live; metrics with the models by phase."""
    now, live, ready = [0.0], [1], [False]
    metrics, cache = Metrics(), Cache()
    about = {"name": "m", "namespace": "n", "resourceVersion": "1"}
    cache.heard({"kind": "LocalModel", "metadata": about, "status": {"phase": "Ready"}})
    leads = [False]
    metrics.models(cache, lambda: leads[0])
    metrics.waiting(lambda: 3, lambda: leads[0])
    metrics.finished(Key("n", "m"), 0.1, ApiRefused("no", 409, "Conflict"))
    metrics.finished(Key("n", "m"), 0.1, None)

    async def scene() -> None:
        liveness = health.Liveness(lambda: live[0], lambda: 1, patience_s=5.0, clock=lambda: now[0])
        server = await health.serve(
            "127.0.0.1", 0, liveness=liveness, ready=lambda: ready[0], registry=metrics.registry
        )
        port = server.addresses[0][1]
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:

                async def get(path: str) -> tuple[int, str]:
                    async with client.get(path) as response:
                        return response.status, await response.text()

                assert (await get("/readyz"))[0] == 503
                ready[0] = True
                assert (await get("/readyz"))[0] == 200
                assert (await get("/healthz"))[0] == 200
                live[0], now[0] = 0, 10.0
                assert await get("/healthz") == (503, "Only 0 of 1 watches live, for 10 s.\n")
                standby = (await get("/metrics"))[1]
                assert "models{" not in standby, "counted by who leads, once"
                assert "queue_depth 0.0" in standby
                leads[0] = True
                text = (await get("/metrics"))[1]
        finally:
            await server.cleanup()
        assert 'penstock_operator_models{phase="Ready"} 1.0' in text
        assert "penstock_operator_queue_depth 3.0" in text
        assert 'penstock_operator_reconcile_errors_total{reason="Conflict"} 1.0' in text
        assert "penstock_operator_reconcile_seconds_count 2.0" in text

    asyncio.run(scene())


def test_a_missing_master_key_is_one_sentence(tmp_path: Path) -> None:
    """Before anything is asked of the cluster, the missing file is named."""
    chosen = Choices(None, (), tmp_path / "none", "127.0.0.1", 0, "i", "l", "default")
    with pytest.raises(NoMasterKey, match="none"):
        asyncio.run(run(chosen))


def test_a_gateway_that_cannot_be_asked_says_why() -> None:
    """Only gateways that are ready are asked, and one that does not answer is no failure of the call."""

    def pod(name: str, component: str, ready: str) -> dict[str, object]:
        labels = {"app.kubernetes.io/component": component}
        status = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": ready}]}
        return {"metadata": {"name": name, "labels": labels}, "status": status}

    pods = (pod("a", "gateway", "True"), pod("b", "gateway", "False"), pod("c", "server", "True"))
    found = asyncio.run(Gateways(directly(port=1)).ask(Key("n", "m"), pods, "t"))
    assert list(found) == ["a"]
    assert found["a"].status is None
    assert "could not be asked" in found["a"].problem


def test_the_command_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared command line knows it by name only, and lists it with the others."""
    from importlib.metadata import EntryPoint

    found = EntryPoint("operator", "penstock_operator.command:operator", cli.ENTRY_POINTS)
    monkeypatch.setattr(cli, "entry_points", lambda group: [found])
    told = CliRunner().invoke(cli.penstock, ["--help"]).output
    assert "Run the Kubernetes operator." in told
    assert "--master-key" in CliRunner().invoke(cli.penstock, ["operator", "--help"]).output


def test_the_image_follows_the_release_unless_it_is_said() -> None:
    """The operator's own help names where the image comes from."""
    assert "PENSTOCK_IMAGE" in CliRunner().invoke(operator, ["--help"]).output
