"""
What holds between the fields of a spec: each rule once for the API server (CEL) and once for ourselves, side by side.

Admission checks them when somebody applies a LocalModel; our own reading checks them again, for objects that are
older than a rule. A field that would do nothing beside others is refused with a sentence rather than ignored. Pure.
Source: kubernetes.io, "Validation rules"; kubernetes.io/docs/reference/using-api/cel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock_operator.localmodel.images import image
from penstock_operator.localmodel.spec import LocalModelSpec, Runtime

CLAIM_OF_THEIRS = "a claim of yours has its own size and storage class and is never deleted; give claimName, or these"
ONE_VALUE = "give value or secretKeyRef, not both"
"""Rules of one part, whose CEL stands with that part's schema."""
WRITTEN = {
    "model.uri": "weights are at hf://, https://, pvc://, oci:// or ollama://",
    "model.sha256": "a SHA-256 has 64 digits, 0 to 9 and a to f in lower case, as sha256sum prints it",
    "model.mirror": "a mirror is an address that begins with https:// or http://",
    "runtime.external.url": "the address of a server begins with http:// or https://, for example http://models.example.com:8000",
}
"""How a text must be written, by the path of its field, in place of its pattern."""
NO_QUANTITY = "this is no quantity; write it as Kubernetes does: 500m of a CPU, 8Gi of memory"


@dataclass(frozen=True, slots=True)
class Rule:
    """
    Attributes:
        path: of the field that should change.
        sentence: what is wrong, and what to do.
        cel: true where it holds, of `self`, the spec.
        holds: the same of the parsed spec and its engine.
    """

    path: str
    sentence: str
    cel: str
    holds: Callable[[LocalModelSpec, Runtime | None], bool]


def engine(spec: LocalModelSpec) -> Runtime | None:
    """The engine that serves it; None when `Auto` cannot tell. `_ENGINE` says the same in CEL. Keep in step."""
    said, uri = spec.runtime.type, (spec.model.uri or "").lower()
    if said != "Auto":
        return said
    if uri.startswith("ollama://"):
        return "Ollama"
    if "gguf" in uri or any(one.lower().endswith(".gguf") for one in spec.model.files):
        return "LlamaCpp"
    return "VLLM" if spec.accelerator.type == "NVIDIA" else None


def _has(*path: str) -> str:
    """CEL: that field, and all that it lies in, is given."""
    steps = [".".join(("self", *path[: at + 1])) for at in range(len(path))]
    return "(" + " && ".join(f"has({one})" for one in steps) + ")"


def _of(*path: str, default: str) -> str:
    """CEL: the value of that field, or *default*."""
    return f"({_has(*path)} ? self.{'.'.join(path)} : {default})"


def _any(*parts: str) -> str:
    return "(" + " || ".join(parts) + ")"


_TYPE = _of("runtime", "type", default="'Auto'")
_URI = f"{_of('model', 'uri', default=repr(''))}.lowerAscii()"
_GGUF = f"({_URI}.contains('gguf') || ({_has('model', 'files')} && self.model.files.exists(one, one.lowerAscii().endsWith('.gguf'))))"  # fmt: skip
_MAKER = _of("accelerator", "type", default="'None'")
_ENGINE = (
    f"({_TYPE} != 'Auto' ? {_TYPE} : {_URI}.startsWith('ollama://') ? 'Ollama' : "
    f"{_GGUF} ? 'LlamaCpp' : {_MAKER} == 'NVIDIA' ? 'VLLM' : '')"
)
_EXTERNAL = f"({_TYPE} == 'External')"


def _at(*schemes: str) -> str:
    """CEL: the weights are at one of these."""
    return _any(*(f"{_URI}.startsWith('{one}://')" for one in schemes))


_INCOMPLETE = f"({_at('hf')} && !{_URI}.matches('^hf://[^/]+/[^/]+'))"


def _is_at(spec: LocalModelSpec, *schemes: str) -> bool:
    return (spec.model.uri or "").lower().startswith(tuple(f"{one}://" for one in schemes))


def _incomplete(spec: LocalModelSpec) -> bool:
    parts = (spec.model.uri or "").removeprefix("hf://").split("/")
    return _is_at(spec, "hf") and (len(parts) < 2 or not all(parts[:2]))


def _names_a_file(spec: LocalModelSpec) -> bool:
    parts = (spec.model.uri or "").removeprefix("hf://").split("/")
    return bool(spec.model.files) or (len(parts) > 2 and all(parts))


def _external(spec: LocalModelSpec) -> bool:
    return spec.runtime.type == "External"


_NOT_OURS = ("accelerator", "cache", "tuning", "resources", "scheduling")
_NOT_STARTED = ("image", "args", "env")
_NOT_FETCHED = {
    "files": "files", "sha256": "sha256", "credentials_secret_ref": "credentialsSecretRef",
    "ca_config_map_ref": "caConfigMapRef", "mirror": "mirror",
}  # fmt: skip


def _only_what_is_ours(spec: LocalModelSpec, _: Runtime | None) -> bool:
    given = {
        *spec.model_fields_set & set(_NOT_OURS),
        *spec.runtime.model_fields_set & set(_NOT_STARTED),
        *spec.model.model_fields_set & set(_NOT_FETCHED),
    }
    return not (_external(spec) and given)


def _is_exposed(spec: LocalModelSpec) -> bool:
    expose = spec.expose
    return (
        expose.http_route is not None
        or expose.service.type != "ClusterIP"
        or bool(spec.network_policy.allow_from)
    )


def _has_image(spec: LocalModelSpec, runs: Runtime | None) -> bool:
    external = runs in (None, "External") or spec.runtime.image is not None
    return external or bool(image(str(runs), spec.accelerator.type))


RULES = (
    Rule(
        "runtime.external",
        "runtime.external is given if and only if runtime.type is External",
        f"{_EXTERNAL} == {_has('runtime', 'external')}",
        lambda spec, _: _external(spec) == (spec.runtime.external is not None),
    ),
    Rule(
        "model.uri",
        "give model.uri, or an External runtime; one of the two",
        f"{_EXTERNAL} != {_has('model', 'uri')}",
        lambda spec, _: _external(spec) != (spec.model.uri is not None),
    ),
    Rule(
        "runtime.type",
        "an External server is not ours: accelerator, cache, tuning, resources, scheduling, and how a server is "
        "started or its weights are fetched, have no place beside it",
        f"!{_EXTERNAL} || !"
        + _any(
            *(_has(one) for one in _NOT_OURS),
            *(_has("runtime", one) for one in _NOT_STARTED),
            *(_has("model", one) for one in _NOT_FETCHED.values()),
        ),
        _only_what_is_ours,
    ),
    Rule(
        "replicas",
        "an External server is not ours to scale or to replace: leave replicas and rollout.strategy out",
        f"!{_EXTERNAL} || ({_of('replicas', default='1')} == 1 && !{_has('rollout', 'strategy')})",
        lambda spec, _: (
            not _external(spec)
            or (spec.replicas == 1 and "strategy" not in spec.rollout.model_fields_set)
        ),
    ),
    Rule(
        "monitoring.serviceMonitor",
        "monitoring.labels and monitoring.intervalSeconds are those of a ServiceMonitor: they need monitoring.serviceMonitor: true",
        f"{_of('monitoring', 'serviceMonitor', default='false')} || !"
        + _any(_has("monitoring", "labels"), _has("monitoring", "intervalSeconds")),
        lambda spec, _: (
            spec.monitoring.service_monitor
            or not {"labels", "interval_seconds"} & spec.monitoring.model_fields_set
        ),
    ),
    Rule(
        "model.uri",
        "the address is not complete: hf://OWNER/REPOSITORY/FILE, or hf://OWNER/REPOSITORY for a whole repository",
        f"!{_INCOMPLETE}",
        lambda spec, _: not _incomplete(spec),
    ),
    Rule(
        "model.uri",
        "LlamaCpp loads a file: give hf://OWNER/REPOSITORY/FILE, or name files of the repository in model.files",
        f"{_ENGINE} != 'LlamaCpp' || !{_at('hf')} || {_INCOMPLETE} || "
        f"({_has('model', 'files')} && size(self.model.files) > 0) || "
        f"{_URI}.matches('^hf://[^/]+/[^/]+/[^/]')",
        lambda spec, runs: (
            runs != "LlamaCpp"
            or not _is_at(spec, "hf")
            or _incomplete(spec)
            or _names_a_file(spec)
        ),
    ),
    Rule(
        "runtime.type",
        "Auto cannot tell the engine: weights that are no GGUF need runtime.type, or an NVIDIA accelerator",
        f"{_URI} == '' || {_ENGINE} != '' || {_INCOMPLETE}",
        lambda spec, runs: runs is not None or _incomplete(spec),
    ),
    Rule(
        "model.uri",
        "ollama:// and the runtime Ollama go together",
        f"{_EXTERNAL} || {_at('ollama')} == ({_ENGINE} == 'Ollama')",
        lambda spec, runs: _external(spec) or _is_at(spec, "ollama") == (runs == "Ollama"),
    ),
    Rule(
        "model.uri",
        "VLLM loads a folder: give hf://owner/repository, pvc:// or oci://",
        f"{_ENGINE} != 'VLLM' || !{_at('https')}",
        lambda spec, runs: runs != "VLLM" or not _is_at(spec, "https"),
    ),
    Rule(
        "model.files",
        "model.files is for files that we fetch or that lie on a volume; this engine fetches all that it needs by itself",
        f"!{_has('model', 'files')} || !({_at('ollama')} || ({_ENGINE} == 'VLLM' && {_at('hf')}))",
        lambda spec, runs: (
            not spec.model.files
            or not (_is_at(spec, "ollama") or (runs == "VLLM" and _is_at(spec, "hf")))
        ),
    ),
    Rule(
        "model.sha256",
        "model.sha256 is for one file that we fetch or check: https://, or a GGUF at hf:// or pvc://; the engine fetches "
        "other weights itself, and an image is pinned by its digest",
        f"!{_has('model', 'sha256')} || {_at('https')} || ({_ENGINE} == 'LlamaCpp' && {_at('hf', 'pvc')})",
        lambda spec, runs: (
            spec.model.sha256 is None
            or _is_at(spec, "https")
            or (runs == "LlamaCpp" and _is_at(spec, "hf", "pvc"))
        ),
    ),
    Rule(
        "model.credentialsSecretRef",
        "model.credentialsSecretRef is sent to hf:// and https:// only; for an image give runtime.imagePullSecrets",
        f"!{_has('model', 'credentialsSecretRef')} || {_EXTERNAL} || {_at('hf', 'https')}",
        lambda spec, _: (
            spec.model.credentials_secret_ref is None or _is_at(spec, "hf", "https")
        ),
    ),
    Rule(
        "model.caConfigMapRef",
        "model.caConfigMapRef is for weights that are fetched: hf://, https:// or ollama://",
        f"!{_has('model', 'caConfigMapRef')} || {_EXTERNAL} || {_at('hf', 'https', 'ollama')}",
        lambda spec, _: (
            spec.model.ca_config_map_ref is None or _is_at(spec, "hf", "https", "ollama")
        ),
    ),
    Rule(
        "model.mirror",
        "model.mirror stands in for Hugging Face, so it needs hf://; a mirror of Ollama's registry stands in the address: "
        "ollama://registry.example.com/library/qwen3:8b",
        f"!{_has('model', 'mirror')} || {_EXTERNAL} || {_at('hf')}",
        lambda spec, _: spec.model.mirror is None or _is_at(spec, "hf"),
    ),
    Rule(
        "cache",
        "weights at pvc:// and oci:// are used where they are; leave cache out",
        f"!{_has('cache')} || !{_at('pvc', 'oci')}",
        lambda spec, _: "cache" not in spec.model_fields_set or not _is_at(spec, "pvc", "oci"),
    ),
    Rule(
        "runtime.args",
        "Ollama takes its switches as variables: use runtime.env in place of runtime.args",
        f"{_ENGINE} != 'Ollama' || !{_has('runtime', 'args')}",
        lambda spec, runs: runs != "Ollama" or not spec.runtime.args,
    ),
    Rule(
        "runtime.image",
        "the project of this engine has no image for this accelerator; name one in runtime.image",
        f"{_has('runtime', 'image')} || {_MAKER} != 'Intel' || {_ENGINE} in ['LlamaCpp', 'External', '']",
        _has_image,
    ),
    Rule(
        "accelerator.type",
        "accelerator.count and accelerator.resourceName need accelerator.type",
        f"{_MAKER} != 'None' || !({_has('accelerator', 'count')} || {_has('accelerator', 'resourceName')})",
        lambda spec, _: (
            spec.accelerator.type != "None"
            or not {"count", "resource_name"} & spec.accelerator.model_fields_set
        ),
    ),
    Rule(
        "tuning.gpuLayers",
        "only LlamaCpp can split a model; leave tuning.gpuLayers out",
        f"{_ENGINE} in ['LlamaCpp', ''] || !{_has('tuning', 'gpuLayers')}",
        lambda spec, runs: runs == "LlamaCpp" or spec.tuning.gpu_layers is None,
    ),
    Rule(
        "tuning.gpuLayers",
        "tuning.gpuLayers needs an accelerator, or a runtime.image that brings one",
        f"!{_has('tuning', 'gpuLayers')} || {_MAKER} != 'None' || {_has('runtime', 'image')}",
        lambda spec, _: (
            spec.tuning.gpu_layers is None
            or spec.accelerator.type != "None"
            or spec.runtime.image is not None
        ),
    ),
    Rule(
        "tuning.kvCacheType",
        "tuning.kvCacheType of VLLM is f16 or q8_0",
        f"{_ENGINE} != 'VLLM' || !{_has('tuning', 'kvCacheType')} || self.tuning.kvCacheType != 'q4_0'",
        lambda spec, runs: runs != "VLLM" or spec.tuning.kv_cache_type != "q4_0",
    ),
    Rule(
        "gateway.keysSecretRef",
        "a model that is reached from outside its namespace (httpRoute, NodePort, LoadBalancer, networkPolicy.allowFrom) "
        "needs gateway.keysSecretRef",
        f"{_has('gateway', 'keysSecretRef')} || !"
        + _any(
            _has("expose", "httpRoute"),
            f"{_of('expose', 'service', 'type', default=repr('ClusterIP'))} != 'ClusterIP'",
            f"({_has('networkPolicy', 'allowFrom')} && size(self.networkPolicy.allowFrom) > 0)",
        ),
        lambda spec, _: spec.gateway.keys_secret_ref is not None or not _is_exposed(spec),
    ),
)  # fmt: skip
