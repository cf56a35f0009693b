"""What is said of a model for what is seen of its pods, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from penstock_operator.reading import read
from penstock_operator.seen import GatewayStatus, Seen
from penstock_operator.sentences import answering, refusal
from penstock_operator.status import conditions
from penstock_operator.status.conditions import Asked

ASKED = Asked("team", "qwen", generation=3)


def pod(component: str, *, ready: bool = False, **status: Any) -> dict[str, Any]:
    status.setdefault("conditions", [{"type": "Ready", "status": "True" if ready else "False"}])
    return {
        "metadata": {"name": f"qwen-{component}-0", "labels": {"app.kubernetes.io/component": component}},
        "status": status,
    }  # fmt: skip


def seen(*pods: dict[str, Any], now: str = "2026-01-01T00:00:00Z", **more: Any) -> Seen:
    return Seen(now=now, operator_image="image", pods=pods, **more)


def of(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in status["conditions"] if one["type"] == kind), {})


HEALTHY = (pod("server", ready=True), pod("gateway", ready=True))


def waiting(reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"name": "server", "image": "x:1", "state": {"waiting": {"reason": reason, "message": message}}}]  # fmt: skip


def ended(code: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "server", "restartCount": 3, "state": {}, "lastState": {"terminated": {"exitCode": code, **more}}}]  # fmt: skip


FETCHER = [{"name": "fetch", "state": {"terminated": {"exitCode": 1, "message": '{"reason": "NotFound", "message": "No such file at the hub."}'}}}]  # fmt: skip
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


@pytest.mark.parametrize(
    ("server", "reason", "words", "stalled"),
    [
        (pod("server", containerStatuses=waiting("ImagePullBackOff", "not found")), "ImagePullFailed", "x:1", False),
        (pod("server", containerStatuses=waiting("CreateContainerConfigError", 'secret "hf" not found')), "CredentialsMissing", "hf", True),
        (pod("server", containerStatuses=ended(137, reason="OOMKilled")), "OOMKilled", "memory", False),
        (pod("server", containerStatuses=ended(1)), "CrashLooping", "kubectl logs", False),
        (pod("server", conditions=[{**UNSCHEDULABLE, "message": "0/1 nodes: Insufficient memory"}]), "Unschedulable", "Insufficient memory", False),
        (pod("server", conditions=[{**UNSCHEDULABLE, "message": "unbound immediate PersistentVolumeClaims"}]), "CacheUnbindable", "No node", True),
        (pod("server", initContainerStatuses=FETCHER), "ModelNotFound", "No such file", True),
    ],
)  # fmt: skip
def test_a_failure_of_a_pod_is_said_with_its_reason_and_cleared_when_healed(
    server: dict[str, Any], reason: str, words: str, stalled: bool
) -> None:
    """Each way in which a pod fails has one stable reason and a sentence; both go when the pod is ready."""
    sick = conditions.status(ASKED, seen(server, pod("gateway", ready=True)))
    assert of(sick, "Ready")["status"] == "False"
    assert of(sick, "Ready")["reason"] == reason
    assert words in of(sick, "Ready")["message"]
    assert sick["lastFailure"]["reason"] == reason
    assert bool(of(sick, "Stalled")) is stalled
    assert bool(of(sick, "Reconciling")) is not stalled

    healed = conditions.status(ASKED, seen(*HEALTHY, before=sick))
    assert of(healed, "Ready")["status"] == "True"
    assert "lastFailure" not in healed
    assert not of(healed, "Stalled")
    assert not of(healed, "Reconciling")
    assert conditions.patch(healed, sick)["lastFailure"] is None


def test_an_unusable_spec_stalls_and_says_why() -> None:
    """Nothing but a person can end it, so kstatus sees a failure and not endless progress."""
    status = conditions.status(
        Asked("team", "qwen", 3, refused="spec.model.uri: `s4://x` has no known scheme."), seen()
    )
    assert of(status, "Ready")["reason"] == "InvalidSpec"
    assert of(status, "Stalled")["status"] == "True"
    assert status["phase"] == "Failed"


def test_times_move_only_with_the_truth_of_a_condition() -> None:
    """Another reason or sentence leaves the time of transition; another status moves it."""
    first = conditions.status(ASKED, seen(*HEALTHY))
    later = conditions.status(ASKED, seen(*HEALTHY, now="2026-01-01T01:00:00Z", before=first))
    assert not conditions.differs(later, first)
    broken = conditions.status(
        ASKED, seen(pod("gateway", ready=True), now="2026-01-01T02:00:00Z", before=first)
    )
    assert of(broken, "Ready")["lastTransitionTime"] == "2026-01-01T02:00:00Z"
    assert of(broken, "GatewayReady")["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_what_gateways_see_is_read_back_and_the_least_is_told() -> None:
    """Of several gateways the smallest window, the fewest slots and the slowest first token are told."""

    def gateway(window: int, slots: int) -> GatewayStatus:
        model = {"id": "m", "context_window": window, "window_source": "running", "slots": slots}
        limit = {"limit": slots, "source": "slots"}
        return GatewayStatus(
            "g", {"upstreams": [{"state": "ok", "concurrency": limit, "models": [model]}]}
        )

    status = conditions.status(
        ASKED, seen(*HEALTHY, gateways={"a": gateway(8192, 4), "b": gateway(4096, 2)})
    )
    assert status["tuning"] == {
        "contextLength": 4096, "parallelRequests": 2, "concurrency": 2,
        "sources": {
            "contextLength": {"source": "Engine", "limitedBy": "Engine"},
            "parallelRequests": {"source": "Engine", "limitedBy": "Asked"},
            "concurrency": {"source": "Gateway", "limitedBy": "Slots"},
        },
    }  # fmt: skip
    assert of(status, "ModelLoaded")["status"] == "True"


def test_suspended_is_at_rest_without_pods() -> None:
    """While pods still go away it is in progress and says so; then it is at rest, not ready, and not failed."""
    asked = Asked("team", "qwen", 3, suspended=True)
    ending = conditions.status(asked, seen(*HEALTHY))
    assert of(ending, "Reconciling")
    assert "its pods are ending" in of(ending, "Ready")["message"]
    status = conditions.status(asked, seen(pod("gateway", phase="Failed", reason="Evicted")))
    assert status["phase"] == "Suspended"
    assert "no pods run" in of(status, "Ready")["message"]
    assert not of(status, "Reconciling")


def test_scaled_to_zero_is_at_rest_once_its_servers_have_gone() -> None:
    """Nothing is owed to who asked for no server: the reason says so, and nothing is in progress."""
    asked = Asked("team", "qwen", 3, server_replicas=0)
    loading = GatewayStatus("g", {"upstreams": [{"state": "down"}]})
    gateway = pod("gateway", ready=True)
    found = conditions.status(asked, seen(gateway, gateways={"g": loading}))
    assert of(found, "Ready")["reason"] == of(found, "ServerReady")["reason"] == "ScaledToZero"
    assert found["phase"] == "Suspended"
    assert not of(found, "Reconciling")
    assert of(conditions.status(asked, seen(gateway, pod("server"))), "Reconciling")
    assert of(conditions.status(asked, seen()), "Ready")["reason"] == "WaitingForGateway"


def test_a_pod_that_ended_for_good_counts_as_none() -> None:
    """An evicted pod stays until it is collected: another has its place, and is what is told of."""
    evicted = pod("server", phase="Failed", reason="Evicted")
    failing = pod("server", containerStatuses=ended(1))
    found = conditions.status(ASKED, seen(evicted, failing, pod("gateway", ready=True)))
    assert found["replicas"] == 1
    assert found["lastFailure"]["reason"] == "CrashLooping"
    alone = conditions.status(ASKED, seen(evicted, pod("gateway", ready=True)))
    assert alone["lastFailure"]["reason"] == "Evicted"


def test_events_are_owed_only_where_something_turned() -> None:
    """The same status twice owes no Event; a new reason owes one, a Warning only for what went wrong."""
    loading = conditions.status(ASKED, seen(pod("server"), pod("gateway")))
    ready = conditions.status(ASKED, seen(*HEALTHY, before=loading))
    assert [one[1] for one in conditions.transitions(ready, loading)] == ["Ready"]
    assert conditions.transitions(ready, ready) == []


@pytest.mark.parametrize(("now", "reason"), [("2026-01-01T00:00:30Z", "Pending"), ("2026-01-01T00:01:30Z", "CacheUnbindable")])  # fmt: skip
def test_a_claim_is_given_time_to_be_bound(now: str, reason: str) -> None:
    """The scheduler calls a claim unbound at first, also where its volume is just being made; a minute later it is."""
    unbound = {
        **UNSCHEDULABLE,
        "message": "pod has unbound immediate PersistentVolumeClaims",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    found = conditions.status(ASKED, seen(pod("server", conditions=[unbound]), now=now))
    assert ("Stalled" in {one["type"] for one in found["conditions"]}) == (reason != "Pending")
    assert found.get("lastFailure", {}).get("reason", "Pending") == reason


GGUF: dict[str, Any] = {"uri": "hf://owner/repository/file.gguf"}
TAKEN = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def unscheduled(said: str) -> dict[str, Any]:
    told = {**UNSCHEDULABLE, "message": said, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return pod("server", conditions=[told])


def not_mounted(component: str, said: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pod that a node took, and what the kubelet says of it."""
    about = {"kind": "Pod", "name": f"qwen-{component}-0"}
    event = {
        "metadata": {}, "reason": "FailedMount", "note": f'MountVolume.SetUp failed for volume "v" : {said}',
        "regarding": about, "deprecatedLastTimestamp": "2026-01-01T00:01:50Z",
    }  # fmt: skip
    return pod(component, phase="Pending", conditions=[TAKEN]), event


@pytest.mark.parametrize(
    ("spec", "found", "reason", "told"),
    [
        pytest.param(
            {"model": {"uri": "pvc://models/a.gguf"}},
            (unscheduled('0/1 nodes are available: persistentvolumeclaim "models" not found. not found'),),
            "CacheUnbindable",
            "The claim models (spec.model.uri) does not exist; make it and the server starts.",
            id="a claim of theirs",
        ),
        pytest.param(
            {"model": GGUF, "cache": {"claimName": "mine"}},
            (unscheduled("pod has unbound immediate PersistentVolumeClaims. preemption: no."),),
            "CacheUnbindable",
            "The claim mine (spec.cache.claimName) has no volume: pod has unbound immediate PersistentVolumeClaims. "
            "`kubectl describe pvc mine` shows why.",
            id="a claim of theirs without a volume",
        ),
        pytest.param(
            {"model": GGUF},
            (unscheduled("0/1 nodes: 1 node(s) didn't find available persistent volumes to bind."),),
            "CacheUnbindable",
            "The claim qwen-weights has no volume: 0/1 nodes: 1 node(s) didn't find available persistent volumes to bind. "
            "Give the cluster a default storage class; or name one that it has in spec.cache.storageClassName and "
            "delete the claim, which is then made anew.",
            id="our claim",
        ),
        pytest.param(
            {"model": {**GGUF, "credentialsSecretRef": {"name": "hf"}}},
            (pod("server", initContainerStatuses=waiting("CreateContainerConfigError", 'secret "hf" not found')),),
            "CredentialsMissing",
            "The Secret hf (spec.model.credentialsSecretRef) does not exist; make it and the server starts.",
            id="credentials of the weights",
        ),
        pytest.param(
            {"model": {**GGUF, "credentialsSecretRef": {"name": "hf"}}},
            (pod("server", initContainerStatuses=waiting("CreateContainerConfigError", "couldn't find key token in Secret team/hf")),),
            "CredentialsMissing",
            "The Secret hf (spec.model.credentialsSecretRef) has no key token; add it and the server starts.",
            id="credentials without their key",
        ),
        pytest.param(
            {"model": GGUF, "runtime": {"env": [{"name": "A", "secretKeyRef": {"name": "s", "key": "k"}}]}},
            (pod("server", containerStatuses=waiting("CreateContainerConfigError", 'secret "s" not found')),),
            "CredentialsMissing",
            "The Secret s (spec.runtime.env[0].secretKeyRef) does not exist; make it and the server starts.",
            id="a variable",
        ),
        pytest.param(
            {"model": {**GGUF, "caConfigMapRef": {"name": "ca"}}},
            not_mounted("server", 'configmap "ca" not found'),
            "ConfigurationMissing",
            "The ConfigMap ca (spec.model.caConfigMapRef) does not exist; make it and the server starts.",
            id="an authority",
        ),
        pytest.param(
            {"model": GGUF, "gateway": {"keysSecretRef": {"name": "not-there"}}},
            not_mounted("gateway", 'secret "not-there" not found'),
            "CredentialsMissing",
            "The Secret not-there (spec.gateway.keysSecretRef) does not exist; make it and the gateway starts.",
            id="keys of clients",
        ),
        pytest.param(
            {"runtime": {"type": "External", "external": {"url": "http://a", "apiKeySecretRef": {"name": "s", "key": "k"}}}},
            not_mounted("gateway", "references non-existent secret key: k"),
            "CredentialsMissing",
            "The Secret s (spec.runtime.external.apiKeySecretRef) has no key k; add it and the gateway starts.",
            id="a server's key",
        ),
        pytest.param(
            {"model": GGUF},
            not_mounted("gateway", 'secret "qwen-admin" not found'),
            "CredentialsMissing",
            'A volume of qwen-gateway-0 cannot be mounted: MountVolume.SetUp failed for volume "v" : secret "qwen-admin" not found',
            id="what no field names",
        ),
    ],
)  # fmt: skip
def test_what_the_spec_names_and_is_missing_is_told_by_its_field(
    spec: dict[str, Any], found: tuple[dict[str, Any], ...], reason: str, told: str
) -> None:
    """The object, the field that names it and the remedy; Kubernetes' own words where no field does."""
    asked = read({"metadata": {"namespace": "team", "name": "qwen"}, "spec": spec}).asked
    status = conditions.status(asked, seen(found[0], events=found[1:], now="2026-01-01T00:02:00Z"))
    assert status["lastFailure"]["reason"] == of(status, "Ready")["reason"] == reason
    assert of(status, "Ready")["message"] == told


def test_a_claim_that_does_not_exist_is_told_at_once() -> None:
    """Nothing is on its way to it, unlike to a claim that is ours and that the scheduler has not heard of yet."""
    at = "2026-01-01T00:00:00Z"
    for uri, name, reason in (("pvc://models/a.gguf", "models", "CacheUnbindable"), (GGUF["uri"], "qwen-weights", "Pending")):  # fmt: skip
        body = {"metadata": {"namespace": "team", "name": "qwen"}, "spec": {"model": {"uri": uri}}}
        said = unscheduled(f'persistentvolumeclaim "{name}" not found')
        status = conditions.status(read(body).asked, seen(said, now=at))
        assert of(status, "Ready")["reason"] == reason
    body = {"metadata": {"namespace": "team", "name": "qwen"}, "spec": {"model": {"uri": "pvc://models/a.gguf"}}}  # fmt: skip
    unbound = unscheduled("pod has unbound immediate PersistentVolumeClaims")
    status = conditions.status(read(body).asked, seen(unbound, now=at))
    assert of(status, "Ready")["message"] == "No pod of the server has a node yet."


def test_a_server_whose_weights_are_on_their_way_waits_for_them() -> None:
    """It loads nothing before."""
    fetching = [{"name": "fetch-0", "state": {"running": {}}}]
    status = conditions.status(ASKED, seen(pod("server", initContainerStatuses=fetching)))
    assert of(status, "ServerReady")["reason"] == of(status, "Ready")["reason"] == "Fetching"
    assert of(status, "ServerReady")["message"] == "The server waits for its weights."
    fetched = [{"name": "fetch-0", "state": {"terminated": {"exitCode": 0}}}]
    loading = conditions.status(ASKED, seen(pod("server", initContainerStatuses=fetched)))
    told = of(loading, "ServerReady")["message"]
    assert told == "The model is being loaded: 0 of 1 server answers."


@pytest.mark.parametrize(
    ("ready", "whole", "told"),
    [
        (1, 1, "1 of 1 server answers"),
        (0, 2, "none of 2 servers answers yet"),
        (1, 2, "1 of 2 servers answers"),
        (2, 3, "2 of 3 servers answer"),
    ],
)
def test_numbers_agree_with_their_verbs(ready: int, whole: int, told: str) -> None:
    """One answers, several answer."""
    assert answering(ready, whole, "server", "answers", "answer") == told


def test_a_refusal_names_the_object_once_and_ends() -> None:
    """The API server's words without its way of naming the object, and without the call."""
    said = 'Service "m" is invalid: metadata.name: Invalid value: "m"'
    told = 'The API server refused the Service m: metadata.name: Invalid value: "m".'
    assert refusal("Service", "m", said) == refusal("Service", "m", f"{said}.") == told
    assert refusal("Service", "m", "no!") == "The API server refused the Service m: no!"
