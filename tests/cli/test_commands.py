"""The command line as a user meets it: real processes, exit codes, one clear sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gateways import RunningGateway, free_port, until
from penstock.cli.look import is_called
from penstock.cli.output import program

COMMANDS = ["serve", "detect", "probe", "explain", "doctor", "status", "stop", "pause", "resume", "drain", "bypass", "unload", "upstream", "logs", "config", "connect", "demo", "llama-server", "completion", "version"]  # fmt: skip


@pytest.fixture
def penstock(tmp_path: Path) -> Any:
    """Runs the command with folders of its own."""
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PENSTOCK_", "LOCAL_MODEL_", "OLLAMA_", "OPENAI_"))
    }
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / name).mkdir(mode=0o700)
        env[name] = str(tmp_path / name)

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penstock", *arguments],
            capture_output=True, text=True, timeout=60, check=False, env={**env, **more}, cwd=tmp_path,
        )  # fmt: skip

    return run


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Its error, which is no traceback."""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(penstock: Any, command: str) -> None:
    """What it does, and its options."""
    done = penstock(command, "--help")
    assert done.returncode == 0
    assert "Usage: penstock" in done.stdout


def test_bare_and_wrong(penstock: Any) -> None:
    """Alone it shows what there is; a wrong command or option is usage."""
    assert all(name in penstock().stdout for name in COMMANDS)
    assert penstock("conjure").returncode == 2
    assert penstock("serve", "--conjure").returncode == 2


def test_version_and_completion(penstock: Any) -> None:
    """For people, for machines, for shells."""
    assert penstock("version").stdout.startswith("penstock ")
    assert json.loads(penstock("version", "--json").stdout)["penstock"]
    for shell in ("bash", "zsh", "fish"):
        assert "_PENSTOCK_COMPLETE" in penstock("completion", shell).stdout


def test_detect_where_nobody_listens(penstock: Any) -> None:
    """4, with what was tried; the JSON has its documented fields."""
    port = free_port()
    done = penstock("detect", f"http://127.0.0.1:{port}", "--json")
    value = json.loads(done.stdout)
    assert done.returncode == 4
    assert set(value) >= {
        "url",
        "reachable",
        "verdict",
        "confidence",
        "kind",
        "evidence",
        "models",
        "error",
    }
    assert (value["reachable"], value["verdict"], value["kind"], value["models"]) == (
        False,
        "local",
        None,
        [],
    )
    assert str(port) in value["error"]


def test_detect_of_a_cloud_and_of_nonsense(penstock: Any) -> None:
    """A cloud is judged and not probed; what is no URL is usage."""
    value = json.loads(penstock("detect", "https://api.openai.com/v1", "--json").stdout)
    assert (value["verdict"], value["reachable"]) == ("cloud", False)
    done = penstock("detect", "ftp://x")
    assert done.returncode == 2
    assert "expected http" in one_sentence(done)


def test_config_with_mistakes(penstock: Any, tmp_path: Path) -> None:
    """2, each with line, path and what was expected; a secret never."""
    path = tmp_path / "penstock.yaml"
    path.write_text(
        "version: 1\nlisten:\n  prot: 1\nupstreams:\n  - {name: a, url: x, api_key: [s3cret]}\n"
    )
    done = penstock("config", "--config", str(path))
    told = one_sentence(done)
    assert done.returncode == 2
    assert (
        "listen.prot: there is no such setting; did you mean port? (penstock.yaml line 3)" in told
    )
    assert "upstreams[0].api_key" in told
    assert "s3cret" not in told


def test_config_shows_where_values_come_from(penstock: Any, tmp_path: Path) -> None:
    """File and line, variable, default; secrets masked; the schema on request."""
    path = tmp_path / "penstock.yaml"
    path.write_text(
        "version: 1\nlisten: {port: 1}\nupstreams: [{name: a, url: x, api_key: s3cret}]\n"
    )
    done = penstock("config", "--config", str(path), "--json", PENSTOCK_TIMEOUTS__STALL_S="9")
    value = json.loads(done.stdout)
    assert value["origins"]["listen.port"] == "penstock.yaml line 2"
    assert value["origins"]["timeouts.stall_s"] == "PENSTOCK_TIMEOUTS__STALL_S"
    assert "s3cret" not in done.stdout
    assert "penstock.yaml line 2" in penstock("config", "--config", str(path)).stdout
    assert json.loads(penstock("config", "--schema").stdout)["title"] == "Penstock settings"


def test_config_shows_what_stands_in_no_file(penstock: Any, tmp_path: Path) -> None:
    """Upstreams given by variable, and a variable that was refused."""
    path = tmp_path / "penstock.yaml"
    path.write_text("version: 1\n")
    given = {
        "PENSTOCK_UPSTREAM": "http://127.0.0.1:9/v1, http://127.0.0.1:10",
        "LOCAL_MODEL_TOKEN_LIMIT": "abc",
    }
    told = penstock("config", "--config", str(path), **given).stdout
    assert "http://127.0.0.1:9 " in told
    assert told.count("PENSTOCK_UPSTREAM") == 2
    assert "LOCAL_MODEL_TOKEN_LIMIT: expected a count of tokens" in told
    value = json.loads(penstock("config", "--config", str(path), "--json", **given).stdout)
    assert [u["url"] for u in value["upstreams"]] == [
        "http://127.0.0.1:9",
        "http://127.0.0.1:10",
    ]
    assert {u["found_by"] for u in value["upstreams"]} == {"environment"}
    assert len(value["warnings"]) == 1


def test_how_the_command_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was called: from a checkout there is no `penstock` to type."""
    monkeypatch.setattr(sys, "argv", ["/x/penstock/__main__.py", "demo"])
    assert program() == "python3 shared"
    for installed in ("/usr/bin/penstock", "penstock.exe"):
        monkeypatch.setattr(sys, "argv", [installed, "demo"])
        assert program() == "penstock"


@pytest.mark.parametrize(
    ("model", "name", "same"),
    [
        ("tiny:latest", "tiny", True), ("tiny", "tiny:latest", True), ("tiny", "tiny", True),
        ("tiny:q4", "tiny", False), ("tiny", "tin", False),
    ],
)  # fmt: skip
def test_detect_takes_names_as_routing_does(model: str, name: str, same: bool) -> None:
    """`tiny` is `tiny:latest`."""
    assert is_called(model, name) is same


def test_status_and_stop_without_a_gateway(penstock: Any) -> None:
    """4, and how to start one."""
    for command in ("status", "stop"):
        done = penstock(command)
        assert done.returncode == 4
        assert "`python3 shared serve` starts one" in one_sentence(done)
    assert json.loads(penstock("status", "--json").stdout)["running"] is False


def test_explain_dry(penstock: Any, tmp_path: Path) -> None:
    """What would be changed and why, without any server."""
    request = tmp_path / "request.json"
    request.write_text(
        json.dumps(
            {"model": "m", "messages": [{"role": "developer", "content": "x"}], "max_tokens": 99999}
        )
    )
    done = penstock("explain", str(request), "--kind", "llamacpp", "--window", "4096", "--json")
    value = json.loads(done.stdout)
    assert done.returncode == 0
    assert {c["field"] for c in value["changes"]} >= {
        "messages[0].role",
        "max_tokens",
        "temperature",
    }
    assert value["sent"]["max_tokens"] == 4096
    assert "messages[0].role" in penstock("explain", str(request), "--kind", "llamacpp").stdout
    request.write_text('{"messages": []}')
    bad = penstock("explain", str(request))
    assert bad.returncode == 1
    assert "would be refused" in one_sentence(bad)
    assert penstock("explain", str(tmp_path / "absent.json")).returncode == 2
    nowhere = penstock("explain", str(request), "--kind", "llamacpp", "--path", "/nope")
    assert nowhere.returncode == 2
    assert "/nope takes no request for a model" in nowhere.stderr


def test_serving_to_the_network_by_accident(penstock: Any) -> None:
    """2, and what to say if it is meant."""
    done = penstock("serve", "--host", "0.0.0.0", "--upstream", "http://127.0.0.1:9", "--port", "0")
    assert done.returncode == 2
    assert "allow_anonymous" in one_sentence(done)


def test_serving_without_any_server(penstock: Any, tmp_path: Path) -> None:
    """4, with how to go on."""
    path = tmp_path / "penstock.yaml"
    path.write_text("version: 1\ndiscovery: {enabled: false}\n")
    done = penstock("serve", "--config", str(path), "--port", "0")
    assert done.returncode == 4
    assert "--upstream" in one_sentence(done)


def test_doctor(penstock: Any, tmp_path: Path) -> None:
    """1 when there is a problem, with what to do; 2 never for a mere finding."""
    path = tmp_path / "penstock.yaml"
    path.write_text(
        f"version: 1\nlisten: {{port: {free_port()}}}\nupstreams: [{{name: gone, url: 'http://127.0.0.1:{free_port()}'}}]\n"
    )
    done = penstock("doctor", "--config", str(path), "--json")
    value = json.loads(done.stdout)
    assert done.returncode == 1
    (problem,) = [f for f in value["findings"] if f["good"] is False]
    assert problem["what"] == "gone"
    assert problem["do"]


def test_a_missing_model_file(penstock: Any, tmp_path: Path) -> None:
    """One sentence, not llama.cpp's last words."""
    done = penstock("llama-server", str(tmp_path / "absent.gguf"))
    assert done.returncode == 1
    assert "There is no model file" in one_sentence(done)


def test_a_gateway_from_start_to_stop(tmp_path: Path) -> None:
    """Status, a second instance (3, with the process), a taken port (3), reload, stop (0)."""
    dead = f"http://127.0.0.1:{free_port()}"
    with RunningGateway(tmp_path, {"upstreams": [{"name": "a", "url": dead}]}) as gateway:

        def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "penstock", *arguments],
                capture_output=True, text=True, timeout=60, check=False, env=gateway.env,
            )  # fmt: skip

        until(lambda: gateway.upstream()["state"] == "unreachable", 10.0, "the first look")
        status = json.loads(penstock("status", "--json").stdout)
        assert status["running"]
        assert status["upstreams"][0]["error"]
        assert "unreachable" in penstock("status").stdout
        second = penstock("serve", "--port", str(gateway.port), "--upstream", dead)
        assert second.returncode == 3
        assert f"process {gateway.process.pid}" in second.stderr
        # Changed, broken, mended: each is noticed, and a broken one leaves the old in force.
        gateway.write_settings({"upstreams": [{"name": "b", "url": dead}]})
        until(lambda: gateway.upstream()["name"] == "b", 10.0, "the changed file")
        gateway.settings_path.write_text("upstreams: [{name: c}]")
        until(lambda: "settings" in gateway.status()["notices"], 10.0, "the broken file")
        assert gateway.upstream()["name"] == "b"
        assert "url: is needed" in gateway.status()["notices"]["settings"]
        gateway.write_settings({"upstreams": [{"name": "d", "url": dead}]})
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.upstream()["name"] == "d", 10.0, "the reload by signal")
        assert not gateway.status()["notices"]
        running = json.loads(penstock("config", "--running", "--json").stdout)
        assert running["upstreams"] == [{"name": "d", "url": dead, "found_by": "configured"}]
        assert "settings reloaded; changed: upstreams.0.name" in gateway.log()
        itself = json.loads(penstock("detect", gateway.url, "--json").stdout)
        assert (itself["is_penstock"], itself["kind"], itself["version"]) == (True, None, None)
        assert f"{gateway.url}  Penstock\n" in penstock("detect", gateway.url).stdout
        done = penstock("stop")
        assert done.returncode == 0
        assert gateway.process.wait(10) == 0
        assert penstock("status").returncode == 4
        assert "stopping; 0 requests are let end" in gateway.log()
        assert gateway.log().rstrip().endswith("stopped")


def test_doctor_sees_what_only_the_running_gateway_has(tmp_path: Path) -> None:
    """An upstream that was given by flag is no reason to say that there is none."""
    dead = f"http://127.0.0.1:{free_port()}"
    with RunningGateway(tmp_path, {}, flags=("--upstream", dead)) as gateway:
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "doctor", "--json"], capture_output=True, text=True,
            timeout=60, check=False, env={**gateway.env, "PENSTOCK_PORT": str(gateway.port)},
        )  # fmt: skip
        findings = json.loads(done.stdout)["findings"]
        assert any(dead in f["says"] and "running gateway" in f["says"] for f in findings)
        assert not any(f["what"] == "model servers" for f in findings)


def test_sigint_is_an_interruption(tmp_path: Path) -> None:
    """130."""
    with RunningGateway(
        tmp_path, {"upstreams": [{"name": "a", "url": "http://127.0.0.1:9"}]}
    ) as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(20) == 130


def test_a_reload_drops_no_stream_and_sigterm_lets_it_end(tmp_path: Path) -> None:
    """A client that streams notices neither."""
    import socketserver

    release = threading.Event()

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                if header.lower().startswith(b"content-length"):
                    length = int(header.split(b":")[1])
            self.rfile.read(length)
            if line.startswith(b"GET"):
                body = (
                    b'{"object":"list","data":[{"id":"m","object":"model"}]}'
                    if b"/v1/models" in line
                    else b"{}"
                )
                self.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
                return
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n"
            )
            self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
            release.wait(30)
            self.wfile.write(
                b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            )

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        upstream = {
            "name": "a",
            "url": f"http://127.0.0.1:{server.server_address[1]}",
            "kind": "generic",
        }
        with RunningGateway(tmp_path, {"upstreams": [upstream]}) as gateway:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
                chunks = response.iter_raw()
                assert b'"a"' in next(chunks)
                gateway.write_settings({"upstreams": [upstream], "log": {"level": "debug"}})
                until(lambda: "settings reloaded" in gateway.log(), 10.0, "the reload")
                gateway.process.send_signal(signal.SIGTERM)
                threading.Timer(0.5, release.set).start()
                rest = b"".join(chunks)
            assert rest.endswith(b"data: [DONE]\n\n")
            assert gateway.process.wait(20) == 0
        server.shutdown()


def test_a_reload_cannot_open_the_gateway_to_the_network(tmp_path: Path) -> None:
    """Bound beyond loopback, the file may not take the keys away; the old ones stay in force."""
    upstream = {"name": "a", "url": "http://127.0.0.1:9"}
    keys = {"listen": {"host": "0.0.0.0", "client_keys": [{"name": "me", "key": "sk-me"}]}}
    with RunningGateway(tmp_path, {"upstreams": [upstream], **keys}) as gateway:
        for weaker in ({"listen": {"host": "0.0.0.0"}}, {"listen": {"host": "127.0.0.1"}}):
            gateway.write_settings({"upstreams": [upstream], **weaker})
            assert gateway.admin("POST", "/penstock/reload").status_code == 400
            assert gateway.http.get("/v1/models").status_code == 401
            assert gateway.http.get("/penstock/status").status_code == 401
