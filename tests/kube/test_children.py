"""The children of LocalModels on a real API server: it takes them, pods included, and a second apply changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import kube_parts
from penstock_operator.desired import desired
from penstock_operator.localmodel.parsing import parse
from penstock_operator.seen import Manifest, Seen

pytestmark = pytest.mark.real
EXAMPLES = sorted((Path(__file__).parents[2] / "charts/penstock/examples").glob("*.yaml"))
SEEN = Seen("2026-01-01T00:00:00Z", "ghcr.io/penstock/penstock:1", admin_token="a" * 64)
EVERYTHING: dict[str, Any] = {
    "model": {
        "uri": "hf://weights/m",
        "name": "served",
        "files": ["a-00001.gguf", "a-00002.gguf"],
        "sha256": "0" * 64,
        "credentialsSecretRef": {"name": "token"},
        "caConfigMapRef": {"name": "ca", "key": "root.pem"},
        "mirror": "https://mirror.example.com",
    },
    "runtime": {
        "type": "LlamaCpp",
        "image": "registry.example.com/llama:1",
        "imagePullSecrets": [{"name": "pull"}],
        "args": ["--flash-attn", "on"],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}},
        ],
    },
    "tuning": {
        "contextLength": 4096,
        "parallelRequests": 2,
        "kvCacheType": "q4_0",
        "gpuLayers": 8,
    },
    "gateway": {
        "replicas": 2,
        "image": "registry.example.com/penstock:1",
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "256Mi"}},
        "keysSecretRef": {"name": "keys"},
        "settings": {"timeouts": {"stallS": 60}},
    },
    "accelerator": {"type": "AMD", "count": 2},
    "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
    "cache": {"size": "5Gi", "storageClassName": "fast", "accessModes": ["ReadWriteMany"]},
    "replicas": 2,
    "rollout": {"strategy": "RollingUpdate", "idleTimeoutSeconds": 60},
    "expose": {
        "service": {"type": "NodePort", "annotations": {"example.com/a": "1"}},
        "httpRoute": {"parentRefs": [{"name": "edge"}], "hostnames": ["m.example.com"]},
    },
    "monitoring": {"serviceMonitor": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"allowFrom": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
    "scheduling": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"penstock.dev/model": "m"}},
            }
        ],
        "priorityClassName": "system-cluster-critical",
    },
    "podMetadata": {"labels": {"team": "a"}, "annotations": {"example.com/b": "2"}},
}
SPECS = [
    *(
        pytest.param(yaml.safe_load(path.read_text("utf-8"))["spec"], id=path.stem)
        for path in EXAMPLES
    ),
    pytest.param(EVERYTHING, id="every field"),
    pytest.param(
        {"model": {"uri": "oci://registry.example.com/m:1", "files": ["m.gguf"]}}, id="image volume"
    ),
    pytest.param(
        {
            "runtime": {
                "type": "External",
                "external": {
                    "url": "https://models.example.com",
                    "apiKeySecretRef": {"name": "s", "key": "k"},
                },
            }
        },
        id="external with a key",
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b/b.gguf"}, "cache": {"retentionPolicy": "Retain"}, "suspend": True},
        id="suspended and retained",
    ),
]  # fmt: skip


def children(
    cluster: kube_parts.ApiServer, namespace: str, spec: dict[str, Any], name: str
) -> list[Manifest]:
    """What the operator wants for a LocalModel that the API server has stored."""
    body = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": {"name": name},
        "spec": spec,
    }
    cluster.apply(body, "-n", namespace)
    return desired(parse(cluster.get("lm", name, "-n", namespace)), SEEN)


@pytest.mark.parametrize("spec", SPECS)
def test_children_and_their_pods_are_taken(
    cluster: kube_parts.ApiServer,
    namespace: str,
    spec: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    """Each child is taken by server-side apply without a warning, and its pods are restricted ones."""
    name = request.node.callspec.id.replace(" ", "-")
    made = children(cluster, namespace, spec, name)
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **one["spec"]["template"]["metadata"],
                "name": one["metadata"]["name"],
                "namespace": namespace,
            },
            "spec": one["spec"]["template"]["spec"],
        }
        for one in made
        if one["kind"] == "Deployment"
    ]
    assert pods
    whole = {"apiVersion": "v1", "kind": "List", "items": [*made, *pods]}
    said = cluster.apply(whole, "--dry-run=server", manager="penstock")
    assert "Warning" not in said
    assert said.count("serverside-applied") == len(made) + len(pods)


def test_a_second_apply_changes_nothing_and_deletion_takes_all(
    cluster: kube_parts.ApiServer, namespace: str
) -> None:
    """Children applied again keep their resource version; they go with their LocalModel."""
    made = children(cluster, namespace, {"model": {"uri": "hf://a/b/b.gguf"}}, "twice")
    settled = [one for one in made if one["kind"] not in ("Deployment", "PersistentVolumeClaim")]
    whole = {"apiVersion": "v1", "kind": "List", "items": settled}
    cluster.apply(whole, manager="penstock")

    def versions() -> dict[str, str]:
        listed = cluster.get(
            "configmap,secret,service,networkpolicy", "-l", "penstock.dev/model=twice", "-n", namespace
        )["items"]  # fmt: skip
        return {
            f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
            for one in listed
        }

    before = versions()
    assert len(before) == len(settled)
    cluster.apply(whole, manager="penstock")
    assert versions() == before
    cluster.kubectl("delete", "lm", "twice", "-n", namespace)
    for kind in ("configmap", "secret", "service", "networkpolicy"):
        cluster.kubectl(
            "wait", "--for=delete", kind, "-l", "penstock.dev/model=twice", "-n", namespace, "--timeout=60s"
        )  # fmt: skip
    assert versions() == {}
