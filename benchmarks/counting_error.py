"""
How far off the token estimator is, on a real llama.cpp, where the true counts are known.

    .venv/bin/python benchmarks/counting_error.py

Conversations of random texts (prose, code, Han, Cyrillic, emoji, base64, long numbers, JSON) grow turn by
turn, every other one with tool schemas and calls; each request is estimated before it is sent, and learned
from after it was answered. Three ways: the estimator that begins without any knowledge of the vocabulary;
the same for conversations that do not grow (each request stands alone, nothing is recognised); and weights
counted by the server.
"""

from __future__ import annotations

import asyncio
import base64
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from penstock.adapters import counting, probe, tiny_model
from penstock.adapters.embedded import EmbeddedServer, LlamaServerOptions
from penstock.domain.upstream import ServerKind
from penstock.servers import spec
from penstock.tokens import Calibration, Overhead, Scale, countable
from penstock.tokens.calibration import STEPS

LEARNED_AFTER = 20
SHAPE = replace(tiny_model.TINY, trained_window=32_768)
_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "had",
    "by",
    "but",
    "not",
    "what",
    "all",
    "were",
    "when",
    "your",
    "can",
    "said",
    "there",
    "each",
    "which",
    "do",
    "how",
    "their",
    "if",
    "will",
    "up",
    "other",
    "about",
    "out",
    "many",
    "then",
    "them",
    "these",
    "so",
    "some",
    "her",
    "would",
    "make",
    "like",
    "him",
    "into",
    "time",
    "has",
    "look",
    "two",
    "more",
    "write",
    "go",
    "see",
    "number",
    "no",
    "way",
    "could",
    "people",
    "water",
    "called",
    "oil",
    "now",
    "find",
    "long",
    "down",
    "day",
    "did",
    "get",
    "come",
    "made",
    "may",
    "part",
    "over",
    "new",
    "sound",
    "take",
    "only",
    "little",
    "work",
    "know",
    "place",
    "year",
    "live",
    "back",
    "give",
    "most",
    "very",
    "after",
    "thing",
    "our",
    "just",
    "name",
    "good",
    "sentence",
    "man",
    "think",
    "say",
    "great",
    "where",
    "help",
    "through",
    "much",
    "before",
    "line",
    "right",
    "too",
    "mean",
    "old",
    "any",
    "same",
    "tell",
    "boy",
    "follow",
]


def text(chance: random.Random, kind: str) -> str:
    """A random text of one kind, some ten to a thousand signs."""
    count = chance.randrange(8, 90)
    if kind == "prose":
        words = [chance.choice(_WORDS) for _ in range(count)]
        return " ".join(words).capitalize() + "."
    if kind == "code":
        lines = [
            f"    def {chance.choice(_WORDS)}_{chance.choice(_WORDS)}(self, x: int) -> None:\n"
            f"        return self.{chance.choice(_WORDS)}[x + {chance.randrange(999)}]"
            for _ in range(1 + count // 8)
        ]
        return "```python\n" + "\n".join(lines) + "\n```"
    if kind == "han":
        return "".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(count)) + "\u3002"
    if kind == "cyrillic":
        return " ".join(
            "".join(chr(chance.randrange(0x430, 0x450)) for _ in range(chance.randrange(2, 9)))
            for _ in range(count // 2)
        )
    if kind == "emoji":
        return "".join(chr(chance.randrange(0x1F600, 0x1F64F)) for _ in range(1 + count // 3))
    if kind == "base64":
        return base64.b64encode(chance.randbytes(count * 4)).decode()
    if kind == "numbers":
        return ", ".join(
            str(chance.randrange(10 ** chance.randrange(1, 18))) for _ in range(count // 3)
        )
    rows = [
        f'{{"id": {chance.randrange(10**6)}, "name": "{chance.choice(_WORDS)}", "ok": true}}'
        for _ in range(1 + count // 8)
    ]
    return "[" + ",\n ".join(rows) + "]"


KINDS = ("prose", "code", "han", "cyrillic", "emoji", "base64", "numbers", "json")


def tools(chance: random.Random) -> list[dict[str, Any]]:
    """Tool schemas."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"{chance.choice(_WORDS)}_{number}",
                "description": text(chance, "prose"),
                "parameters": {
                    "type": "object",
                    "properties": {
                        chance.choice(_WORDS): {
                            "type": chance.choice(("string", "integer", "boolean")),
                            "description": text(chance, "prose"),
                        }
                        for _ in range(3)
                    },
                },
            },
        }
        for number in range(chance.randrange(1, 4))
    ]


def requests(
    chance: random.Random, count: int, *, growing: bool = True
) -> Iterator[dict[str, Any]]:
    """So many requests of conversations that grow; or each a conversation of its own."""
    messages: list[dict[str, Any]] = []
    offered: dict[str, Any] = {}
    for number in range(count):
        if not messages or not growing or chance.random() < 0.12 or len(messages) > 40:
            messages = [{"role": "system", "content": text(chance, "prose")}]
            offered = {"tools": tools(chance)} if number % 2 else {}
            messages += _round(chance, offered, number) * (not growing)
        messages = [
            *messages,
            *(_round(chance, offered, number) if len(messages) > 1 else ()),
            {"role": "user", "content": text(chance, chance.choice(KINDS))},
        ]
        yield {"messages": messages, **offered}


def _round(chance: random.Random, offered: dict[str, Any], number: int) -> list[dict[str, Any]]:
    if not offered:
        return [
            {"role": "user", "content": text(chance, "prose")},
            {"role": "assistant", "content": text(chance, chance.choice(KINDS))},
        ]
    name = offered["tools"][0]["function"]["name"]
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": f'{{"number": {chance.randrange(10**6)}}}'},
    }
    return [
        {"role": "user", "content": text(chance, "prose")},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": text(chance, "json")},
        {"role": "assistant", "content": text(chance, chance.choice(KINDS))},
    ]


@dataclass
class Errors:
    """
    What came out.

    Attributes:
        relative: (estimate - true) / true of each request, in their order.
        above: true counts above the stated bound, as (place, true, bound).
        beyond_class: true counts above weight times budget class.
        bounds: the stated bound before each request, as a share of the estimate.
        classes: the budget class of each request.
    """

    relative: list[float] = field(default_factory=list)
    above: list[tuple[int, int, int]] = field(default_factory=list)
    beyond_class: int = 0
    bounds: list[float] = field(default_factory=list)
    classes: list[float] = field(default_factory=list)

    def late(self) -> list[float]:
        """Absolute errors after the first 20 requests, in order of size."""
        return sorted(map(abs, self.relative[LEARNED_AFTER:]))

    def p95(self) -> float:
        """95th percentile of these."""
        late = self.late()
        return late[int(len(late) * 0.95)]


async def measure(url: str, *, count: int, seed: int, exact: bool, growing: bool = True) -> Errors:
    """Estimate, send and learn from *count* requests to the llama.cpp at *url*."""
    chance = random.Random(seed)
    llamacpp = spec(ServerKind.LLAMACPP)
    found = Errors()
    async with probe.make_client() as client:
        overhead = Overhead()
        if exact:
            overhead = await counting.learn_overhead(url, llamacpp, "", client=client) or overhead
        scale = Scale(exact=exact, overhead=overhead)
        calibration = Calibration(exact=exact, template_known=overhead.measured)
        for place, body in enumerate(requests(chance, count, growing=growing)):
            if exact:
                await _count(scale, url, body, client)
            mix = scale.weigh_request(body["messages"], body)
            estimate, bound = calibration.estimate(mix), calibration.at_most(mix)
            budget_class = calibration.class_for(mix)
            true = await _true(url, body, client, computed=place % 16 == 0)
            found.relative.append((estimate - true) / true)
            found.bounds.append(bound / estimate - 1)
            found.classes.append(budget_class)
            if true > bound:
                found.above.append((place, true, bound))
            found.beyond_class += true > mix.tokens * budget_class * (1.015 if exact else 1.0)
            calibration.learn(mix, true)
    return found


async def _true(
    url: str, body: dict[str, Any], client: httpx.AsyncClient, *, computed: bool
) -> int:
    """The server's own count; now and then it computes the prompt to show that it is what it reports."""
    counted = await counting.count_chat(url, spec(ServerKind.LLAMACPP), "", body, client=client)
    assert counted is not None
    if computed and counted < 1_500:
        answer = await client.post(
            f"{url}/v1/chat/completions", json={**body, "max_tokens": 1}, timeout=60.0
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens"] == counted
    return counted


async def _count(scale: Scale, url: str, body: dict[str, Any], client: httpx.AsyncClient) -> None:
    """What a gateway does before it plans: have the new messages and tools counted."""
    llamacpp = spec(ServerKind.LLAMACPP)
    new = [body["messages"][place] for place in scale.weigh(body["messages"]).uncounted]
    texts = [countable(message).texts for message in new]
    flat = [one for several in texts for one in several]
    counts = await counting.count_texts(url, llamacpp, "", flat, client=client)
    assert counts is not None
    left = iter(counts)
    for message, several in zip(new, texts, strict=True):
        scale.learn(message, sum(next(left) for _ in several))
    if not scale.weigh_tools(body)[1]:
        cost = await counting.count_tools(url, llamacpp, "", body, client=client)
        assert cost is not None
        scale.learn_tools(body, cost)


def row(name: str, found: Errors) -> str:
    """A line of the table."""
    late = found.late()
    places = [place for place in (0, 1, 5, 20, len(found.bounds) - 1) if place < len(found.bounds)]
    bounds = ", ".join(f"{found.bounds[place]:.1%}" for place in places)
    return (
        f"| {name} | {len(found.relative)} | {late[len(late) // 2]:.2%} | {found.p95():.2%} | {late[-1]:.2%}"
        f" | {len(found.above)} | {found.beyond_class} | {bounds} | {found.classes[0]:g} ..."
        f" {STEPS[0] if not found.classes else found.classes[-1]:g} |"
    )


def main(count: int = 160, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """Print the table."""
    print(
        "| weights | requests | p50 | p95 | max | above bound | above class"
        " | bound at request 1, 2, 6, 21, last | class |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = tiny_model.write_model(
            Path(folder) / "tiny.gguf", shape=SHAPE, template=tiny_model.HERMES_TEMPLATE
        )
        options = LlamaServerOptions(model=str(file), port=0, ctx_size=32_768, threads=1)
        with EmbeddedServer(options).wait_ready(60.0) as server:
            for name, exact, growing in (
                ("estimated, conversations that grow", False, True),
                ("estimated, each request alone", False, False),
                ("counted by the server", True, True),
            ):
                for seed in seeds:
                    found = asyncio.run(
                        measure(server.url, count=count, seed=seed, exact=exact, growing=growing)
                    )
                    print(row(f"{name}, seed {seed}", found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
