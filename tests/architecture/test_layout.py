"""The laws of the house: where things lie, what they may be called, how long they may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tree import PACKAGES, ROOT, modules, tracked_files


def test_operator_folder_is_no_package() -> None:
    """`operator/` holds no `__init__.py`: with one, Python would import it as the standard library's."""
    assert not (ROOT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("here", [".", "operator", "tests"])
def test_standard_operator_is_imported(here: str) -> None:
    """From the root of the checkout and from inside it, `import operator` is the standard library's."""
    code = "import operator; print(operator.add(40, 2))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / here, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "42", done.stderr


def test_each_product_folder_holds_one_package() -> None:
    """The folders are put on the import path, so anything else in them would become importable."""
    for package in PACKAGES:
        importable = {
            entry.name
            for entry in package.parent.iterdir()
            if (entry.suffix == ".py" and entry.name != "__main__.py")
            or (entry / "__init__.py").exists()
        }
        assert importable == {package.name}


def test_tests_lie_under_tests_only() -> None:
    """Neither tests nor a conftest.py lie elsewhere: `operator/tests` would hide the standard module."""
    strays = [
        path
        for path in tracked_files()
        if (path.name == "conftest.py" or path.name.startswith("test_"))
        and path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] != "tests"
    ]
    assert strays == []


def test_test_folders_are_no_packages() -> None:
    """No `__init__.py` below tests/: pytest imports by path, so equal file names do not collide."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_tests_mirror_the_packages() -> None:
    """Folders below tests/shared are named like parts of the package `penstock`."""
    parts = {path.stem for path in (ROOT / "shared" / "penstock").iterdir()}
    folders = {path.name for path in (ROOT / "tests" / "shared").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= parts


def test_no_module_is_named_like_the_standard_library() -> None:
    """A module called `queue` or `types` invites the wrong import."""
    # The folder's name is given; "profile" is the product's own word for what is known of a model.
    allowed = {"__init__", "__main__", "operator", "profile"}
    names = {
        part
        for module in modules()
        for part in module.relative_to(ROOT).with_suffix("").parts
        if part not in allowed
    }
    assert names & sys.stdlib_module_names == set()


@pytest.mark.parametrize("word", ["util", "utils", "helper", "helpers", "manager", "misc"])
def test_no_module_is_named_vaguely(word: str) -> None:
    """A module has one idea, and its name says which."""
    assert [str(module) for module in modules() if module.stem == word] == []


def test_no_module_is_too_long() -> None:
    """A module of more than 450 lines has more than one idea."""
    long = {
        str(module.relative_to(ROOT)): count
        for module in modules()
        if (count := len(module.read_text("utf-8").splitlines())) > 450
    }
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    """Each module and package begins with a docstring."""
    silent = [
        str(module.relative_to(ROOT))
        for module in modules()
        if not ast.get_docstring(ast.parse(module.read_text("utf-8")))
    ]
    assert silent == []


def test_every_test_says_what_is_promised() -> None:
    """Each test has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}::{function.name}"
        for path in tracked_files()
        if path.suffix == ".py" and path.name.startswith("test_")
        for function in _tests(ast.parse(path.read_text("utf-8")))
        if not ast.get_docstring(function)
    ]
    assert silent == []


def _tests(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            yield node


def test_everything_parses_as_the_oldest_python() -> None:
    """No syntax that is newer than Python 3.11."""
    for path in tracked_files():
        if path.suffix == ".py":
            ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 11))


def test_import_contracts_hold() -> None:
    """The layers hold, and decisions touch no clock, socket, file, environment or chance."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
