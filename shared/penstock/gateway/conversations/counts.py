"""
Has messages, tools and the template of one model counted, and puts the counts on its scale.

How a server counts stands in its file under `servers/`, who asks it in `adapters.counting`; what is done
with the answers, here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from penstock.adapters import counting
from penstock.adapters.questions import Way
from penstock.domain.upstream import ServerKind, Upstream
from penstock.servers.base import ServerSpec
from penstock.tokens import Scale, countable


class ServerAway(Exception):
    """
    The server cannot count because it is away, and cannot answer either: there is nothing to be made ready.

    Attributes:
        loads: it is there, and loads its model.
    """

    def __init__(self, loads: bool) -> None:
        super().__init__("it loads" if loads else "nobody listens")
        self.loads = loads


def counts_exactly(spec: ServerSpec) -> bool:
    """Whether the server counts, or shows the vocabulary to count with."""
    return spec.counting is not None or shows_vocabulary(spec)


def shows_vocabulary(spec: ServerSpec) -> bool:
    """Whether the kind cannot count but shows what to count with."""
    return spec.kind is ServerKind.OLLAMA


async def measure_model(
    scale: Scale, upstream: Upstream, spec: ServerSpec, model: str, client: httpx.AsyncClient | Way
) -> bool:
    """
    Learn once per model what its template adds, or its vocabulary. Weights from before are forgotten.

    Returns:
        whether it was learned.
    """
    if shows_vocabulary(spec):
        vocabulary = await counting.fetch_vocabulary(
            upstream.url, spec, model, client=client, api_key=upstream.api_key
        )
        if vocabulary is None:
            return False
        scale.vocabulary, scale.exact = vocabulary, True
        scale.forget()
        return True
    overhead = await counting.learn_overhead(
        upstream.url, spec, model, client=client, api_key=upstream.api_key
    )
    if overhead is None:
        return False
    scale.overhead = overhead
    scale.forget()
    return True


async def count_messages(
    scale: Scale,
    messages: Sequence[Mapping[str, Any]],
    tools_of: Mapping[str, Any] | None,
    upstream: Upstream,
    spec: ServerSpec,
    model: str,
    client: httpx.AsyncClient | Way,
) -> bool:
    """
    Count *messages*, and the tools of a request.

    Args:
        tools_of: the request whose tools are to be counted, None for none.

    Returns:
        False when the server did not tell all of it; what it told is on the scale.
    """
    parts = [countable(message).texts for message in messages]
    texts = [text for each in parts for text in each]
    counts: list[int] | None = []
    if texts and scale.vocabulary is not None:
        counts = await counting.count_with(scale.vocabulary, texts)
    elif texts:
        counts = await counting.count_texts(
            upstream.url, spec, model, texts, client=client, api_key=upstream.api_key
        )
    if counts is None:
        return False
    told = iter(counts)
    for message, each in zip(messages, parts, strict=True):
        scale.learn(message, sum(next(told) for _ in each))
    if tools_of is None:
        return True
    tools = await counting.count_tools(
        upstream.url, spec, model, tools_of, client=client, api_key=upstream.api_key
    )
    if tools is None:
        return False
    # Where whole conversations cannot be rendered, what the template says about tools comes on top.
    rendered = spec.counting is not None and bool(spec.counting.chats)
    scale.learn_tools(tools_of, tools if rendered else tools + scale.overhead.toolset)
    return True
