"""`penstock connect` as a newcomer meets it: an empty home folder, a real gateway, real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import parts
from gateways import RunningGateway, free_port
from penstock.cli.connect import _past_proxies
from penstock.clients import CLIENTS

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        os.name == "nt", reason="platform: the stand-ins for clients are scripts of a shell"
    ),
]

ALIAS = "tiny"
STAND_IN = """#!/bin/sh
for name in "$@"; do echo "argument: $name"; done
env | sort | grep -E '^(ANTHROPIC|API_TIMEOUT|CLAUDE|QWEN|OPENAI|OPENCODE|AIDER|PENSTOCK_API|NO_PROXY)'
exit 7
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A real gateway in front of a real llama.cpp with 8,192 tokens in one slot."""
    folder = tmp_path_factory.mktemp("gateway")
    with parts.start_llamacpp(ctx_size=8192, parallel=1) as server:
        settings = {
            "upstreams": [{"name": "here", "url": server.url}],
            "routing": {"aliases": {ALIAS: "here/" + server.get("/v1/models")["data"][0]["id"]}},
        }
        with RunningGateway(folder, settings) as running:
            yield running


class User:
    """A user of this machine with a home folder of their own, and stand-ins for clients on PATH."""

    def __init__(self, home: Path, gateway: RunningGateway | None) -> None:
        self.home = home
        env = {
            k: v
            for k, v in os.environ.items()
            if not re.match(
                r"(?i)PENSTOCK_|LOCAL_MODEL_|OLLAMA_|OPENAI_|XDG_|ANTHROPIC_|CLAUDE|CODEX|.*_PROXY",
                k,
            )
        }
        self.bin = home / "bin"
        self.bin.mkdir()
        runtime = gateway.env["XDG_RUNTIME_DIR"] if gateway else str(home / "none")
        self.env = {
            **env,
            "HOME": str(home),
            "XDG_RUNTIME_DIR": runtime,
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "SHELL": "/bin/sh",
        }
        if gateway is None:
            (home / "none").mkdir()

    def installs(self, *programs: str) -> None:
        """Put stand-ins on PATH."""
        for name in programs:
            (self.bin / name).write_text(STAND_IN)
            (self.bin / name).chmod(0o755)

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "connect", *arguments],
            capture_output=True, text=True, timeout=60, check=False, env={**self.env, **more}, cwd=self.home,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        return done

    def files(self) -> dict[str, bytes]:
        """Everything in the home folder but what is Penstock's own."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file()
            and not {"bin", "penstock", "__pycache__"} & set(path.relative_to(self.home).parts)
        }


@pytest.fixture
def user(tmp_path: Path, gateway: RunningGateway) -> User:
    """With a running gateway."""
    return User(tmp_path, gateway)


def test_without_a_gateway(tmp_path: Path) -> None:
    """4 and how to start one; the list of what is here is shown all the same."""
    alone = User(tmp_path, None)
    alone.installs("claude")
    done = alone("claude")
    assert (done.returncode, done.stdout) == (4, "")
    assert "No Penstock gateway runs" in done.stderr
    assert "serve" in done.stderr
    done = alone()
    assert done.returncode == 4
    assert "Claude Code" in done.stdout
    assert alone("claude", "--url", f"http://127.0.0.1:{free_port()}").returncode == 4


def test_what_is_here_and_what_each_would_get(user: User) -> None:
    """Programs, folders and extensions; the file of each; for people and for machines."""
    user.installs("claude", "open-webui")
    (user.home / ".vscode/extensions/saoudrizwan.claude-dev-3.1").mkdir(parents=True)
    (user.home / ".config/zed").mkdir(parents=True)
    told = user().stdout
    for part in ("Claude Code", "~/.claude/settings.json", "~/.config/zed/settings.json", "steps to type in",
                 "variables", "Not found here: Codex, opencode", "8,192 tokens (running)"):  # fmt: skip
        assert part in told
    value = json.loads(user("--json").stdout)
    assert value["window"] == 8192
    assert {c["client"] for c in value["clients"] if c["found"]} == {
        "claude",
        "open-webui",
        "cline",
        "zed",
    }
    assert {c["client"] for c in value["clients"]} == {spec.name for spec in CLIENTS}


@pytest.mark.parametrize("name", [spec.name for spec in CLIENTS])
def test_looking_changes_nothing(user: User, name: str) -> None:
    """Each client is shown what it would get, with the running window and how to go on."""
    done = user(name, "--model", ALIAS)
    assert done.returncode == 0
    assert "8,192 tokens (running)" in done.stdout
    assert f"connect {name} --print" in done.stdout
    value = json.loads(user(name, "--model", ALIAS, "--json").stdout)
    assert (value["model"], value["window"], value["output"]) == (ALIAS, 8192, 2048)
    assert user.files() == {}


READERS: dict[str, Any] = {
    ".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load,
}  # fmt: skip


@pytest.mark.parametrize("name", [spec.name for spec in CLIENTS if not spec.cannot_write])
def test_written_and_undone(user: User, name: str) -> None:
    """One command connects it, --print is exactly the file that --write makes, --undo leaves no trace."""
    more = ("--file", str(user.home / "litellm.yaml")) if name == "litellm" else ()
    done = user(name, "--model", ALIAS, "--write", *more)
    assert done.returncode == 0, done.stderr
    assert f"connect {name} --undo" in done.stderr
    files = user.files()
    text = "".join(f"{READERS[Path(path).suffix](data.decode())}" for path, data in files.items())
    assert "8192" in text
    assert ALIAS in text
    if len(files) == 1:
        printed = user(name, "--model", ALIAS, "--print")
        assert printed.stdout.encode() == next(iter(files.values()))
    rows = {row["client"]: row for row in json.loads(user("--json").stdout)["clients"]}
    assert (rows[name]["connected"]["model"], rows[name]["connected"]["window"]) == (ALIAS, 8192)
    assert user(name, "--undo").returncode == 0
    assert user.files() == {}


def test_a_file_with_a_mistake_is_left_alone(user: User) -> None:
    """With the line and what is wrong; nothing is written, also no backup."""
    path = user.home / ".claude/settings.json"
    path.parent.mkdir()
    path.write_text('{\n  "env": {\n')
    for flags in ([], ["--write"]):
        done = user("claude", *flags)
        assert done.returncode == 1
        assert f"{path} is left as it is: line 3: expected a name in double quotes" in done.stderr
    assert list(user.files()) == [".claude/settings.json"]


def test_a_key_is_written_and_not_shown(user: User) -> None:
    """The diff masks it; a file that others can read is pointed out."""
    path = user.home / ".codex/config.toml"
    path.parent.mkdir()
    path.write_text("# mine\n")
    path.chmod(0o644)
    assert "sk-secret" not in user("codex", "--key", "sk-secret").stdout
    done = user("codex", "--write", PENSTOCK_API_KEY="sk-secret")
    assert "sk-secret" not in done.stdout + done.stderr
    assert "others on this machine can read it" in done.stdout
    assert (
        tomllib.loads(path.read_text())["model_providers"]["penstock"]["experimental_bearer_token"]
        == "sk-secret"
    )


def test_a_gateway_that_wants_a_key(tmp_path: Path) -> None:
    """Without one its refusal is told with what to do; with one it connects."""
    settings = {
        "upstreams": [{"name": "a", "url": "https://api.example.com", "models": ["cloudy"]}],
        "listen": {"client_keys": [{"name": "me", "key": "sk-me"}]},
    }
    with RunningGateway(tmp_path / "gateway", settings) as running:
        (tmp_path / "home").mkdir()
        user = User(tmp_path / "home", running)
        done = user("opencode")
        assert done.returncode == 1
        assert "--key" in done.stderr
        value = json.loads(user("opencode", "--key", "sk-me", "--json").stdout)
        assert value["model"] == "cloudy"
        assert user("opencode", "--key", "sk-me", "--print").stdout.count("sk-me") == 1
        assert user("opencode", "--key", "sk-me", "--model", "x").returncode == 4


RUNS = [
    pytest.param("claude", ["argument: --settings", "CLAUDE_CODE_MAX_CONTEXT_TOKENS=8192", "ANTHROPIC_MODEL=tiny"], id="claude"),
    pytest.param("codex", ['argument: model="tiny"', "argument: model_context_window=8192"], id="codex"),
    pytest.param("opencode", ["OPENCODE_CONFIG_CONTENT=", '"context": 8192'], id="opencode"),
    pytest.param("qwen", ["QWEN_CODE_SYSTEM_SETTINGS_PATH=/", "QWEN_STREAM_MAX_LIFETIME_MS=0"], id="qwen"),
    pytest.param("aider", ["AIDER_MODEL=openai/tiny", "AIDER_MODEL_METADATA_FILE=/"], id="aider"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "says"), RUNS)
def test_started_without_touching_its_files(user: User, name: str, says: list[str]) -> None:
    """With its variables and flags, all of the user's own arguments after them, and its exit code."""
    user.installs(name)
    done = user(
        name,
        "--model",
        ALIAS,
        "--run",
        "-p",
        "hello world",
        "--json",
        "--run",
        ANTHROPIC_API_KEY="theirs",
    )
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert all(any(part in line for line in lines) for part in says), done.stdout
    own = [line for line in lines if line.startswith("argument: ")]
    assert own[-4:] == [
        "argument: -p",
        "argument: hello world",
        "argument: --json",
        "argument: --run",
    ]
    assert user.files() == {}
    if name == "claude":
        assert not any(line.startswith("ANTHROPIC_API_KEY") for line in lines)
        (path,) = [
            line.removeprefix("argument: ") for line in lines if line.endswith("settings.json")
        ]
        assert json.loads(Path(path).read_text())["env"]["ANTHROPIC_MODEL"] == ALIAS
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_any_program_with_the_variables(user: User) -> None:
    """`connect env --run PROGRAM`; a proxy for the world does not get what goes to this machine."""
    user.installs("mine")
    done = user("env", "--run", "--", "mine", "x", HTTP_PROXY="http://127.0.0.1:9")
    assert done.returncode == 7
    assert "argument: x" in done.stdout
    assert "OPENAI_BASE_URL=http://127.0.0.1" in done.stdout
    assert "NO_PROXY=127.0.0.1" in done.stdout
    assert user("env", "--run").returncode == 2
    assert user("env", "--run", "absent").returncode == 4


def test_exports_can_be_evaluated(user: User) -> None:
    """Nothing but lines for the shell on standard output."""
    done = user("env", "--model", ALIAS, "--print")
    script = done.stdout + 'echo "$OPENAI_MODEL at $OLLAMA_HOST"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{ALIAS} at http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["nothing"], 2, "There is no client 'nothing'. There are: claude,", id="no such client"),
        pytest.param(["claude", "--write", "--print"], 2, "Only one of", id="two things at once"),
        pytest.param(["--write"], 2, "Name the client", id="no client"),
        pytest.param(["cline", "--write"], 2, "no other program can write them", id="cannot be written"),
        pytest.param(["cline", "--run"], 2, "cannot be started", id="cannot be started"),
        pytest.param(["env", "--write"], 2, "variables belong to a shell", id="variables have no file"),
        pytest.param(["litellm", "--write"], 1, "--file", id="no fixed place"),
        pytest.param(["zed", "--undo"], 4, "there is nothing to undo", id="not connected"),
        pytest.param(["claude", "--run"], 4, "not installed here", id="not installed"),
        pytest.param(["claude", "--model", "x"], 4, "The gateway has no model 'x'", id="no such model"),
    ],
)  # fmt: skip
def test_what_is_refused(user: User, arguments: list[str], code: int, says: str) -> None:
    """One sentence, with what to do."""
    done = user(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert user.files() == {}


def test_doctor_knows_the_connected(user: User, gateway: RunningGateway) -> None:
    """A window that no longer runs is a problem; what cannot be prevented is said."""
    user.installs("qwen")
    user("qwen", "--model", ALIAS, "--write")
    record = next(user.home.rglob("connected/qwen.json"))
    record.write_text(record.read_text().replace('"window": 8192', '"window": 262144'))
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "doctor", "--json", "--config", str(gateway.settings_path)],
        capture_output=True, text=True, timeout=60, check=False, env=user.env,
    )  # fmt: skip
    found = [f for f in json.loads(done.stdout)["findings"] if f["what"] == "Qwen Code"]
    assert found[0]["good"] is False
    assert "was told 262,144 tokens for tiny, which runs with 8,192 now" in found[0]["says"]
    assert "connect qwen --write" in found[0]["do"]
    assert any("15 minutes" in f["says"] for f in found)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:7367", "127.0.0.1"),
        ("http://gw.lan", "gw.lan"),
        ("https://gw.lan/penstock", "gw.lan"),
        ("http://[::1]:7367", "[::1]"),
    ],
)
@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_started_client_asks_no_proxy_for_the_gateway(url: str, host: str, proxy: str) -> None:
    """By the host's name, with a port and without; what was excepted before stays so."""
    environment = {proxy: "http://proxy:3128", "NO_PROXY": "lan"}
    _past_proxies(environment, url)
    assert environment["NO_PROXY"] == f"lan,{host}"
    assert environment["no_proxy"] == f"lan,{host}"
