"""
What a thousand LocalModels cost the operator, on a real API server with the controllers of Kubernetes at work.

    python3 benchmarks operator_scale              print the table
    python3 benchmarks operator_scale --write      and put it into docs/kubernetes-scale.md
    python3 benchmarks operator_scale --models 100 fewer

The operator runs as it does in a cluster, as a process with the rights of the chart's account. API server, etcd,
controllers and operator share the machine, so wall-clock times say as much about that machine; the CPU seconds of the
operator and its calls do not depend on it. There are no nodes: pods stay pending.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import kube_parts
from operators import Operator, account
from penstock_operator.api.resources import RESOURCES
from penstock_operator.localmodel.crd import crd
from penstock_operator.localmodel.names import OURS

PAGE = ROOT / "docs" / "kubernetes-scale.md"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
BATCH = 100
CHILDREN = 9  # of the smallest LocalModel
CHILD_KINDS = "deployments,services,configmaps,pvc,pdb,networkpolicies,secrets"
AT_A_TIME = 8
CHANGES = 40
IDLE_S = 60.0
SPEC = {"model": {"uri": "hf://a/b/b.gguf"}}


def say(text: str) -> None:
    """Progress."""
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mb(pid: int, field: str) -> float:
    """`VmRSS` now, or `VmHWM`, the most there was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000.0
    return 0.0


def until(look: Callable[[], bool], within_s: float, every_s: float = 0.5) -> float:
    """Wait for *look*; how long it took."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > within_s:
            raise SystemExit(f"benchmarks: not done within {within_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - began


def bare(found: dict[str, Any]) -> dict[str, Any]:
    """What stands in a cluster, as if it was to be made: without what the API server filled in and without an owner."""
    about, spec = found["metadata"], dict(found.get("spec") or {})
    for field in ("clusterIP", "clusterIPs"):
        if spec.get(field) != "None" and spec.get(field) != ["None"]:
            spec.pop(field, None)
    kept = {name: value for name, value in found.items() if name in {"apiVersion", "kind", "data"}}
    made = {"metadata": {"name": about["name"], "labels": about["labels"]}}
    return {**kept, **made, **({"spec": spec} if spec else {})}


class Scale:
    """A running cluster with an operator, and what was measured."""

    def __init__(self, folder: Path, server: kube_parts.ApiServer, models: int) -> None:
        self.server = server
        self.models = models
        self.folder = folder
        self.home = server.namespace()
        self.config = account(server, self.home, "operator")
        self.places = [server.namespace() for _ in range(max(1, models // BATCH))]
        self.figures: dict[str, float] = {}

    def operator(self, name: str) -> Operator:
        """A new one, which leads."""
        return Operator(self.folder / name, self.config, namespace=self.home).wait_ready()

    def told(self) -> int:
        """How many LocalModels have a status."""
        lines = self.server.kubectl(
            "get", "lm", "-A", "-o", "jsonpath={range .items[*]}{.status.observedGeneration}{'\\n'}{end}",
        )  # fmt: skip
        return sum(one.strip() == "1" for one in lines.splitlines())

    def bodies(self, place: str) -> Iterator[dict[str, Any]]:
        """The LocalModels of one namespace."""
        for number in range(min(BATCH, self.models)):
            yield {
                "apiVersion": "penstock.dev/v1alpha1", "kind": "LocalModel",
                "metadata": {"name": f"m-{number}", "namespace": place}, "spec": SPEC,
            }  # fmt: skip

    def make(self) -> None:
        """All LocalModels, before there is an operator: then all at once is the worst case."""
        for place in self.places:
            items = list(self.bodies(place))
            self.server.apply({"apiVersion": "v1", "kind": "List", "items": items})

    def first(self) -> None:
        """From the start of an operator until all are reconciled."""
        began = time.monotonic()
        with self.operator("first") as one:
            one.wait_leads()
            began_calls = one.metric("api_calls")
            until(lambda: self.told() == self.models, 900.0, 2.0)
            self.figures["all"] = time.monotonic() - began
            calls = (
                one.metric("api_calls") - began_calls - self.figures["all"]
            )  # the lease takes one a second
            self.figures["calls_first"] = calls / self.models
            self.figures["cpu_first"] = cpu_s(one.process.pid)
            say(f"all told after {self.figures['all']:.0f} s; waiting until all is quiet ...")
            self.quiet(one)
            self.figures["calls"] = one.metric("api_calls") / self.models
            self.figures["cpu"] = cpu_s(one.process.pid)
            self.figures["rss"] = memory_mb(one.process.pid, "VmRSS")
            self.figures["peak"] = memory_mb(one.process.pid, "VmHWM")
            self.changes(one)
            self.quiet(one)
            say(f"idle for {IDLE_S:.0f} s ...")
            before, used = one.metric("api_calls"), cpu_s(one.process.pid)
            time.sleep(IDLE_S)
            self.figures["idle_calls"] = (one.metric("api_calls") - before) / IDLE_S
            self.figures["idle_cpu"] = (cpu_s(one.process.pid) - used) / IDLE_S
            self.figures["end"] = memory_mb(one.process.pid, "VmRSS")

    def floor(self) -> None:
        """What the machine takes for the same children when a bare client writes them, eight at a time."""
        at = self.server.namespace()
        bodies = [
            (f"{RESOURCES[one['kind']].path(at)}/{one['metadata']['name']}", json.dumps(bare(one)))
            for one in self.server.get(CHILD_KINDS, "-n", self.places[0], "-l", OURS)["items"]
        ]

        def write(share: int) -> None:
            with contextlib.closing(self.server.direct()) as api:
                for path, body in bodies[share::AT_A_TIME]:
                    api.call("PATCH", f"{path}?fieldManager=floor", body, patch="apply-patch+yaml")

        began = time.monotonic()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(write, range(AT_A_TIME)))
        each_s = (time.monotonic() - began) / min(BATCH, self.models)
        self.figures["floor"] = each_s * self.models
        say(f"a bare client takes {each_s * 1000:.0f} ms for the children of a model")
        self.server.kubectl("delete", "namespace", at, "--wait=false")

    def again(self) -> None:
        """A restart, when all is as it should be."""
        began = time.monotonic()
        with self.operator("again") as one:
            self.figures["ready"] = time.monotonic() - began
            one.wait_leads()
            until(lambda: one.metric("reconcile_seconds_count") >= self.models, 900.0)
            self.figures["restart"] = time.monotonic() - began
            self.quiet(one)
            self.figures["restart_calls"] = one.metric("api_calls") / self.models
            self.figures["restart_peak"] = memory_mb(one.process.pid, "VmHWM")
            self.figures["restart_rss"] = memory_mb(one.process.pid, "VmRSS")

    def quiet(self, one: Operator) -> None:
        """Until nothing was reconciled for five seconds."""
        last, at = -1.0, time.monotonic()

        def look() -> bool:
            nonlocal last, at
            now = one.metric("reconcile_seconds_count")
            if now != last:
                last, at = now, time.monotonic()
            return time.monotonic() - at > 5.0

        until(look, 900.0)

    def changes(self, one: Operator) -> None:
        """One change at a time: from the patch until the child has it, as a watch tells."""
        took = []
        for number in range(CHANGES):
            place, name = (
                self.places[number % len(self.places)],
                f"m-{number % BATCH % self.models}",
            )
            took.append(self.change(place, name, number % 9 + 2))
        took.sort()
        self.figures["p50"] = statistics.median(took) * 1000.0
        self.figures["p95"] = took[int(len(took) * 0.95) - 1] * 1000.0

    def change(self, place: str, name: str, replicas: int) -> float:
        """Seconds from the answer to a patch until the Deployment has it. The pods that it then makes are waited for."""
        patch = json.dumps({"spec": {"replicas": replicas}})
        self.server.call("PATCH", f"/apis/penstock.dev/v1alpha1/namespaces/{place}/localmodels/{name}", patch)  # fmt: skip
        began = time.monotonic()
        at = f"/apis/apps/v1/namespaces/{place}/deployments/{name}-server"
        while self.server.call("GET", at)["spec"]["replicas"] != replicas:
            if time.monotonic() - began > 60.0:
                raise SystemExit("benchmarks: a change did not arrive")
            time.sleep(0.005)
        took = time.monotonic() - began
        until(lambda: self.server.call("GET", at)["status"].get("replicas") == replicas, 60.0, 0.1)
        return took


def table(scale: Scale) -> str:
    """What was measured, beside what is to be reached."""
    found, number = scale.figures, scale.models
    rows = [
        (f"{number:,} new LocalModels, all at once, until each has its children and its status", f"**{found['all']:.0f} s**", "90 s"),
        ("the same children written by a bare client, eight at a time: what API server and controllers take", f"{found['floor']:.0f} s", "reported"),
        ("CPU of the operator for that", f"{found['cpu_first']:.0f} s", "reported"),
        ("calls to the API server for a new LocalModel (9 children)", f"**{found['calls_first']:.1f}**", f"{CHILDREN + 4}"),
        ("the same, with all that its pods' coming and going causes", f"{found['calls']:.1f}", "reported"),
        ("memory afterwards / the most there was", f"**{found['rss']:.0f} MB** / {found['peak']:.0f} MB", "150 MB"),
        ("one change, until the child has it (p50 / p95)", f"{found['p50']:.0f} ms / **{found['p95']:.0f} ms**", "300 ms"),
        ("idle: calls in a second (the lease takes one)", f"{found['idle_calls']:.1f}", "1"),
        ("idle: CPU", f"{found['idle_cpu'] * 100:.1f} %", "reported"),
        ("restart: until it has listed everything / looked at everything", f"{found['ready']:.0f} s / {found['restart']:.0f} s", "reported"),
        ("restart: calls for each LocalModel", f"{found['restart_calls']:.1f}", "reported"),
        ("restart: memory / the most there was", f"{found['restart_rss']:.0f} MB / {found['restart_peak']:.0f} MB", "150 MB"),
    ]  # fmt: skip
    lines = ["| | measured | to reach |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {value} | {aim} |" for what, value, aim in rows])


def write(text: str) -> None:
    """Put the table between its marks."""
    begin, end = "<!-- table -->\n", "<!-- /table -->"
    page = PAGE.read_text("utf-8")
    head, _, rest = page.partition(begin)
    PAGE.write_text(f"{head}{begin}{text}\n{end}{rest.partition(end)[2]}", "utf-8")


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description="What a thousand LocalModels cost the operator.")
    words.add_argument("--models", type=int, default=1000)
    words.add_argument("--write", action="store_true")
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder, kube_parts.ApiServer() as server:
        server.define(crd())
        scale = Scale(Path(folder), server, chosen.models)
        say(f"making {chosen.models} LocalModels ...")
        scale.make()
        say("the operator starts ...")
        scale.first()
        say("the same children by a bare client ...")
        scale.floor()
        say("and once more ...")
        scale.again()
    text = table(scale)
    print(text)
    if chosen.write:
        write(text)


if __name__ == "__main__":
    main()
