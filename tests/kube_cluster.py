"""
A real Kubernetes cluster of one node for tests: tests/kube_parts.py's control plane, and what runs pods.

containerd, runc, kubelet, kube-proxy, the scheduler and CoreDNS live in network, mount and process namespaces of
their own, made by `unshare`. The first process in there reads a pipe that the test holds: when the test ends, however
that happens, the kernel ends everything inside, and mounts, interfaces and routes go with it. A shell outside waits
for that and removes the rest (control groups, files, kernel settings that kubelet changes).

Nothing in there has a way out of the machine. The test reaches pods and services by a route into the namespace. A
number of each cluster's own is in its addresses, so several can run side by side.

Needs root on Linux. Pods have no bridge between them (the plugin `ptp`), so that what goes through kube-proxy needs no
more of the kernel than routing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

import kube_build
import kube_images
import kube_parts
import parts

NODE = "desk"
_CLUSTERS = 32
_PACKAGES = {
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/nft": "nftables",
    "/usr/sbin/ip": "iproute2",
    "/usr/bin/openssl": "openssl",
}
_OUTSIDE = """
folder=$1; group=$2; inside=$3
settings='vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes'
mkdir -p "$folder/settings"
for one in $settings; do mkdir -p "$folder/settings/${one%/*}"; cat /proc/sys/$one >"$folder/settings/$one"; done
unshare --net --mount --pid --fork --mount-proc /bin/sh -c "$inside"
for one in $settings; do cat "$folder/settings/$one" >/proc/sys/$one; done 2>/dev/null
for tries in 1 2 3 4 5 6 7 8 9 10; do
  groups=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$group")
  [ -z "$groups" ] && break
  for one in $groups; do find "$one" -depth -type d -exec rmdir {} + 2>/dev/null; done || sleep 0.2
done
rm -rf "$folder"
"""
# With SIGCHLD ignored the kernel itself forgets ended processes that are left to the first one. A shell would catch it
# all the same, and take the interruption of its `read` for the end of the pipe.
_INSIDE = """
mount --make-rshared / && mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /var/log || exit 1
ip link set lo up || exit 1
echo ready
exec env --ignore-signal=CHLD cat >/dev/null
"""


def prepare() -> None:
    """Build and install what a cluster needs; where there is none to be had, skip the test that asks."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("platform: a Kubernetes node needs root on Linux")
    parts.need_packages([name for file, name in _PACKAGES.items() if not Path(file).exists()])
    for name in Cluster._programs:
        kube_build.program(name)
    kube_images.pause()


class Cluster(kube_parts.ApiServer):
    """
    A running cluster; also an `ApiServer`.

    Attributes:
        group: the control group of its pods.
        interface: this machine's end of the way to it.
    """

    _programs = (
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        *("containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet", "kube-proxy", "coredns"),
    )  # fmt: skip
    _tokens = (
        "scheduler-of-a-test,system:kube-scheduler,3",
        f'node-of-a-test,system:node:{NODE},4,"system:nodes"',
        'proxy-of-a-test,system:kube-proxy,5,"system:node-proxier"',
    )

    def __init__(self) -> None:
        prepare()
        self._volumes = 0
        self._number, self._lock = _free_number()
        n = self._number
        self._host, self._address = f"10.201.{n}.1", f"10.201.{n}.2"
        self._pods, self._services = f"10.202.{n}.0/24", f"10.203.{n}.0/24"
        self._dns = f"10.203.{n}.10"
        self.group, self.interface = f"penstock-test-{n}", f"pst{n}"
        self._outside: subprocess.Popen[bytes] | None = None
        super().__init__()

    # Begin and end

    def _begin(self) -> None:
        self._unshare()
        self._make_keys()
        super()._begin()
        user = {"scheduler": "scheduler-of-a-test", "node": "node-of-a-test", "proxy": "proxy-of-a-test"}  # fmt: skip
        for name, token in user.items():
            self.kubeconfig_of(token, name)
        self._start(
            "kube-scheduler", "--kubeconfig=scheduler.kubeconfig", "--leader-elect=false",
            "--bind-address=127.0.0.1",
        )  # fmt: skip
        self._start_containerd()
        self.load_image(kube_images.pause())
        self._start_node()
        self._start_dns()
        self.until("the node", "kubelet", "wait", f"node/{NODE}", "--for=condition=Ready", "--timeout=1s")  # fmt: skip

    def _unshare(self) -> None:
        """Make the namespaces and the way into them."""
        self._outside = subprocess.Popen(
            ["/bin/sh", "-c", _OUTSIDE, "sh", str(self.folder), self.group, _INSIDE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, pass_fds=(self._lock.fileno(),),
        )  # fmt: skip
        assert self._outside.stdout is not None
        said = self._outside.stdout.readline().strip()
        if said != b"ready":
            raise RuntimeError(f"Namespaces cannot be made here: {said.decode()}")
        shell = psutil.Process(self._outside.pid)
        first = next(one for one in shell.children() if one.name() == "unshare").children()[0].pid
        tools = [kube_build.program(name).parent for name in ("containerd", "runc")]
        path = os.pathsep.join([*map(str, tools), "/usr/sbin", "/sbin", os.environ["PATH"]])
        self._inside = (
            *("nsenter", "-t", str(first), "--net", "--mount", "--pid", "--"),
            *("env", f"--chdir={self.folder}", f"PATH={path}"),
        )
        outside = [
            ["ip", "link", "add", self.interface, "type", "veth", "peer", "name", "outside", "netns", str(first)],
            ["ip", "addr", "add", f"{self._host}/30", "dev", self.interface],
            ["ip", "link", "set", self.interface, "up"],
        ]  # fmt: skip
        # kube-proxy's translation needs a route to look at, also for what leads nowhere.
        inside = [
            ["ip", "addr", "add", f"{self._address}/30", "dev", "outside"],
            ["ip", "link", "set", "outside", "up"],
            ["ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "nobody"],
            ["ip", "link", "set", "nowhere", "up"],
            ["ip", "link", "set", "nobody", "up"],
            ["ip", "route", "add", "default", "dev", "nowhere"],
            ["sysctl", "-qw", "net.ipv4.ip_forward=1"],
        ]
        routes = [["ip", "route", "add", to, "via", self._address] for to in (self._pods, self._services)]  # fmt: skip
        for command in outside:
            _run(command)
        for command in inside:
            _run([*self._inside, *command])
        for command in routes:
            _run(command)
        for root in _control_groups():
            (root / self.group).mkdir(exist_ok=True)

    def _make_keys(self) -> None:
        """The API server's own key for the kubelet, by which logs and commands in pods work."""
        keys = self.folder / "keys"
        keys.mkdir()
        new = ("-newkey", "rsa:2048", "-nodes", "-subj")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        for command in (
            ("req", "-x509", "-days", "2", *new, "/CN=kubelet-client-ca", "-keyout", "ca.key", "-out", "ca.crt"),
            ("req", *new, "/O=system:masters/CN=apiserver", "-keyout", "client.key", "-out", "client.csr"),
            ("x509", "-req", "-days", "2", "-in", "client.csr", *signed, "-out", "client.crt"),
        ):  # fmt: skip
            _run(["openssl", *command], folder=keys)

    def _apiserver_arguments(self) -> tuple[str, ...]:
        return (
            "--authorization-mode=Node,RBAC", "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-client-certificate=keys/client.crt", "--kubelet-client-key=keys/client.key",
        )  # fmt: skip

    def _start_containerd(self) -> None:
        (self.folder / "cni").mkdir()
        (self.folder / "containerd.toml").write_text(_containerd(self.folder))
        self._write("cni/10-test.conflist", _network(self.folder, self._pods))
        self._start("containerd", "--config", "containerd.toml")
        deadline = time.monotonic() + kube_parts.READY_WITHIN_S
        while True:
            try:
                self.ctr("plugins", "ls")
                return
            except kube_parts.Refused as exc:
                process = self.process("containerd")
                if not process.runs or time.monotonic() > deadline:
                    raise RuntimeError(f"containerd: {exc}\n{process.log[-3000:]}") from exc
                time.sleep(0.05)

    def _start_node(self) -> None:
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self._address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "keys" / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group}",
            "clusterDNS": [self._dns],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            # Volumes with a ConfigMap or Secret are looked at again this often.
            "syncFrequency": "5s",
            "resolvConf": "",
        }
        self._write("kubelet.json", kubelet)
        self._start(
            "kubelet", "--config=kubelet.json", "--kubeconfig=node.kubeconfig",
            f"--hostname-override={NODE}", f"--node-ip={self._address}", f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet/pki",
        )  # fmt: skip
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": self._pods,
            "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": "proxy.kubeconfig"},
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
        self._write("proxy.json", proxy)
        self._start("kube-proxy", "--config=proxy.json")

    def _start_dns(self) -> None:
        zones = "cluster.local in-addr.arpa"
        (self.folder / "Corefile").write_text(
            f".:10053 {{\n  bind {self._address}\n  kubernetes {zones} {{\n    kubeconfig {self.kubeconfig} test\n"
            "    ttl 1\n  }\n}\n"
        )
        self._start("coredns", "-conf", "Corefile")
        port = {"port": 53, "targetPort": 10053}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system"},
                "spec": {
                    "clusterIP": self._dns,
                    "ports": [
                        {"name": "dns", "protocol": "UDP", **port},
                        {"name": "dns-tcp", "protocol": "TCP", **port},
                    ],
                },
            }
        )
        self.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "kube-dns-1",
                    "namespace": "kube-system",
                    "labels": {"kubernetes.io/service-name": "kube-dns"},
                },
                "addressType": "IPv4",
                "ports": [
                    {"name": "dns", "port": 10053, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 10053, "protocol": "TCP"},
                ],
                "endpoints": [{"addresses": [self._address], "conditions": {"ready": True}}],
            }
        )

    def stop(self) -> None:
        """End everything; what is inside the namespaces ends with their first process."""
        if self._outside is not None:
            assert self._outside.stdin is not None
            assert self._outside.stdout is not None
            self._outside.stdin.close()
            self._outside.wait()
            self._outside.stdout.close()
        super().stop()
        self._lock.close()

    # Use

    def load_image(self, archive: Path) -> None:
        """Import a docker archive; pods name it by its tag, with `imagePullPolicy: Never` or `IfNotPresent`."""
        self.ctr("-n", "k8s.io", "images", "import", str(archive))

    def ctr(self, *arguments: str) -> str:
        """What containerd's own client writes."""
        socket = f"{self.folder}/containerd.sock"
        command = [*self._inside, str(kube_build.program("ctr")), "-a", socket, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise kube_parts.Refused(done.stderr.strip())
        return done.stdout

    def address(self, namespace: str, service: str) -> str:
        """The address of a Service, for a client in the test."""
        spec = self.get("service", service, "-n", namespace)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def pods(self, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        found = self.get("pods", "-n", namespace, "-l", labels)["items"]
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def logs(self, namespace: str, pod: str, *more: str) -> str:
        """What a pod wrote."""
        return self.kubectl("logs", "-n", namespace, pod, *more)

    def kill_container(self, pod: dict[str, Any], name: str = "") -> None:
        """End the processes of a pod's container (the first one, or *name*) as a crash would."""
        for one in pod["status"]["containerStatuses"]:
            if name in ("", one["name"]):
                made = one["containerID"].removeprefix("containerd://")
                self.ctr("-n", "k8s.io", "tasks", "kill", "-s", "KILL", "--all", made)
                return

    def volumes(self, count: int, size: str = "100Gi") -> None:
        """Volumes that claims without a storage class are bound to; folders of this machine."""
        for _ in range(count):
            self._volumes += 1
            name = f"volume-{self._volumes}"
            folder = self.folder / "volumes" / name
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            self.apply(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": name},
                    "spec": {
                        "capacity": {"storage": size},
                        "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "hostPath": {"path": str(folder)},
                    },
                }
            )

    def _write(self, name: str, body: Any) -> None:
        (self.folder / name).write_text(json.dumps(body, indent=1))


def _containerd(folder: Path) -> str:
    """Its configuration; without CAP_SYS_RESOURCE no container could get the score that kubelet asks for."""
    return f"""\
version = 3
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{kube_images.PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{folder}/cni"
"""


def _network(folder: Path, pods: str) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "test",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{folder}/cni-addresses",
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _control_groups() -> Iterator[Path]:
    """The root of each hierarchy: one with version 2, one for each controller with version 1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").is_file():
        wanted = (root / "cgroup.controllers").read_text().split()
        for one in wanted:  # a controller that cannot be handed on is one that kubelet does without
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text(f"+{one}")
        yield root
        return
    for one in root.iterdir():
        if (one / "cgroup.procs").is_file() and one.name != "unified":
            yield one


def _free_number() -> tuple[int, IO[bytes]]:
    """A number that no other cluster on this machine has, and what keeps it."""
    import fcntl

    parts.CACHE.mkdir(parents=True, exist_ok=True)
    for number in range(_CLUSTERS):
        file = (parts.CACHE / f"cluster-{number}.lock").open("a+b")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number, file
        file.close()
    raise RuntimeError(f"{_CLUSTERS} clusters run on this machine already.")


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{shutil.which(command[0]) or command[0]}` failed: {done.stderr.strip()[-1000:]}")  # fmt: skip
