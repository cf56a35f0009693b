"""
How deep a value may nest before a schema makes its validator work for ever.

A validator judges a part of a value once for each way through the schema that leads to it. Two ways at each
level (alternatives that share a field, `allOf` that names one thing twice) double that with each level:
thirty levels of a schema of five lines keep it busy for minutes, and the gateway with it. So the ways are
counted here, from the schema alone, for one level after the other; values that nest deeper than the count
allows are not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

MOST_WAYS = 10_000
"""Judgements of one part of a value. A guess: some milliseconds at worst."""
_IN_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE = ("not", "if", "then", "else")
_NAMED = ("properties", "patternProperties")
_BELOW = (
    "items", "additionalItems", "additionalProperties", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_ANY = None
"""The label of a way to every member."""

Counts = dict[int, int]


class Ways:
    """A schema as ways: to schemas for the same value, and to those for its members by name."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.same: dict[int, list[int]] = {}
        self.below: dict[int, list[tuple[str | None, int]]] = {}
        self.order: list[int] = []
        self._root = root
        self._follow(root)

    def _follow(self, root: Mapping[str, Any]) -> None:
        """Depth first with a stack; `order` gets every schema after those for the same value."""
        beginnings: list[Mapping[str, Any]] = [root]
        while beginnings:
            stack: list[tuple[Mapping[str, Any], bool]] = [(beginnings.pop(), False)]
            while stack:
                node, is_done = stack.pop()
                if is_done:
                    self.order.append(id(node))
                elif id(node) not in self.same:
                    same, below = list(self._same(node)), list(_members(node))
                    self.same[id(node)] = [id(inner) for inner in same]
                    self.below[id(node)] = [(label, id(inner)) for label, inner in below]
                    stack.append((node, True))
                    stack += [(inner, False) for inner in same]
                    beginnings += [inner for _, inner in below]

    def _same(self, node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            target = self._target(reference)
            if target is not None:
                yield target
        for keyword in _IN_LISTS:
            listed = node.get(keyword)
            if isinstance(listed, list):
                yield from (inner for inner in listed if isinstance(inner, dict))
        for keyword in _IN_PLACE:
            inner = node.get(keyword)
            if isinstance(inner, dict):
                yield inner
        dependent = node.get("dependentSchemas")
        if isinstance(dependent, dict):
            yield from (inner for inner in dependent.values() if isinstance(inner, dict))

    def _target(self, reference: str) -> Mapping[str, Any] | None:
        node: Any = self._root
        for part in reference.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else None

    @property
    def longest(self) -> int:
        """The most schemas that judge one value inside one another."""
        lengths: dict[int, int] = {}
        for node in self.order:
            lengths[node] = 1 + max([lengths.get(inner, 0) for inner in self.same[node]], default=0)
        return max(lengths.values())

    def deepest(self, most_levels: int) -> int:
        """Levels of arrays and objects, at most *most_levels*, that a value may have; 0 for none at all."""
        ways = self._spread({id(self._root): 1})
        seen: set[frozenset[tuple[int, int]]] = set()
        for level in range(most_levels):
            if sum(ways.values()) > MOST_WAYS:
                return level
            state = frozenset(ways.items())
            if not ways or state in seen:
                break
            seen.add(state)
            ways = self._spread(self._step(ways))
        return most_levels

    def _spread(self, ways: Counts) -> Counts:
        """*ways* with those added that lead on to schemas for the same value; circles are walked once."""
        out: defaultdict[int, int] = defaultdict(int, ways)
        seen: set[int] = set()
        for node in reversed(self.order):
            seen.add(node)
            count = out.get(node, 0)
            if count:
                for inner in self.same[node]:
                    if inner not in seen:
                        out[inner] += count
        return out

    def _step(self, ways: Counts) -> Counts:
        """The most ways to each schema for one member of a value to which *ways* lead."""
        by_label: defaultdict[str | None, Counts] = defaultdict(lambda: defaultdict(int))
        for node, count in ways.items():
            for label, inner in self.below[node]:
                by_label[label][inner] += count
        everywhere = by_label.pop(_ANY, {})
        most: Counts = dict(everywhere)
        for named in by_label.values():
            for inner, count in named.items():
                most[inner] = max(most.get(inner, 0), count + everywhere.get(inner, 0))
        return most


def _members(node: Mapping[str, Any]) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    for keyword in _NAMED:
        named = node.get(keyword)
        if isinstance(named, dict):
            for name, inner in named.items():
                if isinstance(inner, dict):
                    yield (name if keyword == "properties" else _ANY), inner
    for keyword in _BELOW:
        inner = node.get(keyword)
        if isinstance(inner, dict):
            yield _ANY, inner
        elif isinstance(inner, list):
            yield from ((_ANY, one) for one in inner[:1] if isinstance(one, dict))
    first = node.get("prefixItems")
    if isinstance(first, list):
        yield from (
            (f"[{place}]", inner) for place, inner in enumerate(first) if isinstance(inner, dict)
        )
