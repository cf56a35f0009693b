"""What the real API server makes of our definition: it takes it, judges LocalModels by it, and explains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import kube_parts
from penstock_operator.localmodel.crd import crd
from penstock_operator.localmodel.parsing import InvalidSpec, parse
from penstock_operator.localmodel.rules import RULES, WRITTEN

pytestmark = pytest.mark.real
EXAMPLES = sorted((Path(__file__).parents[2] / "charts/penstock/examples").glob("*.yaml"))
GGUF = {"uri": "hf://owner/repository/file.gguf"}
THEIRS = {"type": "External", "external": {"url": "http://models.example.com:8000"}}


def localmodel(spec: dict[str, Any], name: str = "m") -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": {"name": name},
        "spec": spec,
    }


def tried(cluster: kube_parts.ApiServer, namespace: str, body: dict[str, Any]) -> str:
    """What the API server says to it, as kubectl shows it; nothing is kept."""
    path = f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/localmodels"
    return cluster.tried(f"{path}/{body['metadata']['name']}", body)


def test_the_definition_is_taken_without_a_complaint(cluster: kube_parts.ApiServer) -> None:
    """The API server takes the definition without a warning, and finds its schema structural."""
    said = cluster.apply(crd(), "--force-conflicts")
    assert "Warning" not in said
    held = cluster.get("crd", "localmodels.penstock.dev")["status"]["conditions"]
    states = {one["type"]: one["status"] for one in held}
    assert states["Established"] == states["NamesAccepted"] == "True"
    assert states.get("NonStructuralSchema", "False") == "False", held


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken(cluster: kube_parts.ApiServer, namespace: str, path: Path) -> None:
    """Every example of the chart is a valid LocalModel, without a warning."""
    assert tried(cluster, namespace, yaml.safe_load(path.read_text("utf-8"))) == ""


TAKEN = [
    pytest.param(
        {
            "model": {"uri": "pvc://c/d", "files": ["M.GGUF"]},
            "accelerator": {"type": "AMD"},
            "tuning": {"gpuLayers": 3},
        },
        id="a GGUF by its file",
    ),
    pytest.param(
        {
            "model": GGUF,
            "runtime": {"image": "registry.example.com/vulkan:1"},
            "tuning": {"gpuLayers": 3},
        },
        id="a split by an image of theirs",
    ),
    pytest.param(
        {"model": {"uri": "pvc://c/d.gguf", "sha256": "0" * 64}},
        id="a checksum of a file on a volume",
    ),
    pytest.param(
        {
            "model": {"uri": "ollama://a", "caConfigMapRef": {"name": "ca"}},
            "runtime": {"env": [{"name": "OLLAMA_DEBUG", "value": "1"}]},
        },
        id="a private registry of Ollama's",
    ),
    pytest.param(
        {
            "model": {"uri": "hf://a/b"},
            "runtime": {"type": "VLLM", "image": "registry.example.com/vllm-xpu:1"},
            "accelerator": {"type": "Intel", "count": 2, "resourceName": "gpu.intel.com/xe"},
        },
        id="an image of theirs for a GPU that the project leaves out",
    ),
    pytest.param(
        {
            "model": GGUF,
            "gateway": {"keysSecretRef": {"name": "keys"}},
            "expose": {"service": {"type": "LoadBalancer"}},
            "networkPolicy": {"allowFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
        },
        id="reached from outside with keys",
    ),
    pytest.param(
        {"model": {"uri": "https://a/b.gguf", "sha256": "0" * 64}}, id="a checksum that we compare"
    ),
    pytest.param(
        {
            "model": {"uri": "hf://a/b"},
            "accelerator": {"type": "NVIDIA"},
            "tuning": {"kvCacheType": "q8_0"},
        },
        id="other weights with a GPU",
    ),
    pytest.param({"model": GGUF}, id="the smallest"),
    pytest.param({"runtime": THEIRS}, id="external without a model"),
    pytest.param({"runtime": THEIRS, "model": {"name": "m"}}, id="external with a name"),
    pytest.param({"model": GGUF, "replicas": 0}, id="scaled to nothing"),
    pytest.param(
        {"runtime": THEIRS, "rollout": {"idleTimeoutSeconds": 9}},
        id="gateways that take their time",
    ),
    pytest.param(
        {"model": GGUF, "resources": {"limits": {"cpu": 2, "memory": "1.5Gi"}}},
        id="numbers and texts",
    ),
    pytest.param({"model": {"uri": "ollama://qwen3:8b"}}, id="Ollama by its address"),
    pytest.param(
        {"model": {"uri": "ollama://a"}, "runtime": {"type": "Ollama"}}, id="Ollama, both said"
    ),
    pytest.param({"model": GGUF, "runtime": {"type": "LlamaCpp"}}, id="llama.cpp, both said"),
    pytest.param({"model": GGUF, "cache": {"claimName": "mine"}}, id="a claim of theirs"),
    pytest.param(
        {"model": GGUF, "cache": {"size": "5Gi", "storageClassName": "s"}}, id="a claim of ours"
    ),
    pytest.param(
        {
            "model": GGUF,
            "runtime": {
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}},
                ]
            },
        },
        id="both kinds of variables",
    ),
    pytest.param(
        {"model": GGUF, "gateway": {"settings": {"timeouts": {"stallS": 60}}}},
        id="policy of the gateway",
    ),
    pytest.param(
        {
            "model": GGUF,
            "scheduling": {
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
            },
        },
        id="words of a pod pass",
    ),
]


@pytest.mark.parametrize("spec", TAKEN)
def test_a_valid_spec_is_taken(
    cluster: kube_parts.ApiServer, namespace: str, spec: dict[str, Any]
) -> None:
    """What the rules allow is taken without a warning."""
    assert tried(cluster, namespace, localmodel(spec)) == ""


REFUSED = [
    pytest.param(
        {}, "give model.uri, or an External runtime; one of the two", id="nothing to serve"
    ),
    pytest.param(
        {"runtime": THEIRS, "model": GGUF},
        "give model.uri, or an External runtime; one of the two",
        id="two things to serve",
    ),
    pytest.param(
        {"runtime": {"type": "External"}},
        "runtime.external is given if and only if runtime.type is External",
        id="external without a server",
    ),
    pytest.param(
        {"model": GGUF, "runtime": {"external": THEIRS["external"]}},
        "runtime.external is given if and only if runtime.type is External",
        id="a server without external",
    ),
    *(
        pytest.param(
            {"runtime": THEIRS, part: value},
            "an External server is not ours: accelerator, cache, tuning, resources, scheduling",
            id=f"{part} of another's server",
        )
        for part, value in (
            ("accelerator", {"type": "NVIDIA"}),
            ("cache", {"size": "1Gi"}),
            ("tuning", {"contextLength": 4096}),
            ("resources", {"limits": {"memory": "1Gi"}}),
            ("scheduling", {"nodeSelector": {"a": "b"}}),
            ("model", {"mirror": "https://mirror.example.com"}),
            ("runtime", {**THEIRS, "args": ["--verbose"]}),
        )
    ),
    *(
        pytest.param(
            {"runtime": THEIRS, **more},
            "an External server is not ours to scale or to replace: leave replicas and rollout.strategy out",
            id=f"{next(iter(more))} of another's server",
        )
        for more in ({"replicas": 0}, {"replicas": 2}, {"rollout": {"strategy": "Recreate"}})
    ),
    *(
        pytest.param(
            {"model": GGUF, "monitoring": one},
            "they need monitoring.serviceMonitor: true",
            id=f"{next(iter(one))} of no ServiceMonitor",
        )
        for one in ({"labels": {"a": "b"}}, {"intervalSeconds": 9})
    ),
    pytest.param(
        {"model": GGUF, "runtime": {"type": "Ollama"}},
        "ollama:// and the runtime Ollama go together",
        id="Ollama with other weights",
    ),
    pytest.param(
        {"model": {"uri": "ollama://a"}, "runtime": {"type": "VLLM"}},
        "ollama:// and the runtime Ollama go together",
        id="another engine with Ollama's weights",
    ),
    pytest.param(
        {"model": GGUF, "cache": {"claimName": "mine", "size": "5Gi"}},
        "a claim of yours has its own size and storage class",
        id="size of a claim of theirs",
    ),
    pytest.param(
        {"model": GGUF, "cache": {"claimName": "mine", "storageClassName": "s"}},
        "a claim of yours has its own size and storage class",
        id="storage class of a claim of theirs",
    ),
    pytest.param(
        {"model": GGUF, "cache": {"claimName": "mine", "retentionPolicy": "Retain"}},
        "and is never deleted",
        id="retention of a claim of theirs",
    ),
    *(
        pytest.param(
            {"model": {"uri": uri, part: value}, "accelerator": {"type": "NVIDIA"}},
            told,
            id=f"{part} of {uri}",
        )
        for uri, part, value, told in (
            ("ollama://a", "files", ["a"], "this engine fetches all that it needs by itself"),
            ("hf://a/b", "files", ["a"], "this engine fetches all that it needs by itself"),
            ("hf://a/b", "sha256", "0" * 64, "the engine fetches other weights itself"),
            ("oci://a/m.gguf", "sha256", "0" * 64, "an image is pinned by its digest"),
            (
                "ollama://a",
                "credentialsSecretRef",
                {"name": "s"},
                "is sent to hf:// and https:// only",
            ),
            (
                "oci://a/m.gguf",
                "credentialsSecretRef",
                {"name": "s"},
                "for an image give runtime.imagePullSecrets",
            ),
            ("pvc://c/m.gguf", "caConfigMapRef", {"name": "c"}, "for weights that are fetched"),
            (
                "ollama://a",
                "mirror",
                "https://m.example.com",
                "a mirror of Ollama's registry stands in the address",
            ),
            ("https://a/m.gguf", "mirror", "https://m.example.com", "stands in for Hugging Face"),
        )
    ),
    pytest.param(
        {"model": {"uri": "https://a/m"}, "runtime": {"type": "VLLM"}},
        "VLLM loads a folder",
        id="one file for VLLM",
    ),
    *(
        pytest.param(
            {"model": {"uri": uri}, "cache": {"size": "1Gi"}},
            "are used where they are; leave cache out",
            id=f"a cache for {uri}",
        )
        for uri in ("pvc://c/m.gguf", "oci://a/m.gguf")
    ),
    pytest.param(
        {"model": {"uri": "ollama://a"}, "runtime": {"args": ["--debug"]}},
        "Ollama takes its switches as variables",
        id="arguments for Ollama",
    ),
    *(
        pytest.param(
            {"model": {"uri": uri}, "runtime": {"type": runtime}, "accelerator": {"type": "Intel"}},
            "has no image for this accelerator; name one in runtime.image",
            id=f"{runtime} on Intel",
        )
        for runtime, uri in (("Ollama", "ollama://a"), ("VLLM", "hf://a/b"))
    ),
    pytest.param(
        {"model": GGUF, "accelerator": {"count": 2}},
        "accelerator.count and accelerator.resourceName need accelerator.type",
        id="GPUs of no maker",
    ),
    pytest.param(
        {"model": GGUF, "tuning": {"gpuLayers": 3}},
        "tuning.gpuLayers needs an accelerator",
        id="layers on a GPU that is not there",
    ),
    *(
        pytest.param(
            {"model": GGUF, **part}, "needs gateway.keysSecretRef", id=f"{word} without keys"
        )
        for word, part in (
            ("a route", {"expose": {"httpRoute": {"parentRefs": [{"name": "edge"}]}}}),
            ("a load balancer", {"expose": {"service": {"type": "LoadBalancer"}}}),
            ("a node's port", {"expose": {"service": {"type": "NodePort"}}}),
            ("another namespace", {"networkPolicy": {"allowFrom": [{"namespaceSelector": {}}]}}),
        )
    ),
    pytest.param(
        {
            "model": GGUF,
            "runtime": {
                "env": [{"name": "A", "value": "1", "secretKeyRef": {"name": "s", "key": "k"}}]
            },
        },
        "give value or secretKeyRef, not both",
        id="a variable with two values",
    ),
    pytest.param(
        {"model": {"uri": "s3://bucket/file.gguf"}},
        'spec.model.uri: Invalid value: "s3://bucket/file.gguf": weights are at hf://, https://, pvc://, oci:// or ollama://',
        id="unknown scheme",
    ),
    pytest.param(
        {"model": {"uri": "hf://a"}},
        "the address is not complete: hf://OWNER/REPOSITORY/FILE",
        id="no repository",
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b-gguf"}},
        "LlamaCpp loads a file: give hf://OWNER/REPOSITORY/FILE",
        id="no file",
    ),
    pytest.param({"model": {"uri": "hf://a/b"}}, "Auto cannot tell the engine", id="no engine"),
    pytest.param(
        {"model": {"uri": "ollama://a"}, "tuning": {"gpuLayers": 3}},
        "only LlamaCpp can split a model; leave tuning.gpuLayers out",
        id="a split with Ollama",
    ),
    pytest.param(
        {
            "model": {"uri": "hf://a/b"},
            "accelerator": {"type": "NVIDIA"},
            "tuning": {"kvCacheType": "q4_0"},
        },
        "tuning.kvCacheType of VLLM is f16 or q8_0",
        id="a cache that VLLM lacks",
    ),
    pytest.param(
        {"model": {"uri": "ollama://a", "sha256": "0" * 64}},
        "the engine fetches other weights itself",
        id="a checksum that nobody compares",
    ),
    pytest.param(
        {"model": {**GGUF, "sha256": "short"}},
        "a SHA-256 has 64 digits",
        id="no checksum of this kind",
    ),
    pytest.param(
        {"runtime": {"type": "External", "external": {"url": "models:8000"}}},
        "the address of a server begins with http:// or https://",
        id="no address of a server",
    ),
    pytest.param(
        {"model": {**GGUF, "mirror": "hub.example.com"}},
        "a mirror is an address that begins with https:// or http://",
        id="no address of a mirror",
    ),
    pytest.param(
        {"model": GGUF, "runtime": {"type": "Triton"}},
        'Unsupported value: "Triton": supported values: "Auto", "LlamaCpp", "Ollama", "VLLM", "External"',
        id="unknown engine",
    ),
    pytest.param({"model": GGUF, "replicas": 65}, "less than or equal to 64", id="many servers"),
    pytest.param({"model": GGUF, "replicas": -1}, "greater than or equal to 0", id="fewer than no"),
    pytest.param(
        {"model": GGUF, "tuning": {"contextLength": "much"}},
        "spec.tuning.contextLength",
        id="a text for a number",
    ),
    pytest.param(
        {"model": GGUF, "resources": {"limits": {"memory": "plenty"}}},
        "spec.resources.limits.memory",
        id="no quantity",
    ),
    pytest.param(
        {"model": GGUF, "runtime": {"env": [{"value": "1"}]}},
        "spec.runtime.env[0].name: Required value",
        id="a variable without a name",
    ),
    pytest.param(
        {"modle": GGUF, "model": GGUF}, ".spec.modle: field not declared in schema", id="misspelt"
    ),
    pytest.param(
        {"model": GGUF, "gateway": {"settings": {"limits": {"window": 4096}}}},
        ".spec.gateway.settings.limits.window: field not declared in schema",
        id="a setting that the operator decides",
    ),
    pytest.param(
        {"model": GGUF, "gateway": {"settings": {"timeouts": {"stallS": "long"}}}},
        "spec.gateway.settings.timeouts.stallS",
        id="a setting of the wrong type",
    ),
]


@pytest.mark.parametrize(("spec", "told"), REFUSED)
def test_an_invalid_spec_is_refused_with_a_sentence(
    cluster: kube_parts.ApiServer, namespace: str, spec: dict[str, Any], told: str
) -> None:
    """What cannot be served is refused before it is stored, with a message that says what is wrong."""
    with pytest.raises(kube_parts.Refused) as refused:
        tried(cluster, namespace, localmodel(spec))
    assert told in str(refused.value)


@pytest.mark.parametrize("spec", TAKEN)
def test_the_operator_takes_what_admission_takes(spec: dict[str, Any]) -> None:
    """The operator's own reading has no objection to a spec that the API server took."""
    parse(localmodel(spec))


@pytest.mark.parametrize(("spec", "told"), REFUSED)
def test_the_operator_refuses_what_admission_refuses(spec: dict[str, Any], told: str) -> None:
    """An object that is older than a rule is refused by the operator's own reading too, in the rule's words."""
    with pytest.raises(InvalidSpec) as refused:
        parse(localmodel(spec))
    if any(told in one for one in (*(rule.sentence for rule in RULES), *WRITTEN.values())):
        assert told in str(refused.value)
    assert "pattern" not in str(refused.value)


def test_every_rule_has_a_row() -> None:
    """No rule between fields is without a spec that it refuses."""
    told = [row.values[1] for row in REFUSED]
    assert [one.sentence for one in RULES if not any(str(t) in one.sentence for t in told)] == []


def test_a_long_name_is_refused(cluster: kube_parts.ApiServer, namespace: str) -> None:
    """A name leaves room for the names of the children; the longest that does is taken."""
    tried(cluster, namespace, localmodel({"model": GGUF}, "m" * 40))
    with pytest.raises(kube_parts.Refused, match="the name has at most 40 characters"):
        tried(cluster, namespace, localmodel({"model": GGUF}, "m" * 41))


@pytest.mark.parametrize("name", ["qwen3.6", "3b"])
def test_a_name_that_no_service_can_have_is_refused(
    cluster: kube_parts.ApiServer, namespace: str, name: str
) -> None:
    """Services are called after the model, so the operator and admission refuse it in the same words, with an example."""
    with pytest.raises(kube_parts.Refused, match=r"begins with a letter .* qwen3-6"):
        tried(cluster, namespace, localmodel({"model": GGUF}, name))
    with pytest.raises(InvalidSpec, match=r"^metadata\.name: the name begins with a letter"):
        parse(localmodel({"model": GGUF}, name))


def test_a_misspelt_field_is_refused_by_plain_apply_too(
    cluster: kube_parts.ApiServer, namespace: str
) -> None:
    """Client-side apply names the field that nobody knows."""
    body = localmodel({"model": GGUF, "tunning": {}})
    with pytest.raises(kube_parts.Refused, match=r'unknown field "spec\.tunning"'):
        cluster.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", "-", body=body)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        pytest.param("lm", "A language model, served in this cluster", id="the resource"),
        pytest.param("lm.spec.tuning", "What is left out, the engine decides", id="tuning"),
        pytest.param(
            "lm.spec.tuning.contextLength", "Tokens of prompt and answer", id="context length"
        ),
        pytest.param("lm.spec.model.uri", "Needed unless the runtime is External", id="address"),
        pytest.param("lm.spec.gateway.settings.timeouts", "stallS", id="policy of the gateway"),
        pytest.param("lm.status.conditions", "`Ready` rolls the others up", id="conditions"),
    ],
)
def test_explain_reads(cluster: kube_parts.ApiServer, path: str, told: str) -> None:
    """`kubectl explain` says what a field is for."""
    said = " ".join(cluster.kubectl("explain", path).split())
    assert told in said
    assert "<no description>" not in said or path in ("lm", "lm.spec.gateway.settings.timeouts")


def test_every_field_of_the_spec_is_explained() -> None:
    """No field of the spec is without a description, the gateway's settings included."""
    version = crd()["spec"]["versions"][0]
    silent: list[str] = []

    def visit(node: dict[str, Any], path: str) -> None:
        for name, inner in node.get("properties", {}).items():
            if not inner.get("description"):
                silent.append(f"{path}.{name}")
            visit(inner, f"{path}.{name}")
        if "items" in node:
            visit(node["items"], f"{path}[]")

    schema = version["schema"]["openAPIV3Schema"]["properties"]
    visit(schema["spec"], "spec")
    visit(schema["status"], "status")
    assert silent == []


def test_lists_scale_and_status_work(cluster: kube_parts.ApiServer, namespace: str) -> None:
    """`kubectl get lm` shows what the status says, `kubectl scale` works, and status is a part of its own."""
    cluster.apply(localmodel({"model": GGUF}, "shown"), "-n", namespace)
    status = {
        "runtime": "LlamaCpp",
        "servedModelName": "shown",
        "readyReplicas": 1,
        "replicas": 1,
        "tuning": {"contextLength": 8192},
        "selector": "penstock.dev/model=shown",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Serving",
                "message": "It answers.",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    before = cluster.get("lm", "shown", "-n", namespace)
    assert before["spec"]["replicas"] == 1
    cluster.kubectl(
        "patch", "lm", "shown", "-n", namespace, "--subresource=status", "--type=merge",
        "--patch-file=/dev/stdin", body={"status": status, "spec": {"suspend": True}},
    )  # fmt: skip
    after = cluster.get("lm", "shown", "-n", namespace)
    assert after["spec"] == before["spec"]
    head, row = cluster.kubectl("get", "lm", "shown", "-n", namespace).splitlines()
    assert head.split() == [
        "NAME",
        "MODEL",
        "RUNTIME",
        "READY",
        "REASON",
        "SERVERS",
        "CONTEXT",
        "AGE",
    ]
    assert row.split()[:-1] == ["shown", "shown", "LlamaCpp", "True", "Serving", "1", "8192"]
    assert "shown" in cluster.kubectl("get", "penstock", "-n", namespace)
    cluster.kubectl("wait", "--for=condition=Ready", "lm/shown", "-n", namespace, "--timeout=5s")
    cluster.kubectl("scale", "lm", "shown", "-n", namespace, "--replicas=3")
    assert cluster.get("lm", "shown", "-n", namespace)["spec"]["replicas"] == 3
    path = f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/localmodels/shown/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path))
    assert scale["status"] == {"replicas": 1, "selector": "penstock.dev/model=shown"}
