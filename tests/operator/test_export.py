"""`penstock export`: a gateway before a real llama.cpp becomes a LocalModel that makes the same gateway again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import parts
from gateways import RunningGateway
from penstock.settings import Settings
from penstock_operator.desired.gateway import configuration
from penstock_operator.export.command import export
from penstock_operator.export.exporting import NotExported, exported
from penstock_operator.localmodel.parsing import parse
from penstock_operator.localmodel.policy import GROUPS

URI = "hf://owner/repository/tiny.gguf"
SETTINGS: dict[str, Any] = {
    "timeouts": {"stall_s": 61.0},
    "concurrency": {"queue_deadline_s": 77.0},
    "sampling": {"temperature": 0.25, "top_k": 9},
    "loop_guard": {"enabled": False},
    "log": {"level": "debug"},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway of a desktop: settings of its own, before llama.cpp with two slots of 1,024 tokens."""
    with parts.start_llamacpp(ctx_size=2048, parallel=2) as server:
        upstreams = [{"name": "desk", "url": server.url, "local": True}]
        folder = tmp_path_factory.mktemp("gateway")
        with RunningGateway(folder, {**SETTINGS, "upstreams": upstreams}) as running:
            running.chat("hello", max_tokens=1)
            yield running


def test_the_round_trip_keeps_settings_and_what_the_server_runs_with(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed is a LocalModel that is accepted, and the gateway made of it has the policy of the desktop's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", gateway.env["XDG_RUNTIME_DIR"])
    done = CliRunner().invoke(export, ["--model-uri", URI, "--name", "desk"], catch_exceptions=False)  # fmt: skip
    body = yaml.safe_load(done.stdout)
    with pytest.raises(NotExported, match=r"spec\.model\.uri: weights are at hf://"):
        CliRunner().invoke(export, ["--model-uri", "foo"], catch_exceptions=False)
    assert body["spec"]["tuning"] == {"contextLength": 1024, "parallelRequests": 2}
    assert body["spec"]["runtime"] == {"type": "LlamaCpp"}
    assert body["spec"]["model"]["uri"] == URI

    body["metadata"] |= {"namespace": "n", "uid": "u"}
    made = configuration(parse(body))
    here = Settings.model_validate(gateway.http.get("/penstock/settings").json()["settings"])
    there = Settings.model_validate({name: made[name] for name in GROUPS if name in made})
    for name in GROUPS:
        theirs, ours = (getattr(one, name) for one in (there, here))
        if name == "timeouts":  # how long a pod drains and requests are held is `spec.rollout`'s
            theirs = theirs.model_copy(update={"drain_s": ours.drain_s, "hold_s": ours.hold_s})
        if name == "retry":  # in a cluster a server that was killed comes back
            theirs = theirs.model_copy(update={"local": ours.local})
        if name == "log":  # a pod has no log file
            theirs = theirs.model_copy(update={"file": ours.file})
        assert theirs == ours, name
    assert there.timeouts.stall_s == 61.0
    assert json.loads(there.model_dump_json())["sampling"] == SETTINGS["sampling"]


@pytest.mark.parametrize(
    ("upstreams", "told"),
    [
        ([], "no such local upstream"),
        ([{"name": "a", "state": "unreachable"}], "does not answer"),
        ([{"name": "a", "state": "ok"}, {"name": "b", "state": "ok"}], "--upstream"),
        ([{"name": "a", "state": "ok", "kind": "llamacpp", "models": [{"id": "m"}]}], "--model-uri"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(upstreams: list[dict[str, Any]], told: str) -> None:
    """Nothing is guessed that a cluster could not use."""
    with pytest.raises(NotExported, match=told):
        exported({"upstreams": upstreams}, {})


def test_a_model_of_ollama_is_found_by_its_tag() -> None:
    """Ollama's own name is an address for a cluster; the name is made one that Kubernetes takes."""
    model = {"id": "Qwen2.5:7b", "context_window": 4096, "window_source": "name", "loaded": True}
    upstream = {"name": "o", "state": "ok", "kind": "ollama", "models": [model]}
    found = exported({"upstreams": [upstream]}, {"environment": {"LOCAL_MODEL_TOKEN_LIMIT": 9}})
    assert found.manifest["metadata"] == {"name": "qwen2-5-7b"}
    assert found.manifest["spec"]["model"] == {"uri": "ollama://Qwen2.5:7b", "name": "Qwen2.5:7b"}
    assert "tuning" not in found.manifest["spec"]
    assert len(found.notes) == 2
