"""What a real Helm makes of the chart."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import kube_build
from penstock_operator.localmodel.crd import crd

CHART = Path(__file__).resolve().parents[2] / "charts" / "penstock"
pytestmark = pytest.mark.real


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(kube_build.program("helm")), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rendered(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    done = helm("template", "penstock", str(CHART), "-n", "system", *arguments)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_lint_has_nothing_to_say() -> None:
    """Also when it is strict."""
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_defaults_make_these_objects() -> None:
    """An install without values makes these and no others."""
    assert set(rendered()) == {
        ("CustomResourceDefinition", "localmodels.penstock.dev"),
        ("ServiceAccount", "penstock"),
        ("ClusterRole", "system-penstock"),
        ("ClusterRoleBinding", "system-penstock"),
        ("Role", "penstock-own"),
        ("RoleBinding", "penstock-own"),
        ("Secret", "penstock-master-key"),
        ("Deployment", "penstock"),
        ("Service", "penstock-metrics"),
        ("NetworkPolicy", "penstock"),
        ("PodDisruptionBudget", "penstock"),
    }


def test_a_namespaced_install_makes_nothing_of_the_cluster() -> None:
    """Roles in its namespaces, no ClusterRole."""
    found = rendered("--set", "watch.namespaces={a,b}")
    assert not [kind for kind, _ in found if kind.startswith("Cluster")]
    roles = [one for (kind, _), one in found.items() if kind == "Role"]
    assert {one["metadata"]["namespace"] for one in roles} >= {"b", "system"}
    operator = found["Deployment", "penstock"]["spec"]["template"]["spec"]["containers"][0]
    assert operator["args"][:2] == ["--namespace=a", "--namespace=b"]


def test_every_pod_is_restricted() -> None:
    """By the restricted Pod Security Standard."""
    found = rendered("--set", "test.model=tiny")
    pods = [found["Pod", "penstock-test"]["spec"]]
    pods.append(found["Deployment", "penstock"]["spec"]["template"]["spec"])
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_what_is_switched_off_is_not_there() -> None:
    """Each switch takes its objects away."""
    found = rendered(
        "--set", "crd.install=false,replicas=1,metrics.enabled=false,networkPolicy.enabled=false,rbac.create=false",
        "--set", "masterKey.existingSecret=mine,serviceAccount.create=false,serviceAccount.name=me",
    )  # fmt: skip
    assert set(found) == {("Deployment", "penstock")}
    pod = found["Deployment", "penstock"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "me"
    assert pod["volumes"][0]["secret"]["secretName"] == "mine"


def test_helm_refuses_a_value_that_does_not_exist() -> None:
    """A misspelt value is no silent default."""
    done = helm("template", "penstock", str(CHART), "--set", "replica=1")
    assert done.returncode != 0
    assert "replica" in done.stderr


def test_the_definition_is_the_operators_own_and_stays_at_uninstall() -> None:
    """The same schema, kept unless values say otherwise."""
    name = ("CustomResourceDefinition", "localmodels.penstock.dev")
    found = rendered()[name]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert found["spec"] == crd()["spec"]
    assert "annotations" not in rendered("--set", "crd.keep=false")[name]["metadata"]
