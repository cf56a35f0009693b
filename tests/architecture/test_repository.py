"""What the files of the repository may say, and whether they agree with each other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tree import PACKAGES, ROOT, modules, tracked_files

# Put together here, so that this file does not contain what it forbids.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("index", "crates", "io"),
    )
]
MACHINE_PATHS = ["/" + folder + "/" for folder in ("root", "work", "tmp/w")]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content[:8000]:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8", "replace")
    return found


@pytest.mark.parametrize("word", [*REGISTRIES, *MACHINE_PATHS])
def test_no_registry_and_no_machine_is_named(word: str) -> None:
    """Nothing in the repository depends on one registry or on the paths of one machine."""
    assert [name for name, text in texts().items() if word in text] == []


def test_nothing_is_left_undone() -> None:
    """No notes to self: what is missing stands in an issue, not in the code."""
    notes = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
    code = (".py", ".toml", ".yaml", ".yml", ".c")
    assert [n for n, text in texts().items() if n.endswith(code) and notes.search(text)] == []


def test_nothing_raises_not_implemented() -> None:
    """No function that only pretends to exist."""
    stub = re.compile("Not" + "ImplementedError")
    product = ("shared/", "operator/", "tray/")
    raising = [
        name
        for name, text in texts().items()
        if name.startswith(product) and re.search("raise " + stub.pattern, text)
    ]
    assert raising == []


def requirement_name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", line)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_lock_pins_every_dependency_with_hashes() -> None:
    """Everything that pyproject.toml asks for is in the lock, in one exact version, with hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    entries = [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", lock) if not entry.startswith("#")]
    pinned = {requirement_name(entry) for entry in entries}
    assert {requirement_name(line) for line in wanted} - pinned == set()
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_lock_records_no_addresses() -> None:
    """The lock works with any index: it holds no URL and no option that names one."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in lock
    assert "index-url" not in lock


def test_ci_runs_exactly_the_test_command() -> None:
    """What the README tells people to type is what decides."""
    script = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert script[-1] == "exec python3 tests"


def test_changelog_has_the_version() -> None:
    """The version in pyproject.toml has its section in the changelog, or its changes are unreleased."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{project['version']}]" in changelog or "## [Unreleased]" in changelog


OF_OTHER_PLATFORMS = {"pyobjc-framework-cocoa": {"AppKit", "Foundation", "PyObjCTools"}}
"""Import names of distributions that are installed on one platform only."""


def declared(names: list[str]) -> set[str]:
    """Import names of the distributions that these requirements name."""
    wanted = {requirement_name(line) for line in names}
    elsewhere = {
        name for distribution in wanted for name in OF_OTHER_PLATFORMS.get(distribution, ())
    }
    return elsewhere | {
        package
        for package, distributions in packages_distributions().items()
        if any(requirement_name(name) in wanted for name in distributions)
    }


def test_product_imports_only_what_it_declares() -> None:
    """Each package that a module imports is a dependency in pyproject.toml, or of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    known = declared([*project["dependencies"], *extras]) | {package.name for package in PACKAGES}
    imported = {
        name.partition(".")[0]
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    assert imported - known - sys.stdlib_module_names == set()
