"""How a server is sized: by the header that its fetcher tells, smaller when it is killed for memory, anew when asked."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import parts
from penstock.adapters.model_file import model_facts
from penstock_operator.desired import desired
from penstock_operator.localmodel.parsing import parse
from penstock_operator.reading import read
from penstock_operator.seen import GatewayStatus, Manifest, Seen
from penstock_operator.status import conditions

SEEN = Seen("2026-01-01T00:00:00Z", "penstock:1", admin_token="t")
SPEC: dict[str, Any] = {
    "model": {"uri": "hf://a/b/c.gguf"},
    "tuning": {"parallelRequests": 2},
    "resources": {"limits": {"memory": "1Gi"}},
}


def body(spec: dict[str, Any]) -> Manifest:
    return {"metadata": {"name": "m", "namespace": "n", "uid": "u", "generation": 1}, "spec": spec}


def deployment(spec: dict[str, Any], seen: Seen) -> Manifest:
    made = desired(parse(body(spec)), seen)
    return next(one for one in made if one["metadata"]["name"] == "m-server")


def command(made: Manifest) -> list[str]:
    container = made["spec"]["template"]["spec"]["containers"][0]
    return list(container.get("command") or container["args"])


def steps(made: Manifest) -> int:
    """How often the server of that Deployment is told to be smaller."""
    words = command(made)
    assert "--fit" in words
    return int(words[words.index("--steps-down") + 1]) if "--steps-down" in words else 0


def status(spec: dict[str, Any], seen: Seen) -> dict[str, Any]:
    return conditions.status(read(body(spec)).asked, seen)


def of(value: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in value["conditions"] if one["type"] == kind), {})


def server_pod(
    made: Manifest, *, killed_at: str = "", ready: bool = False, told: str = ""
) -> Manifest:
    """A pod of that Deployment, as the kubelet would tell of it."""
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": killed_at}}
    container = {"name": "server", "restartCount": 1, "lastState": ended if killed_at else {}}
    fetched = {"name": "fetch-0", "state": {"terminated": {"exitCode": 0, "message": told}}}
    return {
        "metadata": {
            "name": "m-server-0",
            "labels": {"app.kubernetes.io/component": "server"},
            "annotations": made["spec"]["template"]["metadata"]["annotations"],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [container],
            "initContainerStatuses": [fetched] if told else [],
        },
    }


def around(made: Manifest, *pods: Manifest, **more: Any) -> Seen:
    return replace(SEEN, children={("Deployment", "m-server"): made}, pods=pods, **more)


def test_killed_for_memory_it_steps_down_says_so_and_begins_anew_when_the_spec_changes() -> None:
    """Each kill of the present size is one step, counted once, kept in either place, until something else is asked."""
    first = deployment(SPEC, SEEN)
    assert steps(first) == 0
    killed = around(first, server_pod(first, killed_at="2026-01-01T00:00:01Z"))
    second = deployment(SPEC, killed)
    assert steps(second) == 1
    told = status(SPEC, killed)
    assert told["tuning"]["stepDown"]["steps"] == 1
    assert told["lastFailure"]["reason"] == "OOMKilled"
    assert of(told, "FitsMemory")["reason"] == "SteppedDown"
    assert "limits.memory" in of(told, "FitsMemory")["message"]
    assert ("Warning", "SteppedDown") in [one[:2] for one in conditions.transitions(told, {})]

    # The old pod is still there while the new one starts: no further step, from either memory.
    for seen in (
        around(second, *killed.pods),
        around(first, *killed.pods, before=told),
        around(second, server_pod(second), before=told),
        replace(SEEN, before=told),
    ):
        assert steps(deployment(SPEC, seen)) == 1
    again = around(second, server_pod(second, killed_at="2026-01-01T00:01:00Z"), before=told)
    assert steps(deployment(SPEC, again)) == 2

    healed = status(SPEC, around(second, server_pod(second, ready=True), before=told))
    assert "lastFailure" not in healed
    assert of(healed, "ServerReady")["status"] == "True"
    assert of(healed, "FitsMemory")["reason"] == "SteppedDown"

    more = {**SPEC, "resources": {"limits": {"memory": "2Gi"}}}
    anew = around(second, server_pod(second, ready=True), before=healed)
    assert steps(deployment(more, anew)) == 0
    assert not of(status(more, anew), "FitsMemory")


def test_only_the_servers_own_kills_make_it_smaller() -> None:
    """What was injected beside it has a limit of its own, which a smaller model would not raise."""
    made = deployment(SPEC, SEEN)
    pod = server_pod(made, killed_at="2026-01-01T00:00:01Z")
    pod["status"]["containerStatuses"][0]["name"] = "istio-proxy"
    assert steps(deployment(SPEC, around(made, pod))) == 0


def test_the_header_of_other_weights_sizes_nothing() -> None:
    """While the pod of the old weights is still there, its header is not taken for that of the new ones."""
    spec = {"model": {"uri": "hf://a/b/c.gguf"}}
    facts = model_facts(parts.model("slow"))
    assert facts is not None
    told = json.dumps({"reason": "Fetched", "size": facts.weights_bytes, "facts": facts.to_dict()})
    made = deployment(spec, SEEN)
    seen = around(made, server_pod(made, ready=True, told=told))
    assert status(spec, seen)["weights"]["uri"] == "hf://a/b/c.gguf"
    other = {"model": {"uri": "hf://a/b/d.gguf"}}
    assert "weights" not in status(other, seen)
    container = deployment(other, seen)["spec"]["template"]["spec"]["containers"][0]
    assert "requests" not in container["resources"]


def test_numbers_by_hand_step_down_too_until_nothing_is_left() -> None:
    """An engine that is told its numbers is told smaller ones; at the least it stalls and says what to do."""
    spec = {
        **SPEC,
        "accelerator": {"type": "NVIDIA"},
        "tuning": {"parallelRequests": 2, "contextLength": 1024},
    }
    seen, sizes = SEEN, []
    for minute in range(4):
        made = deployment(spec, seen)
        words = command(made)
        sizes.append((words[words.index("--ctx-size") + 1], words[words.index("--parallel") + 1]))
        pod = server_pod(made, killed_at=f"2026-01-01T00:{minute:02}:00Z")
        seen = around(made, pod, before=status(spec, seen))
    assert sizes == [("2048", "2"), ("1024", "1"), ("512", "1"), ("512", "1")]
    told = status(spec, seen)
    assert of(told, "FitsMemory")["reason"] == "TooLittleMemory"
    assert of(told, "Stalled")["status"] == "True"


def test_the_header_sizes_the_next_pod_and_restarts_none() -> None:
    """What the fetcher read is kept; a pod that is made anew asks for that memory, one that runs is left."""
    spec = {"model": {"uri": "hf://a/b/c.gguf"}}
    facts = model_facts(parts.model("slow"))
    assert facts is not None
    told = json.dumps({"reason": "Fetched", "size": facts.weights_bytes, "facts": facts.to_dict()})
    first = deployment(spec, SEEN)
    assert "requests" not in first["spec"]["template"]["spec"]["containers"][0]["resources"]
    seen = around(first, server_pod(first, ready=True, told=told))
    assert deployment(spec, seen)["spec"]["template"] == first["spec"]["template"]
    # Known or not, nothing of what others wrote into the running pod is taken for ours.
    drifted = copy.deepcopy(first)
    drifted["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    assert deployment(spec, around(drifted, *seen.pods)) == first
    known = status(spec, seen)
    assert known["weights"]["uri"] == "hf://a/b/c.gguf"
    assert known["tuning"]["memory"].endswith("Mi")
    assert known["tuning"]["sources"]["memory"]["source"] == "Header"

    kept = replace(SEEN, before=known)  # the pod has gone
    made = deployment(spec, kept)["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert made["requests"]["memory"] == known["tuning"]["memory"]
    other = {"model": {"uri": "hf://a/b/d.gguf"}}
    made = deployment(other, kept)["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert "requests" not in made


def test_speed_is_measured_and_a_model_beside_its_gpu_is_said() -> None:
    """Tokens a second of good streams, and a condition when an engine holds the model in the machine's memory."""
    spec = {"model": {"uri": "ollama://a:1"}, "accelerator": {"type": "NVIDIA"}}
    stream = {"outcome": "ok", "stream": True, "completion_tokens": 101, "ttft_s": 0.5, "duration_s": 2.5}  # fmt: skip
    short = {**stream, "completion_tokens": 2, "duration_s": 0.501}
    gateway = GatewayStatus(
        "g",
        {
            "upstreams": [
                {
                    "state": "ok",
                    "health": {"ttft_ms": 120.4},
                    "models": [{"id": "a", "context_window": 4096, "host_memory_bytes": 2 * 2**30}],
                }
            ],
            "requests": {"recent": [stream, short]},
        },
    )
    value = status(spec, replace(SEEN, gateways={"g": gateway}))
    assert value["performance"]["tokensPerSecond"] == 50.0
    assert value["performance"]["timeToFirstTokenMs"] == 120
    assert of(value, "FitsMemory")["reason"] == "PartlyOnCPU"
    assert "2048Mi" in of(value, "FitsMemory")["message"]
