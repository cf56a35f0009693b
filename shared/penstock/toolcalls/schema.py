"""
The tools of a request and their JSON Schemas, compiled when the first call of a tool is judged.

A request that offers a hundred tools pays for the one that the model calls. Compiled schemas are kept by
their content, so the next request of the same agent finds them; what is kept is bounded.

A schema is what a client sent: it may refer to files and addresses (never fetched), hold cycles, patterns
that blow up, or nonsense. A schema that does not compile judges nothing, and nothing is repaired by it.

The validator (`jsonschema-rs`) descends on the machine's stack, and tries every alternative. So what nests
deeper than that stack surely bears, or than the alternatives can be paid for (`effort`), is not judged;
`ToolSchema.bears` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import jsonschema_rs
import orjson

from penstock.toolcalls.effort import Ways

MAX_DEPTH = 1_000
"""Nesting of arguments that is judged; beyond it orjson reads nothing either (it ends at 1,024)."""
_STACK_BYTES, _LEVEL_BYTES, _STEP_BYTES = 700_000, 400, 80
"""
Measured with jsonschema-rs 0.61: a level of a value takes 360 bytes of stack, each schema that judges the
same value inside another 70; the smallest main thread has a megabyte (Windows).
"""
_KEPT = 128
_LARGEST_KEPT_BYTES = 32_768


class Validator(Protocol):
    def is_valid(self, instance: Any) -> bool: ...


class ToolSchema:
    """
    One tool's parameters.

    Attributes:
        name: the tool's name; empty for a schema without one.
        schema: its JSON Schema, normalised (`nullable` spelt out); None when the tool has none.
    """

    __slots__ = ("_deepest", "_validator", "name", "schema")

    def __init__(self, name: str, schema: Any = None) -> None:
        self.name = name
        self._validator: Validator | None = None
        self._deepest = MAX_DEPTH
        self.schema: Mapping[str, Any] | None = None
        if isinstance(schema, Mapping):
            compiled = _compiled(schema)
            if compiled is None:
                self._deepest = 0
                self.schema = {}
            else:
                self.schema, self._validator, self._deepest = compiled

    @property
    def usable(self) -> bool:
        """Whether it can judge: it compiled, or there is no schema and any object will do."""
        return self.schema is None or self._deepest > 0

    def bears(self, value: Any) -> bool:
        """Whether *value* is flat enough to be judged."""
        return not deeper_than(value, self._deepest)

    def validates(self, value: Any) -> bool:
        """Whether *value* is an object that the schema takes; False also when that cannot be judged."""
        return isinstance(value, dict) and self.accepts(value)

    def accepts(self, value: Any) -> bool:
        """The same for values that need not be objects."""
        if self.schema is None:
            return True
        if self._validator is None or not self.bears(value):
            return False
        try:
            return self._validator.is_valid(value)
        except (ValueError, TypeError, OverflowError):  # lone surrogates, patterns that run away
            return False

    @property
    def needs_something(self) -> bool:
        """Whether an empty object would not do."""
        return not self.validates({})


class ToolSet:
    """
    The tools that a request offers.

    Entries that make no sense are passed over: the server will say so.
    """

    __slots__ = ("_compiled", "_raw")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self._compiled: dict[str, ToolSchema] = {}

    @classmethod
    def of(cls, tools: Sequence[Any] | None) -> ToolSet:
        """
        The tools in a request's `tools` (or older `functions`), as parsed JSON.

        Args:
            tools: `{"type": "function", "function": {...}}`, or the function itself. Of two tools of one
                name the first counts.
        """
        raw: dict[str, Any] = {}
        for tool in tools if isinstance(tools, list | tuple) else ():
            if not isinstance(tool, Mapping):
                continue
            function = tool.get("function")
            if not isinstance(function, Mapping):
                function = tool
            name = function.get("name")
            if isinstance(name, str) and name:
                parameters = function.get("parameters", function.get("input_schema"))
                raw.setdefault(name, parameters)
        return cls(raw)

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools offered."""
        return frozenset(self._raw)

    def get(self, name: str) -> ToolSchema | None:
        """The tool *name*, or None when it was not offered."""
        found = self._compiled.get(name)
        if found is None and name in self._raw:
            found = self._compiled[name] = ToolSchema(name, self._raw[name])
        return found

    def __bool__(self) -> bool:
        return bool(self._raw)

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)


def deeper_than(value: Any, depth: int) -> bool:
    """Whether arrays and objects in *value* are nested deeper than *depth*, level by level."""
    level = [value] if isinstance(value, dict | list) else []
    while level:
        if depth == 0:
            return True
        depth -= 1
        below: list[Any] = []
        for container in level:
            inner = container.values() if isinstance(container, dict) else container
            below += [item for item in inner if isinstance(item, dict | list)]
        level = below
    return False


Compiled = tuple[Mapping[str, Any], Validator, int]


def _compiled(schema: Mapping[str, Any]) -> Compiled | None:
    """The normalised schema, its validator and the deepest value it bears; None when it does not compile."""
    try:
        text = orjson.dumps(schema)
    except (
        TypeError,
        ValueError,
    ):  # nested deeper than orjson writes (254), or numbers too large for it
        return None
    return _kept(text) if len(text) <= _LARGEST_KEPT_BYTES else _compile(text)


def _compile(text: bytes) -> Compiled | None:
    schema = orjson.loads(text)
    _normalise(schema)
    try:
        validator = compile_schema(schema)
    except ValueError:
        return None
    ways = Ways(schema)
    bearable = _STACK_BYTES // (_LEVEL_BYTES + _STEP_BYTES * ways.longest)
    return schema, validator, ways.deepest(min(MAX_DEPTH, bearable))


def compile_schema(schema: dict[str, Any]) -> Validator:
    """
    A validator that fetches nothing and whose patterns give up before they run away.

    Raises:
        ValueError: it is no schema of any draft, or refers to something elsewhere.
    """
    options = jsonschema_rs.FancyRegexOptions(backtrack_limit=20_000)
    try:
        return jsonschema_rs.validator_for(
            schema, validate_formats=False, pattern_options=options, offline=True
        )
    except ValueError:  # draft 4 said some things otherwise (`exclusiveMinimum: true`)
        return jsonschema_rs.Draft4Validator(
            schema, validate_formats=False, pattern_options=options, offline=True
        )


_kept = lru_cache(maxsize=_KEPT)(_compile)


def _normalise(schema: dict[str, Any]) -> None:
    """Spell out `nullable` and forget a `$schema` that nobody knows, in place."""
    if "json-schema.org" not in str(schema.get("$schema", "")):
        schema.pop("$schema", None)
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            if node.get("nullable") is True:
                _allow_null(node)
            stack += node.values()


def _allow_null(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if isinstance(kind, str):
        node["type"] = [kind, "null"] if kind != "null" else kind
    elif isinstance(kind, list) and "null" not in kind:
        node["type"] = [*kind, "null"]
    values = node.get("enum")
    if isinstance(values, list) and None not in values:
        node["enum"] = [*values, None]
