"""
What the dashboard costs whoever looks at it, in a real Chromium.

    python3 benchmarks page              two minutes of load
    python3 benchmarks page 3600         an hour

First its size and how soon something is painted, over loopback, each time in a fresh profile. Then sixteen clients send
chats to a gateway in front of a scripted llama.cpp while the page is open. After a third of the time and at its end,
garbage is collected and what is left is counted: the page's heap and nodes, and the memory of the gateway. Fails when
the heap grows by more than 2 MB, the nodes by more than 100, or the gateway by more than a tenth and 5 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from playwright.async_api import async_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import browsers
from crowd import BusyLlama
from gateways import RunningGateway

CLIENTS, PAINTS = 16, 20
FOLDER = ROOT / "shared" / "penstock" / "gateway" / "dashboard"
_PAINTED = """() => new Promise((done) => {
  const told = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
  if (told()) return done(told());
  new PerformanceObserver(() => done(told())).observe({ type: "paint", buffered: true });
})"""
_WATCH = """() => { window.long = []; new PerformanceObserver((all) => {
  for (const one of all.getEntries()) window.long.push(one.duration); }).observe({ type: "longtask" }); }"""


@dataclass(frozen=True, slots=True)
class Left:
    """
    What is there after garbage was collected.

    Attributes:
        heap_mb: of the page's JavaScript.
        nodes, listeners: of its document.
        gateway_mb: memory of the gateway's process.
    """

    heap_mb: float
    nodes: int
    listeners: int
    gateway_mb: float


@dataclass(frozen=True, slots=True)
class Watched:
    """
    A time of load, looked at.

    Attributes:
        seconds, requests: how long, and how many were answered.
        long_s: seconds in which the page's thread was busy for more than 50 ms on end.
        longest_s: the longest of these.
        first, last: what was left after a third of the time, and at its end.
    """

    seconds: float
    requests: int
    long_s: float
    longest_s: float
    first: Left
    last: Left

    def wrong(self) -> list[str]:
        """What grew."""
        found = []
        if self.last.heap_mb > self.first.heap_mb + 2:
            found.append(
                f"the heap grew from {self.first.heap_mb:.1f} to {self.last.heap_mb:.1f} MB"
            )
        if self.last.nodes > self.first.nodes + 100:
            found.append(f"the nodes grew from {self.first.nodes} to {self.last.nodes}")
        if self.last.gateway_mb > self.first.gateway_mb * 1.1 + 5:
            found.append(f"the gateway grew from {self.first.gateway_mb:.0f} to {self.last.gateway_mb:.0f} MB")  # fmt: skip
        return found


def size_bytes() -> int:
    """All files of the page together, each compressed."""
    files = [path for path in FOLDER.iterdir() if path.suffix in (".html", ".js", ".css")]
    return sum(len(gzip.compress(path.read_bytes())) for path in files)


@asynccontextmanager
async def busy_gateway(folder: Path) -> AsyncIterator[tuple[RunningGateway, BusyLlama]]:
    """A gateway in front of a scripted llama.cpp that is quick."""
    async with BusyLlama(slots=4, prefill_s=0.002, token_s=0.001) as llama:
        settings = {
            "upstreams": [{"name": "box", "url": llama.url, "local": True}],
            "log": {"file": "none", "level": "error"},
        }
        gateway = await asyncio.to_thread(RunningGateway, folder, settings)
        try:
            yield gateway, llama
        finally:
            await asyncio.to_thread(gateway.stop)


async def first_paints(browser: Any, url: str, count: int) -> list[float]:
    """Seconds until the first contentful paint, each in a fresh profile."""
    found = []
    for _ in range(count):
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        await page.goto(url)
        found.append(await page.evaluate(_PAINTED) / 1000)
        await context.close()
    return found


async def watch(
    page: Any, gateway: RunningGateway, seconds: float, *, clients: int = CLIENTS
) -> Watched:
    """Load for *seconds*, with *page* open."""
    devtools = await page.context.new_cdp_session(page)
    process = psutil.Process(gateway.process.pid)
    answered, ends_s = 0, 0.0

    async def client(number: int) -> None:
        nonlocal answered
        while time.monotonic() < ends_s:
            answered += await _ask(gateway.port, f"client {number}, question {answered % 50}")

    async def left() -> Left:
        await devtools.send("HeapProfiler.collectGarbage")
        heap = await devtools.send("Runtime.getHeapUsage")
        counts = await devtools.send("Memory.getDOMCounters")
        return Left(
            heap["usedSize"] / 1e6, counts["nodes"], counts["jsEventListeners"], process.memory_info().rss / 1e6
        )  # fmt: skip

    await page.goto(gateway.url)
    await page.evaluate(_WATCH)
    begun_s = time.monotonic()
    ends_s = begun_s + seconds
    asking = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(seconds / 3)
    first = await left()
    await asyncio.gather(*asking)
    took_s = time.monotonic() - begun_s
    last = await left()
    long = [one / 1000 for one in await page.evaluate("window.long")]
    return Watched(took_s, answered, sum(long), max(long, default=0.0), first, last)


async def _ask(port: int, text: str) -> int:
    """One chat on a connection of its own: 1 when it was answered."""
    body = (
        b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "%b"}]}'
        % text.encode()
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(60):
            return int((await reader.read(-1)).startswith(b"HTTP/1.1 200"))
    finally:
        writer.transport.abort()


async def measure(seconds: float) -> tuple[list[float], Watched]:
    """First paints, then the load."""
    with tempfile.TemporaryDirectory(prefix="penstock-page-") as name:
        async with async_playwright() as tools, busy_gateway(Path(name)) as (gateway, _):
            with browsers.running() as address:
                browser = await tools.chromium.connect_over_cdp(address)
                paints = await first_paints(browser, gateway.url, PAINTS)
                context = await browser.new_context(viewport={"width": 1280, "height": 900})
                seen = await watch(await context.new_page(), gateway, seconds)
                await browser.close()
    return paints, seen


def table(paints: list[float], seen: Watched) -> str:
    """As Markdown."""
    first, last = seen.first, seen.last
    rows = [
        ("all files, compressed", f"{size_bytes() / 1000:.1f} KB", "60 KB"),
        ("first paint, median of 20 (slowest)", f"{median(paints) * 1000:.0f} ms ({max(paints) * 1000:.0f} ms)", "300 ms"),
        ("load", f"{seen.requests:,} requests in {seen.seconds:.0f} s, {seen.requests / seen.seconds:.0f} a second", ""),
        ("page's thread busy for more than 50 ms on end", f"{100 * seen.long_s / seen.seconds:.1f} % of the time, {seen.longest_s * 1000:.0f} ms at most", ""),
        ("page's heap, after a third and at the end", f"{first.heap_mb:.1f} and {last.heap_mb:.1f} MB", "no growth"),
        ("page's nodes", f"{first.nodes:,} and {last.nodes:,}", "no growth"),
        ("gateway's memory", f"{first.gateway_mb:.0f} and {last.gateway_mb:.0f} MB", "no growth"),
    ]  # fmt: skip
    return "| | measured | to reach |\n|---|---|---|\n" + "".join(
        f"| {' | '.join(row)} |\n" for row in rows
    )


def main() -> int:
    """See the module."""
    options = argparse.ArgumentParser(description="What the dashboard costs.")
    options.add_argument("seconds", nargs="?", type=float, default=120.0)
    chosen = options.parse_args()
    paints, seen = asyncio.run(measure(chosen.seconds))
    print(table(paints, seen))
    wrong = seen.wrong()
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
