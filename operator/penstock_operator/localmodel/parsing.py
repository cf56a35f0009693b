"""
From what the API server sent to a LocalModel that the operator can work with: the typed spec, and the rules that hold
between its fields. Admission has checked them already, except for objects that are older than the rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from penstock_operator.localmodel.names import MISNAMED, MOST_NAME_LENGTH, NAME, TOO_LONG
from penstock_operator.localmodel.policy import Policy, as_policy
from penstock_operator.localmodel.rules import (
    CLAIM_OF_THEIRS,
    NO_QUANTITY,
    ONE_VALUE,
    RULES,
    WRITTEN,
    engine,
)
from penstock_operator.localmodel.spec import QUANTITY, LocalModelSpec, Runtime


class InvalidSpec(ValueError):
    """A spec that cannot be used; *path* is where, *sentence* what to do about it."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")
        self.path = path
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One LocalModel; *policy* is `spec.gateway.settings` as the gateway's file says it."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: LocalModelSpec
    policy: Policy

    @property
    def served_name(self) -> str:
        """What clients call it."""
        return self.spec.model.name or self.name

    @property
    def external(self) -> bool:
        """Whether its server is not ours."""
        return self.spec.runtime.type == "External"

    @property
    def runtime(self) -> Runtime | None:
        """The engine; None when `Auto` cannot tell."""
        return engine(self.spec)


def parse(body: Mapping[str, Any]) -> LocalModel:
    """
    A LocalModel from what the API server sent.

    Raises:
        InvalidSpec: with the path and a sentence.
    """
    about = body.get("metadata") or {}
    name = str(about.get("name", ""))
    if len(name) > MOST_NAME_LENGTH:
        raise InvalidSpec("metadata.name", TOO_LONG)
    if not re.search(NAME, name):
        raise InvalidSpec("metadata.name", MISNAMED)
    try:
        spec = LocalModelSpec.model_validate(body.get("spec") or {}, by_name=False, by_alias=True)
    except ValidationError as exc:
        raise _in_words(exc) from exc
    policy = as_policy(spec.gateway.settings)
    if isinstance(policy, str):
        raise InvalidSpec("spec.gateway.settings", policy)
    model = LocalModel(
        str(about.get("namespace", "default")),
        name,
        str(about.get("uid", "")),
        int(about.get("generation", 0)),
        spec,
        policy,
    )
    _check(model)
    return model


def _in_words(exc: ValidationError) -> InvalidSpec:
    """The first of what pydantic found; of a pattern in our words."""
    found = exc.errors(include_url=False)
    first = found[0]
    steps = [str(one) for one in first["loc"]]
    path = ".".join(steps)
    if first["type"] == "string_pattern_mismatch" and path in WRITTEN:
        return InvalidSpec(f"spec.{path}", WRITTEN[path])
    if any(
        one.get("ctx", {}).get("pattern") == QUANTITY and one["loc"][:-1] == first["loc"][:-1]
        for one in found
    ):
        return InvalidSpec(".".join(("spec", *steps[:-1])), NO_QUANTITY)
    return InvalidSpec(f"spec.{path}", str(first["msg"]))


def _check(model: LocalModel) -> None:
    """What admission checks too, for objects that are older than the rules."""
    spec, runs = model.spec, model.runtime
    for rule in RULES:
        if not rule.holds(spec, runs):
            raise InvalidSpec(f"spec.{rule.path}", rule.sentence)
    theirs = {"size", "storage_class_name", "retention_policy"}
    if spec.cache.claim_name and theirs & spec.cache.model_fields_set:
        raise InvalidSpec("spec.cache.claimName", CLAIM_OF_THEIRS)
    for place, one in enumerate(spec.runtime.env):
        if one.value is not None and one.secret_key_ref is not None:
            raise InvalidSpec(f"spec.runtime.env.{place}", ONE_VALUE)
