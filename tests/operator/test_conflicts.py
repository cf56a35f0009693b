"""Which fields are left to others, taken from the API server's own refusals."""

from __future__ import annotations

from typing import Any

from penstock_operator.api.conflicts import Conflict, conflicts, sentence, without

SERVER = '.spec.template.spec.containers[name="server"]'


def refusal(*causes: tuple[str, str]) -> dict[str, Any]:
    """As kube-apiserver 1.37 answers."""
    made = [
        {"reason": "FieldManagerConflict", "message": message, "field": field}
        for message, field in causes
    ]
    return {"status": "Failure", "reason": "Conflict", "details": {"causes": made}}


def test_edits_are_drift_and_appliers_and_autoscalers_are_not() -> None:
    """A person's edit is put right; what another applies, or scales, is theirs."""
    found = conflicts(
        refusal(
            ('conflict with "kubectl-set" using apps/v1', f"{SERVER}.image"),
            ('conflict with "kubectl-edit" using v1 at 2026-01-01T00:00:00Z', ".spec.type"),
            ('conflict with "argocd"', ".spec.type"),
            ('conflict with "kubectl" with subresource "scale" using apps/v1', ".spec.replicas"),
        )
    )
    assert [(one.manager, one.drift) for one in found] == [
        ("kubectl-set", True), ("kubectl-edit", True), ("argocd", False), ("kubectl", False),
    ]  # fmt: skip


def test_a_refusal_for_another_reason_names_none() -> None:
    """A newer version, a field that is wrong: neither is somebody else's field."""
    assert conflicts({"reason": "Conflict", "message": "the object has been modified"}) == []
    invalid = {"details": {"causes": [{"reason": "FieldValueInvalid", "field": "spec.x"}]}}
    assert conflicts(invalid) == []


def test_only_the_named_fields_are_taken_out() -> None:
    """Through lists by their keys, through label names with dots, and a key that only begins alike stays."""
    ports = [{"containerPort": 80, "name": "http"}, {"containerPort": 81, "name": "more"}]
    manifest = {
        "metadata": {"labels": {"app.kubernetes.io/name": "a", "app": "b"}, "finalizers": ["x", "y"]},
        "spec": {
            "replicas": 1, "replicasMore": 2,
            "template": {"spec": {"containers": [
                {"name": "other", "image": "o"}, {"name": "server", "image": "i", "ports": ports},
            ]}},
        },
    }  # fmt: skip
    less = without(
        manifest,
        [
            ".spec.replicas", f"{SERVER}.image", '.metadata.finalizers[="x"]',
            f'{SERVER}.ports[containerPort=80,protocol="TCP"].name', ".metadata.labels.app.kubernetes.io/name",
        ],
    )  # fmt: skip
    assert less["metadata"] == {"labels": {"app": "b"}, "finalizers": ["y"]}
    other, server = less["spec"]["template"]["spec"]["containers"]
    assert other == {"name": "other", "image": "o"}
    assert server == {"name": "server", "ports": [{"containerPort": 80}, ports[1]]}
    assert less["spec"]["replicasMore"] == 2
    assert "replicas" not in less["spec"]
    assert manifest["spec"]["replicas"] == 1, "what was given stays as it was"


def test_a_field_that_cannot_be_found_changes_nothing() -> None:
    """A path into what the manifest does not hold is no harm."""
    manifest = {"spec": {"ports": [{"port": 80}]}}
    for path in (".spec.type", ".spec.ports[port=81].name", ".spec.ports.x", ".status", ".spec.ports[port=80].a.b"):  # fmt: skip
        assert without(manifest, [path]) == manifest


def test_the_sentence_names_field_and_owner() -> None:
    """And how to scale, where it is about replicas."""
    said = sentence("Deployment", "m", [Conflict("hpa", ".spec.replicas", False)])
    assert said == (
        "Deployment m: .spec.replicas (of hpa) is left as others set it; take it out of what they apply, "
        "or let them scale the LocalModel instead."
    )
    assert "LocalModel" not in sentence("Service", "m", [Conflict("a", ".spec.type", False)])
