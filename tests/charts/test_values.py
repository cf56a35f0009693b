"""values.yaml, its schema and the README agree; values that are wrong are refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CHARTS = Path(__file__).resolve().parents[2] / "charts"
VALUES = (CHARTS / "penstock" / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHARTS / "penstock" / "values.schema.json").read_text(encoding="utf-8"))


def refusals(**changed: Any) -> list[str]:
    values = {**yaml.safe_load(VALUES), **changed}
    return [one.message for one in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]


def test_the_defaults_are_valid_and_each_is_in_the_schema() -> None:
    """No value is unknown to the schema."""
    assert refusals() == []
    assert set(yaml.safe_load(VALUES)) == set(SCHEMA["properties"]) - {"global"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"replica": 1}, "'replica' was unexpected"),
        ({"replicas": "two"}, "'two' is not of type 'integer'"),
        ({"watch": {"namespaces": ["Not A Name"]}}, "does not match"),
        ({"image": {"repository": "x", "digest": "sha256:abc"}}, "does not match"),
        ({"image": {"tag": "1"}}, "'repository' is a required property"),
        ({"metrics": {"serviceMonitor": {"interval": "soon"}}}, "does not match"),
        ({"test": {"model": "m" * 41}}, "is too long"),
    ],
)
def test_wrong_values_are_refused(changed: dict[str, Any], said: str) -> None:
    """With a message that names the mistake."""
    found = refusals(**changed)
    assert len(found) == 1
    assert said in found[0]


def test_what_is_generated_is_in_step() -> None:
    """The README and the definition are those of the code."""
    spec = importlib.util.spec_from_file_location("chart_generate", CHARTS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.files().items():
        assert (CHARTS / "penstock" / path).read_text(encoding="utf-8") == text, path
