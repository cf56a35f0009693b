"""The test cluster itself: a pod runs, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kube_cluster

pytestmark = [pytest.mark.real, pytest.mark.slow]

_BEGUN = """
import sys
import kube_cluster, kube_images
cluster = kube_cluster.Cluster()
namespace = cluster.namespace()
container = {"name": "only", "image": kube_images.PAUSE, "imagePullPolicy": "Never"}
about = {"name": "pod", "namespace": namespace}
cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": [container]}})
cluster.kubectl("wait", "pod/pod", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
cluster.kill_container(cluster.pods(namespace)[0])
cluster.kubectl("wait", "pod/pod", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s")
print("up", cluster.folder, cluster.group, cluster.interface, flush=True)
sys.stdin.read()
"""


def test_a_killed_test_run_leaves_nothing_behind() -> None:
    """A pod runs, and again after its process was killed; when the test run is killed all of that is gone."""
    kube_cluster.prepare()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", _BEGUN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as begun:  # fmt: skip
        assert begun.stdout is not None
        words = begun.stdout.readline().split()
        begun.send_signal(signal.SIGKILL)
    assert words, "the cluster did not come up; its error is above"
    _, folder, group, interface = words
    deadline = time.monotonic() + 60
    while left := _left(folder, group, interface):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _left(folder: str, group: str, interface: str) -> list[str]:
    groups = [Path(at) for at, _, _ in os.walk("/sys/fs/cgroup") if Path(at).name == group]
    places = [Path(folder), Path("/sys/class/net") / interface, *groups]
    found = [str(place) for place in places if place.exists()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if folder in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in words:
            found.append(words)
    return found
