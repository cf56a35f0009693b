"""`penstock operator` as a process on a real API server, with the rights of the chart's account and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import kube_parts
from operators import Models, Operator, account, until

pytestmark = pytest.mark.real
SMALLEST = {"model": {"uri": "hf://a/b/b.gguf"}, "cache": {"retentionPolicy": "Delete"}}
ITS_CHILDREN = {
    "Deployment/m", "Deployment/m-server", "Service/m", "Service/m-server", "ConfigMap/m-gateway",
    "Secret/m-admin", "PersistentVolumeClaim/m-weights", "NetworkPolicy/m", "NetworkPolicy/m-server",
}  # fmt: skip


# Without an operator for all namespaces, which begins below, beside them.


def test_a_right_that_is_missing_is_named_at_the_start(
    cluster: kube_parts.ApiServer, tmp_path: Path
) -> None:
    """The operator ends at once and says which verb, on what, where, and what for."""
    home = cluster.namespace()
    config = account(cluster, home, "operator", without=("deployments", "patch"))
    with Operator(tmp_path / "operator", config, namespace=home) as one:
        assert one.wait() == 1
    assert "may not patch deployments.apps in all namespaces" in one.log
    assert "servers and gateways" in one.log
    assert one.log.count("may not") == 1, one.log


def test_a_namespaced_install_needs_nothing_beyond_its_namespace(
    cluster: kube_parts.ApiServer, tmp_path: Path
) -> None:
    """Two namespaces, Roles only; what others hold is left to others; deleted while it was away, nothing is stuck."""
    home, second, foreign = (cluster.namespace() for _ in range(3))
    config = account(cluster, home, "operator", watched=(home, second))
    own, other, strange = (Models(cluster, one) for one in (home, second, foreign))
    for one in (own, other, strange):
        one.make("m")
    with Operator(tmp_path / "a", config, namespace=home, watched=(home, second)) as operator:
        own.settled("m")
        other.settled("m")
        uid = other.get("lm/m")["metadata"]["uid"]
        assert "forbidden" not in operator.log
        assert operator.stop() == 0
    cluster.kubectl("delete", "lm", "m", "-n", home)
    cluster.kubectl("delete", "lm", "m", "-n", second)
    other.make("m")
    with Operator(tmp_path / "b", config, namespace=home, watched=(home, second)) as operator:
        other.settled("m")
        new = other.get("lm/m")["metadata"]["uid"]
        assert new != uid

        def owners() -> set[str]:
            made = other.children("m").values()
            return {one["metadata"]["ownerReferences"][0]["uid"] for one in made}

        until(lambda: len(other.children("m")) == 5 and owners() == {new}, "children of the new", 120.0)  # fmt: skip
        until(lambda: not own.children("m"), "the end of the children", 120.0)
        assert operator.stop() == 0
        assert "forbidden" not in operator.log
    assert not strange.status("m")
    assert not strange.children("m")


@pytest.fixture(scope="module")
def running(
    cluster: kube_parts.ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One operator for all namespaces."""
    home = cluster.namespace()
    config = account(cluster, home, "operator")
    folder = tmp_path_factory.mktemp("operator") / "wide"
    with Operator(folder, config, namespace=home) as one:
        yield one.wait_ready().wait_leads()
        assert one.stop() == 0, one.log
        assert "Traceback" not in one.log


@pytest.fixture
def models(cluster: kube_parts.ApiServer, running: Operator) -> Models:
    """A namespace of the test's own."""
    return Models(cluster, cluster.namespace())


def test_a_model_gets_its_children_and_they_go_with_it(models: Models) -> None:
    """Nine children, owned and labelled; when the model is deleted, Kubernetes collects them all."""
    models.make("m", **SMALLEST)
    status = models.settled("m")
    made = models.children("m")
    assert set(made) == ITS_CHILDREN
    uid = models.get("lm/m")["metadata"]["uid"]
    for one in made.values():
        owner = one["metadata"]["ownerReferences"][0]
        assert (owner["uid"], owner["controller"]) == (uid, True)
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "penstock"
        assert labels["app.kubernetes.io/instance"] == "m"
    about = models.get("lm/m")["metadata"]
    assert "finalizers" not in about
    assert not any("kopf" in one for one in about.get("annotations") or ())
    assert status["url"] == f"http://m.{models.namespace}.svc/v1"
    models.server.kubectl("delete", "lm", "m", "-n", models.namespace)
    until(lambda: not models.children("m"), "the end of the children", 120.0)


def test_what_was_deleted_or_changed_by_hand_is_put_right(models: Models) -> None:
    """A child that a person deletes is made again; a field that a person changes is changed back."""
    models.make("m")
    models.settled("m")
    before = models.children("m")
    models.server.kubectl("delete", "service/m", "configmap/m-gateway", "-n", models.namespace)
    models.patch("networkpolicy/m", {"spec": {"policyTypes": ["Ingress", "Egress"]}})
    until(lambda: set(models.children("m")) == set(before), "the children")
    until(
        lambda: models.children("m")["NetworkPolicy/m"]["spec"]["policyTypes"] == ["Ingress"],
        "the policy as it was",
    )


def test_what_others_own_is_left_alone(models: Models) -> None:
    """Replicas that the model does not state are an autoscaler's, and an added label is its owner's."""
    models.make("m", **SMALLEST)
    models.settled("m")
    models.server.kubectl("scale", "deployment/m", "--replicas=3", "-n", models.namespace)
    models.server.kubectl("label", "deployment/m", "team=a", "-n", models.namespace)
    models.patch("lm/m", {"spec": {"tuning": {"contextLength": 4096}}})
    models.settled("m")

    def gateway() -> dict[str, Any]:
        found: dict[str, Any] = models.get("deployment/m")
        return found

    server = models.get("deployment/m-server")
    assert "4096" in str(server["spec"]["template"]), "the change has arrived"
    assert gateway()["spec"]["replicas"] == 3
    assert gateway()["metadata"]["labels"]["team"] == "a"
    models.server.kubectl("scale", "lm/m", "--replicas=2", "-n", models.namespace)
    until(lambda: models.get("deployment/m-server")["spec"]["replicas"] == 2, "two servers")


def test_a_field_that_another_applies_is_told_and_not_fought_for(models: Models) -> None:
    """Two appliers of one field would write in turn for ever: the later one wins, and a condition says who it is."""
    models.make("m")
    models.settled("m")
    theirs = {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "m", "namespace": models.namespace},
        "spec": {"type": "NodePort"},
    }  # fmt: skip
    models.server.apply(theirs, "--force-conflicts", manager="argocd")

    def told() -> dict[str, Any]:
        found = models.condition("m", "Applied")
        return found if found.get("status") == "False" else {}

    found = until(told, "the condition")
    assert found["reason"] == "FieldConflict"
    assert "argocd" in found["message"]
    assert "Service m" in found["message"]
    assert ".spec.type" in found["message"]
    assert models.get("service/m")["spec"]["type"] == "NodePort"
    version = models.get("service/m")["metadata"]["resourceVersion"]
    models.patch("lm/m", {"spec": {"gateway": {"replicas": 2}}})
    until(lambda: models.get("deployment/m")["spec"]["replicas"] == 2, "the rest of the spec")
    assert models.get("service/m")["metadata"]["resourceVersion"] == version
    models.server.apply({**theirs, "spec": {}}, manager="argocd")
    models.patch("service/m", {"metadata": {"annotations": {"example.com/a": "1"}}})
    until(lambda: models.condition("m", "Applied").get("status") != "False", "peace")


def test_what_is_not_ours_stays_and_what_is_refused_is_told(models: Models) -> None:
    """Objects of children's names are left alone, with and without fields of ours, and stay when the model goes."""
    label = {"a": "b"}
    pod = {"metadata": {"labels": label}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {"replicas": 0, "selector": {"matchLabels": label}, "template": pod}
    theirs: dict[str, Any] = {
        "v1 Service m": {"spec": {"ports": [{"port": 5432}]}},
        "v1 Service m-server": {"spec": {"selector": label, "ports": [{"port": 5432}]}},
        "v1 Secret m-admin": {"stringData": {"mine": "for nobody"}},
        "v1 ConfigMap m-gateway": {"data": {"mine": "stays"}},
        "apps/v1 Deployment m": {"spec": deployment},
    }
    for at, more in theirs.items():
        version, kind, name = at.split()
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}
        models.server.apply(body, "-n", models.namespace)

    def now() -> dict[str, Any]:
        return {at: models.get("/".join(at.split()[1:])) for at in theirs}

    before = now()
    models.make("m", **SMALLEST)
    applied = until(lambda: models.condition("m", "Applied"), "the condition")
    assert applied["reason"] == "NameTaken"
    for at in theirs:
        assert f"There is a {at.partition(' ')[2]} that does not belong" in applied["message"]
    assert models.condition("m", "Stalled")["status"] == "True"
    assert now() == before, "neither labelled nor owned"
    others = {"Deployment/m-server", "PersistentVolumeClaim/m-weights", "NetworkPolicy/m", "NetworkPolicy/m-server"}  # fmt: skip
    assert set(models.children("m")) == others
    models.server.kubectl("delete", "svc/m", "deployment/m", "-n", models.namespace)
    models.patch("lm/m", {"spec": {"cache": {"accessModes": ["ReadWriteMany"]}}})

    def refused() -> str:
        found = models.condition("m", "Applied")["message"]
        return str(found) if "PersistentVolumeClaim m-weights" in found else ""

    told = until(refused, "the refusal of the claim's new modes")
    assert "The API server refused the PersistentVolumeClaim m-weights: spec" in told
    assert "PATCH" not in told
    assert {"Deployment/m", "Service/m"} <= set(models.children("m")), "their names are free"
    models.server.kubectl("delete", "lm", "m", "-n", models.namespace)
    until(lambda: not models.children("m"), "the end of the children")
    for at in ("v1 Service m-server", "v1 Secret m-admin", "v1 ConfigMap m-gateway"):
        assert models.get("/".join(at.split()[1:])) == before[at]


def test_suspended_it_keeps_all_but_its_pods(models: Models) -> None:
    """Both Deployments go to none, the claim stays, and both come back."""
    models.make("m", **SMALLEST)
    models.settled("m")
    claim = models.children("m")["PersistentVolumeClaim/m-weights"]["metadata"]["uid"]
    models.patch("lm/m", {"spec": {"suspend": True}})

    def replicas() -> list[int]:
        return [models.get(f"deployment/{one}")["spec"]["replicas"] for one in ("m", "m-server")]

    until(lambda: replicas() == [0, 0], "no replicas")
    until(lambda: models.status("m").get("phase") == "Suspended", "the phase")
    models.patch("lm/m", {"spec": {"suspend": False}})
    until(lambda: replicas() == [1, 1], "replicas")
    assert models.children("m")["PersistentVolumeClaim/m-weights"]["metadata"]["uid"] == claim


def test_a_missing_secret_is_named_and_forgotten_once_it_is_there(models: Models) -> None:
    """A kubelet says it in an Event and leaves the pod at ContainerCreating; it stands in the status, and goes when healed."""
    models.make("m", runtime={"type": "External", "external": {"url": "https://m.example.com"}},
                gateway={"keysSecretRef": {"name": "keys"}})  # fmt: skip
    pods = until(lambda: models.pods("m", "gateway"), "a pod")
    about = pods[0]["metadata"]
    taken = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    models.play_pod(about["name"], {
        "phase": "Pending",
        "conditions": [taken],
        "containerStatuses": [{
            "name": "gateway", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        }],
    })  # fmt: skip
    said = 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found'
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    regards = {"kind": "Pod", **{name: about[name] for name in ("name", "namespace", "uid")}}
    models.server.apply({
        "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedMount", "message": said,
        "metadata": {"name": "mount", "namespace": models.namespace}, "involvedObject": regards,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1, "source": {"component": "kubelet"},
    })  # fmt: skip

    def failure() -> dict[str, Any]:
        found: dict[str, Any] = models.status("m").get("lastFailure") or {}
        return found

    found = until(failure, "the failure")
    assert found["reason"] == "CredentialsMissing"
    assert (
        found["message"]
        == "The Secret keys (spec.gateway.keysSecretRef) does not exist; make it and the gateway starts."
    )
    assert models.condition("m", "Stalled")["status"] == "True"
    models.play_ready("m")
    until(lambda: models.condition("m", "Ready").get("status") == "True", "Ready")
    assert not failure()
    assert not models.condition("m", "Stalled")
    version = models.get("lm/m")["metadata"]["resourceVersion"]
    models.server.kubectl("annotate", "deployment/m", "a=b", "-n", models.namespace)

    told = models.server.get("events.v1.events.k8s.io", "-n", models.namespace)["items"]
    ours = [one["reason"] for one in told if one.get("reportingController") == "penstock.dev/operator"]  # fmt: skip
    assert len(ours) == len(set(ours)), ours
    assert models.get("lm/m")["metadata"]["resourceVersion"] == version


def test_routes_and_monitors_come_when_their_kinds_do(models: Models) -> None:
    """The kind ServiceMonitor is installed after the model that asks for one; nobody restarts anything."""
    models.make("m", runtime={"type": "External", "external": {"url": "https://m.example.com"}},
                monitoring={"serviceMonitor": True})  # fmt: skip
    models.settled("m")
    names = {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced", "names": names,
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
            ],
        },
    }  # fmt: skip
    models.server.apply(definition)
    try:
        until(lambda: models.get("servicemonitors.monitoring.coreos.com/m"), "the ServiceMonitor")
    finally:
        models.server.kubectl("delete", "crd", "servicemonitors.monitoring.coreos.com")
