"""
The product imports and starts where there is no uvloop, no SIGHUP, no `fcntl` and no Unix socket.

The type checker sees more of this (`mypy --platform win32`, part of `python3 tests`); here stands what it
does not see: imports that fail outright, and optional packages.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tree import ROOT, modules

# Not on every platform, or in an extra, or slow to import: never at the top of a module.
LATE = {
    "uvloop", "fcntl", "grp", "msvcrt", "pty", "pwd", "resource", "syslog", "termios", "tty",
    "winreg", "gguf", "numpy", "xllamacpp", "rich",
}  # fmt: skip
DRAWS = "shared/penstock/cli/watch.py"
"""Draws with rich and does nothing else; it is imported late itself."""
GUARDED = {
    "signal": {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGQUIT", "SIGCHLD"},
    "os": {"fork", "geteuid", "getuid", "getgid", "killpg", "setsid", "getpgid", "mkfifo"},
    "socket": {"AF_UNIX"},
}
"""Attributes that some platform lacks: used only below a test that says so."""


def imported_at_the_top(tree: ast.Module) -> Iterator[str]:
    """Names of packages that are imported unconditionally when the module is imported."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def unguarded(node: ast.AST, guarded: bool = False) -> Iterator[str]:
    """Uses of `GUARDED` outside any test of the platform and outside any try."""
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in GUARDED.get(node.value.id, ())
        and not guarded
    ):
        yield f"{node.value.id}.{node.attr} (line {node.lineno})"
    for child in ast.iter_child_nodes(node):
        tested = isinstance(node, ast.If | ast.IfExp) and any(
            word in ast.unparse(node.test) for word in ("hasattr", "sys.platform", "os.name")
        )
        yield from unguarded(child, guarded or tested or isinstance(node, ast.Try))
        # `if not hasattr(...): return` guards what follows in the same block.
        if (
            isinstance(child, ast.If)
            and any(word in ast.unparse(child.test) for word in ("hasattr", "sys.platform"))
            and isinstance(child.body[-1], ast.Return | ast.Raise)
        ):
            guarded = True


@pytest.mark.parametrize("module", [str(path.relative_to(ROOT)) for path in modules()])
def test_module_imports_anywhere(module: str) -> None:
    """No module needs, at import time, what some platform or installation lacks."""
    tree = ast.parse((ROOT / module).read_text("utf-8"))
    early = set(imported_at_the_top(tree)) & LATE
    if module == DRAWS:
        early.discard("rich")
    assert early == set()
    assert list(unguarded(tree)) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        pytest.param("import signal\nsignal.SIGHUP", 1, id="bare use"),
        pytest.param("if hasattr(signal, 'SIGHUP'):\n    signal.SIGHUP", 0, id="inside a test"),
        pytest.param(
            "def f():\n    if not hasattr(os, 'fork'):\n        return\n    os.fork()",
            0,
            id="after a way out",
        ),
        pytest.param(
            "def f():\n    if sys.platform == 'win32':\n        return\n    os.fork()",
            0,
            id="after a way out for a platform",
        ),
        pytest.param("def f():\n    if x:\n        return\n    os.fork()", 1, id="another test"),
    ],
)
def test_the_guard_is_understood(code: str, found: int) -> None:
    """The check itself tells guarded uses from bare ones."""
    assert len(list(unguarded(ast.parse(code)))) == found


LINUX_ONLY = {"penstock_tray.notifier_item", "penstock_tray.backends.linux"}
"""They stand on packages that are installed there only, and say so when they are imported elsewhere."""

WITHOUT = """
import sys
for name in {names}:
    sys.modules[name] = None  # importing it fails
import asyncio, fastapi, httpx, psutil, rich.console, signal, socket, uvicorn  # they guard it
for place, name in ((signal, "SIGHUP"), (socket, "AF_UNIX")):
    if hasattr(place, name):
        delattr(place, name)
import importlib, pkgutil
import penstock, penstock_operator, penstock_tray
for package in (penstock, penstock_operator, penstock_tray):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name in {linux} and sys.platform != "linux":
            continue
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print("all imported")
"""


def test_everything_imports_without_optional_parts() -> None:
    """Each module imports where uvloop, the Unix modules, SIGHUP and the extras do not exist."""
    # `resource` and its like are the standard library's own; asyncio and subprocess guard them.
    names = ["uvloop", "pwd", "grp", "termios", "xllamacpp", "gguf", "numpy"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=names, linux=LINUX_ONLY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "all imported", done.stderr
