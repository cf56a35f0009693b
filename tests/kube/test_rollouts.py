"""
Rollouts on a real node, under constant traffic through the Service: no request fails and no stream breaks.

The operator runs outside of the cluster, so the gateways are asked through the API server's pod proxy. Two gateways
stand before one server; each answer takes some seconds, and its text is known, so that a stream that lacks a part is
found out.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import pytest

import kube_cluster
import kube_images
import parts
from penstock_operator.localmodel.crd import crd
from traffic import Traffic, texts

pytestmark = [pytest.mark.real, pytest.mark.slow]

NAME = "m"
SAYS = " ".join(a + b + c for a in "bk" for b in "aeiou" for c in "lmnrst")
"""60 words, each a token."""
WITHIN_S = 240.0
RELEASES = tuple(kube_images.PENSTOCK.rpartition(":")[0] + f":{tag}" for tag in ("one", "two"))


class OperatorHere:
    """`penstock operator` as a process of this machine, of one of the RELEASES."""

    def __init__(self, cluster: kube_cluster.Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._key = cluster.folder / "master-key"
        self._key.write_text("m" * 64)
        self._log = cluster.folder / "operator.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, image: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock_operator", "--kubeconfig", str(self._cluster.kubeconfig),
                 "--namespace", self._namespace, "--master-key", str(self._key), "--image", image,
                 "--listen-host", "127.0.0.1", "--listen-port", str(parts.free_port())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(60)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Served:
    """A LocalModel that answers, and what a test does to it."""

    def __init__(self, cluster: kube_cluster.Cluster) -> None:
        self.cluster = cluster
        self.namespace = cluster.namespace()
        self.operator = OperatorHere(cluster, self.namespace)
        self._spec: dict[str, Any] = {
            "model": {"uri": "pvc://weights/model.gguf"},
            "tuning": {"contextLength": 1024, "parallelRequests": 2},
            "runtime": {"args": ["--threads", "1"]},
            "resources": {"limits": {"memory": "448Mi"}},
            "rollout": {"idleTimeoutSeconds": 90},
            "gateway": {"replicas": 2, "settings": {"timeouts": {"heartbeatS": 2.0}, "resume": {"probeAfterS": 1.0}}},
        }  # fmt: skip

    def __enter__(self) -> Self:
        self._weights()
        self.operator.start(RELEASES[0])
        try:
            self.change()
            self.wait_ready()
        except BaseException:
            self.operator.stop(kill=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.operator.stop()

    def _weights(self) -> None:
        self.cluster.volumes(1)
        file = parts.model("slow", says=SAYS, by_words=True)
        shutil.copy(file, self.cluster.folder / "volumes" / "volume-1" / "model.gguf")
        self.cluster.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "weights", "namespace": self.namespace},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}},
            }
        )  # fmt: skip

    def change(self, **spec: Any) -> None:
        """`kubectl apply` of another spec."""
        self._spec |= spec
        about = {"name": NAME, "namespace": self.namespace}
        self.cluster.apply(
            {"apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel", "metadata": about, "spec": self._spec}
        )  # fmt: skip

    def model(self) -> dict[str, Any]:
        return dict(self.cluster.get("lm", NAME, "-n", self.namespace))

    def wait_ready(self) -> None:
        """As a person waits for it."""
        try:
            self.cluster.kubectl(
                "wait", f"lm/{NAME}", "-n", self.namespace, "--for=condition=Ready", "--timeout=80s"
            )  # fmt: skip
        except Exception as exc:
            raise AssertionError(f"{exc}\n{self.model().get('status')}\n{self.operator.log[-3000:]}") from exc  # fmt: skip

    def pods(self, component: str) -> list[dict[str, Any]]:
        return self.cluster.pods(self.namespace, f"app.kubernetes.io/component={component}")

    def uids(self, component: str) -> set[str]:
        return {one["metadata"]["uid"] for one in self.pods(component)}

    def gateways_rolled(self, old: set[str]) -> bool:
        """Two others are ready, and of the old ones nothing is left."""
        found = self.cluster.get(
            "pods", "-n", self.namespace, "-l", "app.kubernetes.io/component=gateway"
        )["items"]
        ready = [one for one in found if any(c["type"] == "Ready" and c["status"] == "True" for c in one["status"].get("conditions", ()))]  # fmt: skip
        return len(found) == len(ready) == 2 and not old & {one["metadata"]["uid"] for one in found}

    def fill_memory(self) -> None:
        """Send the server requests that it cannot hold, past the gateways, which would refuse them; the kernel ends it."""
        (pod,) = self.pods("server")

        def send(_: int) -> None:
            # It may be gone before all has been sent, and never answers.
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection(pod["status"]["podIP"], 8080, timeout=60)
                with contextlib.closing(connection):
                    connection.putrequest("POST", "/v1/chat/completions")
                    connection.putheader("Content-Length", str(90 * 2**20))
                    connection.endheaders()
                    for _ in range(90):
                        connection.send(b" " * 2**20)

        with ThreadPoolExecutor(8) as senders:
            list(senders.map(send, range(8)))

    def events(self) -> list[str]:
        found = self.cluster.get("events.events.k8s.io", "-n", self.namespace)["items"]
        return [one["reason"] for one in found if one.get("regarding", {}).get("kind") == "LocalModel"]  # fmt: skip

    @contextlib.contextmanager
    def traffic(self) -> Iterator[Traffic]:
        """Traffic through the Service; what became of it is told, also when the test fails."""
        url = self.cluster.address(self.namespace, NAME)
        with Traffic(f"{url}/v1", NAME, streams_per_s=0.5, plain_per_s=0.7, most=4) as traffic:
            try:
                yield traffic
            finally:
                parts.say(f"traffic:\n{traffic.stop()}")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with kube_cluster.Cluster() as cluster:
        cluster.load_image(kube_images.penstock())
        for release in RELEASES:
            cluster.ctr("-n", "k8s.io", "images", "tag", kube_images.PENSTOCK, release)
        cluster.define(crd())
        with Served(cluster) as model:
            yield model


def test_nothing_breaks_while_server_gateways_and_operator_are_replaced(served: Served) -> None:
    """Another context length, other gateways, another release of the operator: all requests whole, whatever waits."""
    with served.traffic() as traffic:
        _some(traffic, "before")
        server, gateways = served.uids("server"), served.uids("gateway")

        traffic.phase = "context changed"
        served.change(tuning={"contextLength": 2048, "parallelRequests": 2})
        served.wait_ready()
        _some(traffic, "after the context")
        assert not served.uids("server") & server
        assert served.uids("gateway") == gateways
        _until(lambda: served.model()["status"]["tuning"]["contextLength"] == 2048, "the new window in the status")  # fmt: skip
        server = served.uids("server")

        traffic.phase = "gateways rolled"
        gateway = {**served._spec["gateway"], "resources": {"requests": {"cpu": "10m"}}}
        served.change(gateway=gateway)
        _until(lambda: served.gateways_rolled(gateways), "the gateways")
        _some(traffic, "after the gateways")
        gateways = served.uids("gateway")

        traffic.phase = "operator upgraded"
        served.operator.stop()
        served.operator.start(RELEASES[1])
        _until(lambda: served.gateways_rolled(gateways), "the gateways of the next release")
        _some(traffic, "after the upgrade")
        assert {one["spec"]["containers"][0]["image"] for one in served.pods("gateway")} == {
            RELEASES[1]
        }
        assert served.uids("server") == server, "an operator upgrade restarts no model pod"
        report = traffic.stop()
    assert report.failed == [], str(report)
    assert texts(report.outcomes) == {SAYS}
    told = set(served.events())
    assert {"Draining", "RolledOut"} <= told
    assert not told & {"IdleTimeoutExceeded", "RolloutGivenUp"}


def test_a_killed_server_loses_no_request(served: Served) -> None:
    """As after the end by the kernel for want of memory: each stream is whole or says its error, and what waited is answered."""
    with served.traffic() as traffic:
        _some(traffic, "before")
        traffic.phase = "killed"
        served.cluster.kill_container(served.pods("server")[0], "server")
        served.wait_ready()
        _some(traffic, "after the kill")
        report = traffic.stop()
    assert report.broken_streams == [], str(report)
    assert {one.ending for one in report.failed} <= {"error"}, str(report)
    assert report.of("after the kill").failed == []
    assert texts(report.outcomes) == {SAYS}


def test_killed_for_memory_under_traffic_it_serves_smaller(served: Served) -> None:
    """The kernel ends the server at its limit: no stream ends in silence, what waits is answered, and status and Events tell."""
    with served.traffic() as traffic:
        _some(traffic, "before")
        traffic.phase = "out of memory"
        served.fill_memory()

        def stepped_down() -> bool:
            tuning = served.model()["status"].get("tuning", {})
            return bool(tuning.get("stepDown", {}).get("steps"))

        _until(stepped_down, "the step down")
        served.wait_ready()
        _some(traffic, "after the step down")
        report = traffic.stop()
    assert report.broken_streams == [], str(report)
    assert {one.ending for one in report.failed} <= {"error"}, str(report)
    assert report.of("after the step down").failed == []
    assert texts(report.outcomes) == {SAYS}
    status = served.model()["status"]
    small = next(one for one in status["conditions"] if one["type"] == "FitsMemory")
    assert (small["status"], small["reason"]) == ("False", "SteppedDown")
    assert " for each of 1 requests at a time, in place of " in small["message"]
    assert "SteppedDown" in served.events()
    assert status["phase"] == "Ready"


def _some(traffic: Traffic, phase: str) -> None:
    """Go on in *phase* until two streams and two plain requests of it have ended."""
    traffic.phase = phase

    def enough() -> bool:
        found = traffic.report.of(phase)
        return all(found.counted(streams=one).total() >= 2 for one in (True, False))

    _until(enough, f"traffic {phase}")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {WITHIN_S:.0f} s"
        time.sleep(0.2)
