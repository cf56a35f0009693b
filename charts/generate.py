"""
Writes the chart's README from its values: each value with its default and the comment above it.
`python charts/generate.py` writes it; a test holds that it is in step.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

CHART = Path(__file__).resolve().parent / "penstock"
HEAD = """# Penstock's chart

<!-- made by charts/generate.py -->

Installs the Penstock operator. `docs/kubernetes-security.md` says what it may do.

| value | default | meaning |
|---|---|---|
"""


def readme(values: str) -> str:
    """The page for a `values.yaml`."""
    rows = [f"| `{path}` | `{default}` | {text} |" for path, default, text in rows_of(values)]
    return HEAD + "\n".join(rows) + "\n"


def rows_of(values: str) -> list[tuple[str, str, str]]:
    """(path, default as JSON, comment) of each value that is no group, in the file's order."""
    found: list[tuple[str, str, str]] = []
    above: list[str] = []
    root = yaml.compose(values)
    lines = values.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> None:
        for key, value in node.value:
            full = f"{path}.{key.value}" if path else str(key.value)
            above.clear()
            at = key.start_mark.line - 1
            while at >= 0 and lines[at].strip().startswith("#"):
                above.insert(0, lines[at].strip().lstrip("# "))
                at -= 1
            text = " ".join(above)
            if isinstance(value, yaml.MappingNode) and value.value and full != "resources":
                walk(value, full)
                continue
            plain = yaml.safe_load(yaml.serialize(value))
            found.append((full, json.dumps(plain), text))

    assert isinstance(root, yaml.MappingNode)
    walk(root, "")
    return found


if __name__ == "__main__":
    text = readme((CHART / "values.yaml").read_text(encoding="utf-8"))
    (CHART / "README.md").write_text(text, encoding="utf-8")
    click.echo("charts/penstock/README.md")
