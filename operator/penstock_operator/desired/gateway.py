"""The gateway: its configuration (reloaded without a restart), admin token, Deployment, Service, disruption budget. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from penstock_operator.desired.common import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    child,
    deployment,
    pull_secrets,
    resources,
    scheduling,
)  # fmt: skip
from penstock_operator.gateways.rollout import Patience
from penstock_operator.localmodel.names import GATEWAY, PORT, children, selector
from penstock_operator.localmodel.parsing import LocalModel
from penstock_operator.seen import Manifest, Seen

ACCEPT_AFTER_STOP_S = 5
"""A gateway that ends takes requests for so long: until then Services have heard that it goes. A preStop hook would
only do the same with less knowledge."""
_BEYOND_DRAIN_S = ACCEPT_AFTER_STOP_S + 25
_ATTEMPTS = 12
"""
About a minute: a server that the kernel or somebody killed is started again, or another takes its place, and requests
that waited for it meanwhile are not to be lost.
"""
_KINDS = {"LlamaCpp": "llamacpp", "Ollama": "ollama", "VLLM": "vllm"}


def configuration(model: LocalModel, replicas: int = 1) -> dict[str, Any]:
    """
    The gateway's file: caps and policy, never the window or slots.

    Args:
        replicas: gateways that share the server.
    """
    spec, name, space = model.spec, model.name, model.namespace
    keys = spec.gateway.keys_secret_ref
    listen: dict[str, Any] = {
        "host": "0.0.0.0", "port": PORT, "metrics_open": True, "allow_anonymous": keys is None,  # noqa: S104
        "admin_token_file": "/etc/penstock/admin/token", "accept_after_stop_s": ACCEPT_AFTER_STOP_S,
        "allowed_hosts": [name, f"{name}.{space}", f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local", *(spec.expose.http_route.hostnames if spec.expose.http_route else ())],
    }  # fmt: skip
    if keys is not None:
        listen["client_keys_dir"] = "/etc/penstock/keys"
    timeouts: dict[str, Any] = {"drain_s": drain_s(model)}
    if spec.runtime.external is None:
        # A request that comes as a change begins waits for running answers, and then for the new server.
        timeouts["hold_s"] = spec.rollout.idle_timeout_seconds + Patience().hold_s
    timeouts |= model.policy.get("timeouts", {})
    found = {**model.policy, "version": 1, "listen": listen, "timeouts": timeouts}
    if spec.runtime.external is None:
        retry = model.policy.get("retry", {})
        found["retry"] = {**retry, "local": {"attempts": _ATTEMPTS, **retry.get("local", {})}}
    if spec.runtime.external is not None:
        upstream: dict[str, Any] = {
            "name": "server",
            "url": spec.runtime.external.url,
            "local": True,
            "gateway_replicas": replicas,
        }
        if spec.runtime.external.api_key_secret_ref is not None:
            upstream["api_key_file"] = "/etc/penstock/upstream/key"
    else:
        upstream = {
            "name": "server", "url": f"http://{children(name).server}.{space}.svc:{PORT}", "local": True,
            "endpoints": "dns", "gateway_replicas": replicas, "exclusive": replicas == 1, "kind": _KINDS[model.runtime or "LlamaCpp"],
        }  # fmt: skip
        tag = (spec.model.uri or "").partition("://")[2]
        if model.runtime == "Ollama" and model.served_name != tag:
            found["routing"] = {"aliases": {model.served_name: tag}}
    return {**found, "upstreams": [upstream]}


def drain_s(model: LocalModel) -> float:
    """How long a gateway that is replaced lets its answers run: as long as a changed server would."""
    said = model.policy.get("timeouts", {}).get("drain_s", model.spec.rollout.idle_timeout_seconds)
    return float(said)


def replicas(model: LocalModel, seen: Seen) -> int:
    """How many gateways there are to be: as the spec says, or as an autoscaler has it now."""
    there = seen.child("Deployment", children(model.name).gateway) or {}
    return model.spec.gateway.replicas or int(there.get("spec", {}).get("replicas") or 1)


def gateway(model: LocalModel, seen: Seen) -> list[Manifest]:
    """All of the gateway's children."""
    spec, ours = model.spec, children(model.name)
    asked, many = spec.gateway, replicas(model, seen)
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": ours.config}},
        {"name": "admin", "secret": {"secretName": ours.admin}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": "/etc/penstock/config", "readOnly": True},
        {"name": "admin", "mountPath": "/etc/penstock/admin", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    if asked.keys_secret_ref is not None:
        volumes.append({"name": "keys", "secret": {"secretName": asked.keys_secret_ref.name}})
        mounts.append({"name": "keys", "mountPath": "/etc/penstock/keys", "readOnly": True})
    key = spec.runtime.external.api_key_secret_ref if spec.runtime.external else None
    if key is not None:
        items = [{"key": key.key, "path": "key"}]
        volumes.append({"name": "upstream", "secret": {"secretName": key.name, "items": items}})
        mounts.append({"name": "upstream", "mountPath": "/etc/penstock/upstream", "readOnly": True})
    container = {
        "name": "gateway", "image": asked.image or seen.operator_image,
        "command": ["penstock", "serve", "--config", "/etc/penstock/config/penstock.yaml"],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
        "ports": [{"name": "http", "containerPort": PORT}], "resources": resources(asked.resources),
        # A busy node is no reason to end answers: time to start, and a minute before a gateway counts as hung.
        "startupProbe": {**_probe("/healthz"), "periodSeconds": 1, "failureThreshold": 180},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": mounts, "securityContext": CONTAINER_SECURITY,
    }  # fmt: skip
    pod = {
        "automountServiceAccountToken": False, "enableServiceLinks": False, "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": math.ceil(drain_s(model)) + _BEYOND_DRAIN_S,
        "containers": [container], "volumes": volumes, **pull_secrets(model),
        "topologySpreadConstraints": [_spread(model)], **scheduling(asked.scheduling),
    }  # fmt: skip
    service = {
        "type": spec.expose.service.type, "selector": selector(model.name, GATEWAY),
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }  # fmt: skip
    exposed = child(model, "v1", "Service", ours.gateway, GATEWAY, spec=service)
    if spec.expose.service.annotations:
        exposed["metadata"]["annotations"] = dict(spec.expose.service.annotations)
    text = json.dumps(configuration(model, many), indent=2) + "\n"
    # What pods mount comes before them.
    found = [child(model, "v1", "ConfigMap", ours.config, GATEWAY, data={"penstock.yaml": text})]
    if seen.admin_token:
        secret = {"token": seen.admin_token}
        found.append(child(model, "v1", "Secret", ours.admin, GATEWAY, stringData=secret))
    found += [
        deployment(
            model, ours.gateway, GATEWAY, pod,
            replicas=0 if spec.suspend else asked.replicas,
            strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        ),
        exposed,
    ]  # fmt: skip
    if many > 1:
        budget = {"maxUnavailable": 1, "selector": {"matchLabels": selector(model.name, GATEWAY)}}
        found.append(
            child(model, "policy/v1", "PodDisruptionBudget", ours.gateway, GATEWAY, spec=budget)
        )
    return found


def _spread(model: LocalModel) -> dict[str, Any]:
    """On several nodes where there are several, so that the end of one leaves a gateway."""
    return {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(model.name, GATEWAY)},
    }  # fmt: skip


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}
