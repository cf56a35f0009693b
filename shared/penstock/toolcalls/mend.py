"""
What a value most likely was meant to be, by its JSON Schema: the walk that repairs (behaviours E1).

The walk changes a value only where the schema forbids it as it is, and only into what the schema asks for
there; of several alternatives the one that costs the fewest changes wins, the first of equals. It knows the
keywords that shape a value; whether the result really validates is for the validator to say (`repair`).

A step is a generator that asks for other steps; a stack of our own runs them, so neither values nor
schemas can exhaust Python's. Each pair of value and schema is judged once: alternatives inside alternatives
cost their sum, not their product, and a schema that refers to itself comes to an end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from penstock.toolcalls.broken import read_exactly, read_loosely
from penstock.toolcalls.jsontext import is_unterminated
from penstock.toolcalls.schema import Validator, compile_schema
from penstock.toolcalls.spelling import (
    CONVERT,
    GUESS,
    RESHAPE,
    is_of,
    is_same,
    json_type,
    types_of,
    words,
)

WRAPPERS = frozenset({"input", "arguments", "args", "params", "parameters", "kwargs"})
"""Keys under which models put the whole of the arguments once more."""
_BESIDE_WRAPPER = frozenset({"name", "tool", "tool_name", "function", "type", "id"})
_FACETS = (
    "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf",
)  # fmt: skip
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_LOOSE_CHARS = 65_536
"""So much almost-JSON inside strings is tried in one value, all strings together."""


class Wanted(NamedTuple):
    """
    What a schema says about one value without its members.

    Attributes:
        types: their names, None when any will do.
        values: what `enum` or `const` allow, None when anything.
        facets: of texts and numbers.
        alone: no other schemas hold beside it, so that this is all about a text, number or boolean.
    """

    types: frozenset[str] | None
    values: list[Any] | None
    facets: bool
    alone: bool


class Mended(NamedTuple):
    """A value, whether it fits as far as the walk can tell, and what changing it cost."""

    value: Any
    fits: bool
    cost: int


Step = Generator[tuple[Any, Any], Mended, Mended]


class Mender:
    """Mends values by one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._takes_whole_floats = "draft-04" not in str(schema.get("$schema"))
        self._done: dict[tuple[int, int], Mended] = {}
        self._alive: list[Any] = []
        self._refs: dict[str, Any] = {}
        self._wants: dict[int, Wanted] = {}
        self._facets: dict[int, Validator] = {}
        self._loose_chars = _LOOSE_CHARS

    def mend(self, value: Any) -> Mended:
        """*value* as the schema wants it; the identical object where nothing had to change."""
        done = self._done
        keys: list[tuple[int, int]] = [(id(value), id(self._root))]
        done[keys[0]] = Mended(value, True, 0)
        steps: list[Step] = [self._judge(value, self._root)]
        answer: Mended | None = None
        while steps:
            try:
                asked, schema = steps[-1].send(answer)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                steps.pop()
                answer = done[keys.pop()] = end.value
                continue
            answer = self._at_once(asked, schema)
            if answer is not None:
                continue
            key = (id(asked), id(schema))
            answer = done.get(key)
            if answer is None:
                # Asked again while it is being judged: a schema that refers to itself says nothing new.
                done[key] = Mended(asked, True, 0)
                self._alive.append(asked)  # so that its id stays its own
                keys.append(key)
                steps.append(self._judge(asked, schema))
        assert answer is not None
        return answer

    def _at_once(self, value: Any, schema: Any) -> Mended | None:
        """The answer where it takes no walk: most values are texts and numbers as they should be."""
        if type(schema) is not dict or not schema:
            return Mended(value, schema is not False, 0)
        if isinstance(value, dict | list):
            return None
        wanted = self._wanted(schema)
        if not wanted.alone:
            return None
        first: Mended | None = None
        for candidate, cost in self._candidates(value, schema):
            if isinstance(candidate, dict | list):
                return None
            if first is None:
                first = Mended(candidate, True, cost)
            if first.cost <= CONVERT:
                break
        return first or Mended(value, False, 0)

    def _judge(self, value: Any, schema: Mapping[str, Any]) -> Step:
        """By the schema's own keywords first, then by the schemas that it refers to or combines."""
        best = Mended(value, False, 0)
        for candidate, cost in self._candidates(value, schema):
            if best.fits and best.cost <= cost:
                break
            found = Mended(candidate, True, 0)
            if isinstance(candidate, dict):
                found = yield from self._object(candidate, schema)
            elif isinstance(candidate, list):
                found = yield from self._array(candidate, schema)
            if found.fits:
                found = yield from self._combined(found, schema)
            if found.fits and (not best.fits or found.cost + cost < best.cost):
                best = found._replace(cost=found.cost + cost)
        if not best.fits and isinstance(value, dict):
            inner = self._wrapped(value, schema)
            if inner is not None:
                found = yield inner, schema
                if found.fits and isinstance(found.value, dict):
                    return found._replace(cost=found.cost + RESHAPE)
        return best

    def _combined(self, mended: Mended, schema: Mapping[str, Any]) -> Step:
        value, fits, cost = mended
        for part in self._parts(schema):
            found = yield value, part
            value, fits, cost = found.value, fits and found.fits, cost + found.cost
        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword)
            if isinstance(branches, list) and branches:
                chosen = Mended(value, False, 0)
                for branch in branches:
                    found = yield value, branch
                    if found.fits and (not chosen.fits or found.cost < chosen.cost):
                        chosen = found
                    if chosen.fits and chosen.cost == 0:
                        break
                value, fits, cost = chosen.value, fits and chosen.fits, cost + chosen.cost
        return Mended(value, fits, cost)

    def _parts(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Schemas that hold beside this one."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self._resolved(reference)
        parts = schema.get("allOf")
        if isinstance(parts, list):
            yield from parts

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any]) -> Step:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        others = None if "patternProperties" in schema else schema.get("additionalProperties")
        required = schema.get("required")
        fits = not isinstance(required, list) or all(name in value for name in required)
        out, cost = value, 0
        for name, inner in value.items():
            wanted = properties.get(name, others)
            if wanted is None:
                continue
            found = self._at_once(inner, wanted) or (yield inner, wanted)
            fits = fits and found.fits
            if found.value is not inner:
                if out is value:
                    out = dict(value)
                out[name] = found.value
                cost += found.cost
        return Mended(out, fits, cost)

    def _array(self, value: list[Any], schema: Mapping[str, Any]) -> Step:
        rest = schema.get("items")
        first = schema.get("prefixItems")
        if isinstance(rest, list):  # drafts before 2020
            first, rest = rest, schema.get("additionalItems")
        first = first if isinstance(first, list) else []
        out, fits, cost = value, _length_fits(value, schema), 0
        for place, inner in enumerate(value):
            wanted = first[place] if place < len(first) else rest
            if wanted is None:
                continue
            found = self._at_once(inner, wanted) or (yield inner, wanted)
            fits = fits and found.fits
            if found.value is not inner:
                if out is value:
                    out = list(value)
                out[place] = found.value
                cost += found.cost
        return Mended(out, fits, cost)

    def _wrapped(self, value: dict[str, Any], schema: Mapping[str, Any]) -> Any:
        """The object inside a needless wrapping, None where there is none."""
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        wrappers = [name for name in value if name in WRAPPERS and name not in known]
        if len(wrappers) != 1 or any(
            name not in _BESIDE_WRAPPER or name in known for name in value if name != wrappers[0]
        ):
            return None
        inner = value[wrappers[0]]
        return inner if isinstance(inner, dict | str) else None

    def _candidates(self, value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
        """What *value* can be read as where the schema's `type`, `enum` and `const` allow it, with costs."""
        types, values, facets, _ = self._wanted(schema)
        if types is None or (is_of(value, types) and self._is_whole(value, types)):
            if values is None or any(is_same(value, item) for item in values):
                if not facets or self._facets_fit(value, schema):
                    yield value, 0
                return
            if isinstance(value, str):
                spelt = value.strip().casefold()
                alike = [v for v in values if isinstance(v, str) and v.strip().casefold() == spelt]
                if len(alike) == 1:
                    yield alike[0], CONVERT
            if types is None:
                return
        for candidate, cost in self._coerced(value, types):
            allowed = values is None or any(is_same(candidate, item) for item in values)
            if allowed and (not facets or self._facets_fit(candidate, schema)):
                yield candidate, cost

    def _is_whole(self, value: Any, types: frozenset[str]) -> bool:
        """5.0 is an integer, but was none in draft 4."""
        return self._takes_whole_floats or not isinstance(value, float) or "number" in types

    def _wanted(self, schema: Mapping[str, Any]) -> Wanted:
        found = self._wants.get(id(schema))
        if found is None:
            values = [schema["const"]] if "const" in schema else schema.get("enum")
            if not isinstance(values, list):
                values = None
            types = types_of(schema)
            if types is None and values is not None:
                types = frozenset(json_type(item) for item in values)
            facets = any(name in schema for name in _FACETS)
            alone = not any(name in schema for name in _COMBINING)
            found = self._wants[id(schema)] = Wanted(types, values, facets, alone)
        return found

    def _coerced(self, value: Any, types: frozenset[str]) -> Iterator[tuple[Any, int]]:
        """*value* as one of *types*, the surest reading first."""
        if isinstance(value, str):
            yield from words(value.strip(), types)
            if "object" in types or "array" in types:
                decoded = self._decoded(value.strip())
                if decoded is not None and is_of(decoded, types):
                    yield decoded, CONVERT
                    return
                if value.lstrip()[:1] in ("[", "{"):
                    return  # an array or object that was not understood is no single value
        elif isinstance(value, float) and value.is_integer() and "integer" in types:
            yield int(value), CONVERT
        elif type(value) is int and value in (0, 1) and "boolean" in types:
            yield bool(value), GUESS
        if "array" in types and not isinstance(value, list) and value is not None:
            yield [value], RESHAPE

    def _decoded(self, text: str) -> Any:
        """The array or object that *text* spells, None when it is none or was cut off."""
        if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
            return None
        try:
            return read_exactly(text)
        except ValueError:
            self._loose_chars -= len(text)
            if self._loose_chars < 0 or is_unterminated(text):
                return None
        try:
            return read_loosely(text)
        except ValueError:
            return None

    def _facets_fit(self, value: Any, schema: Mapping[str, Any]) -> bool:
        """Bounds and patterns of texts and numbers; those of arrays are seen elsewhere."""
        if not isinstance(value, str | int | float):
            return True
        validator = self._facets.get(id(schema))
        try:
            if validator is None:
                facets = {name: schema[name] for name in _FACETS if name in schema}
                validator = compile_schema(facets)
                self._facets[id(schema)] = validator
            return validator.is_valid(value)
        except ValueError:
            return True

    def _resolved(self, reference: str) -> Any:
        """The schema that a local `$ref` means; anything else allows everything here."""
        if reference not in self._refs:
            self._refs[reference] = self._look_up(reference)
        return self._refs[reference]

    def _look_up(self, reference: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            return True
        node: Any = self._root
        for part in unquote(reference).split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif (
                isinstance(node, list)
                and part.isascii()
                and part.isdigit()
                and int(part) < len(node)
            ):
                node = node[int(part)]
            else:
                return True
        return node


def _length_fits(value: list[Any], schema: Mapping[str, Any]) -> bool:
    least, most = schema.get("minItems"), schema.get("maxItems")
    return not (
        (isinstance(least, int) and len(value) < least)
        or (isinstance(most, int) and len(value) > most)
    )
