"""
The CustomResourceDefinition, made from the typed spec and status. Pure.

A structural schema has no $ref, no anyOf with types and no null; pydantic's is turned into one. Defaults stay in the
operator, so that an upgrade may better them, except `replicas`, which the scale subresource has to find.
Source: kubernetes.io, "Specifying a structural schema", "Validation rules".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.alias_generators import to_camel

from penstock.settings import Settings
from penstock_operator.localmodel import names
from penstock_operator.localmodel.policy import GROUPS, LEFT_OUT
from penstock_operator.localmodel.rules import CLAIM_OF_THEIRS, ONE_VALUE, RULES, WRITTEN
from penstock_operator.localmodel.spec import LocalModelSpec
from penstock_operator.localmodel.status import LocalModelStatus

_KEPT = (
    "type", "description", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "enum", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)  # fmt: skip
_CACHE_RULES = (
    (
        "!has(self.claimName) || !(has(self.size) || has(self.storageClassName) || has(self.retentionPolicy))",
        CLAIM_OF_THEIRS,
    ),
)
_ENV_RULES = (("!(has(self.value) && has(self.secretKeyRef))", ONE_VALUE),)


def crd() -> dict[str, Any]:
    """The whole manifest."""
    spec = structural(LocalModelSpec)
    spec["properties"]["replicas"]["default"] = 1
    spec["properties"]["gateway"]["properties"]["settings"] = policy_schema()
    spec["x-kubernetes-validations"] = _rules((one.cel, one.sentence) for one in RULES)
    for path, sentence in WRITTEN.items():
        _in_words(spec, path, sentence)
    spec["properties"]["cache"]["x-kubernetes-validations"] = _rules(_CACHE_RULES)
    env = spec["properties"]["runtime"]["properties"]["env"]
    env["items"]["x-kubernetes-validations"] = _rules(_ENV_RULES)
    schema = {
        "type": "object",
        "description": "A language model, served in this cluster behind a gateway that makes it dependable.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": structural(LocalModelStatus),
        },
        "x-kubernetes-validations": _rules(
            [
                (f"size(self.metadata.name) <= {names.MOST_NAME_LENGTH}", names.TOO_LONG),
                (f"self.metadata.name.matches('{names.NAME}')", names.MISNAMED),
            ]
        ),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": _columns(),
                }
            ],
        },
    }


def _in_words(spec: Mapping[str, Any], path: str, sentence: str) -> None:
    """A rule with a sentence in place of the field's pattern, of which the API server would show the expression."""
    field: Any = spec
    for name in path.split("."):
        field = field["properties"][name]
    field["x-kubernetes-validations"] = _rules(
        [(f"self.matches('{field.pop('pattern')}')", sentence)]
    )


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a class."""
    whole = TypeAdapter(model).json_schema(by_alias=True)
    return _node(whole, whole.get("$defs", {}))


def policy_schema() -> dict[str, Any]:
    """The schema of `spec.gateway.settings`, from the tree of settings."""
    whole = Settings.model_json_schema()
    groups = {to_camel(name): _policy(whole["properties"][name], whole, name) for name in GROUPS}
    return {
        "type": "object",
        "description": "Policy of the gateway: the groups of docs/settings.md, in camelCase.",
        "properties": groups,
    }


def _policy(schema: Mapping[str, Any], whole: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Only the names of fields become camelCase; keys of maps stay as they are."""
    definitions = whole.get("$defs", {})
    merged = _resolved(schema, definitions)
    if "properties" not in merged:
        return _node(merged, definitions)
    found = _node({**merged, "properties": {}}, definitions)
    # What is needed there has a default in the tree, which a part of it does not take away.
    found.pop("required", None)
    found["properties"] = {
        to_camel(name): _policy(inner, whole, f"{path}.{name}")
        for name, inner in merged["properties"].items()
        if f"{path}.{name}" not in LEFT_OUT
    }
    return found


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Without $ref and null; what stands beside a $ref wins."""
    merged = dict(schema)
    while True:
        if "$ref" in merged:
            target = definitions[str(merged.pop("$ref")).rsplit("/", 1)[-1]]
            merged = {**target, **merged}
            continue
        choices = [one for one in merged.get("anyOf", ()) if one.get("type") != "null"]
        if len(choices) == 1 and "anyOf" in merged:
            merged.pop("anyOf")
            merged = {**choices[0], **merged}
            continue
        return merged


def _node(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    merged = _resolved(schema, definitions)
    found = {name: merged[name] for name in _KEPT if name in merged}
    if merged.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        patterns = [one["pattern"] for one in merged.get("anyOf", ()) if "pattern" in one]
        return {**found, "pattern": patterns[0]} if patterns else found
    if "const" in merged:
        found["enum"] = [merged["const"]]
    for theirs, ours in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if theirs in merged:
            found[ours], found[theirs] = merged[theirs], True
    if "type" not in found:
        # A choice between types, which the operator's own check holds.
        return {**found, "x-kubernetes-preserve-unknown-fields": True}
    if "items" in merged:
        found["items"] = _node(merged["items"], definitions)
    if merged.get("properties"):
        found["properties"] = {
            name: _node(inner, definitions) for name, inner in merged["properties"].items()
        }
        if merged.get("required"):
            found["required"] = list(merged["required"])
    elif isinstance(merged.get("additionalProperties"), Mapping):
        found["additionalProperties"] = _node(merged["additionalProperties"], definitions)
    elif merged.get("additionalProperties") is True:
        found["x-kubernetes-preserve-unknown-fields"] = True
    return found


def _rules(rows: Any) -> list[dict[str, str]]:
    return [{"rule": rule, "message": message} for rule, message in rows]


def _columns() -> list[dict[str, Any]]:
    ready = ".status.conditions[?(@.type=='Ready')]"
    rows = (
        ("Model", "string", ".status.servedModelName", 0),
        ("Runtime", "string", ".status.runtime", 0),
        ("Ready", "string", f"{ready}.status", 0),
        ("Reason", "string", f"{ready}.reason", 0),
        ("Servers", "integer", ".status.readyReplicas", 0),
        ("Context", "integer", ".status.tuning.contextLength", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("URL", "string", ".status.url", 1),
        ("Message", "string", f"{ready}.message", 1),
    )
    return [{"name": n, "type": t, "jsonPath": p, "priority": q} for n, t, p, q in rows]
