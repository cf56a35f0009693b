"""Values made to fit their schema, and edits of text (E1)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from generated_arguments import ARGUMENTS, JSON, VALUES, Sample
from penstock.toolcalls.jsontext import write
from penstock.toolcalls.repair import edits, repair_value, spliced


@pytest.mark.parametrize(
    ("value", "schema", "right"),
    [
        pytest.param("True", {"type": "boolean"}, True, id="boolean"),
        pytest.param("True", {"type": "string"}, "True", id="a string that is wanted"),
        pytest.param("True", {}, "True", id="nothing said"),
        pytest.param("True", True, "True", id="a schema that is true"),
        pytest.param("True", "boolean", "True", id="no schema"),
        pytest.param("5", {"type": ["integer", "null"]}, 5, id="types"),
        pytest.param("5", {"type": ["boolean", "integer"]}, 5, id="the surer reading first"),
        pytest.param(5.0, {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}, 5, id="5.0 under draft 4"),
        pytest.param("", {"type": ["null", "integer"]}, None, id="nothing where null is allowed"),
        pytest.param("x", {"type": "array"}, ["x"], id="single value"),
        pytest.param({"a": 1}, {"type": "array", "items": {"type": "object"}}, [{"a": 1}], id="single object"),
        pytest.param(None, {"type": "array"}, None, id="null is no single value"),
        pytest.param("[1, 2", {"type": "array"}, "[1, 2", id="half an array is no single value"),
        pytest.param("[[1], [2]]", {"type": "array", "items": {"type": "array"}}, [[1], [2]], id="arrays in text"),
        pytest.param(['{"x": "1"}'], {"items": {"type": "object", "properties": {"x": {"type": "integer"}}}}, [{"x": 1}], id="text inside an array"),
        pytest.param("red", {"enum": ["RED", "Red"]}, "red", id="two spellings to choose from"),
        pytest.param(1, {"enum": [True]}, True, id="one is not true"),
        pytest.param("1e400", {"type": "number"}, "1e400", id="no such number"),
        pytest.param("NaN", {"type": "number"}, "NaN", id="not a number"),
        pytest.param("9" * 5_000, {"type": "integer"}, "9" * 5_000, id="digits without end"),
        pytest.param("\ud800", {"type": "integer"}, "\ud800", id="half a character"),
        pytest.param("1", {"type": "boolean", "not": {}}, "1", id="nothing would do"),
        pytest.param({"a": "1"}, {"patternProperties": {"^a": {"type": "integer"}}}, {"a": "1"}, id="fields by pattern are left alone"),
    ],
)  # fmt: skip
def test_values(value: Any, schema: Any, right: Any) -> None:
    """What the schema allows stays the identical object; the rest becomes what is meant, or stays as well."""
    changed, repairs = repair_value(value, schema)
    assert (changed, type(changed)) == (right, type(right))
    assert bool(repairs) == (changed is not value)


@given(VALUES)
def test_a_repaired_value_validates(case: Sample) -> None:
    """And one that validated is the identical object."""
    changed, repairs = repair_value(case.wrong, case.schema)
    jsonschema.validate(changed, case.schema)
    if not repairs:
        assert changed is case.wrong
    same, nothing = repair_value(changed, case.schema)
    assert same is changed
    assert nothing == ()


@given(JSON, JSON)
def test_edits_lead_from_one_text_to_the_other(one: Any, other: Any) -> None:
    """Whatever changed into whatever."""
    text = json.dumps({"a": one, "b": [1, one]}, indent=1)
    value = json.loads(text)
    for changed in (
        {"a": other, "b": value["b"]},
        {"a": value["a"], "b": [1, other]},
        {"a": other, "b": [other, other]},
    ):
        assert json.loads(spliced(text, edits(value, changed))) == json.loads(json.dumps(changed))


@given(ARGUMENTS)
def test_all_before_the_first_edit_stays(case: Sample) -> None:
    """So that a stream may have sent it."""
    wrong = {"first": "as it is", **case.wrong, "last": "as it is"}
    text = json.dumps(wrong, indent=3)
    result = spliced(text, edits(wrong, {**wrong, **case.value}))
    head, tail = '{\n   "first": "as it is"', '"last": "as it is"\n}'
    assert result.startswith(head)
    assert result.endswith(tail)


def test_values_nested_without_end_do_no_harm() -> None:
    """They are not judged, and writing them needs no recursion."""
    value: Any = "1"
    for _ in range(100_000):
        value = [value]
    changed, repairs = repair_value(value, {"items": {"$ref": "#"}, "type": "array"})
    assert changed is value
    assert repairs == ()
    assert write(value) == "[" * 100_000 + '"1"' + "]" * 100_000


@pytest.mark.parametrize("value", [float("inf"), [{"a": float("-inf")}], [None, float("nan")]])
def test_what_json_cannot_say_is_not_written(value: Any) -> None:
    """Not as null either."""
    with pytest.raises(ValueError, match="no such number"):
        write(value)


def test_halves_of_a_character_are_written_as_the_whole() -> None:
    """A library that reads escapes one by one leaves two halves."""
    assert json.loads(write({"a": "\ud83d\ude00 ü", "b": "ü"})) == {"a": "😀 ü", "b": "ü"}


@given(JSON)
def test_what_is_written_reads_the_same(value: Any) -> None:
    """Also where the quick writer gives up."""
    for one in (value, [value, 2**70, {"a\n": value, "ü": "ü"}]):
        assert json.loads(write(one)) == one
