"""The children of every example of the chart, as they were reviewed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import golden
import parts
from penstock_operator.desired import desired
from penstock_operator.localmodel.images import ENGINES, image
from penstock_operator.localmodel.names import APPLIED
from penstock_operator.localmodel.parsing import parse
from penstock_operator.seen import Seen

HERE = Path(__file__).parent / "golden"
EXAMPLES = sorted((Path(__file__).parents[2] / "charts/penstock/examples").glob("*.yaml"))
SEEN = Seen(
    "2026-01-01T00:00:00Z",
    "ghcr.io/penstock/penstock:1",
    admin_token="an admin token",
    apis=frozenset({"HTTPRoute", "ServiceMonitor"}),
    admitted=({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "prometheus"}}},),
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_the_children_that_were_reviewed(path: Path) -> None:
    """Nothing about the manifests of an example changes unseen."""
    body = yaml.safe_load(path.read_text("utf-8"))
    body["metadata"] |= {"namespace": "models", "uid": "11111111-2222-3333-4444-555555555555"}
    made = desired(parse(body), SEEN)
    for one in made:
        applied = one["metadata"].get("annotations", {}).pop(APPLIED, None)
        if applied is not None:  # the same once more
            assert json.loads(applied) == one["spec"]["template"]
    golden.check(HERE / f"{path.stem}.yaml", made)


def test_every_golden_file_has_its_example() -> None:
    """No golden file outlives its example."""
    assert {one.stem for one in HERE.glob("*.yaml")} == {one.stem for one in EXAMPLES}


def test_images_of_engines_are_pinned() -> None:
    """No image floats: which engine runs does not depend on the day on which a node pulls it."""
    for makers in ENGINES.values():
        for one in makers.values():
            tag = one.rpartition(":")[2]
            assert any(sign.isdigit() for sign in tag), one


def test_ollama_is_the_release_that_the_tests_run() -> None:
    """What runs in a cluster is what was tested."""

    assert image("Ollama", "NVIDIA").endswith(f":{parts.OLLAMA_VERSION}")
