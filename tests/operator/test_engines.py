"""What a pod tells its engine, tried on the real one where there is one: switches, variables, and the probe of the start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

import parts
from penstock.cli.main import penstock
from penstock_operator.desired import desired
from penstock_operator.localmodel.parsing import parse
from penstock_operator.seen import Seen

SEEN = Seen("2026-01-01T00:00:00Z", "penstock:1", admin_token="t")


def pod(spec: dict[str, Any]) -> dict[str, Any]:
    """Of the server."""
    model = parse({"metadata": {"name": "m", "namespace": "n", "uid": "u"}, "spec": spec})
    made = {one["metadata"]["name"]: one for one in desired(model, SEEN) if one["kind"] == "Deployment"}  # fmt: skip
    found: dict[str, Any] = made["m-server"]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    "tuning", [{}, {"contextLength": 4096, "parallelRequests": 4}], ids=["by default", "by hand"]
)
def test_our_own_commands_know_their_switches(tuning: dict[str, Any]) -> None:
    """The server and the fetcher of our image are started with switches that they have."""
    digest = {"uri": "hf://a/b/c.gguf", "sha256": "0" * 64, "caConfigMapRef": {"name": "ca"}}
    made = pod({"model": digest, "tuning": tuning})
    for container in [*made["initContainers"], *made["containers"]]:
        program, *arguments = container["command"]
        assert program == "penstock"
        ended = CliRunner().invoke(penstock, [*arguments, "--help"])
        assert ended.exit_code == 0, ended.output


def test_the_fetcher_writes_a_file_on_the_volume_and_its_end_where_the_kubelet_reads() -> None:
    """The engine loads the very file that was fetched, and a failure is told in the pod's status."""
    made = pod({"model": {"uri": "https://example.com/m.gguf?download=true"}})
    (fetcher,), (server,) = made["initContainers"], made["containers"]
    assert fetcher["command"][:4] == ["penstock", "fetch", "https://example.com/m.gguf?download=true", "/models/m.gguf"]  # fmt: skip
    assert "--termination-message /dev/termination-log" in " ".join(fetcher["command"])
    assert "--model /models/m.gguf" in " ".join(server["command"])


def test_a_file_on_a_volume_is_checked_before_it_is_loaded() -> None:
    """With a checksum an init container looks at the file in place, and cannot write."""
    made = pod({"model": {"uri": "pvc://c/d/m.gguf", "sha256": "0" * 64}})
    (checker,) = made["initContainers"]
    assert checker["command"][2:4] == ["pvc://c/d/m.gguf", "/models/d/m.gguf"]
    assert checker["volumeMounts"] == [{"name": "weights", "mountPath": "/models", "readOnly": True}]  # fmt: skip


@pytest.mark.real
def test_ollama_knows_the_variables_and_starts_when_its_model_is_loaded(
    ollama: Callable[..., parts.Ollama],
) -> None:
    """Real Ollama lists each variable that we set; the probe of the start loads the model, which stays, and fails without it."""
    server = ollama()
    (name,) = [one["name"] for one in httpx.get(f"{server.url}/api/tags").json()["models"]]
    made = pod({
        "model": {"uri": f"ollama://{name}"},
        "tuning": {"contextLength": 2048, "kvCacheType": "q8_0", "parallelRequests": 1},
    })["containers"][0]  # fmt: skip
    variables = {one["name"]: one["value"] for one in made["env"]}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        binary, *rest = arguments
        assert binary == "ollama"
        environment = {"OLLAMA_HOST": server.url.removeprefix("http://"), "HOME": "/nonexistent"}
        return subprocess.run(
            [str(parts.ollama_binary()), *rest],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    known = run("ollama", *made["args"], "--help").stdout
    assert [one for one in variables if one.startswith("OLLAMA_") and one not in known] == []
    probe: list[str] = made["startupProbe"]["exec"]["command"]
    assert httpx.get(f"{server.url}/api/ps").json()["models"] == []
    assert run(*probe).returncode == 0
    (loaded,) = httpx.get(f"{server.url}/api/ps").json()["models"]
    assert loaded["name"] == name
    absent = [*probe[:-2], "absent.invalid/library/absent:1", probe[-1]]
    assert run(*absent).returncode != 0
