"""
What a tool's schema says of the value that comes next, while the arguments are still being written.

The question is never "is it valid" but "could it need repair": a text where the schema wants a text flows
on to the client, a quotation mark where it wants a boolean does not. Whatever is not understood here counts
as "could", so that arguments are held too long rather than let go too early; the verdict itself is
`penstock.toolcalls.arguments`'s.

A `Place` is a conjunction of choices (`allOf` of `anyOf`s): each group must have at least one simple schema
that takes the value. Values narrow the groups on their way down: once an object has begun, alternatives that
want a text are out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
Group = tuple[Schema, ...]
Place = tuple[Group, ...]

ANYTHING: Place = ()
_MOST_STEPS = 256
_NOT_FOLLOWED = (
    "if",
    "not",
    "dependentSchemas",
    "dependencies",
    "$dynamicRef",
    "$recursiveRef",
    "unevaluatedProperties",
    "unevaluatedItems",
)
_CHOICES = ("anyOf", "oneOf")


class Unclear(Exception):
    """The schema cannot be followed here: hold."""


class Expectations:
    """
    Walks one tool's schema.

    Args:
        root: the schema; its `$ref`s are resolved against it.
    """

    __slots__ = ("_places", "_root")

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._places: dict[int, Place] = {}  # by identity: the root keeps all of them alive

    def start(self) -> Place:
        """What the arguments as a whole are to be."""
        return self._expand(self._root)

    def member(self, place: Place, key: str) -> Place:
        """
        What is expected under *key* of an object at *place* (narrowed to objects).

        Raises:
            Unclear: a key that the schema does not speak of, or a schema that cannot be followed.
        """
        found: list[Group] = []
        for group in place:
            known = [below for schema in group if (below := _property(schema, key)) is not None]
            if not known:
                raise Unclear
            for below in known:
                found.extend(self._expand(below))
        return tuple(found)

    def item(self, place: Place, number: int) -> Place:
        """What is expected as element *number* of an array at *place* (narrowed to arrays)."""
        found: list[Group] = []
        for group in place:
            for schema in group:
                found.extend(self._expand(_element(schema, number)))
        return tuple(found)

    def _expand(self, schema: Any) -> Place:
        known = self._places.get(id(schema))
        if known is None:
            known = self._places[id(schema)] = self._groups(schema)
        return known

    def _groups(self, schema: Any) -> Place:
        groups: list[Group] = []
        todo, steps = [schema], 0
        while todo:
            steps += 1
            one = todo.pop()
            if one is True or one is None:
                continue
            if not isinstance(one, Mapping) or steps > _MOST_STEPS:
                raise Unclear  # also `false`: nothing is right here
            if "$ref" in one:
                todo.append(self._resolve(one["$ref"]))
            together = one.get("allOf")
            if isinstance(together, list):
                todo.extend(together)
            for name in _CHOICES:
                if isinstance(one.get(name), list):
                    groups.append(self._choice(one[name]))
            if one.keys() - {"$ref", "allOf", "anyOf", "oneOf", "$defs", "definitions"}:
                groups.append((one,))
        return tuple(groups)

    def _choice(self, schemas: list[Any]) -> Group:
        """Alternatives without choices inside them."""
        flat: list[Schema] = []
        todo, steps = list(schemas), 0
        while todo:
            steps += 1
            one = todo.pop()
            if steps > _MOST_STEPS:
                raise Unclear
            if one is False:
                continue
            if one is True:
                flat.append({})
                continue
            if not isinstance(one, Mapping):
                raise Unclear
            inner = [
                one[name] for name in ("anyOf", "oneOf", "allOf") if isinstance(one.get(name), list)
            ]
            if "$ref" in one:
                inner.append([self._resolve(one["$ref"])])
            if not inner:
                flat.append(one)
            elif (
                len(inner) > 1
                or (isinstance(one.get("allOf"), list) and len(one["allOf"]) > 1)
                or "type" in one
            ):
                raise Unclear  # a conjunction inside a choice
            else:
                todo.extend(inner[0])
        return tuple(flat)

    def _resolve(self, reference: Any) -> Any:
        if reference == "#":
            return self._root
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise Unclear
        found: Any = self._root
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise Unclear
        return found


def narrow(place: Place, kind: str) -> Place | None:
    """
    *place* for a value of that JSON type (`string`, `number`, `boolean`, `null`, `object`, `array`); None when
    the schema wants another.

    Raises:
        Unclear: for containers whose schema cannot be followed.
    """
    narrowed: list[Group] = []
    for group in place:
        fitting = tuple(schema for schema in group if _takes(schema, kind))
        if not fitting:
            return None
        if kind in ("object", "array"):
            for schema in fitting:
                if any(name in schema for name in _NOT_FOLLOWED):
                    raise Unclear
        narrowed.append(fitting)
    return tuple(narrowed)


def is_listed(place: Place) -> bool:
    """Whether only certain values will do (`enum`, `const`): then the value is judged once it is whole."""
    return any(all("enum" in s or "const" in s for s in group) for group in place)


def allows(place: Place, value: Any) -> bool:
    """Whether each group has a schema that lists *value*, lists none, or takes it for a number."""
    return all(any(_lists(schema, value) for schema in group) for group in place)


def _lists(schema: Schema, value: Any) -> bool:
    if isinstance(value, float) and not value.is_integer() and not _takes_fractions(schema):
        return False
    if "const" in schema:
        return _same(schema["const"], value)
    listed = schema.get("enum")
    return not isinstance(listed, list) or any(_same(one, value) for one in listed)


def _takes_fractions(schema: Schema) -> bool:
    types = schema.get("type")
    return types is None or "number" in (types if isinstance(types, list) else [types])


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _takes(schema: Schema, kind: str) -> bool:
    types = schema.get("type")
    if types is None:
        listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        return not isinstance(listed, list) or any(_kind_of(value) == kind for value in listed)
    allowed = types if isinstance(types, list) else [types]
    return kind in allowed or (kind == "number" and "integer" in allowed)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if value is None:
        return "null"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _property(schema: Schema, key: str) -> Any:
    """The schema of a member; None when this one does not speak of it."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    if "patternProperties" in schema:
        return None
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        return more
    # An object of which nothing is said may hold anything. Where members are named, an unknown one may be
    # a wrapper that repair takes off, or a misspelling.
    return True if more is True or (more is None and not properties) else None


def _element(schema: Schema, number: int) -> Any:
    first, rest = schema.get("prefixItems"), schema.get("items", True)
    if isinstance(rest, list):  # as older drafts write it
        first, rest = rest, schema.get("additionalItems", True)
    if isinstance(first, list) and number < len(first):
        return first[number]
    return rest
