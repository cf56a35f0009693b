"""The tools of a request, compiled once and within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from generated_arguments import steps_of
from penstock.toolcalls import schema as module
from penstock.toolcalls.effort import MOST_WAYS, Ways
from penstock.toolcalls.schema import ToolSchema, ToolSet, deeper_than

OBJECT = {"type": "object", "properties": {"x": {"type": "integer"}}}


def properties(**named: Any) -> dict[str, Any]:
    """An object's schema."""
    return {"type": "object", "properties": named}


@pytest.mark.parametrize(
    "tools",
    [
        pytest.param([{"type": "function", "function": {"name": "t", "parameters": OBJECT}}], id="tools"),
        pytest.param([{"name": "t", "parameters": OBJECT}], id="functions"),
        pytest.param([{"type": "function", "name": "t", "parameters": OBJECT}], id="Responses"),
        pytest.param([{"name": "t", "input_schema": OBJECT}], id="Messages"),
        pytest.param(
            [None, 5, "t", [], {}, {"function": {}}, {"function": {"name": 5}}, {"type": "web_search"},
             {"name": "t", "parameters": OBJECT}, {"name": "t", "parameters": {"type": "string"}}],
            id="among odd entries, the first of two",
        ),
    ],
)  # fmt: skip
def test_tools(tools: list[Any]) -> None:
    """Every dialect's way to offer a tool is understood, what is no tool is passed over."""
    offered = ToolSet.of(tools)
    assert offered
    assert offered.names == {"t"}
    assert "t" in offered
    tool = offered.get("t")
    assert tool is not None
    assert tool is offered.get("t")
    assert tool.validates({"x": 1})
    assert not tool.validates({"x": "1"})
    assert offered.get("other") is None


@pytest.mark.parametrize("tools", [None, [], "tools", [{}], {"name": "t"}])
def test_no_tools(tools: Any) -> None:
    """Nothing offered is nothing to judge."""
    assert not ToolSet.of(tools)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "flag"}, id="unknown type"),
        pytest.param({"properties": []}, id="no fields"),
        pytest.param({"$ref": "#/nowhere"}, id="reference to nowhere"),
        pytest.param({"$ref": "file:///etc/hostname"}, id="reference to a file"),
        pytest.param({"$ref": "http://127.0.0.1:9/"}, id="reference to an address"),
        pytest.param({"pattern": "["}, id="no pattern"),
    ],
)
def test_what_does_not_compile_judges_nothing(schema: Any) -> None:
    """It validates nothing, and says so."""
    tool = ToolSchema("t", schema)
    assert not tool.usable
    assert not tool.validates({})


def test_any_object_will_do_without_a_schema() -> None:
    """A tool without parameters takes any object."""
    for tool in (ToolSchema("t"), ToolSchema("t", None), ToolSchema("t", {})):
        assert tool.usable
        assert tool.validates({"x": 1})
        assert not tool.validates([1])


def test_nullable_is_spelt_out() -> None:
    """OpenAPI's word means what it says."""
    tool = ToolSchema(
        "t",
        properties(
            x={"type": "string", "nullable": True, "enum": ["a"]},
            y={"type": ["integer"], "nullable": True},
        ),
    )
    assert tool.validates({"x": None, "y": None})
    assert not tool.validates({"x": "b"})


def test_patterns_that_run_away_end() -> None:
    """They give up, and do not match."""
    tool = ToolSchema("t", properties(x={"type": "string", "pattern": "^(a|a)*(?!x)b$"}))
    assert tool.usable
    assert not tool.validates({"x": "a" * 200 + "c"})


def test_compiled_schemas_are_kept_within_bounds() -> None:
    """The next request finds them; there are never more than so many."""
    for number in range(400):
        assert ToolSchema("t", properties(**{f"x{number}": {"type": "integer"}})).usable
    kept = module._kept.cache_info()
    assert kept.currsize == kept.maxsize == 128
    again = steps_of(lambda: ToolSchema("t", properties(x399={"type": "integer"})))
    assert again < steps_of(lambda: ToolSchema("t", properties(x1={"type": "integer"}))) / 2


@pytest.mark.parametrize(
    ("value", "depth", "is_deeper"),
    [
        pytest.param(5, 0, False, id="a number has no depth"),
        pytest.param([], 0, True, id="an empty array is one level"),
        pytest.param({"a": [1]}, 2, False, id="two levels"),
        pytest.param({"a": [1], "b": [[2]]}, 2, True, id="three levels"),
    ],
)
def test_depth(value: Any, depth: int, is_deeper: bool) -> None:
    """Levels of arrays and objects are counted."""
    assert deeper_than(value, depth) == is_deeper


TWICE = {
    f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]}
    for n in range(40)
}
NODE = {"$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    ("schema", "levels"),
    [
        pytest.param(properties(x={"type": "integer"}), 1_000, id="plain"),
        pytest.param({**NODE, "$defs": {"node": properties(next=NODE)}}, 1_000, id="a list"),
        pytest.param({**NODE, "$defs": {"node": {"anyOf": [properties(l=NODE, r=NODE), {"type": "null"}]}}}, 1_000, id="a tree"),
        pytest.param({**NODE, "$defs": {"node": NODE}}, 1_000, id="a circle"),
        pytest.param({"$ref": "#/$defs/a0", "$defs": TWICE | {"a40": {}}}, 0, id="twice the same, forty times"),
        pytest.param({**NODE, "$defs": {"node": {"allOf": [properties(next=NODE), properties(next=NODE)]}}}, 12, id="twice the same at each level"),
        pytest.param({"anyOf": [properties(**{f"k{n}": {"type": "string"}}) for n in range(500)]}, 1_000, id="many alternatives"),
        pytest.param({"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}}, 8, id="three ways into each array"),
    ],
)  # fmt: skip
def test_levels_that_can_be_paid_for(schema: Any, levels: int) -> None:
    """Where ways multiply with depth, depth is bounded; where they do not, it is not."""
    assert Ways(schema).deepest(1_000) == levels


def test_a_schema_that_takes_for_ever_judges_nothing() -> None:
    """A validator would walk a million million ways."""
    schema = {"$ref": "#/$defs/a0", "$defs": TWICE | {"a40": {"type": "object"}}}
    tool = ToolSchema("t", schema)
    assert MOST_WAYS < 2**40
    assert not tool.usable
    assert not tool.validates({})


def test_counting_ways_is_quick() -> None:
    """Its steps grow with the schema only."""

    def steps(fields: int) -> int:
        schema = properties(
            **{
                f"x{n}": properties(y={"anyOf": [{"type": "string"}, {"type": "null"}]})
                for n in range(fields)
            }
        )
        return steps_of(lambda: Ways(schema).deepest(1_000))

    assert steps(400) < 12 * steps(40)
