"""
How warm the prefix stays: prompt tokens that a real llama.cpp really works on over long conversations, by the
way the conversation is made to fit.

    python3 benchmarks prefix                   print the tables (some minutes on two cores)
    python3 benchmarks prefix --write           and put them into docs/context.md
    python3 benchmarks prefix --quick           a few turns; fails when a request fails or naive is no worse
    python3 benchmarks prefix --marks 0.85/0.3  other marks than the default ones, more than one by commas

Two conversations of 200 turns take turns on a server with four slots. Each way has a server of its own and is
given the same requests. Tokens are the server's own count of what it worked on, whoever asked for it: the
requests that a summary costs stand in it too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import httpx

from long_conversations import TOOLS, Message, conversation
from other_proxy import COMMAND, has_headroom, headroom
from serving import Kind, client, gateway, llamacpp, processed_tokens
from ways import ANSWER_TOKENS, Counts, Way, as_ollama, sliding, whole

PAGE = Path(__file__).resolve().parent.parent / "docs" / "context.md"
SEEDS = (1, 2)


@dataclass
class Figures:
    """What was measured of one way."""

    tokens: int = 0
    first_token_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    requests: int = 0
    rewritten: int = 0

    @property
    def failed_share(self) -> float:
        """Of all requests."""
        return len(self.failures) / max(1, self.requests)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A way: what the client does, and what stands between it and the server (settings of `context`)."""

    name: str
    makes: Callable[[Counts, int], Way] | None = None
    context: dict[str, Any] | None = None
    exclusive: bool = False
    headroom: bool = False


DIRECT = Contestant("nothing (everything is sent)")
NAIVE = Contestant("naive sliding window", makes=sliding)
OLLAMA = Contestant("as Ollama cuts", makes=as_ollama)
WINDOW = Contestant("**Penstock, `window`**", context={})
ALONE = Contestant("Penstock, `window`, `exclusive: true`", context={}, exclusive=True)
SUMMARY = Contestant("Penstock, `summary`", context={"strategy": "summary"})
HEADROOM = Contestant("headroom", headroom=True)


def say(text: str) -> None:
    """Progress."""
    print(f"prefix: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Run:
    """One table: a server, and the conversations that it is given."""

    title: str
    kind: Kind
    window: int
    turns: int
    contestants: tuple[Contestant, ...]
    aim: float = 1.0
    """How many times fewer tokens than the naive window."""

    def requests(self) -> Iterator[list[Message]]:
        """The requests of two conversations, by turns."""
        thinking = self.kind == "thinking"
        both = [conversation(seed, self.turns).requests(thinking=thinking) for seed in SEEDS]
        return (messages for messages in chain.from_iterable(zip_longest(*both)) if messages)

    def once(self, folder: Path) -> int:
        """Tokens of the conversations when each is worked on once: no way can do with fewer."""
        with llamacpp("full", self.window, folder) as server, client() as http:
            counts = Counts(server.url, http)
            return sum(
                counts.fixed + sum(map(counts.of, list(talk.requests())[-1]))
                for talk in (conversation(seed, self.turns) for seed in SEEDS)
            )


def measure(contestant: Contestant, run: Run, folder: Path) -> Figures:
    """Send everything one way."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(llamacpp(run.kind, run.window, folder))
        http = stack.enter_context(client())
        way = whole
        if contestant.makes is not None:
            way = contestant.makes(Counts(server.url, http), run.window)
        url = server.url
        if contestant.context is not None:
            url = stack.enter_context(
                gateway(server.url, contestant.context, exclusive=contestant.exclusive)
            )
        elif contestant.headroom:
            url = stack.enter_context(headroom(server.url))
        figures = Figures()
        for messages in run.requests():
            ask(http, url, way(messages), figures)
        figures.tokens = processed_tokens(server, http)
    return figures


def ask(http: httpx.Client, url: str, messages: list[Message], figures: Figures) -> None:
    """One streamed request, as an agent sends it."""
    body = {
        "model": "tiny",
        "messages": messages,
        "tools": TOOLS,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    figures.requests += 1
    began = time.perf_counter()
    first: float | None = None
    fault = "no end of the stream"
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            error = json.loads(answer.read()).get("error", {})
            figures.failures.append(f"{answer.status_code} {error.get('message', '')}"[:200])
            return
        figures.rewritten += "penstock-fitted" in answer.headers
        for line in answer.iter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                fault = ""
                break
            event = json.loads(data)
            if "error" in event:
                fault = str(event["error"].get("message"))[:200]
                break
            if first is None and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter()
    if fault or first is None:
        figures.failures.append(fault or "an empty answer")
        return
    figures.first_token_ms.append((first - began) * 1000)


def table(results: dict[Contestant, Figures], once: int | None) -> str:
    """One run."""
    naive = results[NAIVE]
    lines = [
        "| | prompt tokens worked on | beside naive | first token, mean | failed |",
        "|---|---|---|---|---|",
    ]
    for contestant, figures in results.items():
        times = figures.first_token_ms
        lines.append(
            f"| {contestant.name} | {figures.tokens:,} | "
            # Who answers half of the requests has not done with less.
            + (_beside(naive, figures.tokens) if figures.failed_share < 0.1 else "-")
            + f" | {statistics.fmean(times) if times else 0:.0f} ms | "
            f"{len(figures.failures)} of {figures.requests} |"
        )
    if once is not None:
        lines.append(f"| (each token once) | {once:,} | {_beside(naive, once)} | | |")
    return "\n".join(lines)


def _beside(naive: Figures, tokens: int) -> str:
    if naive.tokens == tokens:
        return ""
    if tokens > naive.tokens:
        return f"{tokens / naive.tokens:.1f} times more"
    return f"{naive.tokens / tokens:.1f} times fewer"


def runs(quick: bool, turns: int, others: list[Contestant]) -> Iterator[Run]:
    """What is measured."""
    everybody = (DIRECT, NAIVE, OLLAMA, WINDOW, ALONE, SUMMARY, *others)
    few = (NAIVE, WINDOW)
    yield Run("2,048 tokens a slot", "full", 2048, turns, everybody, aim=1.0 if quick else 4.0)
    if quick:
        return
    yield Run("8,192 tokens a slot", "full", 8192, turns, everybody, aim=15.0)
    yield Run("2,048 tokens, a template that strips thinking", "thinking", 2048, turns, few)
    half = max(2, turns // 2)
    yield Run(f"2,048 tokens, a sliding-window model (Gemma 3's kind), {half} turns", "sliding", 2048, half,
              few)  # fmt: skip
    yield Run(
        f"2,048 tokens, a recurrent model (Mamba), {half} turns", "recurrent", 2048, half, few
    )


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="benchmarks prefix")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--marks", default="")
    parser.add_argument("--turns", type=int, default=0)
    options = parser.parse_args()
    turns = options.turns or (24 if options.quick else 200)
    others = [other_marks(text) for text in options.marks.split(",") if text]
    if has_headroom():
        others.append(HEADROOM)
    else:
        say(f"headroom is left out: {COMMAND} names no command of it")
    text = ""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-models-") as name:
        folder = Path(name)
        for run in runs(options.quick, turns, others):
            results: dict[Contestant, Figures] = {}
            for contestant in run.contestants:
                say(f"{run.title}: {contestant.name.replace('*', '')} ...")
                figures = results[contestant] = measure(contestant, run, folder)
                say(f"  {figures.tokens:,} tokens, {len(figures.failures)} failed")
                for failure in sorted(set(figures.failures))[:2]:
                    say(f"  failed: {failure}")
            once = run.once(folder) if run.kind == "full" else None
            text += f"**{run.title}**\n\n{table(results, once)}\n\n"
            wrong += judged(run, results)
    print(text.rstrip())
    if options.write:
        write(text)
    for sentence in wrong:
        say(sentence)
    return 1 if wrong else 0


def write(text: str) -> None:
    """Put the tables between their marks."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition("<!-- prefix -->\n")
    after = rest.partition("<!-- end -->")[2]
    PAGE.write_text(f"{before}<!-- prefix -->\n{text}<!-- end -->{after}", "utf-8")


def other_marks(text: str) -> Contestant:
    """`0.85/0.3` as a contestant."""
    high, low = map(float, text.split("/"))
    return Contestant(
        f"Penstock, `window`, marks {text}", context={"calm": {"high": high, "low": low}}
    )


def judged(run: Run, results: dict[Contestant, Figures]) -> Iterator[str]:
    """What is not as it should be."""
    for contestant, figures in results.items():
        if contestant.context is not None and figures.failures:
            yield f"{run.title}: {contestant.name}: {len(figures.failures)} failed"
    ratio = results[NAIVE].tokens / results[WINDOW].tokens
    if ratio < run.aim:
        yield f"{run.title}: {ratio:.1f} times fewer tokens than naive, to reach: {run.aim:g}"


if __name__ == "__main__":
    sys.exit(main())
