"""
Writes what of the chart follows from elsewhere: its README from its values (each with its default and the comment
above it), the template of the CustomResourceDefinition from the typed LocalModel.
`python charts/generate.py` writes them; a test holds that they are in step.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from penstock_operator.localmodel.crd import crd

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


def definition() -> str:
    """
    The CustomResourceDefinition as a template: one in `crds/` would never be upgraded by Helm.

    Texts of the definition hold no `{{`, so that Helm takes them as they are.
    """
    text = yaml.safe_dump(crd(), sort_keys=False, allow_unicode=True, width=100)
    assert "{{" not in text
    name = "metadata:\n  name: localmodels.penstock.dev\n"
    assert text.count(name) == 1
    annotations = (
        "  {{- if .Values.crd.keep }}\n"
        "  annotations:\n    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        '  labels: {{- include "penstock.labels" . | nindent 4 }}\n'
    )
    note = "# Made by charts/generate.py.\n{{- if .Values.crd.install }}\n"
    return note + text.replace(name, name + annotations) + "{{- end }}\n"


def files() -> dict[str, str]:
    """Path below the chart -> text."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    return {"README.md": readme(values), "templates/crd.yaml": definition()}


if __name__ == "__main__":
    for path, text in files().items():
        (CHART / path).write_text(text, encoding="utf-8")
        click.echo(f"charts/penstock/{path}")
