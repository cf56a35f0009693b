"""
Penstock in a test cluster, as people have it: the image built and loaded, the chart installed by Helm, and a place
inside the cluster that weights are fetched from (it stands in for Hugging Face).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import kube_build
import kube_cluster
import kube_images
import kube_parts
import parts

CHART = kube_images.ROOT / "charts" / "penstock"
NAMESPACE = "penstock"
RELEASE = "penstock"
LIBRARY = "http://library.library.svc.cluster.local"


def helm(cluster: kube_parts.ApiServer, *arguments: str, program: str = "helm") -> str:
    """What Helm writes. Raises `Refused` with what it said."""
    homes = {name: str(cluster.folder / "helm") for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}  # fmt: skip
    done = subprocess.run(
        [str(kube_build.program(program)), "--kubeconfig", str(cluster.kubeconfig), *arguments],
        env={"PATH": os.environ["PATH"], **homes}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise kube_parts.Refused(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def prepare() -> None:
    """Build what is needed, before any clock starts."""
    kube_build.program("helm")
    kube_images.penstock()


def install(cluster: kube_cluster.Cluster, *more: str) -> str:
    """Load the image and install the chart; what Helm says at the end."""
    cluster.load_image(kube_images.penstock())
    return helm(
        cluster, "install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace",
        "--wait", "--timeout", "3m", *more,
    )  # fmt: skip


def shelve(cluster: kube_cluster.Cluster, **models: Path) -> None:
    """
    Serve GGUF files inside the cluster where Hugging Face would have them.

    `shelve(cluster, tiny=file)` makes it `hf://tests/models/tiny.gguf` for who has `LIBRARY` as mirror.
    """
    shelf = cluster.folder / "library" / "tests" / "models" / "resolve" / "main"
    shelf.mkdir(parents=True, exist_ok=True)
    for name, file in models.items():
        (shelf / f"{name}.gguf").write_bytes(file.read_bytes())
    for folder in (cluster.folder, *shelf.parents):
        if folder.is_relative_to(cluster.folder):
            folder.chmod(0o755)
    labels = {"app": "library"}
    about = {"name": "library", "namespace": "library"}
    container = {
        "name": "library",
        "image": kube_images.PENSTOCK,
        "command": ["python3", "-m", "http.server", "8000", "--directory", "/library"],
        "volumeMounts": [{"name": "library", "mountPath": "/library", "readOnly": True}],
    }
    for one in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "library"}},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": about,
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": about,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [container],
                        "volumes": [{"name": "library", "hostPath": {"path": str(cluster.folder / "library")}}],
                        "terminationGracePeriodSeconds": 0,
                    },
                },
            },
        },
    ):  # fmt: skip
        cluster.apply(one)
    cluster.kubectl("rollout", "status", "deployment/library", "-n", "library", "--timeout=80s")


def local_model(namespace: str, name: str, /, **spec: Any) -> dict[str, Any]:
    """The smallest LocalModel, of the shelf's `tiny.gguf`, with these fields of its spec."""
    spec.setdefault("model", {"uri": "hf://tests/models/tiny.gguf", "mirror": LIBRARY})
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def model() -> Path:
    """The GGUF file on the shelf; 1.5 MB."""
    return parts.model("tiny")
