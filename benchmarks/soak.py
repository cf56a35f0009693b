"""
Whether anything is left behind: many requests, faults of every kind among them, and one gateway process.

    python3 benchmarks soak              100,000 requests
    python3 benchmarks soak 5000         fewer
    python3 benchmarks soak --write      and the plot goes to docs/soak.svg

Sixteen clients in four dialects ask a scripted llama.cpp with four slots, streaming and plain. By a seeded chance
a sixth of them hang up, a seventh of the answers are failures (500, reset, a stream that breaks or stalls, out of
memory, HTML, an error in a 200), and the server goes away and comes back a hundred times. Memory and descriptors
of the gateway are read at a hundred points. Fails when memory grows by more than a tenth after the first fifth,
when descriptors do, when a client is told nothing, or when a gauge is not zero at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from crowd import Answer, BusyLlama, breaks, resets, says, stalls
from gateways import RunningGateway
from rawserver import answer as http_answer
from scripted import reply

CLIENTS, POINTS, RESTARTS = 16, 100, 100
MAY_GROW = 0.1
SETTINGS = {
    "retry": {"local": {"first_delay_s": 0.01, "longest_delay_s": 0.05}},
    "breaker": {"first_delay_s": 0.05, "longest_delay_s": 0.2},
    "timeouts": {"stall_s": 0.3, "load_s": 2},
    "concurrency": {"queue_deadline_s": 10},
    "profiles": {"refresh_s": 5},
    "log": {"file": "none", "level": "error"},
}
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat")


def _error(status: bytes, message: str) -> Answer:
    return says(reply({"error": {"message": message, "type": "server_error"}}, status))


FAULTS: tuple[Answer, ...] = (
    _error(b"500 Internal Server Error", "something went wrong"),
    _error(b"500 Internal Server Error", "CUDA error: out of memory"),
    _error(b"503 Service Unavailable", "no slot available"),
    says(http_answer(b"<html>no</html>", b"502 Bad Gateway", b"content-type: text/html")),
    says(reply({"error": {"message": "slot died", "code": 500, "type": "server_error"}})),
    resets,
    breaks,
    stalls,
)


@dataclass
class Soak:
    """
    What was seen.

    Attributes:
        points: requests so far, megabytes, descriptors.
        ends: how requests ended, by status; 0 for those that hung up.
        silent: clients that were told nothing: there must be none.
    """

    points: list[tuple[int, float, int]] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    seconds: float = 0.0
    gauges: dict[str, float] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Why it failed; empty when it did not."""
        found = []
        after = self.points[len(self.points) // 5 :]
        memory = [mb for _, mb, _ in after]
        if max(memory[-5:]) > memory[0] * (1 + MAY_GROW):
            found.append(f"memory grew from {memory[0]:.1f} to {max(memory[-5:]):.1f} MB")
        descriptors = [count for _, _, count in after]
        if descriptors[-1] > max(descriptors[:10]) * (1 + MAY_GROW) + 4:
            found.append(f"descriptors grew from {max(descriptors[:10])} to {descriptors[-1]}")
        if self.silent:
            found.append(f"{self.silent} clients were told nothing")
        found += [f"{name} is {value} at rest" for name, value in self.gauges.items() if value]
        return found


async def soak(requests: int, gateway: RunningGateway, llama: BusyLlama) -> Soak:
    """Send *requests*, and look at the gateway's process now and then."""
    seen, chance = Soak(), random.Random(5)
    process = psutil.Process(gateway.process.pid)
    left = iter(range(requests))
    llama.answer = lambda _: chance.choice(FAULTS) if chance.random() < 1 / 7 else None
    begun = time.monotonic()
    await asyncio.to_thread(gateway.status)  # what is imported for that is no growth later

    async def client() -> None:
        for number in left:
            if number % max(1, requests // POINTS) == 0:
                memory = process.memory_info().rss / 1e6
                seen.points.append((number, memory, process.num_fds()))
            if number and number % max(1, requests // RESTARTS) == 0:
                await llama.leave()
                await llama.come_back()
            patience_s = chance.uniform(0, 0.02) if chance.random() < 1 / 6 else 30.0
            status = await _one(gateway.port, chance.choice(PATHS), number, patience_s)
            seen.ends[status] += 1
            seen.silent += status < 0

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seen.seconds = time.monotonic() - begun
    seen.gauges = await asyncio.to_thread(_at_rest, gateway)
    seen.points.append((requests, process.memory_info().rss / 1e6, process.num_fds()))
    return seen


async def _one(port: int, path: str, number: int, patience_s: float) -> int:
    """One request on a connection of its own. Its status; 0 when the client left, -1 when it was told nothing."""
    text = f"request {number % 50}"
    body = {"model": "m", "stream": number % 3 > 0, "max_tokens": 16}
    body["input" if path == "/v1/responses" else "messages"] = [{"role": "user", "content": text}]
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + data)
        async with asyncio.timeout(patience_s):
            answer = await reader.read(-1)
    except TimeoutError:
        return 0 if patience_s < 30 else -1
    except ConnectionError:
        return -1
    finally:
        writer.transport.abort()
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else -1


def _at_rest(gateway: RunningGateway) -> dict[str, float]:
    """The gauges that are zero when nobody is there, when they have had time to become so."""
    deadline = time.monotonic() + 30
    while True:
        shown = gateway.status()["upstreams"][0]["concurrency"]
        gauges = {name: shown[name] for name in ("in_flight", "queued", "ghosts", "held")}
        if not any(gauges.values()) or time.monotonic() > deadline:
            return gauges
        time.sleep(0.05)


def run(requests: int) -> Soak:
    """The whole of it."""

    async def main() -> Soak:
        async with BusyLlama(slots=4, prefill_s=0.0, token_s=0.0) as llama:
            upstreams = [{"name": "box", "url": llama.url}]
            with tempfile.TemporaryDirectory(prefix="penstock-soak-") as folder:
                settings = {**SETTINGS, "upstreams": upstreams}
                gateway = await asyncio.to_thread(RunningGateway, Path(folder), settings)
                try:
                    return await soak(requests, gateway, llama)
                finally:
                    await asyncio.to_thread(gateway.stop)

    return asyncio.run(main())


def drawing(seen: Soak) -> str:
    """Memory and descriptors over requests, as SVG."""
    width, height, left, top = 640, 220, 56, 24
    most = {1: max(mb for _, mb, _ in seen.points) * 1.25, 2: max(n for *_, n in seen.points) * 1.5}
    last = seen.points[-1][0]

    def line(column: int, colour: str) -> str:
        places = " ".join(
            f"{left + width * point[0] / last:.1f},{top + height * (1 - point[column] / most[column]):.1f}"
            for point in seen.points
        )
        return (
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{left + width + 6}" y="{top + height * (1 - seen.points[-1][column] / most[column]):.1f}" '
            f'fill="{colour}">{seen.points[-1][column]:.0f}{" MB" if column == 1 else " descriptors"}</text>'
        )

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 130} {top + height + 40}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="{left}" y="16">memory and descriptors of the gateway over {last:,} requests, faults among them</text>'
        f'<path d="M{left},{top} v{height} h{width}" fill="none" stroke="#888888"/>'
        + line(1, "#1f5fbf")
        + line(2, "#b3541e")
        + f'<text x="{left}" y="{top + height + 20}">0</text>'
        f'<text x="{left + width}" y="{top + height + 20}" text-anchor="end">{last:,} requests</text></svg>\n'
    )


def main() -> int:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("requests", nargs="?", type=int, default=100_000)
    words.add_argument("--write", action="store_true")
    wanted = words.parse_args()
    seen = run(wanted.requests)
    ends = ", ".join(
        f"{count:,} x {status or 'hung up'}" for status, count in seen.ends.most_common()
    )
    first, last = seen.points[len(seen.points) // 5], seen.points[-1]
    print(f"{wanted.requests:,} requests in {seen.seconds:.0f} s: {ends}")
    print(
        f"memory {first[1]:.1f} MB after a fifth, {last[1]:.1f} MB at the end; descriptors {first[2]}, {last[2]}"
    )
    if wanted.write:
        (ROOT / "docs" / "soak.svg").write_text(drawing(seen))
    for problem in seen.problems():
        print(f"failed: {problem}")
    return 1 if seen.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
