"""
From what the API server sent to a LocalModel that the operator can work with: the typed spec, and the rules that hold
between its fields. Admission has checked them already, except for objects that are older than the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from penstock_operator.localmodel.names import MOST_NAME_LENGTH
from penstock_operator.localmodel.policy import Policy, as_policy
from penstock_operator.localmodel.spec import LocalModelSpec, Runtime


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
        said = self.spec.runtime.type
        uri = (self.spec.model.uri or "").lower()
        if said != "Auto":
            return said
        if uri.startswith("ollama://"):
            return "Ollama"
        if "gguf" in uri or any(one.lower().endswith(".gguf") for one in self.spec.model.files):
            return "LlamaCpp"
        return "VLLM" if self.spec.accelerator.type == "NVIDIA" else None


def parse(body: Mapping[str, Any]) -> LocalModel:
    """
    A LocalModel from what the API server sent.

    Raises:
        InvalidSpec: with the path and a sentence.
    """
    about = body.get("metadata") or {}
    name = str(about.get("name", ""))
    if len(name) > MOST_NAME_LENGTH:
        raise InvalidSpec("metadata.name", f"expected at most {MOST_NAME_LENGTH} characters")
    try:
        spec = LocalModelSpec.model_validate(body.get("spec") or {}, by_name=False, by_alias=True)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        path = ".".join(str(one) for one in ("spec", *first["loc"]))
        raise InvalidSpec(path, str(first["msg"])) from exc
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


def _check(model: LocalModel) -> None:
    """What admission checks too, for objects that are older than the rules."""
    spec = model.spec
    if model.external != (spec.runtime.external is not None):
        raise InvalidSpec(
            "spec.runtime.external", "give it if and only if runtime.type is External"
        )
    if model.external == (spec.model.uri is not None):
        raise InvalidSpec(
            "spec.model.uri", "give the weights, or an External server; one of the two"
        )
    for name in ("accelerator", "cache", "tuning"):
        if model.external and name in spec.model_fields_set:
            raise InvalidSpec(f"spec.{name}", "an External server is not ours; leave it out")
    if spec.cache.claim_name and {"size", "storage_class_name"} & spec.cache.model_fields_set:
        raise InvalidSpec(
            "spec.cache.claimName",
            "a claim of yours has its own size and storage class; leave these out",
        )
    for place, one in enumerate(spec.runtime.env):
        if one.value is not None and one.secret_key_ref is not None:
            raise InvalidSpec(f"spec.runtime.env.{place}", "give value or secretKeyRef, not both")
    if model.runtime is None:
        raise InvalidSpec(
            "spec.runtime.type",
            "Auto cannot tell the engine: weights that are no GGUF need runtime.type, or an NVIDIA accelerator",
        )
    if (spec.model.uri or "").startswith("ollama://") != (model.runtime == "Ollama"):
        raise InvalidSpec("spec.model.uri", "ollama:// and the runtime Ollama go together")
    if model.runtime == "VLLM" and spec.tuning.kv_cache_type == "q4_0":
        raise InvalidSpec("spec.tuning.kvCacheType", "VLLM has f16 and q8_0 only")
    if model.runtime != "LlamaCpp" and spec.tuning.gpu_layers is not None:
        raise InvalidSpec("spec.tuning.gpuLayers", "only LlamaCpp can split a model; leave it out")
    asked = spec.model
    fetched_by_us = (asked.uri or "").startswith("https://") or model.runtime == "LlamaCpp"
    if asked.sha256 is not None and not fetched_by_us:
        raise InvalidSpec(
            "spec.model.sha256", "the engine fetches these weights itself; leave it out"
        )
