"""From what the API server sent of a LocalModel to what `reconcile` works with."""

from __future__ import annotations

from functools import partial

from penstock_operator.desired import desired
from penstock_operator.desired.gateway import drain_s
from penstock_operator.desired.weights import has_claim, weights
from penstock_operator.gateways.rollout import Patience
from penstock_operator.localmodel.names import children
from penstock_operator.localmodel.parsing import InvalidSpec, LocalModel, parse
from penstock_operator.localmodel.references import references
from penstock_operator.reconcile import Read
from penstock_operator.seen import Manifest, Seen
from penstock_operator.sizing.size import sizing, weights_status
from penstock_operator.status.conditions import Asked
from penstock_operator.status.fits_memory import Size


def read(body: Manifest) -> Read:
    """A spec that cannot be used has no children, and its status says why."""
    try:
        model = parse(body)
    except InvalidSpec as exc:
        about = body["metadata"]
        return Read(
            Asked(
                str(about["namespace"]),
                str(about["name"]),
                int(about.get("generation", 0)),
                refused=str(exc),
            ),
            None,
        )
    return Read(
        _asked(model), lambda seen: desired(model, seen), _optional(model), _patience(model)
    )


def _optional(model: LocalModel) -> frozenset[str]:
    found = set()
    if model.spec.expose.http_route is not None:
        found.add("HTTPRoute")
    if model.spec.monitoring.service_monitor:
        found.add("ServiceMonitor")
    return frozenset(found)


def _patience(model: LocalModel) -> Patience:
    hold_s = float(model.policy.get("timeouts", {}).get("hold_s", Patience().hold_s))
    return Patience(float(model.spec.rollout.idle_timeout_seconds), hold_s, drain_s(model))


def _size(model: LocalModel, seen: Seen) -> Size:
    size = sizing(model, seen)
    return Size(size, weights_status(model, size), model.spec.accelerator.type != "None")


def _asked(model: LocalModel) -> Asked:
    spec = model.spec
    fetched = not model.external and (
        model.runtime == "Ollama" or bool(weights(model, Seen("", "")).fetchers)
    )
    return Asked(
        model.namespace,
        model.name,
        model.generation,
        served_name=model.served_name,
        runtime=model.runtime or "",
        external=model.external,
        cached=fetched,
        suspended=spec.suspend,
        gateway_replicas=spec.gateway.replicas or 1,
        server_replicas=spec.replicas,
        size=None if model.external else partial(_size, model),
        route=spec.expose.http_route is not None,
        monitor=spec.monitoring.service_monitor,
        access=_access(model),
        names=references(model, claim=children(model.name).weights if has_claim(model) else ""),
    )


def _access(model: LocalModel) -> str:
    if model.spec.gateway.keys_secret_ref is not None:
        return f"Clients need a key of the Secret {model.spec.gateway.keys_secret_ref.name}."
    if model.spec.network_policy.enabled:
        return f"It is open, without a key, to the namespace {model.namespace} only."
    return (
        "It is open, without a key, to whoever reaches its Service: networkPolicy.enabled is false."
    )
