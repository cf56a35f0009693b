"""What tests rely on in their API server: it comes back with its data, it can be paused, and it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import kube_parts

pytestmark = pytest.mark.real
_HOLD = """
import kube_parts, time
server = kube_parts.ApiServer()
names = ("etcd", "kube-apiserver", "kube-controller-manager")
print(*(server.process(name).pid for name in names), server.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def own() -> Iterator[kube_parts.ApiServer]:
    """One that may be ended; other tests share theirs."""
    with kube_parts.ApiServer() as server:
        yield server


def test_it_comes_back_with_its_data(own: kube_parts.ApiServer) -> None:
    """After an end, polite or not, the API server is there again with what it held."""
    own.kubectl("create", "configmap", "kept", "--from-literal=a=1")
    for kill in (False, True):
        own.stop_apiserver(kill=kill)
        with pytest.raises(kube_parts.Refused, match="refused"):
            own.get("configmap", "kept")
        own.start_apiserver()
        assert own.get("configmap", "kept")["data"] == {"a": "1"}


def test_while_paused_it_does_not_answer(own: kube_parts.ApiServer) -> None:
    """A paused API server takes connections and answers none; then it goes on."""
    with own.paused(), pytest.raises(kube_parts.Refused):
        own.kubectl("get", "--raw", "/readyz", "--request-timeout=500ms")
    own.wait_ready()


def test_a_service_account_has_no_rights_of_its_own(own: kube_parts.ApiServer) -> None:
    """A new ServiceAccount is known by name and may read nothing until a role is bound to it."""
    namespace = own.namespace()
    account = own.service_account(namespace, "reader")
    with pytest.raises(kube_parts.Refused, match=f"system:serviceaccount:{namespace}:reader"):
        own.kubectl("get", "pods", kubeconfig=account)
    own.kubectl("create", "rolebinding", "r", "-n", namespace, "--clusterrole=view", f"--serviceaccount={namespace}:reader")  # fmt: skip
    assert "No resources found" in own.kubectl("get", "pods", kubeconfig=account)


def test_nothing_outlives_a_killed_test_run() -> None:
    """When the test run is killed, all of the control plane ends."""
    runner = subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with runner:
        assert runner.stdout is not None
        *pids, folder = runner.stdout.readline().split()
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
        runner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    shutil.rmtree(folder)


def _runs(pid: str) -> bool:
    """Not when it is a zombie that nobody collects in a container without an init."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
