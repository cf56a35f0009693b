"""What the pages about Kubernetes show is what the operator takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from penstock_operator.localmodel.images import ENGINES
from penstock_operator.localmodel.parsing import parse

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
SHOWN = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("body", SHOWN, ids=lambda body: body["metadata"]["name"])
def test_a_resource_on_the_page_can_be_used(body: dict[str, object]) -> None:
    """Each is a whole LocalModel that can be copied and applied."""
    assert body["apiVersion"] == "penstock.dev/v1alpha1"
    parse(body)


def test_the_page_lists_every_image() -> None:
    """Who mirrors what the page names has all that is pulled."""
    used = {image for makers in ENGINES.values() for image in makers.values()}
    assert set(re.findall(r"`(\S+:\S*\d\S*)`", PAGE)) >= used
    rows = re.findall(r"^\| \w+ \| .*`(\S+)` \|$", PAGE, re.MULTILINE)
    assert set(rows) == used


def test_the_smallest_example_is_the_one_on_the_page() -> None:
    """The file that the commands apply is shown as it is."""
    example = (ROOT / "charts/penstock/examples/smallest.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(example) == SHOWN[0]
    notes = (ROOT / "charts/penstock/templates/NOTES.txt").read_text(encoding="utf-8")
    assert SHOWN[0]["spec"]["model"]["uri"] in notes


def test_the_oldest_kubernetes_is_the_same_everywhere() -> None:
    """Page and chart state one version."""
    chart = yaml.safe_load((ROOT / "charts/penstock/Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == ">=1.30.0-0"
    assert "Kubernetes 1.30 or newer" in PAGE
