"""Schemas for a server's grammar: what compilers refuse is left out, what brings servers down always."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from generated_arguments import ARGUMENTS, JSON, Sample, steps_of
from penstock.toolcalls.patterns import compiles, is_harmless
from penstock.toolcalls.project import project_request, project_schema


def one(schema: Any) -> dict[str, Any]:
    """An object with one field."""
    return {"type": "object", "properties": {"a": schema}, "$defs": {"q": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        pytest.param({"type": "string", "pattern": "^(?!x)a$"}, {"type": "string"}, id="look-ahead"),
        pytest.param({"type": "string", "pattern": "(?<=x)a$"}, {"type": "string"}, id="look-behind"),
        pytest.param({"type": "string", "pattern": "abc"}, {"type": "string"}, id="unanchored"),
        pytest.param({"type": "string", "pattern": 5}, {"type": "string"}, id="a pattern that is none"),
        pytest.param({"type": "string", "minLength": 100_000}, {"type": "string"}, id="huge least length"),
        pytest.param({"type": "string", "maxLength": 10**12, "minLength": 1}, {"type": "string", "minLength": 1}, id="huge most length"),
        pytest.param({"type": "string", "minLength": 5, "maxLength": 2}, {"type": "string"}, id="contradiction"),
        pytest.param({"type": "array", "maxItems": -1}, {"type": "array"}, id="negative bound"),
        pytest.param({"type": "array", "maxItems": True}, {"type": "array"}, id="a bound that is none"),
        pytest.param({"type": "integer", "maximum": 10**30}, {"type": "integer"}, id="number beyond 64 bits"),
        pytest.param({"type": "integer", "exclusiveMinimum": True}, {"type": "integer"}, id="draft 4"),
        pytest.param({"type": "string", "format": "email"}, {"type": "string"}, id="unknown format"),
        pytest.param({"not": {"type": "string"}, "description": "x"}, {"description": "x"}, id="not"),
        pytest.param({"type": "object", "if": {}, "then": {}, "else": {}}, {"type": "object"}, id="conditions"),
        pytest.param({"type": "object", "patternProperties": {"^x": {}}}, {"type": "object"}, id="fields by pattern"),
        pytest.param({"type": "array", "uniqueItems": True, "contains": {}}, {"type": "array"}, id="of elements"),
        pytest.param({"enum": []}, {}, id="empty enum"),
        pytest.param({"anyOf": []}, {}, id="no alternatives"),
        pytest.param({"anyOf": [True, {"type": "string"}]}, {"anyOf": [{}, {"type": "string"}]}, id="alternative that is true"),
        pytest.param({"type": "any"}, {}, id="unknown type"),
        pytest.param({"type": ["string", "any"]}, {"type": ["string"]}, id="unknown type among others"),
        pytest.param({"type": []}, {}, id="no type"),
        pytest.param({"type": "array", "items": True}, {"type": "array"}, id="any items"),
        pytest.param({"type": "object", "properties": {"x": True, "y": {}}}, {"type": "object", "properties": {"x": {}, "y": {}}}, id="field that is true"),
        pytest.param({"type": "object", "properties": []}, {"type": "object"}, id="no fields"),
        pytest.param({"type": "object", "additionalProperties": "no"}, {"type": "object"}, id="neither schema nor boolean"),
        pytest.param({"$ref": "#"}, {}, id="reference to the whole"),
        pytest.param({"$ref": "#/nope"}, {}, id="reference to nowhere"),
        pytest.param({"$ref": "http://127.0.0.1:9/x"}, {}, id="reference elsewhere"),
        pytest.param({"$ref": "#/properties/a"}, {}, id="reference to itself"),
        pytest.param({"anyOf": [{"allOf": [{"$ref": "#/properties/a"}]}, {"type": "null"}]}, {"anyOf": [{"allOf": [{}]}, {"type": "null"}]}, id="reference to itself, further inside"),
        pytest.param({"$ref": "#/%24defs/q"}, {}, id="reference in another spelling"),
        pytest.param({"$ref": 5}, {}, id="reference that is none"),
    ],
)  # fmt: skip
def test_left_out(schema: Any, left: Any) -> None:
    """What some compiler refuses goes, wherever it stands, and is told; the rest stays."""
    given_ = one(schema)
    before = copy.deepcopy(given_)
    projected = project_schema(given_)
    assert projected.schema == one(left)
    assert projected.dropped
    assert given_ == before
    again = project_schema(projected.schema)
    assert again.schema is projected.schema
    deep = {
        "$defs": {
            "d": {"items": {"anyOf": [{"additionalProperties": one(schema)["properties"]["a"]}]}}
        }
    }
    if "$ref" not in str(schema):
        assert project_schema(deep).schema == {
            "$defs": {"d": {"items": {"anyOf": [{"additionalProperties": left}]}}}
        }


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "string", "pattern": "^[a-z]{2,8}(-[A-Z0-9]+)?$", "maxLength": 100}, id="plain pattern"),
        pytest.param({"type": "string", "format": "date-time"}, id="known format"),
        pytest.param({"$ref": "#/$defs/q"}, id="reference"),
        pytest.param({"enum": [{"not": 1, "pattern": "("}], "default": {"if": 1}}, id="what stands in values is no schema"),
        pytest.param({"type": "object", "properties": {"not": {"type": "string"}, "pattern": {}}}, id="fields of such names"),
        pytest.param({"type": "object", "additionalProperties": False, "required": ["x"], "description": "y"}, id="the usual"),
        pytest.param({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": -5}]}, id="alternatives"),
    ],
)  # fmt: skip
def test_what_every_compiler_takes_stays(schema: Any) -> None:
    """The identical object."""
    given_ = one(schema)
    assert project_schema(given_).schema is given_
    assert project_schema(given_).dropped == ()


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        pytest.param({"minLength": 5, "maxLength": 2, "not": {}}, {"not": {}}, id="lengths"),
        pytest.param({"minItems": 5, "maxItems": 2, "format": "x"}, {"format": "x"}, id="items"),
        pytest.param({"pattern": "^a{3,1}$", "type": "string"}, {"type": "string"}, id="pattern"),
        pytest.param(
            {"pattern": "(?!a)", "minLength": 2, "maxLength": 2}, None, id="nothing harmful"
        ),
    ],
)
def test_what_brings_a_server_down_goes_always(schema: Any, left: Any) -> None:
    """And nothing else, where only that is asked for."""
    projected = project_schema(one(schema), only_harmful=True)
    assert projected.schema == one(schema if left is None else left)
    assert bool(projected.dropped) == (left is not None)


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        pytest.param("^abc$", True, id="literals"),
        pytest.param("^$", True, id="nothing"),
        pytest.param("^[a-z]+(_[a-z]+)*$", True, id="groups"),
        pytest.param("^(a|b)?$", True, id="alternatives"),
        pytest.param("^[^/]{1,20}\\.txt$", True, id="escapes"),
        pytest.param("^[\\]\\-a]$", True, id="escapes in a class"),
        pytest.param("abc", False, id="no anchors"),
        pytest.param("^abc", False, id="one anchor"),
        pytest.param("^", False, id="an anchor only"),
        pytest.param("^a|b$", False, id="anchors of one side each"),
        pytest.param("^\\d+$", False, id="digits"),
        pytest.param("^\\bx$", False, id="word boundary"),
        pytest.param("^(?:a)$", False, id="group with options"),
        pytest.param("^(a)\\1$", False, id="back reference"),
        pytest.param("^a+?$", False, id="lazy"),
        pytest.param("^*a$", False, id="nothing to repeat"),
        pytest.param("^(+)$", False, id="nothing to repeat in a group"),
        pytest.param("^a{3,1}$", False, id="contradiction"),
        pytest.param("^a{1000}$", False, id="many"),
        pytest.param("^((a{20}){20}){20}$", False, id="many times many"),
        pytest.param("^(a{20}b{20}){20}$", True, id="several side by side"),
        pytest.param("^a{b}$", False, id="brace"),
        pytest.param("^[abc$", False, id="open class"),
        pytest.param("^[]$", False, id="empty class"),
        pytest.param("^(abc$", False, id="open group"),
        pytest.param("^abc)$", False, id="closed too often"),
        pytest.param("^a^b$", False, id="anchor inside"),
        pytest.param("^a\\$", False, id="escaped end"),
        pytest.param("^" + "(" * 100_000 + "$", False, id="without end"),
    ],
)
def test_patterns(pattern: str, taken: bool) -> None:
    """Plain anchored patterns are taken, all others not."""
    assert compiles(pattern) == taken


@pytest.mark.parametrize(
    ("pattern", "harmless"),
    [
        ("^a{1,3}$", True),
        ("^a{3}$", True),
        ("^a{3,}$", True),
        ("^(a{2,1})$", False),
        ("{5,4}", False),
    ],
)
def test_harmful_patterns(pattern: str, harmless: bool) -> None:
    """A repetition that asks for less than it demands."""
    assert is_harmless(pattern) == harmless


def test_requests() -> None:
    """Tools and the answer's format are projected, and each is announced without the schema's words."""
    bad, good = one({"type": "string", "pattern": "(?!secret)"}), one({"type": "string"})
    body = {
        "model": "m",
        "tools": [
            {"type": "function", "function": {"name": "g", "parameters": good}},
            {"type": "function", "function": {"name": "b", "description": "d", "parameters": bad}},
            "odd",
        ],
        "functions": [{"name": "b", "parameters": bad}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "r", "strict": True, "schema": bad},
        },
    }
    before = copy.deepcopy(body)
    fields, changes = project_request(body)
    assert body == before
    assert fields["tools"][0] is body["tools"][0]
    assert fields["tools"][1] == {
        "type": "function",
        "function": {"name": "b", "description": "d", "parameters": good},
    }
    assert fields["functions"] == [{"name": "b", "parameters": good}]
    assert fields["response_format"]["json_schema"] == {"name": "r", "strict": True, "schema": good}
    assert [change.field for change in changes] == [
        "tools[1].function.parameters", "functions[0].parameters", "response_format.json_schema.schema",
    ]  # fmt: skip
    assert "secret" not in str(changes)
    assert project_request({**body, **fields}) == ({}, ())
    assert project_request({"messages": [], "tools": 5, "response_format": "json"}) == ({}, ())


def test_tools_that_are_fine_are_known_by_their_key_and_no_others() -> None:
    """A key stands for tools in which nothing had to change; others are always looked at, and so is a format."""
    bad, good = one({"type": "string", "pattern": "(?!secret)"}), one({"type": "string"})

    def tools(schema: Any) -> list[Any]:
        return [{"type": "function", "function": {"name": "g", "parameters": schema}}]

    for _ in range(2):
        assert project_request({"tools": tools(good)}, tools_key=11) == ({}, ())
        assert "tools" in project_request({"tools": tools(bad)}, tools_key=12)[0]
        assert "tools" in project_request({"tools": tools(bad)})[0]
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": bad}}
    body = {"tools": tools(good), "response_format": wanted}
    assert [*project_request(body, tools_key=11)[0]] == ["response_format"]


@given(ARGUMENTS)
def test_a_projected_schema_takes_no_less(case: Sample) -> None:
    """What the original takes, the projected takes as well, so that nothing right becomes impossible."""
    schema = {
        **case.schema,
        "minProperties": 0,
        "properties": {**case.schema["properties"], "extra": {"pattern": "(?!x)"}},
    }
    projected = project_schema(schema)
    assert projected.dropped
    jsonschema.validate(case.value, projected.schema)


@given(JSON)
def test_any_schema_does_no_harm(schema: Any) -> None:
    """It comes back as JSON, and a second time as it is."""
    for odd in (schema, one(schema), {"anyOf": schema}, {"properties": schema, "$ref": schema}):
        once = project_schema(odd)
        json.dumps(once.schema)
        twice = project_schema(once.schema)
        assert twice.schema is once.schema


def test_schemas_without_end_do_no_harm() -> None:
    """Nested, or a long chain of references."""
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    assert project_schema(deep).schema is deep

    def chain(length: int) -> dict[str, Any]:
        return {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
            | {f"d{length}": {}},
        }

    assert steps_of(lambda: project_schema(chain(2_000))) < 12 * steps_of(
        lambda: project_schema(chain(200))
    )
