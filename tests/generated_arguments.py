"""Generated schemas with values that they take, and the same values as models get them wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from penstock.toolcalls.schema import ToolSchema, ToolSet

NAMES = st.sampled_from(
    ["path", "count", "__proto__", "constructor", "größe", "a b", 'q"u\\o', "x"]
)


@dataclass(frozen=True)
class Sample:
    """A schema, a value that it takes, and what a model made of that value."""

    schema: dict[str, Any]
    value: Any
    wrong: Any


def sample(schema: dict[str, Any], value: Any, wrong: Any) -> Sample:
    """One of them."""
    return Sample(schema, value, wrong)


def spellings(word: str) -> st.SearchStrategy[str]:
    """A word as models spell it."""
    return st.sampled_from([word, word.upper(), word.title(), f" {word} "])


BOOLEANS = st.booleans().flatmap(
    lambda yes: st.builds(
        sample, st.just({"type": "boolean"}), st.just(yes), spellings(json.dumps(yes))
    )
)
INTEGERS = st.integers(-(10**12), 10**12).map(lambda n: Sample({"type": "integer"}, n, str(n)))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32).map(
    lambda n: Sample({"type": "number"}, n, json.dumps(n))
)
NULLS = st.sampled_from(["null", "None", " NULL"]).map(
    lambda word: Sample({"type": "null"}, None, word)
)
ENUMS = st.sampled_from(["Celsius", "Fahrenheit"]).map(
    lambda word: Sample({"enum": ["Celsius", "Fahrenheit"]}, word, word.swapcase())
)
NULLABLE = st.sampled_from(["anyOf", "oneOf"]).flatmap(
    lambda keyword: st.integers(0, 99).map(
        lambda n: Sample({keyword: [{"type": "null"}, {"type": "integer"}]}, n, f" {n} ")
    )
)
STRINGS = st.sampled_from(
    ["True", " false ", "5", "null", "[1]", '{"a": 1}', "", "\x00", "ünï"]
).map(lambda text: Sample({"type": "string"}, text, text))
ANYTHING = st.sampled_from(["True", "5", "null", 5, None, [1], {"a": "1"}]).map(
    lambda value: Sample({}, value, value)
)
LEAVES = st.one_of(BOOLEANS, INTEGERS, NUMBERS, NULLS, ENUMS, NULLABLE, STRINGS, ANYTHING)


def as_text(inner: Sample, do: bool) -> Sample:
    """The same with the wrong value given as JSON text."""
    return Sample(inner.schema, inner.value, json.dumps(inner.wrong)) if do else inner


def arrays(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    """Arrays of one thing several times, at times as JSON text or as the single thing."""
    many = st.builds(
        lambda one, times: Sample(
            {"type": "array", "items": one.schema}, [one.value] * times, [one.wrong] * times
        ),
        inner,
        st.integers(0, 3),
    )
    single = INTEGERS.map(
        lambda one: Sample({"type": "array", "items": one.schema}, [one.value], one.wrong)
    )
    return st.one_of(st.builds(as_text, many, st.booleans()), single)


def members(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    """Objects of several things."""
    return st.builds(
        lambda fields, closed: Sample(
            {
                "type": "object",
                "properties": {name: one.schema for name, one in fields.items()},
                "required": sorted(fields),
                **({"additionalProperties": False} if closed else {}),
            },
            {name: one.value for name, one in fields.items()},
            {name: one.wrong for name, one in fields.items()},
        ),
        st.dictionaries(NAMES, inner, max_size=4),
        st.booleans(),
    )


def objects(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    """The same, at times as JSON text or behind a reference."""
    return st.builds(as_text, members(inner), st.booleans())


VALUES = st.recursive(LEAVES, lambda inner: st.one_of(arrays(inner), objects(inner)), max_leaves=12)
ARGUMENTS = members(VALUES)
"""Schemas of tools, right arguments, and wrong ones that mean the same."""

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=6),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def tool(schema: Any, name: str = "t") -> ToolSchema:
    """The tool with these parameters."""
    found = ToolSet.of(
        [{"type": "function", "function": {"name": name, "parameters": schema}}]
    ).get(name)
    assert found is not None
    return found


def steps_of(action: Callable[[], object]) -> int:
    """Function calls that *action* makes: the same on every machine."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count
