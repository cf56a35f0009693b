"""The chart on a real API server, by both Helms: installed, upgraded, with the rights that the operator asks for, and taken away."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import kube_parts
from helm_runs import CHART, HELMS, helm, rendered
from penstock_operator.api.cluster import Cluster
from penstock_operator.api.preflight import missing

pytestmark = pytest.mark.real
CRD = "localmodels.penstock.dev"


def done(api_server: kube_parts.ApiServer, program: str, *arguments: str) -> str:
    """What Helm wrote."""
    ended = helm(*arguments, program=program, kubeconfig=api_server.kubeconfig)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def columns(api_server: kube_parts.ApiServer) -> list[str]:
    version = api_server.get("crd", CRD)["spec"]["versions"][0]
    return [one["name"] for one in version["additionalPrinterColumns"]]


def older(folder: Path) -> Path:
    """A chart of an earlier release, whose definition lacks the column URL."""
    copy = folder / "penstock"
    shutil.copytree(CHART, copy)
    file = copy / "templates" / "crd.yaml"
    text = file.read_text("utf-8")
    column = "    - name: URL\n      type: string\n      jsonPath: .status.url\n      priority: 1\n"
    assert column in text
    file.write_text(text.replace(column, ""), "utf-8")
    return copy


def key(api_server: kube_parts.ApiServer, namespace: str) -> str:
    found: str = api_server.get("secret", "penstock-master-key", "-n", namespace)["data"]["master-key"]  # fmt: skip
    return found


@pytest.mark.parametrize("program", HELMS)
def test_a_release_lives(api_server: kube_parts.ApiServer, tmp_path: Path, program: str) -> None:
    """Installed, upgraded with its definition, its key kept; after the uninstall only definition and models are left."""
    namespace = api_server.namespace(**{"pod-security.kubernetes.io/enforce": "restricted"})
    release = ("penstock", "-n", namespace)
    # Other tests may have brought the definition by hand, as another owner of its fields.
    api_server.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=60s")
    notes = done(api_server, program, "install", *release[:1], str(older(tmp_path)), *release[1:])  # fmt: skip
    assert "kubectl -n default apply -f - <<'END'" in notes
    assert "URL" not in columns(api_server)
    made = key(api_server, namespace)
    deployment = api_server.get("deployment", "penstock", "-n", namespace)
    assert deployment["spec"]["replicas"] == 2

    done(api_server, program, "upgrade", *release[:1], str(CHART), *release[1:])
    assert "URL" in columns(api_server)
    assert key(api_server, namespace) == made

    model: dict[str, Any] = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": {"name": "kept"},
        "spec": {"model": {"uri": "hf://a/b/c.gguf"}},
    }
    api_server.apply(model, "-n", namespace)
    done(api_server, program, "uninstall", *release)
    assert api_server.get("lm", "kept", "-n", namespace)["spec"] == {**model["spec"], "replicas": 1}
    left = api_server.get(
        "deployment,service,secret,role,rolebinding,serviceaccount,networkpolicy,pdb", "-n", namespace,
        "-l", "app.kubernetes.io/instance=penstock",
    )["items"]  # fmt: skip
    assert left == []
    assert api_server.get("clusterrole", "-l", "app.kubernetes.io/instance=penstock")["items"] == []
    api_server.kubectl("delete", "lm", "kept", "-n", namespace, "--timeout=30s")


@pytest.mark.parametrize("one_namespace", [False, True], ids=["all namespaces", "one namespace"])
def test_the_account_of_the_chart_passes_the_preflight(
    api_server: kube_parts.ApiServer, one_namespace: bool
) -> None:
    """The operator's account may do what the operator does, reads no Secret, and nothing elsewhere in one namespace."""
    namespace = api_server.namespace()
    chosen = f"watch.namespaces={{{namespace}}}" if one_namespace else "replicas=2"
    install = ("install", "penstock", str(CHART), "-n", namespace, "--take-ownership", "--set", chosen)  # fmt: skip
    done(api_server, "helm", *install)
    try:
        token = api_server.kubectl("create", "token", "penstock", "-n", namespace).strip()
        account = api_server.kubeconfig_of(token, f"{namespace}.penstock", namespace)

        async def lacking() -> list[str]:
            cluster = await Cluster.connect(str(account))
            try:
                return await missing(cluster, [namespace if one_namespace else None], namespace)
            finally:
                await cluster.close()

        assert asyncio.run(lacking()) == []
        for verb in ("get", "list"):
            with pytest.raises(kube_parts.Refused, match="no"):
                api_server.kubectl("auth", "can-i", verb, "secrets", "-n", namespace, kubeconfig=account)  # fmt: skip
        if one_namespace:
            with pytest.raises(kube_parts.Refused, match="no"):
                api_server.kubectl("auth", "can-i", "create", "deployments", "-n", "default", kubeconfig=account)  # fmt: skip
        else:
            person = api_server.service_account(namespace, "person")
            api_server.kubectl("create", "rolebinding", "p", "-n", namespace, "--clusterrole=edit", f"--serviceaccount={namespace}:person")  # fmt: skip
            # The controller that adds the role to Kubernetes' own takes a moment.
            api_server.until("the rights of editors", "kube-controller-manager", "auth", "can-i", "create", "lm", "-n", namespace, f"--as=system:serviceaccount:{namespace}:person")  # fmt: skip
            assert "yes" in api_server.kubectl("auth", "can-i", "list", "lm", "-n", namespace, kubeconfig=person)  # fmt: skip
    finally:
        done(api_server, "helm", "uninstall", "penstock", "-n", namespace)


def test_what_is_rendered_is_taken_without_a_warning(
    api_server: kube_parts.ApiServer, tmp_path: Path
) -> None:
    """Every object, the test pod included, is one that a restricted namespace and this Kubernetes take."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = api_server.namespace(**level)
    values = yaml.safe_load((CHART.parents[1] / "tests/charts/everything.yaml").read_text("utf-8"))
    del values["metrics"]  # its definition is not there
    values["test"]["namespace"] = namespace
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    found = list(rendered("-n", namespace, "-f", str(file)).values())
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": namespace}, "spec": one["spec"]["template"]["spec"]}
        for one in found if one["kind"] == "Deployment"
    ]  # fmt: skip
    for pod in pods:
        del pod["spec"]["serviceAccountName"]  # it is not there yet
    said = api_server.apply(
        {"apiVersion": "v1", "kind": "List", "items": [*found, *pods]},
        "--dry-run=server",
        "--force-conflicts",
    )
    assert "Warning" not in said
    assert said.count("serverside-applied") == len(found) + len(pods)
