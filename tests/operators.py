"""
The operator as a process, with exactly the rights of an install by the chart, for tests on a real API server.

It ends with the test run, also when that is killed. Ports are its own; its log is in `log`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import kube_parts
import parts
from penstock_operator.api.permissions import PERMISSIONS, Permission

WITHIN_S = 120.0
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")


def until(look: Callable[[], T], what: str = "it", within_s: float = WITHIN_S) -> T:
    """The first true answer of *look*, which may also fail an assertion meanwhile."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            found = look()
            if found or time.monotonic() > deadline:
                assert found, f"no sign of {what} within {within_s:.0f} s"
                return found
        except (AssertionError, kube_parts.Refused, OSError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def rules(rows: Iterable[Permission]) -> list[dict[str, Any]]:
    """As a Role has them."""
    return [
        {"apiGroups": [row.group], "resources": [row.resource], "verbs": list(row.verbs)}
        for row in rows
    ]


def account(
    server: kube_parts.ApiServer,
    namespace: str,
    name: str,
    *,
    watched: tuple[str, ...] = (),
    without: tuple[str, str] = ("", ""),
) -> Path:
    """
    The kubeconfig of a ServiceAccount that may do what the chart's one may, and what an operator outside must.

    Args:
        watched: namespaces of a namespaced install; empty for one of the whole cluster.
        without: a resource and a verb of it that are left out.
    """

    def less(*scopes: str) -> list[dict[str, Any]]:
        found = [row for row in PERMISSIONS if row.scope in scopes]
        made = rules(found)
        for row in made:
            if row["resources"] == [without[0]]:
                row["verbs"].remove(without[1])
        return [row for row in made if row["verbs"]]

    config = server.service_account(namespace, name)
    wide = f"{namespace}-{name}"
    api = "rbac.authorization.k8s.io"
    items: list[dict[str, Any]] = []

    def bind(kind: str, role: str, place: str | None, found: list[dict[str, Any]]) -> None:
        where = {"namespace": place} if place else {}
        items.append({
            "apiVersion": f"{api}/v1", "kind": kind, "metadata": {"name": role, **where}, "rules": found,
        })  # fmt: skip
        items.append({
            "apiVersion": f"{api}/v1", "kind": f"{kind}Binding", "metadata": {"name": role, **where},
            "roleRef": {"apiGroup": api, "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        })  # fmt: skip

    if watched:
        for place in watched:
            bind("Role", wide, place, less("model", "outside"))
    else:
        bind("ClusterRole", wide, None, less("model", "outside"))
    bind("Role", f"{wide}-own", namespace, less("own"))
    server.apply({"apiVersion": "v1", "kind": "List", "items": items})
    return config


class Operator:
    """
    `penstock operator` as a process.

    Args:
        config: its kubeconfig; None leaves it to the environment.
        lease: operators with the same one are replicas of each other.
    """

    def __init__(
        self,
        folder: Path,
        config: Path | None,
        *,
        namespace: str,
        watched: tuple[str, ...] = (),
        lease: str = "penstock-operator",
        image: str = "penstock:test",
        **environment: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = folder.parent / "master-key"
        key.write_text("k" * 32)
        self.port = parts.free_port()
        self._log = folder / "operator.log"
        command = [
            sys.executable, "-m", "penstock_operator", "--master-key", str(key), "--image", image,
            "--lease", lease, "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
        ]  # fmt: skip
        if config is not None:
            command += ["--kubeconfig", str(config)]
        for one in watched:
            command += ["--namespace", one]
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KUBE") and not name.lower().endswith("_proxy")
        }
        clean |= {
            "POD_NAMESPACE": namespace,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **environment,
        }
        libc = ctypes.CDLL(None)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
            )

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text("utf-8", "replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of `/healthz`, `/readyz` or `/metrics`."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as found:
                return found.status, found.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def metric(self, name: str) -> float:
        """The sum of that metric over its labels."""
        text = self.get("/metrics")[1]
        found = re.findall(rf"^penstock_operator_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(one) for one in found)

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_ready(self) -> Self:
        """Until everything was listed once."""

        def ready() -> bool:
            if self._has_ended():
                raise RuntimeError(f"the operator ended:\n{self.log}")
            return self.get("/readyz")[0] == 200

        until(ready, "the operator")
        return self

    def wait_leads(self, within_s: float = WITHIN_S) -> Self:
        """Until it leads."""
        self.wait_ready()
        until(lambda: self.metric("leads") == 1.0, "the lease", within_s)
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Its exit status."""
        return self.process.wait(within_s)

    def stop(self) -> int:
        """Politely; its exit status."""
        if not self._has_ended():
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Models:
    """LocalModels of one namespace, and what became of them."""

    def __init__(self, server: kube_parts.ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def make(self, name: str, **spec: Any) -> str:
        """A LocalModel; by default of external kind, which has the fewest children."""
        if not spec:
            spec = {
                "runtime": {"type": "External", "external": {"url": "https://models.example.com"}}
            }
        self.server.apply(self.body(name, spec), "-n", self.namespace)
        return name

    @staticmethod
    def body(name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """As it is applied."""
        return {
            "apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel",
            "metadata": {"name": name}, "spec": spec,
        }  # fmt: skip

    def patch(self, what: str, change: Any, *more: str) -> None:
        """A merge patch by kubectl, as a person sends one."""
        self.server.kubectl("patch", what, "-n", self.namespace, "--type=merge", "-p", json.dumps(change), *more)  # fmt: skip

    def get(self, what: str) -> Any:
        """`kind/name`, as values."""
        return self.server.get(what, "-n", self.namespace)

    def status(self, name: str) -> dict[str, Any]:
        """Its status; empty while there is none."""
        found: dict[str, Any] = self.get(f"lm/{name}").get("status") or {}
        return found

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """That condition; empty while there is none."""
        for one in self.status(name).get("conditions") or ():
            if one["type"] == kind:
                return dict(one)
        return {}

    def settled(self, name: str) -> dict[str, Any]:
        """Its status, once that speaks of its newest generation."""

        def look() -> dict[str, Any]:
            body = self.get(f"lm/{name}")
            status: dict[str, Any] = body.get("status") or {}
            newest = status.get("observedGeneration") == body["metadata"]["generation"]
            return status if newest else {}

        return until(look, f"the status of {name}")

    def children(self, name: str) -> dict[str, dict[str, Any]]:
        """All that carries its label, pods and ReplicaSets left out, by `Kind/name`."""
        kinds = "deploy,svc,cm,secret,pvc,netpol,pdb"
        found = self.server.get(kinds, "-n", self.namespace, "-l", f"penstock.dev/model={name}")
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in found["items"]}

    def pods(self, name: str, component: str) -> list[dict[str, Any]]:
        """Its pods of that component."""
        chosen = f"penstock.dev/model={name},app.kubernetes.io/component={component}"
        found: list[dict[str, Any]] = self.server.get("pods", "-n", self.namespace, "-l", chosen)["items"]  # fmt: skip
        return found

    def play_pod(self, pod: str, status: dict[str, Any]) -> None:
        """Write the status of a pod, as a kubelet would."""
        self.patch(f"pod/{pod}", {"status": status}, "--subresource=status")

    def play_ready(self, name: str) -> None:
        """All of its pods are ready."""
        for component in ("gateway", "server"):
            for pod in self.pods(name, component):
                self.play_pod(pod["metadata"]["name"], {
                    "phase": "Running", "containerStatuses": [], "initContainerStatuses": [],
                    "conditions": [{"type": "Ready", "status": "True"}],
                })  # fmt: skip
