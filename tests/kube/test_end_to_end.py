"""
From `helm install` to a token, on a real node: the image, the chart, the operator, weights fetched, a real llama.cpp,
two gateways before two servers, a crash, and away again. In the order of the file, on one cluster.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import kube_cluster
import kube_images
import kube_parts
import kube_release
import parts
from traffic import Traffic

pytestmark = [pytest.mark.real, pytest.mark.slow]
WITHIN_S = 180.0
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[kube_cluster.Cluster]:
    """A node with Penstock installed by its chart."""
    kube_cluster.prepare()
    kube_release.prepare()
    with kube_cluster.Cluster() as cluster:
        # `helm test` asks the model of the namespace `test-1`, which the fixture below makes.
        kube_release.install(
            cluster, "--set", "test.model=smallest", "--set", "test.namespace=test-1"
        )
        kube_release.shelve(cluster, tiny=parts.model("tiny"))
        cluster.volumes(4)
        yield cluster


@pytest.fixture(scope="module")
def namespace(cluster: kube_cluster.Cluster) -> str:
    """With a model of one server, and one of two servers and two gateways; only restricted pods may run in it."""
    name = cluster.namespace(**_RESTRICTED)
    cluster.apply(kube_release.local_model(name, "smallest"))
    cluster.apply(
        kube_release.local_model(
            name, "pair", replicas=2, gateway={"replicas": 2}, cache={"accessModes": ["ReadWriteMany"]}
        )
    )  # fmt: skip
    return name


def wait_ready(cluster: kube_cluster.Cluster, namespace: str, name: str) -> None:
    """As people wait; at a failure with what the LocalModel and its pods say."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            cluster.kubectl("wait", f"lm/{name}", "-n", namespace, "--for=condition=Ready", "--timeout=60s")  # fmt: skip
            return
        except kube_parts.Refused as exc:
            if time.monotonic() > deadline:
                said = cluster.kubectl("describe", "lm,pods", "-n", namespace)
                raise AssertionError(f"{exc}\n{said}") from exc


def client(cluster: kube_cluster.Cluster, namespace: str, name: str) -> openai.OpenAI:
    """The SDK, towards the Service of the model."""
    url = cluster.address(namespace, name)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60.0, max_retries=0)


def until(true: Callable[[], Any], what: str) -> None:
    """Poll until it is true."""
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def test_five_lines_become_a_model_that_answers(
    cluster: kube_cluster.Cluster, namespace: str
) -> None:
    """Weights are fetched, checked and served; `kubectl wait` ends, and the SDK gets a token through the Service."""
    wait_ready(cluster, namespace, "smallest")
    with client(cluster, namespace, "smallest") as sdk:
        answer = sdk.chat.completions.create(
            model="smallest", messages=[{"role": "user", "content": "Hello"}], max_tokens=1
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    pod = cluster.pods(namespace, "penstock.dev/model=smallest,app.kubernetes.io/component=server")[0]  # fmt: skip
    assert "SHA-256" in cluster.logs(namespace, pod["metadata"]["name"], "-c", "fetch-0")


def test_what_kubectl_shows_of_it(cluster: kube_cluster.Cluster, namespace: str) -> None:
    """The list has the name that clients use, runtime, readiness and servers; what happened is in the Events."""
    wait_ready(cluster, namespace, "smallest")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = cluster.get("lm", "smallest", "-n", namespace)["status"]
        return found

    # Read back from the engine, through the gateway, as soon as that can be asked.
    until(
        lambda: status().get("tuning", {}).get("sources", {}).get("contextLength"),
        "nothing was read back",
    )
    tuning = status()["tuning"]
    assert tuning["contextLength"] == 8192
    assert tuning["sources"]["contextLength"] == {"source": "Engine", "limitedBy": "Trained"}
    assert status()["weights"]["header"]["architecture"] == "llama"
    assert "lastFailure" not in status()
    head, row = cluster.kubectl("get", "lm", "smallest", "-n", namespace).splitlines()
    columns = ["NAME", "MODEL", "RUNTIME", "READY", "REASON", "SERVERS", "CONTEXT", "AGE"]
    assert head.split() == columns
    assert row.split()[:-1] == ["smallest", "smallest", "LlamaCpp", "True", "Ready", "1", "8192"]
    told = cluster.get("events", "-n", namespace, "--field-selector=involvedObject.kind=LocalModel,involvedObject.name=smallest")["items"]  # fmt: skip
    told.sort(key=lambda one: one["eventTime"] or one["lastTimestamp"])
    # On a busy node a probe may fail later on; what is told on the way to the first answer comes in its order.
    reasons = [one["reason"] for one in told]
    way = ["Pending", "Fetching", "Loading", "WaitingForGateway", "Ready"]
    first = list(dict.fromkeys(reasons))
    assert first == [one for one in way if one in first], reasons
    assert {"Pending", "Ready"} <= set(first), reasons
    assert {one["type"] for one in told} == {"Normal"}, told


def test_the_image_holds_no_tools(cluster: kube_cluster.Cluster, namespace: str) -> None:
    """A gateway runs as nobody in particular, in an image that can neither build nor install."""
    wait_ready(cluster, namespace, "smallest")
    question = "id -u; command -v pip pip3 gcc cc make strip; touch /opt/penstock/here 2>&1 || true"
    said = cluster.kubectl("exec", "deploy/smallest", "-n", namespace, "--", "sh", "-c", question)
    user, *rest = said.split("\n", 1)
    assert user == "65532"
    assert "Read-only file system" in rest[0] or "Permission denied" in rest[0]
    assert "/bin/" not in rest[0], rest[0]


def test_helm_test_gets_a_token(cluster: kube_cluster.Cluster, namespace: str) -> None:
    """What the chart's notes promise: `helm test` asks the model that the values name."""
    wait_ready(cluster, namespace, "smallest")
    said = kube_release.helm(cluster, "test", kube_release.RELEASE, "-n", kube_release.NAMESPACE, "--timeout", "90s")  # fmt: skip
    assert "Succeeded" in said


def test_a_killed_server_ends_no_stream_in_silence(
    cluster: kube_cluster.Cluster, namespace: str
) -> None:
    """A stream whose server is killed goes on when that is back, or ends with an error; then the model answers again."""
    wait_ready(cluster, namespace, "smallest")
    labels = "penstock.dev/model=smallest,app.kubernetes.io/component=server"
    ended = ""
    with client(cluster, namespace, "smallest") as sdk:
        stream = sdk.chat.completions.create(
            model="smallest", messages=[{"role": "user", "content": "Talk"}], max_tokens=6000, stream=True,
            temperature=0, extra_body={"ignore_eos": True, "grammar": "root ::= [a-z ]+"},
        )  # fmt: skip
        try:
            for place, chunk in enumerate(stream):
                if place == 20:
                    cluster.kill_container(cluster.pods(namespace, labels)[0])
                if chunk.choices and chunk.choices[0].finish_reason:
                    ended = chunk.choices[0].finish_reason
        except openai.APIError as exc:
            ended = str(exc)
        assert ended, "the stream ended without a reason and without an error"
        until(lambda: _restarts(cluster, namespace, labels), "the server was not started again")
        wait_ready(cluster, namespace, "smallest")
        answer = sdk.chat.completions.create(
            model="smallest", messages=[{"role": "user", "content": "Again"}], max_tokens=2
        )
    assert answer.choices


def _restarts(cluster: kube_cluster.Cluster, namespace: str, labels: str) -> bool:
    pods = cluster.pods(namespace, labels)
    return any(
        one["ready"] and one["restartCount"]
        for pod in pods
        for one in pod["status"].get("containerStatuses", ())
    )


def test_two_gateways_share_two_servers(cluster: kube_cluster.Cluster, namespace: str) -> None:
    """Each gateway knows both servers one by one; requests through the Service reach both."""
    wait_ready(cluster, namespace, "pair")
    pods = cluster.pods(namespace, "penstock.dev/model=pair,app.kubernetes.io/component=server")
    addresses = {pod["status"]["podIP"] for pod in pods}
    assert len(addresses) == 2
    used: dict[str, set[str]] = {}

    def both() -> bool:
        # A connection of its own each, so that kube-proxy chooses again.
        with client(cluster, namespace, "pair") as sdk:
            sdk.chat.completions.create(
                model="pair", messages=[{"role": "user", "content": str(time.monotonic())}], max_tokens=1
            )  # fmt: skip
        for pod in cluster.pods(
            namespace, "penstock.dev/model=pair,app.kubernetes.io/component=gateway"
        ):
            said = cluster.logs(namespace, pod["metadata"]["name"])
            used[pod["metadata"]["name"]] = set(
                re.findall(r"upstream=server/(\S+) status=200", said)
            )
        return len(used) == 2 and all(used.values()) and set().union(*used.values()) == addresses

    until(both, f"used {used} of {addresses}")


def test_killed_for_memory_it_serves_smaller_and_says_so(
    cluster: kube_cluster.Cluster, namespace: str
) -> None:
    """A limit that the kernel enforces: the server is killed, made smaller, answers, and the status says what to do."""
    asked = {"contextLength": 8192, "parallelRequests": 32}
    limits = {"limits": {"memory": "128Mi"}}
    cluster.apply(kube_release.local_model(namespace, "tight", tuning=asked, resources=limits))

    def killed() -> bool:
        told = cluster.get("lm", "tight", "-n", namespace).get("status", {})
        return "stepDown" in told.get("tuning", {})

    until(killed, "the server was not killed for memory")
    wait_ready(cluster, namespace, "tight")
    status = cluster.get("lm", "tight", "-n", namespace)["status"]
    assert status["tuning"]["stepDown"]["steps"] >= 1
    assert "lastFailure" not in status
    small = next(one for one in status["conditions"] if one["type"] == "FitsMemory")
    assert (small["status"], small["reason"]) == ("False", "SteppedDown")
    assert "in place of 8192 for 32" in small["message"]
    assert "Raise spec.resources.limits.memory" in small["message"]
    told = cluster.get("events", "-n", namespace)["items"]
    assert "SteppedDown" in [one["reason"] for one in told if one["involvedObject"]["name"] == "tight"]  # fmt: skip
    with client(cluster, namespace, "tight") as sdk:
        answer = sdk.chat.completions.create(
            model="tight", messages=[{"role": "user", "content": "Hello"}], max_tokens=1
        )
    assert answer.choices
    cluster.kubectl("delete", "lm", "tight", "-n", namespace)


def test_an_upgrade_by_helm_is_not_noticed(cluster: kube_cluster.Cluster, namespace: str) -> None:
    """`helm upgrade` to another image under traffic: no request fails, servers stay, operators and gateways are replaced."""
    wait_ready(cluster, namespace, "pair")
    image, _, _ = kube_images.PENSTOCK.rpartition(":")
    cluster.ctr("-n", "k8s.io", "images", "tag", kube_images.PENSTOCK, f"{image}:next")

    def pods(component: str, space: str = namespace) -> dict[str, Any]:
        """By uid, those on their way out among them."""
        chosen = ("-l", f"app.kubernetes.io/component={component}") if component else ()
        found = cluster.get("pods", "-n", space, *chosen)["items"]
        return {one["metadata"]["uid"]: one for one in found if one["status"]["phase"] == "Running"}

    def replaced(old: dict[str, Any], now: dict[str, Any]) -> bool:
        images = {one["spec"]["containers"][0]["image"] for one in now.values()}
        ready = all(_is_ready(one) for one in now.values())
        return (
            ready and len(now) == len(old) and not old.keys() & now and images == {f"{image}:next"}
        )

    def seen() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return pods("server"), pods("gateway"), pods("", kube_release.NAMESPACE)

    until(
        lambda: [len(one) for one in seen()] == [3, 3, 2],
        "the end of what tests before left on its way out",
    )
    servers, gateways, operators = seen()
    url = cluster.address(namespace, "pair")
    with Traffic(f"{url}/v1", "pair", streams_per_s=0.5, stream_tokens=24, most=4) as traffic:
        kube_release.helm(
            cluster, "upgrade", kube_release.RELEASE, str(kube_release.CHART), "-n", kube_release.NAMESPACE,
            "--reuse-values", "--set", "image.tag=next", "--wait", "--timeout", "90s",
        )  # fmt: skip
        until(lambda: replaced(operators, pods("", kube_release.NAMESPACE)), "the operators")
        until(lambda: replaced(gateways, pods("gateway")), "the gateways of the next release")
        traffic.phase = "after"
        until(lambda: len(traffic.report.of("after").outcomes) >= 3, "traffic afterwards")
        report = traffic.stop()
    assert report.failed == [], str(report)
    assert len(report.of("before").outcomes) >= 10, "there was traffic all the time"
    after = pods("server")
    assert _starts(after) == _starts(servers), "no server was restarted"


def _is_ready(pod: dict[str, Any]) -> bool:
    told = pod["status"].get("conditions", ())
    return any((one["type"], one["status"]) == ("Ready", "True") for one in told)


def _starts(pods: dict[str, Any]) -> dict[str, int]:
    """How often the containers of each pod were started again."""
    return {
        uid: sum(one["restartCount"] for one in pod["status"]["containerStatuses"])
        for uid, pod in pods.items()
    }


def test_uninstalled_cleanly_with_models_left(
    cluster: kube_cluster.Cluster, namespace: str
) -> None:
    """`helm uninstall` takes the operator and leaves models that serve; without it they can be deleted all the same."""
    wait_ready(cluster, namespace, "smallest")
    kube_release.helm(
        cluster, "uninstall", kube_release.RELEASE, "-n", kube_release.NAMESPACE, "--wait", "--timeout", "90s"
    )  # fmt: skip
    until(
        lambda: not cluster.get("pods", "-n", kube_release.NAMESPACE)["items"], "the operator stays"
    )
    with client(cluster, namespace, "smallest") as sdk:
        assert sdk.chat.completions.create(
            model="smallest", messages=[{"role": "user", "content": "Still there?"}], max_tokens=1
        ).choices
    left = cluster.get("lm", "-n", namespace)["items"]
    assert len(left) == 2, "the definition is kept, and so are LocalModels"
    assert not any(one["metadata"].get("finalizers") for one in left)
    cluster.kubectl("delete", "lm", "--all", "-n", namespace, "--timeout=60s")
    cluster.kubectl("delete", "namespace", namespace, "--timeout=85s")
    held = [json.dumps(one["metadata"]) for one in cluster.get("pods", "-n", namespace)["items"]]
    assert not held
