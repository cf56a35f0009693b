"""Where a server finds its weights: the claim, the init containers that fetch, the volume. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock_operator.desired.common import CONTAINER_SECURITY, child
from penstock_operator.localmodel.names import WEIGHTS, children
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.seen import Manifest, Seen

FOLDER = "/models"


class Weights(NamedTuple):
    """*path*: what the engine is told to load; *is_fetched*: it comes over the network, by us or by the engine."""

    path: str
    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]
    fetchers: list[dict[str, Any]]
    is_fetched: bool = True


def has_claim(model: LocalModel) -> bool:
    """Whether weights are kept on a claim that is made for the model."""
    uri = model.spec.model.uri or ""
    return (
        bool(uri) and not uri.startswith(("pvc://", "oci://")) and not model.spec.cache.claim_name
    )


def claim(model: LocalModel) -> Manifest:
    """The claim; a retained one has no owner."""
    cache = model.spec.cache
    spec: dict[str, Any] = {
        "accessModes": list(cache.access_modes),
        "resources": {"requests": {"storage": str(cache.size)}},
    }
    if cache.storage_class_name is not None:
        spec["storageClassName"] = cache.storage_class_name
    owned = cache.retention_policy == "Delete"
    name = children(model.name).weights
    return child(model, "v1", "PersistentVolumeClaim", name, WEIGHTS, owned=owned, spec=spec)


def weights(model: LocalModel, seen: Seen) -> Weights:
    """What a pod of the server needs for its weights."""
    asked = model.spec.model
    scheme, _, rest = (asked.uri or "").partition("://")
    mounts: list[dict[str, Any]] = [{"name": "weights", "mountPath": FOLDER}]
    if scheme in ("pvc", "oci"):
        mounts[0]["readOnly"] = True
        claim_name, _, inner = rest.partition("/")
        first = asked.files[0] if asked.files else ""
        if scheme == "oci":
            volume = {"name": "weights", "image": {"reference": rest, "pullPolicy": "IfNotPresent"}}
            return Weights(_path(first), [volume], mounts, [], is_fetched=False)
        volume = {
            "name": "weights",
            "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True},
        }
        path = _path(inner, first)
        image = model.spec.gateway.image or seen.operator_image
        checker = [_fetcher(model, image, asked.uri or "", 0, path)] if asked.sha256 else []
        return Weights(path, [volume], mounts, checker, is_fetched=False)
    name = model.spec.cache.claim_name or children(model.name).weights
    volumes: list[dict[str, Any]] = [
        {"name": "weights", "persistentVolumeClaim": {"claimName": name}}
    ]
    if asked.ca_config_map_ref is not None:
        volumes.append({"name": "ca", "configMap": {"name": asked.ca_config_map_ref.name}})
        mounts.append({"name": "ca", "mountPath": "/etc/penstock/ca", "readOnly": True})
    if model.runtime == "Ollama" or (model.runtime == "VLLM" and scheme == "hf"):
        return Weights(rest, volumes, mounts, [])  # these engines fetch and keep weights themselves
    uris = [f"{asked.uri}/{one}" for one in asked.files] or [asked.uri or ""]
    image = model.spec.gateway.image or seen.operator_image
    fetchers = [_fetcher(model, image, uri, place, _file(uri)) for place, uri in enumerate(uris)]
    return Weights(_file(uris[0]), volumes, mounts, fetchers)


def environment(model: LocalModel) -> list[dict[str, Any]]:
    """Credentials, mirror and certificate authority, by the names that Hugging Face and OpenSSL use."""
    asked = model.spec.model
    found: list[dict[str, Any]] = []
    if asked.credentials_secret_ref is not None:
        ref = {"name": asked.credentials_secret_ref.name, "key": "token"}
        found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": ref}})
    if asked.mirror is not None:
        found.append({"name": "HF_ENDPOINT", "value": asked.mirror})
    if asked.ca_config_map_ref is not None:
        found.append(
            {"name": "SSL_CERT_FILE", "value": f"/etc/penstock/ca/{asked.ca_config_map_ref.key}"}
        )
    return found


def _fetcher(model: LocalModel, image: str, uri: str, place: int, path: str) -> dict[str, Any]:
    """Brings the file at *uri* to *path*; what is on a claim of theirs is only checked."""
    command = ["penstock", "fetch", uri, path, "--termination-message", "/dev/termination-log"]
    if model.spec.model.sha256 is not None and place == 0:
        command += ["--sha256", model.spec.model.sha256]
    mounts: list[dict[str, Any]] = [{"name": "weights", "mountPath": FOLDER}]
    if uri.startswith("pvc://"):
        mounts[0]["readOnly"] = True
    authority = model.spec.model.ca_config_map_ref
    if authority is not None:
        command += ["--ca-file", f"/etc/penstock/ca/{authority.key}"]
        mounts.append({"name": "ca", "mountPath": "/etc/penstock/ca", "readOnly": True})
    return {
        "name": f"fetch-{place}", "image": image, "command": command, "env": environment(model),
        "volumeMounts": mounts, "securityContext": CONTAINER_SECURITY,
    }  # fmt: skip


def _file(uri: str) -> str:
    """Where the file at *uri* is kept: by its name, without revision and query."""
    return _path(uri.rsplit("/", 1)[-1].partition("@")[0].partition("?")[0])


def _path(*parts: str) -> str:
    return "/".join([FOLDER, *(one.strip("/") for one in parts if one)])
