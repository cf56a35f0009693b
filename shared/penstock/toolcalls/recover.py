"""
Calls that a model wrote as text become calls (behaviours E3).

Some servers and templates hand a call back as the answer's text. It becomes a call only where nothing
speaks against it: the whole message is calls of offered tools in a known notation, their arguments validate,
and the same words do not stand in an earlier message, so that a document that quotes a call, or plants one,
does not get it executed.

Notations: Hermes and Qwen (`<tool_call>{...}</tool_call>`, several), Mistral (`[TOOL_CALLS]` with an array,
or with name and object), Llama 3 (`<|python_tag|>{...}`, or the bare object).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from penstock.toolcalls.arguments import Verdict, check_arguments
from penstock.toolcalls.jsontext import members, parse, skip_space, value_end
from penstock.toolcalls.schema import ToolSet

MAX_CALLS = 64
_HERMES, _HERMES_END = "<tool_call>", "</tool_call>"
_MISTRAL = "[TOOL_CALLS]"
_LLAMA = "<|python_tag|>"
_OPENERS = (_HERMES, _MISTRAL, _LLAMA)
_MARKS = ("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "</s>")
_END_MARKS = re.compile(r"(?:\s|" + "|".join(map(re.escape, _MARKS)) + r")*+\Z")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_MISTRAL_NAME = re.compile(
    r"\s*([A-Za-z0-9_.:/-]{1,128})\s*(?:\[CALL_ID\][A-Za-z0-9]{1,64})?(?:\[ARGS\])?\s*"
)
_KEYS = frozenset({"name", "arguments", "parameters", "type", "id"})
_FIRST_KEY = re.compile(r'\{\s*+"([a-z]*+)(")?')
_FIRST_NAME = re.compile(r'\{\s*+"name"\s*+:\s*+"([^"\\]*+)(")?')
_NOT_COMPARED = re.compile(r"\\+[nrt]|[\s\\]+")
_LOOKED_AT = 256
"""Characters at an answer's beginning that tell whether it may be a call; longer names are not recovered."""
_TAIL_LOOKED_AT = 2_048


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the tool's name, its arguments as JSON text, and what had to be repaired in them."""

    name: str
    arguments: str
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """The calls that a whole message was."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    """A call as it stands in the text: name, arguments, and the words that must be new."""

    name: str
    arguments: str
    words: str


def recover_calls(
    text: str, tools: ToolSet, *, earlier: Callable[[], Iterable[str]]
) -> Recovered | None:
    """
    The calls in *text*; None when it is anything but calls.

    Args:
        text: the whole answer outside reasoning.
        earlier: the texts of the conversation's messages, asked for only when all else speaks for a call.
    """
    if not tools or not may_become_call(text, tools):
        return None
    try:
        written = list(_written(text))
    except ValueError:
        return None
    if not written or len(written) > MAX_CALLS:
        return None
    calls: list[Call] = []
    for call in written:
        tool = tools.get(call.name)
        if tool is None:
            return None
        checked = check_arguments(call.arguments, tool, cut_off=False)
        if checked.verdict not in (Verdict.VALID, Verdict.REPAIRED):
            return None
        if not tool.validates(parse(checked.text)):
            return None  # nothing is known against the arguments, but nothing for them either
        calls.append(Call(call.name, checked.text, checked.repairs))
    words = {_comparable(call.words) for call in written}
    for message in earlier():
        told = _comparable(message)
        if any(word in told for word in words):
            return None
    return Recovered(tuple(calls))


def may_become_call(prefix: str, tools: ToolSet | None = None) -> bool:
    """
    Whether an answer that begins with *prefix* can still become calls; False as soon as it cannot.

    Costs the same however long the prefix is, so that it can be asked for every piece of a stream.

    Args:
        tools: with them, an object that names no offered tool is let go as well.
    """
    begin = prefix[:_LOOKED_AT].lstrip()
    if not begin:
        return len(prefix) <= _LOOKED_AT
    for opener in _OPENERS:
        if opener.startswith(begin):
            return True
        if begin.startswith(opener):
            return _opened(opener, begin[len(opener) :].lstrip(), tools) and not _went_on(
                opener, prefix
            )
    return begin[0] == "{" and _may_be_object(begin, tools)


def _opened(opener: str, inner: str, tools: ToolSet | None) -> bool:
    if not inner:
        return True
    if opener is not _MISTRAL:
        return inner[0] == "{" and _may_be_object(inner, tools)
    if inner[0] == "[":
        inner = inner[1:].lstrip()
        return not inner or (inner[0] == "{" and _may_be_object(inner, tools))
    found = _NAME.match(inner)
    if found is None:
        return False
    name, ended = found.group(), found.end() < len(inner)
    return tools is None or (name in tools if ended else _begins_a_name(name, tools))


def _may_be_object(begin: str, tools: ToolSet | None) -> bool:
    """Whether an object that begins so may be a call: by its first key, and by the name when that is it."""
    found = _FIRST_KEY.match(begin)
    if found is None:
        return not begin[1:].strip()
    key, ended = found.groups()
    if not (key in _KEYS if ended else any(known.startswith(key) for known in _KEYS)):
        return False
    named = _FIRST_NAME.match(begin)
    if named is None or tools is None:
        return True
    name, ended = named.groups()
    return name in tools if ended else _begins_a_name(name, tools)


def _begins_a_name(begin: str, tools: ToolSet) -> bool:
    return any(name.startswith(begin) for name in tools)


def _went_on(opener: str, prefix: str) -> bool:
    """Whether other text follows calls that have ended."""
    if opener is not _HERMES:
        return False
    end = prefix.rfind(_HERMES_END, max(0, len(prefix) - _TAIL_LOOKED_AT))
    if end < 0:
        return False
    rest = prefix[end + len(_HERMES_END) :].strip()
    if rest.startswith(_HERMES) or _HERMES.startswith(rest) or _END_MARKS.match(rest):
        return False
    return not any(mark.startswith(rest) for mark in _MARKS)


def _written(text: str) -> Iterator[_Written]:
    """
    The calls that make up *text*.

    Raises:
        ValueError: it is not calls and nothing else.
    """
    at = skip_space(text, 0)
    if text.startswith(_HERMES, at):
        yield from _hermes(text, at)
    elif text.startswith(_MISTRAL, at):
        yield from _mistral(text, at)
    else:
        if text.startswith(_LLAMA, at):
            at = skip_space(text, at + len(_LLAMA))
        yield from _llama(text, at)


def _hermes(text: str, at: int) -> Iterator[_Written]:
    while text.startswith(_HERMES, at):
        begin = skip_space(text, at + len(_HERMES))
        end = value_end(text, begin)
        yield _call(text, begin, end)
        at = skip_space(text, end)
        if not text.startswith(_HERMES_END, at):
            raise ValueError("not closed")
        at = skip_space(text, at + len(_HERMES_END))
    _must_end(text, at)


def _mistral(text: str, at: int) -> Iterator[_Written]:
    while text.startswith(_MISTRAL, at):
        at = skip_space(text, at + len(_MISTRAL))
        if text.startswith("[", at):
            for _, begin, end in members(text, at):
                yield _call(text, begin, end)
            at = value_end(text, at)
        else:
            found = _MISTRAL_NAME.match(text, at)
            if found is None or not text.startswith("{", found.end()):
                raise ValueError("no name")
            end = value_end(text, found.end())
            arguments = text[found.end() : end]
            yield _Written(found.group(1), arguments, text[at:end])
            at = end
        at = skip_space(text, at)
    _must_end(text, at)


def _llama(text: str, at: int) -> Iterator[_Written]:
    while True:
        end = value_end(text, at)
        yield _call(text, at, end)
        at = skip_space(text, end)
        if not text.startswith(";", at):
            break
        at = skip_space(text, at + 1)
    _must_end(text, at)


def _must_end(text: str, at: int) -> None:
    if not _END_MARKS.match(text, at):
        raise ValueError("more than calls")


def _call(text: str, begin: int, end: int) -> _Written:
    """
    The call that the object from *begin* to *end* says.

    Raises:
        ValueError: it says none, or says something twice or besides.
    """
    if not text.startswith("{", begin) or not isinstance(parse(text[begin:end]), dict):
        raise ValueError("no object")
    found: dict[str | int, tuple[int, int]] = {}
    for key, start, stop in members(text, begin):
        if key in found or key not in _KEYS:
            raise ValueError("not a call")
        found[key] = (start, stop)
    arguments = [found[key] for key in ("arguments", "parameters") if key in found]
    if len(arguments) != 1 or "name" not in found:
        raise ValueError("not a call")
    kind = found.get("type")
    if kind is not None and text[kind[0] : kind[1]] != '"function"':
        raise ValueError("not a call")
    name = parse(text[slice(*found["name"])])
    if not isinstance(name, str):
        raise ValueError("no name")
    return _Written(name, text[slice(*arguments[0])], text[begin:end])


def _comparable(text: str) -> str:
    """*text* without white space and escapes: a document may hold the call inside JSON of its own."""
    return _NOT_COMPARED.sub("", text)
