"""What a real Helm makes of the chart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import golden
from helm_runs import CHART, HELMS, helm, rendered
from penstock_operator.command import operator as operator_command
from penstock_operator.localmodel.crd import crd

pytestmark = pytest.mark.real
HERE = Path(__file__).parent / "golden"
# The definition has its own test, and a made key would be another one each time.
COMMON = ("--set", "crd.install=false,masterKey.existingSecret=key")
VALUES = {
    "defaults": (),
    "namespaced": ("--set", "watch.namespaces={models,research}"),
    "everything": ("-f", str(Path(__file__).parent / "everything.yaml")),
}


@pytest.mark.parametrize("program", HELMS)
def test_lint_has_nothing_to_say(program: str) -> None:
    """Neither Helm finds anything, not even to recommend."""
    done = helm("lint", "--strict", str(CHART), program=program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[" not in done.stdout


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize("name", VALUES)
def test_the_chart_renders_what_was_reviewed(name: str, program: str) -> None:
    """Nothing that the chart makes changes unseen, and both Helms make the same."""
    found = rendered(*COMMON, *VALUES[name], program=program)
    golden.check(HERE / f"{name}.yaml", [found[at] for at in sorted(found)])


def test_the_test_pod_says_which_name_nobody_knows() -> None:
    """`helm test` for a model that is not there is answered by its name, not by a number of an error."""
    made = yaml.safe_load_all((HERE / "everything.yaml").read_text("utf-8"))
    (pod,) = [one for one in made if one["kind"] == "Pod"]
    script = pod["spec"]["containers"][0]["command"][-1]
    env = {"URL": "http://m.models.invalid/v1", "MODEL": "m", "RES_OPTIONS": "timeout:1 attempts:1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)  # fmt: skip
    told = "cannot be reached: the name m.models.invalid could not be resolved"
    assert (done.returncode, told in done.stderr, "Errno" in done.stderr) == (1, True, False)


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param("replicas=two", "at '/replicas': got string, want integer", id="a word for a number"),
        pytest.param("replica=1", "additional properties 'replica' not allowed", id="misspelt"),
        pytest.param("watch.namespaces={Team A}", "at '/watch/namespaces/0': 'Team A' does not match pattern", id="no namespace"),
        pytest.param("image.digest=latest", "at '/image/digest'", id="no digest"),
        pytest.param("serviceAccount.create=false", "serviceAccount.name is needed when serviceAccount.create is false", id="no account"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(values: str, told: str, program: str) -> None:
    """Helm says where the mistake is and what it expected."""
    done = helm("template", "penstock", str(CHART), "--kube-version=1.37.0", "--set", values, program=program)  # fmt: skip
    assert done.returncode != 0
    assert told in done.stderr


def test_an_old_kubernetes_is_refused() -> None:
    """The oldest that is supported is stated, and Helm holds to it."""
    done = helm("template", "penstock", str(CHART), "--kube-version=1.29.9")
    assert done.returncode != 0
    assert ">=1.30.0-0" in done.stderr


def test_the_defaults_make_these_objects() -> None:
    """An install without values makes these and no others."""
    assert set(rendered()) == {
        ("CustomResourceDefinition", "localmodels.penstock.dev"),
        ("ServiceAccount", "penstock"),
        ("ClusterRole", "system-penstock"),
        ("ClusterRole", "system-penstock-edit"),
        ("ClusterRole", "system-penstock-view"),
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


def test_the_models_policies_admit_the_operator_by_its_own_labels() -> None:
    """The peer that the operator is told of itself chooses the pods of its own Deployment, in its own namespace."""
    deployment = rendered()["Deployment", "penstock"]["spec"]
    (operator,) = deployment["template"]["spec"]["containers"]
    told = [one.removeprefix("--admit=") for one in operator["args"] if one.startswith("--admit=")]
    own, scraper = (json.loads(one) for one in told)
    labels: dict[str, Any] = deployment["template"]["metadata"]["labels"]
    assert own["podSelector"]["matchLabels"].items() <= labels.items()
    assert own["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "system"}
    assert scraper["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    made = CliRunner().invoke(operator_command, [*operator["args"], "--master-key=/nowhere", "--help"])  # fmt: skip
    assert made.exit_code == 0, made.output


def test_the_definition_is_the_operators_own_and_stays_at_uninstall() -> None:
    """The same schema, kept unless values say otherwise."""
    name = ("CustomResourceDefinition", "localmodels.penstock.dev")
    found = rendered()[name]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert found["spec"] == crd()["spec"]
    assert "annotations" not in rendered("--set", "crd.keep=false")[name]["metadata"]
