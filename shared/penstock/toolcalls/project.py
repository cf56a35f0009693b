"""
Schemas as a server's grammar compiler can take them (behaviours E, error `grammar_refused`).

Servers compile the schemas of tools and answers into grammars and refuse the whole request for one pattern
that they cannot compile. So that is left out, towards the server only: the original still judges the answer.

Some schemas are worse than refused: a real llama.cpp (2026.10) never returned from `minLength` above
`maxLength`, `minItems` above `maxItems` and the pattern `^a{3,1}$`, and served nobody any more. These
contradictions are to be taken out before a request is sent at all (`only_harmful`).

Everything else that is left out was refused by that server, or is by older ones or by other compilers
(xgrammar): `tests/real/test_projection.py` shows refused before, taken after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from penstock.domain.change import Change
from penstock.toolcalls.jsontext import write
from penstock.toolcalls.patterns import compiles, is_harmless

MAX_COUNT = 500
"""Most characters or elements that a grammar is asked to count; llama.cpp ends at 2,000, others sooner."""
_MAX_NUMBER = 2**53
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_LEFT_OUT = frozenset(
    {
        "not", "if", "then", "else", "patternProperties", "propertyNames", "dependencies",
        "dependentRequired", "dependentSchemas", "contains", "minContains", "maxContains", "uniqueItems",
        "unevaluatedItems", "unevaluatedProperties", "minProperties", "maxProperties", "multipleOf",
        "$dynamicRef", "$recursiveRef", "contentSchema",
    }
)  # fmt: skip
_BY_NAME = ("properties", "$defs", "definitions")
_IN_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONE = ("items", "additionalProperties", "additionalItems")
_COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"))
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEPT_BYTES = 16_384
_MOST_FINE = 512
_FINE: set[tuple[int, bool]] = set()
"""Keys of tools in which nothing had to change."""


@dataclass(frozen=True, slots=True)
class Projected:
    """
    A schema for a server's grammar.

    Attributes:
        schema: the identical object when nothing was left out.
        dropped: keywords that were left out, one entry for each place.
    """

    schema: Any
    dropped: tuple[str, ...] = ()


def project_schema(schema: Any, *, only_harmful: bool = False) -> Projected:
    """
    *schema* without what a grammar compiler cannot take.

    Args:
        only_harmful: leave out only what keeps a server from ever answering again.
    """
    if not isinstance(schema, Mapping):
        return Projected(schema)
    try:
        text = write(schema).encode()
    except ValueError:  # it is no JSON
        return Projected(schema)
    if only_harmful and not _may_harm(text):
        return Projected(schema)
    found = (_kept if len(text) <= _KEPT_BYTES else _projected)(text, only_harmful)
    return found if found.dropped else Projected(schema)


def project_request(
    body: Mapping[str, Any], *, only_harmful: bool = False, tools_key: int = 0
) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """
    The fields of a chat request whose schemas had to change, and what to announce.

    The tools are part of the prompt, so whoever projects them once for a server must go on doing so, or the
    prefix changes.

    Args:
        tools_key: tells its tools from others, 0 where it is not known. An agent offers the same ones with each
            request; those in which nothing had to change are not written out again to find that.
    """
    fields: dict[str, Any] = {}
    changes: list[Change] = []
    known = (tools_key, only_harmful)
    for field in () if known in _FINE else ("tools", "functions"):
        tools = body.get(field)
        if isinstance(tools, list):
            changed = [
                _tool(tool, f"{field}[{place}]", only_harmful, changes)
                for place, tool in enumerate(tools)
            ]
            if any(one is not other for one, other in zip(changed, tools, strict=True)):
                fields[field] = changed
    if tools_key and not fields:
        if len(_FINE) >= _MOST_FINE:
            _FINE.clear()
        _FINE.add(known)
    wanted = body.get("response_format")
    inner = wanted.get("json_schema") if isinstance(wanted, dict) else None
    if isinstance(wanted, dict) and isinstance(inner, dict) and "schema" in inner:
        projected = project_schema(inner["schema"], only_harmful=only_harmful)
        if projected.dropped:
            fields["response_format"] = {
                **wanted, "json_schema": {**inner, "schema": projected.schema}
            }  # fmt: skip
            changes.append(_change("response_format.json_schema.schema", projected))
    return fields, tuple(changes)


def _tool(tool: Any, where: str, only_harmful: bool, changes: list[Change]) -> Any:
    """*tool* with its parameters projected; the identical object when that changes nothing."""
    if not isinstance(tool, dict):
        return tool
    function = tool.get("function")
    holder = function if isinstance(function, dict) else tool
    projected = project_schema(holder.get("parameters"), only_harmful=only_harmful)
    if not projected.dropped:
        return tool
    changed = {**holder, "parameters": projected.schema}
    if holder is tool:
        changes.append(_change(f"{where}.parameters", projected))
        return changed
    changes.append(_change(f"{where}.function.parameters", projected))
    return {**tool, "function": changed}


def _change(field: str, projected: Projected) -> Change:
    counted = Counter(projected.dropped)
    what = ", ".join(
        f"{word} x{times}" if times > 1 else word for word, times in sorted(counted.items())
    )
    return Change(
        "repair", field, "rewritten",
        f"left out for the server's grammar: {what}; the answer is still judged by all of it",
    )  # fmt: skip


def _may_harm(text: bytes) -> bool:
    """Whether *text* names what contradictions are made of."""
    return b'"pattern"' in text or any(
        f'"{least}"'.encode() in text and f'"{most}"'.encode() in text for least, most in _COUNTS
    )


def _projected(text: bytes, only_harmful: bool) -> Projected:
    try:
        root = orjson.loads(text)
    except ValueError:  # nested beyond what any server reads
        return Projected(None)
    dropped: list[str] = []
    judge = _without_contradictions if only_harmful else _simplified
    for node in list(_schemas(root)):
        judge(node, dropped.append)
    if not only_harmful:
        _loosen_references(root, dropped.append)
    return Projected(root, tuple(dropped))


_kept = lru_cache(maxsize=128)(_projected)

Drop = Callable[[str], None]


def _schemas(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """*root* and the schemas in it; where a schema should stand and none does, any value is allowed."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        for keyword in _BY_NAME:
            named = node.get(keyword)
            if isinstance(named, dict):
                stack += [inner for inner in named.values() if isinstance(inner, dict)]
        for keyword in _IN_LIST:
            listed = node.get(keyword)
            if isinstance(listed, list):
                stack += [inner for inner in listed if isinstance(inner, dict)]
        for keyword in _ONE:
            inner = node.get(keyword)
            if isinstance(inner, dict):
                stack.append(inner)
            elif isinstance(inner, list):  # `items` before 2020
                stack += [one for one in inner if isinstance(one, dict)]


def _without_contradictions(node: dict[str, Any], drop: Drop) -> None:
    for least, most in _COUNTS:
        low, high = node.get(least, 0), node.get(most, 0)
        if least in node and most in node and _is_number(low) and _is_number(high) and low > high:
            del node[least], node[most]
            drop(least)
            drop(most)
    pattern = node.get("pattern")
    if isinstance(pattern, str) and not is_harmless(pattern):
        del node["pattern"]
        drop("pattern")


def _simplified(node: dict[str, Any], drop: Drop) -> None:
    """Leave out what compilers refuse, and put right what is no schema."""
    _without_contradictions(node, drop)
    for keyword in [word for word in node if word in _LEFT_OUT]:
        del node[keyword]
        drop(keyword)
    for keyword, value in list(node.items()):
        if not _takes(keyword, value):
            del node[keyword]
            drop(keyword)
    kind = node.get("type")
    if isinstance(kind, list) and not all(isinstance(k, str) and k in _TYPES for k in kind):
        node["type"] = [k for k in kind if isinstance(k, str) and k in _TYPES]
        drop("type")
    for keyword in _BY_NAME:
        for name, inner in node.get(keyword, {}).items():
            if not isinstance(inner, dict):
                node[keyword][name] = {}
                drop(keyword)
    for keyword in _IN_LIST:
        for place, inner in enumerate(node.get(keyword, [])):
            if not isinstance(inner, dict):
                node[keyword][place] = {}
                drop(keyword)


def _takes(keyword: str, value: Any) -> bool:
    """Whether a compiler takes *value* for *keyword*, the schemas in it aside."""
    if keyword == "pattern":
        return isinstance(value, str) and compiles(value)
    if keyword == "format":
        return isinstance(value, str) and value in _FORMATS
    if keyword in ("minLength", "maxLength", "minItems", "maxItems"):
        return type(value) is int and 0 <= value <= MAX_COUNT
    if keyword in _NUMBERS:
        return _is_number(value) and abs(value) <= _MAX_NUMBER
    if keyword == "type":
        return value in _TYPES if isinstance(value, str) else bool(_known(value))
    if keyword == "enum" or keyword in _IN_LIST:
        return isinstance(value, list) and bool(value)
    if keyword in _BY_NAME:
        return isinstance(value, dict)
    if keyword == "items":
        return isinstance(value, dict)
    if keyword == "additionalProperties":
        return isinstance(value, dict | bool)
    if keyword == "$ref":
        return isinstance(value, str)
    return keyword != "additionalItems"


def _known(kinds: Any) -> list[str]:
    return (
        [k for k in kinds if isinstance(k, str) and k in _TYPES] if isinstance(kinds, list) else []
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _loosen_references(root: dict[str, Any], drop: Drop) -> None:
    """Leave out every `$ref` that leads nowhere, elsewhere, to the whole, or round in a circle at once."""
    referring = [node for node in _schemas(root) if "$ref" in node]
    for node in referring:
        if _target(root, node["$ref"]) is None:
            del node["$ref"]
            drop("$ref")
    is_done: dict[int, bool] = {}
    for start in referring:
        stack = [(start, False)]
        path: list[dict[str, Any]] = []
        while stack:  # depth first
            node, is_left = stack.pop()
            if is_left:
                is_done[id(path.pop())] = True
            elif is_done.get(id(node)) is False:  # it leads here by itself: some reference must go
                last = next((one for one in reversed(path) if "$ref" in one), None)
                if last is not None:
                    del last["$ref"]
                    drop("$ref")
            elif id(node) not in is_done:
                is_done[id(node)] = False
                path.append(node)
                stack.append((node, True))
                stack += [(inner, False) for inner in _for_the_same(root, node)]


def _for_the_same(root: dict[str, Any], node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Schemas that judge the same value as *node*."""
    target = _target(root, node.get("$ref", ""))
    if target is not None:
        yield target
    for keyword in ("anyOf", "oneOf", "allOf"):
        yield from node.get(keyword, ())


def _target(root: dict[str, Any], reference: str) -> dict[str, Any] | None:
    """What a reference of the plain kind means; compilers know neither `~1` nor `%24`."""
    if not reference.startswith("#/"):
        return None
    node: Any = root
    for part in reference[2:].split("/"):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node if isinstance(node, dict) else None
