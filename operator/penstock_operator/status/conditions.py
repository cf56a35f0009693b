"""
What stands in the status of a LocalModel: phase, conditions, last failure. Pure: (asked, seen) -> status.

Conditions are of positive polarity and roll up into `Ready`; `Reconciling` and `Stalled` are kstatus' own pair, there
only while true, so that `kubectl wait`, Helm, Argo and Flux tell progress from an end that a person must act on.
A time of transition moves only when the status of its condition does.
Source: sigs.k8s.io/cli-utils pkg/kstatus; the API conventions' typical status properties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock_operator.gateways.rollout import WORRYING, Rollout
from penstock_operator.localmodel.references import References
from penstock_operator.seen import Seen, condition, is_over, is_ready
from penstock_operator.sentences import answering
from penstock_operator.status.failures import FOR_A_PERSON, Failure
from penstock_operator.status.fits_memory import Size, too_small
from penstock_operator.status.measured import performance, tuning
from penstock_operator.status.worst import worst

Truth = Literal["True", "False", "Unknown"]
_REFUSED = frozenset({"Refused", "NameTaken"})
_SCALED_TO_ZERO = (
    "`spec.replicas` is 0: no server runs, the weights are kept. Raise it to serve again."
)
_OF_SERVERS = frozenset({"ModelCached", "ServerReady", "ModelLoaded"})


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What of a LocalModel's spec the status depends on.

    Attributes:
        external: the server is not ours: no workload, no weights.
        cached: weights are fetched to a claim.
        refused: why the spec cannot be used, a sentence; empty when it can.
        size: how large its server is made; None where it is not ours to say.
        route: an HTTPRoute is asked for.
        monitor: a ServiceMonitor is asked for.
        access: who reaches the model, a sentence.
        names: objects that the spec names, by their fields.
    """

    namespace: str
    name: str
    generation: int
    served_name: str = ""
    runtime: str = ""
    external: bool = False
    cached: bool = True
    suspended: bool = False
    gateway_replicas: int = 1
    server_replicas: int = 1
    refused: str = ""
    route: bool = False
    monitor: bool = False
    access: str = ""
    size: Callable[[Seen], Size] | None = None
    names: References = field(default_factory=References)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without its times."""

    type: str
    status: Truth
    reason: str
    message: str


def status(asked: Asked, seen: Seen, rollout: Rollout | None = None) -> dict[str, Any]:
    """
    The whole status.

    Args:
        rollout: of a changed server; None while there is none. The model is not ready before it is through: what is
            asked for is not what answers.
    """
    failure = worst(asked.name, asked.names, seen)
    found = _conditions(asked, seen, failure, rollout)
    ready = _rolled_up(asked, seen, found, failure, rollout)
    by_type = {one.type: one for one in [ready, *found]}
    size = asked.size(seen) if asked.size is not None and not asked.refused else None
    small = too_small(size, seen) if size is not None else None
    if small is not None:
        by_type["FitsMemory"] = Condition("FitsMemory", "False", small.reason, small.message)
    if rollout is not None:
        by_type["Progressing"] = Condition(
            "Progressing", "True" if rollout.goes_on else "False", rollout.reason, rollout.message
        )
    at_rest = ready.status == "True" or (
        ready.reason in ("Suspended", "ScaledToZero") and not _serving(asked, seen)
    )
    stalled = bool(asked.refused) or (failure is not None and failure.reason in FOR_A_PERSON)
    stalled = stalled or (size is not None and size.sizing.exhausted)
    stalled = stalled or any(one.lasting for one in seen.refused)
    if stalled:
        by_type["Stalled"] = Condition("Stalled", "True", ready.reason, ready.message)
    elif not at_rest:
        by_type["Reconciling"] = Condition("Reconciling", "True", ready.reason, ready.message)
    value: dict[str, Any] = {
        "observedGeneration": asked.generation,
        "phase": _phase(asked, by_type, failure, rollout),
        "conditions": _dated(by_type.values(), asked.generation, seen),
        "replicas": _count(seen, "server" if not asked.external else "gateway", only_ready=False),
        "readyReplicas": _count(
            seen, "server" if not asked.external else "gateway", only_ready=True
        ),
        "selector": f"penstock.dev/model={asked.name},app.kubernetes.io/component=server",
    }
    if not asked.refused:
        value["url"] = _url(asked)
        value["servedModelName"] = asked.served_name or asked.name
        if asked.runtime:
            value["runtime"] = asked.runtime
    if failure is not None and ready.status != "True":
        value["lastFailure"] = failure.to_dict()
    if rollout is not None:
        value["rollout"] = rollout.to_dict()
    if size is not None and size.weights:
        value["weights"] = size.weights
    measured = tuning(seen, size.sizing if size is not None else None)
    if measured:
        value["tuning"] = measured
    quick = performance(seen)
    if quick:
        value["performance"] = quick
    return value


def _url(asked: Asked) -> str:
    return f"http://{asked.name}.{asked.namespace}.svc/v1"


def differs(new: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a patch is owed: anything but how quick it was a moment ago has changed."""
    if {**new, "performance": None} != {**before, "performance": None}:
        return True
    return _far(new.get("performance"), before.get("performance"))


def patch(new: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch from *before* to *new*: what is no longer there is set to null."""
    gone: dict[str, Any] = {name: None for name in before if name not in new}
    changed: dict[str, Any] = {}
    for name, value in new.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            inner = patch(value, old)
            if inner:
                changed[name] = inner
        elif value != old:
            changed[name] = value
    return {**changed, **gone}


def transitions(
    new: Mapping[str, Any], before: Mapping[str, Any]
) -> list[tuple[Literal["Normal", "Warning"], str, str]]:
    """Events that are owed: (type, reason, sentence) for the conditions a person cares about that turned."""
    old = {one["type"]: one for one in before.get("conditions") or ()}
    owed: list[tuple[Literal["Normal", "Warning"], str, str]] = []
    for one in new.get("conditions") or ():
        was = old.get(one["type"], {})
        if one["type"] == "FitsMemory" and was.get("message") != one["message"]:
            owed.append(("Warning", one["reason"], one["message"]))
        if was.get("reason") == one["reason"]:
            continue
        if one["type"] == "Progressing" and one["reason"] in WORRYING:
            owed.append(("Warning", one["reason"], one["message"]))
        elif one["type"] == "Ready" and one["reason"] not in WORRYING:
            worrying = "lastFailure" in new or one["reason"] in {"InvalidSpec", *_REFUSED}
            owed.append(("Warning" if worrying else "Normal", one["reason"], one["message"]))
        if one["type"] == "Applied" and one["status"] == "False" and was.get("status") != "False":
            owed.append(("Warning", one["reason"], one["message"]))
    if "rollout" in before and "rollout" not in new and new["phase"] == "Ready":
        told = f"The server of generation {new['observedGeneration']} has taken over."
        owed.append(("Normal", "RolledOut", told))
    return owed


def _conditions(
    asked: Asked, seen: Seen, failure: Failure | None, rollout: Rollout | None
) -> list[Condition]:
    if asked.refused:
        return [Condition("Accepted", "False", "InvalidSpec", asked.refused)]
    sentences = ["The spec can be used.", asked.access]
    found = [
        Condition("Accepted", "True", "Valid", " ".join(one for one in sentences if one)),
        _applied(seen),
    ]
    if asked.suspended:
        return found
    if not asked.external:
        cached = [_weights(seen, failure)] if asked.cached else []
        found += [*cached, _server(asked, seen, failure, rollout, *cached)]
    found.append(_gateway(asked, seen, failure))
    found.append(_loaded(seen))
    return [*found, *_optional(asked, seen)]


def _optional(asked: Asked, seen: Seen) -> list[Condition]:
    """A route that is missing keeps clients out; without a monitor the model serves all the same."""
    found: list[Condition] = []
    if asked.route and "HTTPRoute" in seen.apis:
        found.append(Condition("RouteReady", "True", "RouteMade", "The HTTPRoute is there."))
    elif asked.route:
        said = "The cluster does not know HTTPRoute: install the Gateway API, or take expose.httpRoute away."
        found.append(Condition("RouteReady", "False", "GatewayAPIMissing", said))
    if asked.monitor and "ServiceMonitor" in seen.apis:
        found.append(Condition("Monitored", "True", "MonitorMade", "The ServiceMonitor is there."))
    elif asked.monitor:
        said = (
            "The cluster does not know ServiceMonitor: install the Prometheus operator, or take monitoring away. "
            "The model serves all the same."
        )
        found.append(Condition("Monitored", "Unknown", "PrometheusOperatorMissing", said))
    return found


def _applied(seen: Seen) -> Condition:
    """What was refused takes Ready away. What others set does not: it may do as well."""
    if seen.refused:
        told = " ".join(one.message for one in seen.refused)
        taken = seen.refused[0].taken
        return Condition("Applied", "False", "NameTaken" if taken else "Refused", told)
    if seen.left:
        return Condition("Applied", "False", "FieldConflict", " ".join(seen.left))
    return Condition("Applied", "True", "Applied", "All that belongs to the model was applied.")


def _weights(seen: Seen, failure: Failure | None) -> Condition:
    for pod in seen.pods_of("server"):
        first = (pod.get("status") or {}).get("initContainerStatuses") or []
        done = [(one.get("state") or {}).get("terminated") or {} for one in first]
        if is_ready(pod) or (first and all(one.get("exitCode") == 0 for one in done)):
            return Condition("ModelCached", "True", "Fetched", "The weights are on the volume.")
    if failure is not None and failure.component == "weights":
        return Condition("ModelCached", "False", failure.reason, failure.message)
    for pod in seen.pods_of("server"):
        for one in (pod.get("status") or {}).get("initContainerStatuses") or ():
            if "running" in (one.get("state") or {}):
                shown = (
                    f"`kubectl logs -f {pod['metadata']['name']} -c {one['name']}` shows how far."
                )
                return Condition("ModelCached", "False", "Fetching", f"The weights are being fetched; {shown}")  # fmt: skip
    was = [
        one["status"] for one in seen.before.get("conditions") or () if one["type"] == "ModelCached"
    ]
    if was == ["True"] and not any(seen.pods_of("server")):
        return Condition("ModelCached", "True", "Fetched", "The weights are on the volume.")
    return Condition("ModelCached", "False", "Pending", "The weights are fetched as soon as a pod of the server starts.")  # fmt: skip


def _server(
    asked: Asked,
    seen: Seen,
    failure: Failure | None,
    rollout: Rollout | None,
    cached: Condition | None = None,
) -> Condition:
    ready = _count(seen, "server", only_ready=True)
    if _is_scaled_to_zero(asked, seen):
        return Condition("ServerReady", "False", "ScaledToZero", _SCALED_TO_ZERO)
    if ready >= max(1, asked.server_replicas):
        return Condition("ServerReady", "True", "Ready", _answering(ready, ready))
    if failure is not None and failure.component in ("server", "weights"):
        return Condition("ServerReady", "False", failure.reason, failure.message)
    if rollout is not None and rollout.goes_on:
        return Condition("ServerReady", "False", rollout.reason, rollout.message)
    pods = list(seen.live_pods("server"))
    if not pods:
        return Condition("ServerReady", "False", "Pending", "No pod of the server is there yet.")
    if not ready and cached is not None and cached.status == "False":
        return Condition("ServerReady", "False", cached.reason, "The server waits for its weights.")
    if all(condition(pod, "PodScheduled").get("status") == "False" for pod in pods):
        return Condition("ServerReady", "False", "Pending", "No pod of the server has a node yet.")
    told = _answering(ready, asked.server_replicas)
    return Condition("ServerReady", "False", "Loading", f"The model is being loaded: {told}")


def _answering(ready: int, whole: int) -> str:
    return f"{answering(ready, whole, 'server', 'answers', 'answer')}."


def _is_scaled_to_zero(asked: Asked, seen: Seen) -> bool:
    none = not asked.server_replicas and not asked.external and not asked.refused
    return none and not any(seen.live_pods("server"))


def _gateway(asked: Asked, seen: Seen, failure: Failure | None) -> Condition:
    ready = _count(seen, "gateway", only_ready=True)
    if ready:
        whole = max(ready, asked.gateway_replicas)
        told = answering(ready, whole, "gateway", "takes requests", "take requests")
        return Condition("GatewayReady", "True", "Ready", f"{told}.")
    if failure is not None and failure.component == "gateway":
        return Condition("GatewayReady", "False", failure.reason, failure.message)
    return Condition("GatewayReady", "False", "WaitingForGateway", "No gateway takes requests yet.")


def _loaded(seen: Seen) -> Condition:
    """A gateway has seen the model loaded: more than an open port."""
    asked = [one for one in seen.gateways.values() if one.status is not None]
    for one in asked:
        for upstream in (one.status or {}).get("upstreams") or ():
            if upstream.get("state") == "ok":
                return Condition("ModelLoaded", "True", "Loaded", "The server answers its gateway.")
    if not asked:
        why = next((one.problem for one in seen.gateways.values() if one.problem), "")
        return Condition(
            "ModelLoaded", "Unknown", "GatewayNotAsked", why or "No gateway could be asked yet."
        )
    return Condition("ModelLoaded", "False", "Loading", "No server answers the gateway yet.")


def _rolled_up(
    asked: Asked,
    seen: Seen,
    found: Sequence[Condition],
    failure: Failure | None,
    rollout: Rollout | None,
) -> Condition:
    if asked.suspended and not asked.refused:
        pods = "its pods are ending" if _serving(asked, seen) else "no pods run"
        return Condition("Ready", "False", "Suspended", f"`spec.suspend` is true: {pods}, the weights are kept. Set it to false to serve again.")  # fmt: skip
    # Unknown of ModelLoaded does not take Ready away: pods' own probes speak, and an operator that
    # cannot reach a gateway is no failure of the model.
    missing = [one for one in found if one.status == "False" and one.reason != "FieldConflict"]
    if _is_scaled_to_zero(asked, seen):
        missing = [one for one in missing if one.type not in _OF_SERVERS]
        if not missing:
            return Condition("Ready", "False", "ScaledToZero", _SCALED_TO_ZERO)
    if not missing and rollout is not None and rollout.goes_on:
        return Condition("Ready", "False", rollout.reason, rollout.message)
    if not missing:
        return Condition("Ready", "True", "Ready", f"The model answers at {_url(asked)}.")
    first = missing[0]
    named = [one for one in missing if failure is not None and one.reason == failure.reason]
    refused = [one for one in missing if one.reason in _REFUSED]
    chosen = (refused or named or [first])[0]
    return Condition("Ready", "False", chosen.reason, chosen.message)


def _phase(
    asked: Asked,
    by_type: Mapping[str, Condition],
    failure: Failure | None,
    rollout: Rollout | None,
) -> str:
    if asked.refused or "Stalled" in by_type:
        return "Failed"
    ready = by_type["Ready"]
    if asked.suspended or ready.reason == "ScaledToZero":
        return "Suspended"
    if ready.status == "True":
        return "Ready"
    if failure is not None or ready.reason in _REFUSED:
        return "Degraded"
    if rollout is not None and rollout.goes_on:
        return "Updating"
    if ready.reason in ("Fetching", "Loading"):
        return ready.reason
    return "Pending"


def _serving(asked: Asked, seen: Seen) -> bool:
    """Pods are there that should not be: all of a suspended model, the servers of one that has none."""
    return any(
        not is_over(pod) for pod in (seen.pods if asked.suspended else seen.pods_of("server"))
    )


def _count(seen: Seen, component: str, *, only_ready: bool) -> int:
    return sum(not only_ready or is_ready(pod) for pod in seen.live_pods(component))


def _dated(found: Any, generation: int, seen: Seen) -> list[dict[str, Any]]:
    old = {one["type"]: one for one in seen.before.get("conditions") or ()}
    dated = []
    for one in found:
        was = old.get(one.type, {})
        since = was.get("lastTransitionTime") if was.get("status") == one.status else None
        dated.append(
            {
                "type": one.type,
                "status": one.status,
                "observedGeneration": generation,
                "lastTransitionTime": since or seen.now,
                "reason": one.reason,
                "message": one.message,
            }
        )
    return dated


def _far(new: Any, old: Any) -> bool:
    """A measurement is told again when it is new, gone, or off by a fifth: else every token would be a patch."""
    if not new or not old:
        return bool(new) != bool(old)
    for name, value in new.items():
        was = old.get(name)
        if isinstance(value, (int, float)) and isinstance(was, (int, float)):
            if abs(value - was) > 0.2 * max(abs(was), 1e-9):
                return True
        elif name != "measuredAt" and value != was:
            return True
    return False
