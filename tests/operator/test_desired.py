"""Every example becomes children that need no rights, and an operator upgrade touches no model pod of another image."""

import copy
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from penstock.retry import delay_s
from penstock.settings import Settings
from penstock_operator.desired import desired
from penstock_operator.desired.gateway import configuration
from penstock_operator.gateways.rollout import Patience
from penstock_operator.localmodel.crd import crd
from penstock_operator.localmodel.names import APPLIED
from penstock_operator.localmodel.parsing import InvalidSpec, parse
from penstock_operator.seen import Seen

EXAMPLES = sorted((Path(__file__).parents[2] / "charts/penstock/examples").glob("*.yaml"))
SEEN = Seen("2026-01-01T00:00:00Z", "penstock:1", admin_token="t")


def model(spec: dict, name: str = "m"):
    return parse({"metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": spec})


def children(spec: dict, seen: Seen = SEEN) -> dict:
    return {(one["kind"], one["metadata"]["name"]): one for one in desired(model(spec), seen)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_becomes_restricted_pods(path):
    """Every container of every example has no token, no capability, and a root that it cannot write."""
    body = yaml.safe_load(path.read_text())
    made = desired(parse(body), SEEN)
    pods = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    assert len(pods) == (1 if path.stem == "external" else 2)
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_an_operator_upgrade_restarts_no_server_and_rolls_gateways():
    """Another image of the operator leaves a running server as it is, until its spec changes too."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    before = children(spec)
    upgraded = replace(SEEN, operator_image="penstock:2", children=before)
    assert children(spec, upgraded)["Deployment", "m-server"] == before["Deployment", "m-server"]
    assert children(spec, upgraded)["Deployment", "m"] != before["Deployment", "m"]
    changed = children({**spec, "tuning": {"contextLength": 4096}}, upgraded)
    container = changed["Deployment", "m-server"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "penstock:2"


def test_a_release_that_writes_pods_in_another_way_restarts_no_server():
    """What runs stays as it is until something else is asked for; a drift from it is still put right."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    before = children(spec)
    older = copy.deepcopy(before)
    template = older["Deployment", "m-server"]["spec"]["template"]
    template["spec"]["containers"][0]["readinessProbe"]["periodSeconds"] = 7
    template["metadata"]["annotations"]["penstock.dev/template-hash"] = "of another release"
    older["Deployment", "m-server"]["metadata"]["annotations"][APPLIED] = compact(template)
    upgraded = replace(SEEN, operator_image="penstock:2", children=older)
    assert children(spec, upgraded)["Deployment", "m-server"] == older["Deployment", "m-server"]
    for more in ({"tuning": {"contextLength": 4096}}, {"resources": {"limits": {"memory": "1Gi"}}}):
        changed = children({**spec, **more}, upgraded)["Deployment", "m-server"]["spec"]["template"]
        assert changed["spec"]["containers"][0]["readinessProbe"]["periodSeconds"] == 5
    drifted = copy.deepcopy(before)
    container = drifted["Deployment", "m-server"]["spec"]["template"]["spec"]["containers"][0]
    container["readinessProbe"]["periodSeconds"] = 7
    healed = children(spec, replace(SEEN, children=drifted))
    assert healed["Deployment", "m-server"] == before["Deployment", "m-server"]


def compact(template):
    """As it is written down beside what runs."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("release", ["penstock:1", "penstock:2"])
def test_what_others_changed_of_a_running_server_is_put_right(release):
    """An image of `kubectl set image` is not adopted, nor what was injected when a release writes pods anew."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    before = children(spec)["Deployment", "m-server"]
    for written in ("this", "another"):
        wanted = copy.deepcopy(before)
        template = wanted["spec"]["template"]
        if written == "another":
            template["metadata"]["annotations"]["penstock.dev/template-hash"] = "of another release"
            wanted["metadata"]["annotations"][APPLIED] = compact(template)
        drifted = copy.deepcopy(wanted)
        pod = drifted["spec"]["template"]["spec"]
        pod["containers"][0]["image"] = "other:1"
        pod["containers"].append({"name": "injected"})
        seen = replace(SEEN, operator_image=release, children={("Deployment", "m-server"): drifted})
        assert children(spec, seen)["Deployment", "m-server"] == wanted


def test_another_gateway_image_restarts_no_server():
    """The fetcher of the weights is of that image too, and has done its work."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    before = children(spec)
    changed = children({**spec, "gateway": {"image": "mine:1"}}, replace(SEEN, children=before))
    assert changed["Deployment", "m-server"] == before["Deployment", "m-server"]
    assert changed["Deployment", "m"] != before["Deployment", "m"]


def test_a_hostile_name_is_a_value_and_never_part_of_a_script():
    """Shell code in a URI reaches the shell as the value of a variable only."""
    made = children({"model": {"uri": 'ollama://x"; rm -rf /; "'}})
    pull = made["Deployment", "m-server"]["spec"]["template"]["spec"]["initContainers"][0]
    assert "rm -rf" not in " ".join(pull["command"])


def test_a_pull_ends_when_its_ollama_has_ended(tmp_path):
    """The kubelet then starts it again and its last words are told; it does not wait for ever."""
    made = children({"model": {"uri": "ollama://a"}})
    pull = made["Deployment", "m-server"]["spec"]["template"]["spec"]["initContainers"][0]
    assert pull["terminationMessagePolicy"] == "FallbackToLogsOnError"
    fake = tmp_path / "ollama"
    fake.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert (
        subprocess.run(pull["command"], check=False, env={"PATH": path}, timeout=20).returncode == 1
    )


@pytest.mark.parametrize(
    ("spec", "strategy"),
    [
        pytest.param({"uri": "hf://a/b/b.gguf"}, "Recreate", id="the only volume"),
        pytest.param({"uri": "oci://a/b", "files": ["b.gguf"]}, "RollingUpdate", id="an image"),
    ],
)
def test_a_server_that_shares_nothing_is_replaced_one_by_one(spec, strategy):
    """An image is on each node by itself; a volume for one node is not."""
    made = children({"model": spec})["Deployment", "m-server"]
    assert made["spec"]["strategy"] == {"type": strategy}


def test_replicas_of_gateways_are_left_to_an_autoscaler():
    """Where the spec names no number of gateways, none is applied."""
    assert (
        "replicas" not in children({"model": {"uri": "hf://a/b/b.gguf"}})["Deployment", "m"]["spec"]
    )


def test_settings_reach_the_gateway_in_its_own_words():
    """camelCase in the cluster is snake_case in the gateway's file."""
    spec = {
        "model": {"uri": "hf://a/b/b.gguf"},
        "gateway": {"settings": {"timeouts": {"stallS": 60}}},
    }
    assert configuration(model(spec))["timeouts"] == {
        "stall_s": 60, "drain_s": 300, "hold_s": 900,
    }  # fmt: skip


def gateway_file(made):
    """The gateway's file in its ConfigMap."""
    return json.loads(made["ConfigMap", "m-gateway"]["data"]["penstock.yaml"])


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"model": {"uri": "hf://a/b/b.gguf"}}, id="ours"),
        pytest.param({"runtime": {"type": "External", "external": {"url": "http://a:1"}}}, id="theirs"),
    ],
)  # fmt: skip
def test_gateways_of_an_autoscaler_know_how_many_they_are(spec):
    """Each takes its share of the slots and chooses none, and a drained node takes one at a time."""
    alone = children(spec)
    assert gateway_file(alone)["upstreams"][0]["gateway_replicas"] == 1
    assert ("PodDisruptionBudget", "m") not in alone
    scaled = copy.deepcopy(alone)
    scaled["Deployment", "m"]["spec"]["replicas"] = 3
    made = children(spec, replace(SEEN, children=scaled))
    upstream = gateway_file(made)["upstreams"][0]
    assert upstream["gateway_replicas"] == 3
    assert not upstream.get("exclusive")
    assert ("PodDisruptionBudget", "m") in made
    assert "replicas" not in made["Deployment", "m"]["spec"]


def test_a_held_request_outlasts_a_rollout():
    """It may wait for the last answers of the old server and for the new one; a person's own number wins."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}, "rollout": {"idleTimeoutSeconds": 3600}}
    assert configuration(model(spec))["timeouts"]["hold_s"] == 3600 + Patience().hold_s
    mine = {**spec, "gateway": {"settings": {"timeouts": {"holdS": 50}}}}
    assert configuration(model(mine))["timeouts"]["hold_s"] == 50


def test_a_request_outlasts_a_killed_server():
    """What met no server asks again while Kubernetes brings one back; a person's own number wins, the rest is kept."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    local = configuration(model(spec))["retry"]["local"]
    policy = Settings.model_validate({"retry": {"local": local}}).retry.local
    waits_s = sum(delay_s(attempt, 0.5, policy) for attempt in range(1, policy.attempts))
    assert waits_s > 45.0
    said = {"retry": {"local": {"firstDelayS": 2.0}}}
    retry = configuration(model({**spec, "gateway": {"settings": said}}))["retry"]
    assert retry["local"] == {"attempts": policy.attempts, "first_delay_s": 2.0}
    mine = {"retry": {"local": {"attempts": 2}}}
    retry = configuration(model({**spec, "gateway": {"settings": mine}}))["retry"]
    assert retry["local"]["attempts"] == 2
    external = {"runtime": {"type": "External", "external": {"url": "http://a:1"}}}
    assert "retry" not in configuration(model(external))


def test_gateways_run_where_they_are_told_to_and_on_several_nodes():
    """They are spread softly, and taints and nodes are chosen as for servers."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    pod = children(spec)["Deployment", "m"]["spec"]["template"]["spec"]
    assert pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"
    asked = {"tolerations": [{"key": "gpu"}], "topologySpreadConstraints": [{"maxSkew": 2}]}
    made = children({**spec, "gateway": {"scheduling": asked}})
    pod = made["Deployment", "m"]["spec"]["template"]["spec"]
    assert {name: pod[name] for name in asked} == asked


def test_a_gateway_is_given_the_time_that_its_answers_have():
    """The kubelet waits longer than the gateway lets its answers run, whoever set that."""
    spec = {"model": {"uri": "hf://a/b/b.gguf"}}
    for more, drain_s in (
        ({}, 300),
        ({"rollout": {"idleTimeoutSeconds": 20}}, 20),
        ({"gateway": {"settings": {"timeouts": {"drainS": 1000}}}}, 1000),
    ):
        pod = children({**spec, **more})["Deployment", "m"]["spec"]["template"]["spec"]
        assert configuration(model({**spec, **more}))["timeouts"]["drain_s"] == drain_s
        assert pod["terminationGracePeriodSeconds"] == drain_s + 30
        assert "lifecycle" not in pod["containers"][0]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        pytest.param({"model": {"uri": "s3://a"}}, "spec.model.uri", id="unknown scheme"),
        pytest.param({"model": {"uri": "ollama://a"}, "tuning": {"gpuLayers": 3}}, "gpuLayers", id="a switch the engine lacks"),
        pytest.param({}, "spec.model.uri", id="nothing to serve"),
        pytest.param({"model": {"uri": "hf://a/b/b.gguf"}, "resources": {"limits": {"memory": "plenty"}}}, r"^spec\.resources\.limits\.memory: this is no quantity", id="no quantity"),
        pytest.param({"model": {"uri": "hf://a/b/b.gguf"}, "cache": {"size": "big"}}, r"^spec\.cache\.size: this is no quantity", id="no size"),
        pytest.param({"model": {"uri": "hf://a/b"}}, "Auto cannot tell", id="no engine"),
        pytest.param({"model": {"uri": "hf://a/b/b.gguf"}, "gateway": {"settings": {"limits": {"window": 1}}}}, "the operator decides", id="window"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_be_used_says_where_and_why(spec, told):
    """The operator's own reading names the field and what is wrong with it."""
    with pytest.raises(InvalidSpec, match=told):
        model(spec)


def test_an_engine_that_fetches_itself_finds_the_certificate_authority():
    """vLLM gets the certificates as a file and the variable that leads to it."""
    asked = {"uri": "hf://a/b", "caConfigMapRef": {"name": "ca"}}
    made = children({"model": asked, "accelerator": {"type": "NVIDIA"}})
    server = made["Deployment", "m-server"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/penstock/ca/ca.crt"} in server["env"]
    assert "/etc/penstock/ca" in [one["mountPath"] for one in server["volumeMounts"]]


def test_the_definition_is_structural():
    """Nothing in it that a structural schema may not have."""
    text = yaml.safe_dump(crd())
    assert "$ref" not in text
    assert "anyOf" not in text
