"""Arguments of calls: what is valid stays, what was cut stays, the rest validates or is flagged (E1, E2)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated_arguments import ARGUMENTS, JSON, Sample, steps_of, tool
from penstock.toolcalls.arguments import Checked, Verdict, check_arguments, is_unterminated
from penstock.toolcalls.mend import Mender

VALID, REPAIRED, FLAGGED, CUT_OFF = (
    Verdict.VALID,
    Verdict.REPAIRED,
    Verdict.FLAGGED,
    Verdict.CUT_OFF,
)


def properties(**named: Any) -> dict[str, Any]:
    """An object's schema."""
    return {"type": "object", "properties": named}


TOOL = tool(
    properties(
        b={"type": "boolean"},
        i={"type": "integer"},
        n={"type": "number"},
        s={"type": "string"},
        z={"type": "null"},
        a={"type": "array", "items": {"type": "integer"}},
        names={"type": "array", "items": {"type": "string"}},
        o=properties(x={"type": "integer"}),
        e={"enum": ["Celsius", "Kelvin", 5]},
        u={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        either={"type": ["boolean", "string"]},
        nullable={"type": "integer", "nullable": True},
        ref={"$ref": "#/$defs/flag"},
        all={"allOf": [{"$ref": "#/$defs/flag"}, {"description": "x"}]},
        pair={"prefixItems": [{"type": "boolean"}, {"type": "integer"}], "type": "array"},
        map={"type": "object", "additionalProperties": {"type": "integer"}},
        anything={},
    )
    | {"$defs": {"flag": {"type": "boolean"}}}
)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        pytest.param('{"b": "True"}', '{"b": true}', id="boolean in Python's spelling"),
        pytest.param('{"b": " false "}', '{"b": false}', id="boolean with spaces"),
        pytest.param('{"b": "yes"}', '{"b": true}', id="yes where a boolean is wanted"),
        pytest.param('{"b": 1}', '{"b": true}', id="one where a boolean is wanted"),
        pytest.param('{"i": "5"}', '{"i": 5}', id="integer"),
        pytest.param('{"i": "5.0"}', '{"i": 5}', id="integer with a fraction of nothing"),
        pytest.param('{"i": "-12345678901234567890123"}', '{"i": -12345678901234567890123}', id="integer beyond 64 bits"),
        pytest.param('{"n": "1.5e3"}', '{"n": 1500.0}', id="number"),
        pytest.param('{"n": "3"}', '{"n": 3}', id="whole number"),
        pytest.param('{"z": "None"}', '{"z": null}', id="null"),
        pytest.param('{"u": "null"}', '{"u": null}', id="null of two"),
        pytest.param('{"u": "7"}', '{"u": 7}', id="integer of two"),
        pytest.param('{"nullable": "7"}', '{"nullable": 7}', id="nullable"),
        pytest.param('{"a": "[1, 2]"}', '{"a": [1,2]}', id="array as JSON text"),
        pytest.param('{"a": "[1, \\"2\\"]"}', '{"a": [1,2]}', id="array as JSON text, repaired inside"),
        pytest.param('{"names": "[\'a\', \'b\']"}', '{"names": ["a","b"]}', id="array as Python text"),
        pytest.param('{"a": 5}', '{"a": [5]}', id="single value where an array is wanted"),
        pytest.param('{"a": "5"}', '{"a": [5]}', id="single value with the wrong type"),
        pytest.param('{"names": "a"}', '{"names": ["a"]}', id="single string"),
        pytest.param('{"o": "{\\"x\\": \\"7\\"}"}', '{"o": {"x":7}}', id="object as JSON text"),
        pytest.param('{"e": " CELSIUS"}', '{"e": "Celsius"}', id="enum by case"),
        pytest.param('{"e": "5"}', '{"e": 5}', id="enum by type"),
        pytest.param('{"ref": "true"}', '{"ref": true}', id="$ref"),
        pytest.param('{"all": "true"}', '{"all": true}', id="allOf"),
        pytest.param('{"pair": ["no", "3"]}', '{"pair": [false, 3]}', id="prefixItems"),
        pytest.param('{"map": {"__proto__": "3"}}', '{"map": {"__proto__": 3}}', id="additionalProperties"),
        pytest.param('{"i" :\t"5" , "s":"\\u00e9"}', '{"i" :\t5 , "s":"\\u00e9"}', id="the rest stays byte for byte"),
        pytest.param('{"i": "5", "i": "6"}', '{"i": "5", "i": 6}', id="of equal keys the last counts"),
        pytest.param('{"\\u0069": "6"}', '{"\\u0069": 6}', id="keys with escapes"),
        pytest.param("{'b': True, 's': None or 'x'}", None, id="Python that is more than a literal"),
        pytest.param("{'b': True, 's': 'x'}", '{"b":true,"s":"x"}', id="a Python literal"),
        pytest.param('{"b": true,}', '{"b":true}', id="trailing comma"),
        pytest.param('```json\n{"b": "true"}\n```', '{"b":true}', id="in a fence"),
        pytest.param('{"s": "a\nb"}', '{"s":"a\\nb"}', id="bare line break in a string"),
        pytest.param('"{\\"b\\": true}"', '{"b":true}', id="encoded twice"),
        pytest.param("", "{}", id="nothing for a tool that needs nothing"),
        pytest.param('{"s": "\\ud83d\\ude00",}', '{"s":"\\ud83d\\ude00"}', id="trailing comma after an escaped character"),
        pytest.param('{"anything": 1e999,}', None, id="a number that is none, in broken JSON"),
        pytest.param('{"anything": NaN}', '{"anything":"NaN"}', id="not a number"),
        pytest.param('{"i": "five"}', None, id="no integer"),
        pytest.param('{"i": "007"}', None, id="leading zeros may mean something"),
        pytest.param('{"i": "5.5"}', None, id="no whole number"),
        pytest.param('{"i": 5.5}', None, id="nothing is rounded"),
        pytest.param('{"e": "Rankine"}', None, id="no such enum value"),
        pytest.param('{"a": "[1, 2"}', None, id="array that was cut off inside a string"),
        pytest.param("[1]", None, id="no object"),
        pytest.param("hello", None, id="no JSON at all"),
        pytest.param('{"b": "' + "x" * 100 + '"}', None, id="no boolean"),
    ],
)  # fmt: skip
def test_repairs(text: str, right: str | None) -> None:
    """What is meant and wanted is what the client gets; what is neither stays and is flagged."""
    checked = check_arguments(text, TOOL, cut_off=False)
    assert (checked.text, checked.verdict) == (
        (text, FLAGGED) if right is None else (right, REPAIRED)
    )
    assert bool(checked.repairs) == (right is not None)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"s": "True"}', id="a string stays one where a string is wanted"),
        pytest.param('{"anything": "True"}', id="and where the schema says nothing"),
        pytest.param('{"unknown": "5"}', id="and where the schema does not know the field"),
        pytest.param('{"either": "True"}', id="and where a string would do"),
        pytest.param('{"i": 5.0}', id="a whole number in another spelling"),
        pytest.param(' { "b" :true }\n', id="odd spacing"),
        pytest.param('{"i": 1, "i": 2}', id="equal keys"),
        pytest.param('{"__proto__": {"b": "x"}, "s": "\\u0000"}', id="__proto__ and NUL"),
        pytest.param('{"nullable": null}', id="nullable"),
        pytest.param('{"n": 123456789012345678901234567890.5}', id="more digits than a float has"),
    ],
)
def test_valid_arguments_stay(text: str) -> None:
    """Byte for byte, whatever they look like, cut off elsewhere or not."""
    for cut_off in (False, True):
        checked = check_arguments(text, TOOL, cut_off=cut_off)
        assert (checked.text, checked.verdict, checked.repairs) == (text, VALID, ())


@pytest.mark.parametrize(
    ("schema", "text", "right"),
    [
        pytest.param(
            properties(p={"type": "string"}) | {"required": ["p"]},
            '{"input": {"p": "x"}}', '{"p":"x"}', id="wrapped",
        ),
        pytest.param(
            properties(p={"type": "integer"}) | {"required": ["p"]},
            '{"name": "t", "arguments": "{\\"p\\": \\"3\\"}"}', '{"p":3}', id="the whole call once more",
        ),
        pytest.param(
            properties(input={"type": "object"}, p={"type": "integer"}) | {"required": ["p"]},
            '{"input": {"p": 3}}', None, id="the wrapper is a field of the tool",
        ),
        pytest.param(
            properties(p={"type": "integer"}), '{"input": {"p": "3"}}', '{"input": {"p": "3"}}',
            id="wrapped, but it validates",
        ),
        pytest.param(
            {"type": "object", "properties": {"shape": {"anyOf": [
                properties(kind={"const": "circle"}, r={"type": "integer"}) | {"required": ["kind", "r"]},
                properties(kind={"const": "text"}, r={"type": "string"}) | {"required": ["kind", "r"]},
            ]}}},
            '{"shape": {"kind": "text", "r": "5"}, "x": 1}', '{"shape": {"kind": "text", "r": "5"}, "x": 1}',
            id="the alternative that is meant decides",
        ),
        pytest.param(
            {"type": "object", "properties": {"shape": {"oneOf": [
                properties(kind={"const": "text"}, r={"type": "string"}) | {"required": ["kind", "r"]},
                properties(kind={"const": "circle"}, r={"type": "integer"}) | {"required": ["kind", "r"]},
            ]}}},
            '{"shape": {"kind": "circle", "r": "5"}}', '{"shape": {"kind": "circle", "r": 5}}',
            id="the second alternative, repaired",
        ),
        pytest.param(
            properties(p={"anyOf": [{"type": "string", "pattern": "^x"}, {"type": "integer"}]}),
            '{"p": "5"}', '{"p": 5}', id="a pattern rules an alternative out",
        ),
        pytest.param(
            properties(p={"type": "integer", "minimum": 10}), '{"p": "5"}', None, id="repaired, but out of bounds",
        ),
        pytest.param(
            properties(p={"type": "boolean"}) | {"required": ["q"]}, '{"p": "true"}', None,
            id="half a repair is none",
        ),
        pytest.param(
            {"$ref": "#/$defs/loop", "$defs": {"loop": {"allOf": [{"$ref": "#/$defs/loop"}]}}},
            '{"p": "true"}', '{"p": "true"}', id="a schema that only refers to itself",
        ),
        pytest.param(
            properties(p={"type": "boolean"}) | {"allOf": [{"$ref": "#"}]}, '{"p": "true"}', '{"p": true}',
            id="a schema that refers to itself and says more",
        ),
        pytest.param(properties(p={"$ref": "http://127.0.0.1:9/x.json"}), '{"p": "true"}', '{"p": "true"}', id="a schema elsewhere is never fetched"),
        pytest.param(properties(p={"type": "flag"}), '{"p": "true"}', '{"p": "true"}', id="no schema judges nothing"),
        pytest.param(None, '{"p": "true"}', '{"p": "true"}', id="a tool without a schema"),
        pytest.param(None, "{'p': 'true'}", '{"p":"true"}', id="a tool without a schema, broken JSON"),
        pytest.param(properties(p={"type": "flag"}), "{'p': 'true'}", None, id="no schema repairs nothing"),
        pytest.param(properties() | {"required": ["p"]}, "", None, id="nothing for a tool that needs something"),
    ],
)  # fmt: skip
def test_schemas(schema: Any, text: str, right: str | None) -> None:
    """What is wanted follows from the whole schema; what does not compile changes nothing."""
    checked = check_arguments(text, tool(schema), cut_off=False)
    expected = FLAGGED if right is None else VALID if right == text else REPAIRED
    assert (checked.text, checked.verdict) == (text if right is None else right, expected)


def test_a_tool_that_was_not_offered() -> None:
    """Its arguments are nobody's to repair."""
    assert check_arguments('{"a": "1"}', None, cut_off=False).verdict is VALID
    assert check_arguments("{'a': 1}", None, cut_off=False).verdict is FLAGGED
    assert check_arguments('{"a": "1', None, cut_off=False).verdict is CUT_OFF


def test_announcements_hold_no_content() -> None:
    """Places and kinds are told, the arguments' own words are not."""
    schema = properties(files={"type": "array", "items": properties(text={"type": "string"})})
    secret = "the whole secret file"
    text = json.dumps({"files": json.dumps([{"text": secret}])})
    checked = check_arguments(text, tool(schema), cut_off=False)
    assert checked.repairs == ("arguments.files: a string -> an array",)
    many = check_arguments(json.dumps({"a": ["1"] * 500}), TOOL, cut_off=False)
    assert many.repairs[0] == 'arguments.a[0]: "1" -> 1'
    assert len(many.repairs) == 21
    assert many.repairs[-1] == "arguments: 480 more of the same kind"


# Laws


@given(ARGUMENTS, st.sampled_from([None, 2]))
def test_what_validates_is_unchanged(case: Sample, indent: int | None) -> None:
    """Byte for byte, whatever the schema."""
    text = json.dumps(case.value, indent=indent)
    jsonschema.validate(case.value, case.schema)
    assert check_arguments(text, tool(case.schema), cut_off=False).text == text


@given(ARGUMENTS)
def test_what_is_meant_is_what_comes_out(case: Sample) -> None:
    """Every way in which models get types wrong leads back to the value that they meant."""
    text = json.dumps(case.wrong)
    checked = check_arguments(text, tool(case.schema), cut_off=False)
    assert checked.verdict in (VALID, REPAIRED)
    if checked.verdict is REPAIRED:
        assert json.loads(checked.text) == case.value
        jsonschema.validate(json.loads(checked.text), case.schema)
    else:
        jsonschema.validate(case.wrong, case.schema)


@given(ARGUMENTS)
def test_repair_is_idempotent(case: Sample) -> None:
    """What was repaired needs nothing more."""
    once = check_arguments(json.dumps(case.wrong), tool(case.schema), cut_off=False)
    twice = check_arguments(once.text, tool(case.schema), cut_off=False)
    assert (twice.text, twice.verdict) == (once.text, VALID)


@given(ARGUMENTS, st.booleans())
def test_what_was_cut_is_never_completed(case: Sample, is_known: bool) -> None:
    """Cut anywhere, arguments go on as they are, whether or not the server says that it cut them."""
    judge = tool(case.schema)
    for value in (case.value, case.wrong):
        text = json.dumps(value, ensure_ascii=False)
        for end in range(0 if is_known else 1, len(text)):
            checked = check_arguments(text[:end], judge, cut_off=is_known)
            assert (checked.text, checked.verdict, checked.repairs) == (text[:end], CUT_OFF, ())


@given(
    st.sampled_from(["{'a': 1, 'b': [True]}", '```json\n{"a": 1}\n```', "{a: 1}", "{'s': 'it }'}"])
)
def test_broken_and_cut_is_never_completed(text: str) -> None:
    """Nor is what was broken besides."""
    for end in range(1, len(text)):
        checked = check_arguments(text[:end], tool(None), cut_off=True)
        assert (checked.text, checked.verdict) == (text[:end], CUT_OFF)


@given(ARGUMENTS, st.one_of(st.text(max_size=40), st.text("{}[]\":,\\'` \n01aTrue", max_size=40)))
def test_any_text_does_no_harm(case: Sample, text: str) -> None:
    """It is passed on as it is, or validates."""
    checked = check_arguments(text, tool(case.schema), cut_off=False)
    if checked.verdict is REPAIRED:
        jsonschema.validate(json.loads(checked.text), case.schema)
        assert checked.repairs
    else:
        assert checked.text == text


@given(ARGUMENTS, JSON)
def test_any_value_does_no_harm(case: Sample, value: Any) -> None:
    """What is announced as repaired validates, and what is valid does not change."""
    text = json.dumps(value)
    checked = check_arguments(text, tool(case.schema), cut_off=False)
    if checked.verdict is REPAIRED:
        jsonschema.validate(json.loads(checked.text), case.schema)
    else:
        assert checked.text == text


@given(JSON, JSON)
def test_any_schema_does_no_harm(schema: Any, value: Any) -> None:
    """A schema may be any JSON."""
    for parameters in (schema, {"type": "object", "properties": schema}, {"allOf": schema}):
        text = json.dumps(value)
        checked = check_arguments(text, tool(parameters), cut_off=False)
        assert checked.text == text or checked.verdict is REPAIRED


# Size and depth

CHAIN = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": properties(
            v={"type": "integer"}, child={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
        )
        | {"required": ["v"]}
    },
}


def chain(depth: int, value: str) -> str:
    """Objects inside objects."""
    return f'{{"v": {value}, "child": ' * depth + "null" + "}" * depth


def test_deep_arguments_are_repaired() -> None:
    """Nesting is bounded by what a parser reads, not by recursion here."""
    checked = check_arguments(chain(700, '"1"'), tool(CHAIN), cut_off=False)
    assert (checked.text, checked.verdict) == (chain(700, "1"), REPAIRED)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, id="objects"),
        pytest.param(
            '{"v": "1", "child": ' * 100_000 + "null" + "}" * 100_000, id="of the schema's kind"
        ),
        pytest.param("{'a':" * 100_000 + "1" + "}" * 100_000, id="broken as well"),
        pytest.param('{"a": "' + "[" * 100_000 + "]" * 100_000 + '"}', id="in a string"),
        pytest.param('{"v": "' + "\\\\" * 500_000 + '"}', id="a megabyte of backslashes"),
        pytest.param('{"v": "' + "x\n" * 500_000 + '"}', id="a megabyte of bare line breaks"),
        pytest.param("{'v': '" + "x" * 1_000_000 + "'}", id="a megabyte in the wrong quotes"),
    ],
)
def test_monsters_are_passed_on(text: str) -> None:
    """What cannot be judged goes on as it is and is flagged."""
    checked = check_arguments(text, tool(CHAIN), cut_off=False)
    assert (checked.text, checked.verdict) == (text, FLAGGED)
    assert check_arguments(text[:-1], tool(CHAIN), cut_off=False).text == text[:-1]


def test_large_strings_stay_as_they_are() -> None:
    """A file of a megabyte beside a wrong boolean."""
    file = json.dumps('line "one"\n' * 100_000)
    checked = check_arguments(f'{{"s": {file}, "b": "True"}}', TOOL, cut_off=False)
    assert checked.text == f'{{"s": {file}, "b": true}}'


def test_time_grows_with_size_only() -> None:
    """Ten times the elements take about ten times the steps, in breadth and in depth."""
    rows = tool(
        properties(
            rows={
                "type": "array",
                "items": properties(x={"type": "integer"}, y={"type": "boolean"}),
            }
        )
    )

    def wide(count: int) -> int:
        text = json.dumps({"rows": [{"x": str(n), "y": "true"} for n in range(count)]})
        return steps_of(lambda: check_arguments(text, rows, cut_off=False))

    def deep(count: int) -> int:
        text = chain(count, '"1"')
        return steps_of(lambda: check_arguments(text, tool(CHAIN), cut_off=False))

    assert wide(3_000) < 12 * wide(300)
    assert deep(500) < 12 * deep(50)


def test_alternatives_inside_alternatives_cost_their_sum() -> None:
    """A union at every level, each side of which looks possible until the bottom."""
    node: dict[str, Any] = {"$ref": "#/$defs/node"}
    side = properties(next=node, v={"type": "integer"})
    schema = properties(next=node) | {
        "$defs": {
            "node": {"anyOf": [side | {"required": ["v", "next"]}, side | {"required": ["v"]}]}
        }
    }

    apart = json.loads(json.dumps(schema))

    def steps(depth: int) -> int:
        value = json.loads('{"next": ' * (depth + 1) + '{"v": "1"}' + ', "v": "1"}' * depth + "}")
        assert Mender(apart).mend(value).fits
        return steps_of(lambda: Mender(apart).mend(value))

    assert steps(12) < 4 * steps(4)


def test_texts_that_would_keep_the_library_busy_are_passed_on() -> None:
    """Its time grows with length times quotes and brackets; what costs too much is flagged unread."""
    for text in ('{"a": ' + "[{" * 3_000 + "}]" * 3_000 + ",}", "{'a': '" + '[""]' * 3_000 + "'}"):
        assert check_arguments(text, tool(None), cut_off=False).verdict is FLAGGED
        assert (
            steps_of(lambda text=text: check_arguments(text, tool(None), cut_off=False)) < 100_000
        )


def test_what_was_cut_elsewhere_is_not_repaired() -> None:
    """The end that the server cut may be missing in what looks whole."""
    text = '{"b": "True"}'
    assert check_arguments(text, TOOL, cut_off=True) == Checked(text, CUT_OFF)
    assert check_arguments("", TOOL, cut_off=True) == Checked("", CUT_OFF)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        pytest.param('{"a": "b"}', False, id="closed"),
        pytest.param('{"a": "b', True, id="in a string"),
        pytest.param('{"a": "b\\"', True, id="at an escaped quote"),
        pytest.param('{"a": "b\\', True, id="at a backslash"),
        pytest.param('{"a": "b\\\\"', True, id="string closed, object open"),
        pytest.param('{"a": [1, 2', True, id="in an array"),
        pytest.param('{"a": "}"', True, id="a bracket in a string does not close"),
        pytest.param("{'a': 'b }'", True, id="in the other quotes"),
        pytest.param("{'a': 'it }", True, id="in a string in the other quotes"),
        pytest.param('{"a": "it\'s"}', False, id="an apostrophe"),
        pytest.param("", False, id="nothing"),
        pytest.param("}", False, id="too many closed"),
    ],
)
def test_where_texts_end(text: str, is_open: bool) -> None:
    """A text that ends inside a string or with open brackets may have been cut off."""
    assert is_unterminated(text) == is_open
