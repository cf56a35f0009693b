"""Every reason that a status can have stands in the page about them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from penstock_operator.status.failures import failures

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kubernetes-troubleshooting.md").read_text(encoding="utf-8")
AT = {
    "Condition": 2,
    "Failure": 3,
    "Rollout": 3,
    "Small": 0,
    "_replace": 3,
}  # where the reason stands among the arguments
SETS = {"_FETCH", "FOR_A_PERSON"}


def texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def reasons(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in AT:
            if len(node.args) > AT[node.func.id]:
                yield from texts(node.args[AT[node.func.id]])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "reason":
                yield from texts(node.value)
            elif node.targets[0].id in SETS:
                value = node.value
                for part in value.values if isinstance(value, ast.Dict) else [value]:
                    for inner in ast.walk(part):
                        yield from texts(inner)


def test_every_reason_is_documented_and_no_other() -> None:
    """The page and the code have the same reasons."""
    used: set[str] = set()
    for name in (
        "status/conditions",
        "status/failures",
        "status/fits_memory",
        "gateways/rollout",
        "status/stuck",
    ):
        source = ROOT / "operator" / "penstock_operator" / f"{name}.py"
        used |= set(reasons(source.read_text(encoding="utf-8")))
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert len(used) > 15
    assert documented == used


def test_every_reason_of_the_fetcher_has_one_of_ours() -> None:
    """What `penstock fetch` says in its termination message is understood."""
    source = (ROOT / "shared/penstock/adapters/fetching.py").read_text(encoding="utf-8")
    said = {
        text
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "FetchFailed"
        for text in texts(node.args[0])
    }
    assert len(said) > 5
    for reason in said:
        told = json.dumps({"reason": reason, "message": "It failed."})
        ended = {"terminated": {"exitCode": 1, "message": told}}
        pod = {"metadata": {"name": "p"}, "status": {"initContainerStatuses": [{"state": ended}]}}
        (found,) = failures("server", [pod])
        assert found.reason != "DownloadFailed", reason
