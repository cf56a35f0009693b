"""
What the dashboard costs whoever looks at it, in a real Chromium, and what it costs the gateway.

    python3 benchmarks page                    two minutes of load
    python3 benchmarks page 3600               an hour
    python3 benchmarks page --rate 500         more requests a second
    python3 benchmarks page --write            and put the table into docs/dashboard.md

First its size and how soon something is painted, over loopback, each time in a fresh profile. Then clients send 300 chats
a second, whether or not the ones before were answered, to a gateway in front of a scripted llama.cpp that answers at
once: a while without the page, then with it. After a third of that time and at its end, garbage is collected and what is
left is counted: the page's heap and nodes, and the memory of the gateway. Fails when something grows, when the page's
thread is busy for more than 50 ms on end in more than a twentieth of the time, or when the page does not show at the end
what the gateway knows (`Watched.wrong`).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from playwright.async_api import TimeoutError as GaveUp
from playwright.async_api import async_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import browsers
from gateways import RunningGateway
from rawserver import CHUNKED_HEAD, Peer, Received, chunk
from scripted import Script, ScriptedLlama, delta, event

RATE, PAINTS, SLOTS = 300.0, 20, 32
MOST_CONNECTIONS, WITHOUT_SHARE = 128, 0.25
MOST_LONG_SHARE, MOST_STYLES_A_SECOND, MOST_NODES = 0.05, 15, 6_000
SHOWN_WITHIN_S = 10.0
FOLDER = ROOT / "shared" / "penstock" / "gateway" / "dashboard"
PAGE = ROOT / "docs" / "dashboard.md"
_PAINTED = """() => new Promise((done) => {
  const told = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
  if (told()) return done(told());
  new PerformanceObserver(() => done(told())).observe({ type: "paint", buffered: true });
})"""
_WATCH = """() => { window.long = []; new PerformanceObserver((all) => {
  for (const one of all.getEntries()) window.long.push(one.duration); }).observe({ type: "longtask" }); }"""
_SHOWS = """(id) => document.querySelector("#recent details")?.dataset.k === id && document.title === "Penstock" """


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
        seconds, requests: how long, and how many were answered; `asked` were sent.
        cpu, cpu_without: CPU seconds of the gateway for each thousand requests with the page, and without it.
        busy_s: CPU seconds of the page's thread.
        styles: how often the page was laid out anew.
        browser_cpu_s: CPU seconds of the browser, all its processes together.
        long_s: seconds in which the page's thread was busy for more than 50 ms on end.
        longest_s: the longest of these.
        first, last: what was left after a third of the time, and at its end.
        shown: at the end the page shows that nothing runs, and the last request as the last.
    """

    seconds: float
    asked: int
    requests: int
    cpu: float
    cpu_without: float
    busy_s: float
    styles: float
    browser_cpu_s: float
    long_s: float
    longest_s: float
    first: Left
    last: Left
    shown: bool

    def wrong(self, most_long_share: float = MOST_LONG_SHARE) -> list[str]:
        """What grew, janked or was lost."""
        found = []
        if self.last.heap_mb > self.first.heap_mb + 2:
            found.append(
                f"the heap grew from {self.first.heap_mb:.1f} to {self.last.heap_mb:.1f} MB"
            )
        if self.last.nodes > self.first.nodes + 100:
            found.append(f"the nodes grew from {self.first.nodes} to {self.last.nodes}")
        if max(self.first.nodes, self.last.nodes) > MOST_NODES:
            found.append(f"there are {self.last.nodes} nodes, more than {MOST_NODES}")
        if self.last.gateway_mb > self.first.gateway_mb * 1.1 + 5:
            found.append(f"the gateway grew from {self.first.gateway_mb:.0f} to {self.last.gateway_mb:.0f} MB")  # fmt: skip
        if self.long_s > self.seconds * most_long_share:
            found.append(f"the page's thread was busy for more than 50 ms on end in {100 * self.long_s / self.seconds:.0f} % of the time")  # fmt: skip
        if self.styles > self.seconds * MOST_STYLES_A_SECOND:
            found.append(f"the page was laid out {self.styles / self.seconds:.0f} times a second")
        if self.requests < self.asked:
            found.append(f"{self.asked - self.requests} of {self.asked} requests were not answered")
        if not self.shown:
            found.append("the page does not show at the end what the gateway knows")
        return found


class QuickLlama(ScriptedLlama):
    """Answers each chat at once, in one piece: a short stream."""

    answer = b"".join(
        [CHUNKED_HEAD, *(event(delta(f"{n} ")) for n in range(4)), event(delta("", "stop")), event(b"[DONE]"), chunk(b"")]
    )  # fmt: skip

    def script_for(self, request: Received) -> Script:
        """That."""
        self.requests.clear()

        async def say(peer: Peer) -> None:
            await peer.send(self.answer)

        return [say]


@dataclass(slots=True)
class Load:
    """
    Chats at a rate that waits for no answer, over connections that stay. When the machine stops for a moment those
    that are due wait here for one.

    Attributes:
        asked, answered: how many so far.
    """

    port: int
    rate: float
    asked: int = 0
    answered: int = 0
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_CONNECTIONS))

    async def go(self, seconds: float) -> None:
        """For so long, and until all are answered."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for number in range(int(seconds * self.rate)):
            if (early_s := begun_s + number / self.rate - loop.time()) > 0:
                await asyncio.sleep(early_s)
            self.asked += 1
            task = asyncio.create_task(self._ask(f"question {number % 50}"))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await asyncio.gather(*self._running)

    async def _ask(self, text: str) -> None:
        async with self._free:
            await self._ask_now(text)

    async def _ask_now(self, text: str) -> None:
        body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "%b"}]}' % text.encode()  # fmt: skip
        whole = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        while True:
            kept = bool(self._idle)
            reader, writer = self._idle.pop() if kept else await asyncio.open_connection("127.0.0.1", self.port)  # fmt: skip
            try:
                writer.write(whole)
                good = await self._answer(reader)
            except (ConnectionError, EOFError):
                if not kept:
                    raise
                continue  # it was idle for so long that the gateway closed it
            self.answered += good
            self._idle.append((reader, writer))
            return

    async def _answer(self, reader: asyncio.StreamReader) -> bool:
        async with asyncio.timeout(60):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"chunked" in head:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            else:
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
        return head.startswith(b"http/1.1 200")

    def end(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.transport.abort()


def size_bytes() -> int:
    """All files of the page together, each compressed."""
    files = [path for path in FOLDER.iterdir() if path.suffix in (".html", ".js", ".css")]
    return sum(len(gzip.compress(path.read_bytes())) for path in files)


@asynccontextmanager
async def busy_gateway(folder: Path) -> AsyncIterator[RunningGateway]:
    """A gateway in front of a scripted llama.cpp that is quick."""
    async with QuickLlama(slots=SLOTS) as llama:
        settings = {
            "upstreams": [{"name": "box", "url": llama.url, "local": True}],
            "log": {"file": "none", "level": "error"},
            "concurrency": {"queue_length": 10_000},  # a busy machine may stop for a moment
        }
        gateway = await asyncio.to_thread(RunningGateway, folder, settings)
        try:
            yield gateway
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
    page: Any, gateway: RunningGateway, seconds: float, *, rate: float = RATE
) -> Watched:
    """Load for *seconds*, with *page* open, after a shorter time without it."""
    devtools = await page.context.new_cdp_session(page)
    whole_browser = await page.context.browser.new_browser_cdp_session()
    process = psutil.Process(gateway.process.pid)
    load = Load(gateway.port, rate)

    async def costs(lasts_s: float) -> float:
        """CPU seconds for each thousand requests."""
        before, asked = sum(process.cpu_times()[:2]), load.asked
        await load.go(lasts_s)
        return 1000 * (sum(process.cpu_times()[:2]) - before) / max(1, load.asked - asked)

    async def left() -> Left:
        await devtools.send("HeapProfiler.collectGarbage")
        heap = await devtools.send("Runtime.getHeapUsage")
        counts = await devtools.send("Memory.getDOMCounters")
        return Left(
            heap["usedSize"] / 1e6, counts["nodes"], counts["jsEventListeners"], process.memory_info().rss / 1e6
        )  # fmt: skip

    async def work() -> tuple[float, float]:
        told = {
            one["name"]: one["value"]
            for one in (await devtools.send("Performance.getMetrics"))["metrics"]
        }
        return told["TaskDuration"], told["RecalcStyleCount"]

    async def browser_s() -> float:
        told = await whole_browser.send("SystemInfo.getProcessInfo")
        return sum(float(one["cpuTime"]) for one in told["processInfo"])

    await load.go(min(2.0, seconds / 4))  # connections are opened, and the server is known
    cpu_without = await costs(seconds * WITHOUT_SHARE)
    load.asked = load.answered = 0
    await page.goto(gateway.url)
    await page.get_by_role("heading", name="box", exact=True).wait_for()
    await page.evaluate(_WATCH)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    (began_busy_s, began_styles), began_browser_s = await work(), await browser_s()
    begun_s = time.monotonic()
    with_page = asyncio.create_task(costs(seconds))
    await asyncio.sleep(seconds / 3)
    first = await left()
    cpu = await with_page
    took_s = time.monotonic() - begun_s
    busy_s, styles = await work()
    browser = await browser_s() - began_browser_s
    newest = (await asyncio.to_thread(gateway.status))["requests"]["recent"][0]["id"]
    try:
        await page.wait_for_function(_SHOWS, arg=newest, timeout=SHOWN_WITHIN_S * 1000)
        shown = True
    except GaveUp:
        shown = False
    last = await left()
    long = [one / 1000 for one in await page.evaluate("window.long")]
    load.end()
    return Watched(
        took_s, load.asked, load.answered, cpu, cpu_without, busy_s - began_busy_s, styles - began_styles, browser, sum(long), max(long, default=0.0), first, last, shown
    )  # fmt: skip


async def measure(seconds: float, rate: float) -> tuple[list[float], Watched]:
    """First paints, then the load."""
    with tempfile.TemporaryDirectory(prefix="penstock-page-") as name:
        async with async_playwright() as tools, busy_gateway(Path(name)) as gateway:
            with browsers.running() as address:
                browser = await tools.chromium.connect_over_cdp(address)
                paints = await first_paints(browser, gateway.url, PAINTS)
                context = await browser.new_context(viewport={"width": 1280, "height": 900})
                seen = await watch(await context.new_page(), gateway, seconds, rate=rate)
                await browser.close()
    return paints, seen


def table(paints: list[float], seen: Watched) -> str:
    """As Markdown."""
    first, last = seen.first, seen.last
    rows = [
        ("all files, compressed", f"{size_bytes() / 1000:.1f} KB", "60 KB"),
        ("first paint, median of 20 (slowest)", f"{median(paints) * 1000:.0f} ms ({max(paints) * 1000:.0f} ms)", "300 ms"),
        ("load", f"{seen.requests:,} requests in {seen.seconds:.0f} s, {seen.requests / seen.seconds:.0f} a second", ""),
        ("CPU of the page's thread", f"{100 * seen.busy_s / seen.seconds:.0f} % of a core; laid out {seen.styles / seen.seconds:.1f} times a second", ""),
        ("page's thread busy for more than 50 ms on end", f"{100 * seen.long_s / seen.seconds:.1f} % of the time, {seen.longest_s * 1000:.0f} ms at most", f"{100 * MOST_LONG_SHARE:.0f} %"),
        ("CPU of the whole browser", f"{100 * seen.browser_cpu_s / seen.seconds:.0f} % of a core", ""),
        ("CPU of the gateway for a request, with the page and without", f"{seen.cpu:.2f} and {seen.cpu_without:.2f} ms, {seen.cpu / seen.cpu_without:.2f} times", ""),
        ("page's heap, after a third and at the end", f"{first.heap_mb:.1f} and {last.heap_mb:.1f} MB", "no growth"),
        ("page's nodes", f"{first.nodes:,} and {last.nodes:,}", "no growth"),
        ("gateway's memory", f"{first.gateway_mb:.0f} and {last.gateway_mb:.0f} MB", "no growth"),
    ]  # fmt: skip
    return "| | measured | to reach |\n|---|---|---|\n" + "".join(
        f"| {' | '.join(row)} |\n" for row in rows
    )


def write(text: str) -> None:
    """Put the table between its marks."""
    begin, end = "<!-- table -->\n", "<!-- /table -->"
    head, _, rest = PAGE.read_text("utf-8").partition(begin)
    PAGE.write_text(f"{head}{begin}{text}{end}{rest.partition(end)[2]}", "utf-8")


def main() -> int:
    """See the module."""
    options = argparse.ArgumentParser(description="What the dashboard costs.")
    options.add_argument("seconds", nargs="?", type=float, default=120.0)
    options.add_argument("--rate", type=float, default=RATE)
    options.add_argument("--write", action="store_true")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # browser and gateway end with it
    paints, seen = asyncio.run(measure(chosen.seconds, chosen.rate))
    text = table(paints, seen)
    print(text)
    if chosen.write:
        write(text)
    wrong = seen.wrong()
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
