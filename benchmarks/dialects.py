"""
What each dialect costs in front of the same server, beside OpenAI's in the same run. See README.md.

The same conversations, by the same load generator, to the same upstream that costs nothing: only what the client
speaks differs. OpenAI's chat is relayed as it comes, the others are translated event by event.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    HERE,
    Bench,
    build,
    free_port,
    penstock_command,
    pinned,
    running,
    say,
    until_known,
)

AIM = 1.5
"""To reach: at most this many times what OpenAI's chat costs."""


@dataclass(frozen=True)
class Dialect:
    """
    How a client speaks.

    Attributes:
        name: as the table calls it.
        path: where it asks.
        marker: what every event that carries text holds.
        closing: what only the closing event holds.
    """

    name: str
    path: str
    marker: str
    closing: str

    def body(self, model: str, texts: list[str], *, stream: bool) -> dict[str, Any]:
        """A conversation: what users and assistants said, by turns."""
        roles = ["user" if place % 2 == 0 else "assistant" for place in range(len(texts))]
        messages = [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
        ]
        body: dict[str, Any] = {"model": model, "stream": stream}
        if self.name == "Responses":
            return {**body, "input": messages}
        if self.name == "Messages":
            return {**body, "max_tokens": 1024, "messages": messages}
        return {**body, "messages": messages}


DIALECTS = (
    Dialect("OpenAI chat", "/v1/chat/completions", "data: ", "[DONE]"),
    Dialect("Messages", "/v1/messages", "data: ", "message_stop"),
    Dialect("Responses", "/v1/responses", "data: ", "response.completed"),
    Dialect("Ollama", "/api/chat", '"done":', '"done":true'),
)
# key, what it is called, figure of the load, connections, requests, events of each answer
LOADS = (
    ("collected", "a plain request collected from 20 events", "cpu_us", 16, 4000, None),
    ("paced", "a chunk, 64 paced streams", "cpu_us_chunk", 64, 256, 200),
    ("large", "a conversation of 400 KB, streamed", "cpu_us", 4, 400, 20),
)


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """CPU by load and dialect, in microseconds."""
    text = "The quick brown fox jumps over the lazy dog. "
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        loadgen, upstream_tool = build(folder)
        files = {}
        for dialect in DIALECTS:
            for key, model, texts in (
                ("collected", "mock-short", [text * 40]),
                ("paced", "mock-paced", [text * 40]),
                ("large", "mock-short", [text * 44] * 199),
            ):
                body = dialect.body(model, texts, stream=key != "collected")
                file = files[f"{key} {dialect.name}"] = folder / f"{key}-{dialect.name}.json"
                file.write_text(json.dumps(body))
        port, upstream_port = free_port(), free_port()
        upstream = subprocess.Popen(pinned("1", [upstream_tool, str(upstream_port)]))
        stack.callback(lambda: (upstream.terminate(), upstream.wait()))
        gateway = stack.enter_context(
            running("Penstock, local", port,
                    penstock_command(folder, "local", port, upstream_port, local=True), folder,
                    XDG_RUNTIME_DIR=str(folder), XDG_STATE_HOME=str(folder))
        )  # fmt: skip
        until_known(port)
        bench = Bench(loadgen, files, quick)
        found: dict[str, dict[str, float]] = {}
        for key, what, figure, connections, requests, events in LOADS:
            say(f"{what} ...")
            runs: dict[str, list[float]] = {dialect.name: [] for dialect in DIALECTS}
            for _ in range(bench.rounds):
                for dialect in DIALECTS:
                    options = ("-u", dialect.path, "-M", dialect.marker, "-C", dialect.closing)
                    figures = bench.load(
                        gateway, f"{key} {dialect.name}", connections=connections,
                        requests=requests, events=events, options=options,
                    )  # fmt: skip
                    # The server's chunks: some dialects say more events for the same.
                    figures["cpu_us_chunk"] = figures["cpu_us"] / (events or 1)
                    runs[dialect.name].append(figures[figure])
            found[key] = {name: sorted(seen)[len(seen) // 2] for name, seen in runs.items()}
        return found


def main() -> int:
    """Measure, print, and say what missed its aim by a factor of three."""
    found = measure("--quick" in sys.argv)
    openai = DIALECTS[0].name
    others = [dialect.name for dialect in DIALECTS[1:]]
    lines = [
        f"| CPU of | {openai} | {' | '.join(others)} | to reach |",
        "|---|---|---|---|---|---|",
    ]
    missed = []
    for key, what, *_ in LOADS:
        base = found[key][openai]
        ratios = [found[key][name] / base for name in others]
        missed += [f"{what}: {r:.1f}" for r in ratios if r > 3 * AIM]
        cells = " | ".join(f"**{r:.2f}** x" for r in ratios)
        lines.append(f"| {what} | {base:.1f} us | {cells} | {AIM} x |")
    table = "\n".join(lines)
    print(table)
    if "--write" in sys.argv:
        page = HERE / "README.md"
        before, _, rest = page.read_text().partition("<!-- dialects -->\n")
        page.write_text(
            f"{before}<!-- dialects -->\n{table}\n<!-- end of dialects -->"
            f"{rest.partition('<!-- end of dialects -->')[2]}"
        )
    if missed:
        say(f"three times what is to be reached or worse: {'; '.join(missed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
