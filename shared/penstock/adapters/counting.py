"""
Has tokens counted by the server, and reads a model's vocabulary where the server itself cannot count.

A few questions side by side, bounded in time and size. Whatever goes wrong is
None: then the caller has a measure, and a bound for it. Texts are counted one by one, without their
neighbours, so that a message's count holds wherever it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import orjson

from penstock.adapters.questions import OverHttpx, Way
from penstock.domain.upstream import ServerKind
from penstock.servers.base import ChatCount, Counting, ServerSpec
from penstock.tokens.message import json_bytes
from penstock.tokens.overhead import Overhead
from penstock.tokens.scale import Counts
from penstock.tokens.vocabulary import Vocabulary, read_vocabulary

_AT_ONCE = 4
_MOST_BYTES_ASKED = 512 * 1024
"""Of texts in one question, unless one text alone is longer."""
_VOCABULARY_WITHIN_S = 60.0
_PROBE_TEXT = "hello"
_PROBE_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"at":"hello"}'},
}
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at it.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string"}},
            "required": ["at"],
        },
    },
}


async def count_texts(
    url: str,
    spec: ServerSpec,
    model: str,
    texts: Sequence[str],
    *,
    client: httpx.AsyncClient | Way,
    api_key: str | None = None,
    within_s: float = 5.0,
) -> list[int] | None:
    """
    Tokens of each of *texts* by the server's own count.

    Args:
        url: of the upstream, normalised.
        model: its id at the server.
        client: a way to ask the server, or an httpx client of its, see `penstock.adapters.control_client.make_client`.
        within_s: for all of them together.

    Returns:
        None when the server cannot count, or did not in time.
    """
    if spec.counting is None:
        return None
    wanted = list(dict.fromkeys(text for text in texts if text))
    ask = _Asker(url, client, api_key)
    try:
        async with asyncio.timeout(within_s):
            counts = await _count(ask, spec.counting, model, wanted)
    except TimeoutError:
        return None
    if counts is None:
        return None
    known = dict(zip(wanted, counts, strict=True))
    return [known[text] if text else 0 for text in texts]


async def count_chat(
    url: str,
    spec: ServerSpec,
    model: str,
    request: Mapping[str, Any],
    *,
    client: httpx.AsyncClient | Way,
    api_key: str | None = None,
    within_s: float = 5.0,
) -> int | None:
    """Tokens of a whole request (`messages`, `tools`) as the server renders it; None when it cannot say."""
    if spec.counting is None:
        return None
    try:
        async with asyncio.timeout(within_s):
            return await _chat(_Asker(url, client, api_key), spec.counting, model, request)
    except TimeoutError:
        return None


async def count_tools(
    url: str,
    spec: ServerSpec,
    model: str,
    body: Mapping[str, Any],
    *,
    client: httpx.AsyncClient | Way,
    api_key: str | None = None,
    within_s: float = 5.0,
) -> int | None:
    """
    What the tools of *body* cost: a conversation rendered with them, less the same without.

    Where whole conversations cannot be counted, the definitions are counted as text; what the template
    says about them (`Overhead.toolset`) is the caller's to add.
    """
    counting = spec.counting
    if counting is None:
        return None
    tools = {name: body[name] for name in ("tools", "functions") if body.get(name)}
    bare = {"messages": [{"role": "user", "content": _PROBE_TEXT}]}
    ask = _Asker(url, client, api_key)
    try:
        async with asyncio.timeout(within_s):
            if counting.chats:
                with_tools, without = await asyncio.gather(
                    _chat(ask, counting, model, {**bare, **tools}),
                    _chat(ask, counting, model, bare),
                )
                if with_tools is not None and without is not None:
                    return max(0, with_tools - without)
            text = b"".join(map(json_bytes, tools.values())).decode("utf-8", "replace")
            counts = await _count(ask, counting, model, [text])
            return counts[0] if counts else None
    except TimeoutError:
        return None


async def learn_overhead(
    url: str,
    spec: ServerSpec,
    model: str,
    *,
    client: httpx.AsyncClient | Way,
    api_key: str | None = None,
    within_s: float = 10.0,
) -> Overhead | None:
    """
    What the model's chat template adds, measured on a few tiny conversations; once per model.

    Returns:
        None where whole conversations cannot be counted.
    """
    counting = spec.counting
    if counting is None or not counting.chats:
        return None
    ask = _Asker(url, client, api_key)
    user = {"role": "user", "content": _PROBE_TEXT}
    said = {"role": "assistant", "content": _PROBE_TEXT}
    thought = {**said, spec.behaviour.reasoning_field: f"{_PROBE_TEXT} {_PROBE_TEXT}"}
    system = {"role": "system", "content": _PROBE_TEXT}
    calls = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": _PROBE_TEXT}
    function = _PROBE_CALL["function"]
    assert isinstance(function, dict)
    requests: list[dict[str, Any]] = [
        {"messages": [user]},
        {"messages": [user, said, user]},
        {"messages": [user, user]},
        {"messages": [system, user]},
        {"messages": [user, calls, result]},
        {"messages": [user], "tools": [_PROBE_TOOL]},
        {"messages": [user, thought, user]},
    ]
    tool_text = json_bytes([_PROBE_TOOL]).decode()
    try:
        async with asyncio.timeout(within_s):
            counts = await _count(
                ask, counting, model, [_PROBE_TEXT, *map(str, function.values()), tool_text]
            )
            rendered = await asyncio.gather(
                *(_chat(ask, counting, model, request) for request in requests)
            )
    except TimeoutError:
        return None
    if counts is None or rendered[0] is None or rendered[1] is None:
        return None
    text, call, tool = counts[0], counts[1] + counts[2], counts[3]
    return _overhead(rendered, text=text, call=call, tool=tool)


def _overhead(rendered: Sequence[int | None], *, text: int, call: int, tool: int) -> Overhead:
    """
    Solve for the parts. What a template refuses (a second user message, tools) keeps its default.

    Args:
        rendered: tokens of the conversations of `learn_overhead`, in their order.
        text, call, tool: tokens of the probe's text, its call's name and arguments, its definition.
    """
    usual = Overhead()
    one, three, two, with_system, with_call, with_tool, with_thought = rendered
    assert one is not None
    assert three is not None
    pair = max(0, three - one - 2 * text)
    # Two user messages in a row: strict templates refuse that, and then the pair is divided.
    of_user = pair - pair // 2 if two is None else min(pair, max(0, two - one - text))
    roles = {"user": of_user, "assistant": pair - of_user}
    base = max(0, one - text - of_user)
    # A system text of the template's own, which ours replaces, makes the difference small: never below 0.
    for role in ("system", "developer"):
        roles[role] = of_user if with_system is None else max(0, with_system - one - text)
    roles["tool"] = of_user
    per_call = usual.per_call
    if with_call is not None:
        per_call = max(0, with_call - one - roles["assistant"] - call - of_user - text)
    toolset = usual.toolset if with_tool is None else max(0, with_tool - one - tool)
    return Overhead(
        base=base,
        per_message=max(roles.values()),
        roles=roles,
        per_call=per_call,
        toolset=toolset,
        keeps_thinking=with_thought is None or with_thought > three,
        measured=True,
    )


async def fetch_vocabulary(
    url: str,
    spec: ServerSpec,
    model: str,
    *,
    client: httpx.AsyncClient | Way,
    api_key: str | None = None,
    within_s: float = _VOCABULARY_WITHIN_S,
) -> Vocabulary | None:
    """
    The vocabulary of a model at Ollama, which cannot count but shows it (`/api/show`, `verbose`).

    Megabytes of JSON: once per model, in the background, and read outside the event loop's thread.

    Returns:
        None for other servers, and for vocabularies that cannot be counted with.
    """
    if spec.kind is not ServerKind.OLLAMA:
        return None
    ask = _Asker(url, client, api_key)
    try:
        async with asyncio.timeout(within_s):
            raw = await ask.post("/api/show", {"model": model, "verbose": True})
            return None if raw is None else await asyncio.to_thread(_vocabulary, raw)
    except TimeoutError:
        return None


async def count_with(vocabulary: Counts, texts: Sequence[str]) -> list[int]:
    """Tokens of each of *texts* by a vocabulary, outside the event loop's thread: long texts take long."""
    return await asyncio.to_thread(lambda: [vocabulary.count(text) for text in texts])


def _vocabulary(raw: bytes) -> Vocabulary | None:
    value = _json(raw)
    info = value.get("model_info") if isinstance(value, dict) else None
    return read_vocabulary(info) if isinstance(info, dict) else None


async def _count(
    ask: _Asker, counting: Counting, model: str, texts: Sequence[str]
) -> list[int] | None:
    groups = list(_groups(texts, counting.at_once))
    if len(groups) == 1:  # nearly always: no tasks are needed
        answers = [await ask.post(counting.path, counting.body(model, groups[0]))]
    else:
        answers = await asyncio.gather(
            *(ask.post(counting.path, counting.body(model, group)) for group in groups)
        )
    counts: list[int] = []
    for group, raw in zip(groups, answers, strict=True):
        found = None if raw is None else counting.read(_json(raw), len(group))
        if found is None:
            return None
        counts.extend(found)
    return counts


async def _chat(
    ask: _Asker, counting: Counting, model: str, request: Mapping[str, Any]
) -> int | None:
    for way in counting.chats:
        found = await _one_way(ask, way, model, request)
        if isinstance(found, int):
            return found
        if isinstance(found, str):
            counts = await _count(ask, counting, model, [found])
            # The rendered text does not show the token that starts it.
            return counts[0] + 1 if counts else None
    return None


async def _one_way(
    ask: _Asker, way: ChatCount, model: str, request: Mapping[str, Any]
) -> int | str | None:
    raw = await ask.post(way.path, way.body(model, request))
    return None if raw is None else way.read(_json(raw))


def _groups(texts: Iterable[str], at_once: int) -> Iterable[list[str]]:
    """Texts in their order, so many in a group as one question may hold."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and (len(group) >= at_once or size + len(text) > _MOST_BYTES_ASKED):
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


class _Asker:
    """Asks one server, a few questions at a time. None is every kind of failure."""

    def __init__(self, url: str, client: httpx.AsyncClient | Way, api_key: str | None) -> None:
        self._way = OverHttpx(url, client) if isinstance(client, httpx.AsyncClient) else client
        self._api_key = api_key
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def post(self, path: str, body: Any) -> bytes | None:
        """The body of a 200 answer."""
        async with self._room:
            return await self._way.post(path, json_bytes(body), self._api_key)


__all__ = [
    "count_chat", "count_texts", "count_tools", "count_with", "fetch_vocabulary", "learn_overhead",
]  # fmt: skip
