"""What makes the environment: `.ci/bootstrap.py`, which has only the standard library to stand on."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tree import ROOT

SCRIPTS = [".ci/bootstrap.py", "shared/__main__.py", "tests/__main__.py"]


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, at work in a folder of its own that has a lock and settings."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / ".ci" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "requirements.lock").write_text("a==1\n", "utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\n", "utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.setattr(module, "LOCK", tmp_path / ".venv.lock")
    return module


class Commands:
    """Stands in for `subprocess.run`: notes what is asked for; what names one of *fails* fails."""

    def __init__(self, module: ModuleType, *fails: str) -> None:
        self.asked: list[list[str]] = []
        self._module, self._fails = module, fails

    def run(self, command: list[str], **_: object) -> SimpleNamespace:
        self.asked.append(command)
        if "venv" in command:
            python = self._module.environment_python()
            python.parent.mkdir(parents=True)
            python.touch()
        failed = any(Path(word).name in self._fails for word in command)
        return SimpleNamespace(returncode=1 if failed else 0)


def use(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *fails: str) -> Commands:
    commands = Commands(module, *fails)
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=commands.run))
    return commands


@pytest.mark.parametrize("script", SCRIPTS)
def test_needs_nothing_but_python(script: str) -> None:
    """The commands of the README import only what every Python has."""
    names = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse((ROOT / script).read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names


def test_second_run_does_nothing(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished environment is used as it is, until the lock or the settings change."""
    commands = use(monkeypatch, bootstrap)
    bootstrap.ensure_environment()
    assert len([c for c in commands.asked if "install" in c]) == 2
    commands.asked.clear()
    bootstrap.ensure_environment()
    assert commands.asked == []
    (bootstrap.ROOT / "requirements.lock").write_text("a==2\n", "utf-8")
    bootstrap.ensure_environment()
    assert len([c for c in commands.asked if "install" in c]) == 2
    assert not [c for c in commands.asked if "venv" in c]


def test_only_what_is_pinned_is_installed(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages come with hashes from the lock, and Penstock itself brings no further ones."""
    commands = use(monkeypatch, bootstrap)
    bootstrap.ensure_environment()
    first, second = [command for command in commands.asked if "install" in command]
    assert "--require-hashes" in first
    assert first[-1].endswith("requirements.lock")
    assert {"--no-deps", "--editable"} <= set(second)


def test_half_made_environment_is_made_again(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that failed leaves nothing that the next one takes for finished."""
    use(monkeypatch, bootstrap, "requirements.lock")
    with pytest.raises(SystemExit):
        bootstrap.ensure_environment()
    commands = use(monkeypatch, bootstrap)
    bootstrap.ensure_environment()
    assert len([c for c in commands.asked if "install" in c]) == 2


def test_missing_pip_is_one_sentence(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python without pip and ensurepip is an error that says what to install."""
    use(monkeypatch, bootstrap, "pip", "ensurepip")
    with pytest.raises(SystemExit) as ended:
        bootstrap.ensure_environment()
    assert ended.value.code == 2
    assert "has no pip; install it" in capsys.readouterr().err.splitlines()[-1]


def test_too_old_python_is_one_sentence(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old Python is told so before anything is made."""
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    with pytest.raises(SystemExit):
        bootstrap.ensure_environment()
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err
    assert not (bootstrap.ROOT / ".venv").exists()


def test_second_run_at_once_waits(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once make the environment once: the second waits and finds it made."""
    commands = use(monkeypatch, bootstrap)
    waiting = threading.Event()
    monkeypatch.setattr(bootstrap, "say", lambda text: "waiting" in text and waiting.set())
    second = threading.Thread(target=bootstrap.ensure_environment)
    with bootstrap._alone():
        second.start()
        assert waiting.wait(10)
        bootstrap._make(bootstrap.fingerprint())
        made = len(commands.asked)
    second.join(10)
    assert not second.is_alive()
    assert len(commands.asked) == made


def test_lock_of_a_killed_run_holds_nobody_up(bootstrap: ModuleType) -> None:
    """A run that was killed while it held the lock does not keep the next one waiting."""
    code = (
        f"import runpy; m = runpy.run_path({str(ROOT / '.ci' / 'bootstrap.py')!r});"
        f"file = open({str(bootstrap.LOCK)!r}, 'a+b');"
        "print(m['_try_lock'](file.fileno()), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"True"
        with bootstrap.LOCK.open("a+b") as file:
            assert not bootstrap._try_lock(file.fileno())
        other.kill()
        other.wait()
    with bootstrap.LOCK.open("a+b") as file:
        assert bootstrap._try_lock(file.fileno())
