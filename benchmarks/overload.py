"""
What an overloaded server does to its clients, with nothing in front of it, with a fixed limit, and with Penstock.

    python3 benchmarks overload            print the tables
    python3 benchmarks overload --write    and put them into benchmarks/README.md
    python3 benchmarks overload --quick    only Penstock, at twice and four times the capacity, for a short while;
                                           fails when a figure is missed by far
    python3 benchmarks overload --real     before a real llama.cpp as well

Arrivals come by Poisson and wait for nobody, at 0.5 to 4 times what the server can do. The simulated server
(`slotted_server.py`) has four slots; what it can do follows from what it is asked. The ideal that Penstock is compared
with is reckoned for the same arrivals: one first-come queue of the same length in front of the same slots, of which no
step costs anything.

The fixed limit is nginx's `limit_conn`, at four times the slots: a number as people set it who do not know their
server. What is above it is refused; what is below it and above the slots waits inside the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from measure import GATEWAY_CORE, LOAD_CORE, free_port, nginx_command, pinned, say
from open_loop import Asked, Saw, answers_per_s, plan, send
from serving import llamacpp
from slotted_server import prefill_s, service_s

HERE = Path(__file__).resolve().parent
SLOTS, QUEUE = 4, 100
WINDOW, REAL_WINDOW = 8192, 2048
"""Large enough for every prompt by anybody's estimate: nothing is to be cut here."""
FIXED = 4 * SLOTS
LOADS = (0.5, 1.0, 2.0, 4.0)
WARM_S = 6.0
SEED = 7
_BUSY_MS, _TRIES = 5.0, 3
"""What was measured while the load itself was late (p99) is measured again, and the calmest counts."""
_REAL_PROMPTS = (20, 120)
"""In words; the tiny model takes nearly each byte for a token."""
AIMS = {"goodput": 0.95, "first": 1.2, "refused_ms": 5.0, "failed": 0}


@dataclass(frozen=True, slots=True)
class Figures:
    """
    One way at one load.

    Attributes:
        goodput: share of the server's time for which complete answers stand; None where it is not known.
        answers_s: complete answers a second.
        first_p50_s, first_p99_s: time to first token of those that were admitted.
        refused: share of all requests.
        refused_p50_ms, refused_p99_ms: how long a refusal took, None without one.
        failed: requests that were neither answered nor refused.
        late_ms: how late the load itself was (p99): above some milliseconds the machine was too busy to tell.
    """

    goodput: float | None
    answers_s: float
    first_p50_s: float
    first_p99_s: float
    refused: float
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    failed: int
    late_ms: float = 0.0


def share_of(values: Sequence[float], share: float) -> float:
    """The value below which *share* of *values* are; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def figures(asked: Sequence[Asked], saws: Sequence[Saw], for_s: float, *, known: bool) -> Figures:
    """
    Of the requests that came between warming up and the end; goodput of the answers that ended then.

    Args:
        known: what a request costs the server is known.
    """
    begin_s = WARM_S
    pairs = [(a, s) for a, s in zip(asked, saws, strict=True) if a.at_s >= begin_s]
    refused = [(saw.end_s or 0.0) - saw.late_s for _, saw in pairs if saw.status in (429, 503)]
    first = [saw.first_s for _, saw in pairs if saw.complete and saw.first_s is not None]
    failed = sum(not saw.complete and saw.status not in (429, 503) for _, saw in pairs)
    work_s, answers = 0.0, 0
    for item, saw in zip(asked, saws, strict=True):
        if saw.complete and saw.end_s is not None and begin_s <= item.at_s + saw.end_s < for_s:
            work_s += service_s(item.prompt_tokens, item.answer_tokens)
            answers += 1
    measured_s = for_s - begin_s
    return Figures(
        work_s / (SLOTS * measured_s) if known else None,
        answers / measured_s,
        share_of(first, 0.5),
        share_of(first, 0.99),
        len(refused) / max(1, len(pairs)),
        1e3 * share_of(refused, 0.5) if refused else None,
        1e3 * share_of(refused, 0.99) if refused else None,
        failed,
        1e3 * share_of([saw.late_s for _, saw in pairs], 0.99),
    )


def ideal(asked: Sequence[Asked], *, slots: int = SLOTS, queue: int = QUEUE) -> list[Saw]:
    """What a first-come queue would have done of which no step costs anything; all times are reckoned."""
    free_at = [0.0] * slots  # a heap: when each slot is free
    starts: list[float] = []  # of those that wait or have waited, in order
    saws = []
    for item in asked:
        while starts and starts[0] <= item.at_s:
            heapq.heappop(starts)
        if free_at[0] > item.at_s and len(starts) >= queue:
            saws.append(Saw(429, None, 0.0))
            continue
        start_s = max(item.at_s, heapq.heappop(free_at))
        end_s = start_s + service_s(item.prompt_tokens, item.answer_tokens)
        heapq.heappush(free_at, end_s)
        if start_s > item.at_s:
            heapq.heappush(starts, start_s)
        first_s = start_s + prefill_s(item.prompt_tokens) - item.at_s
        saws.append(Saw(200, first_s, end_s - item.at_s, True))
    return saws


def capacity_per_s() -> float:
    """Requests a second that the simulated server can do: by what such requests cost on average."""
    sample = plan(1000.0, 10.0, SEED)
    costs = [service_s(item.prompt_tokens, item.answer_tokens) for item in sample]
    return SLOTS / (sum(costs) / len(costs))


# What stands in front of the server.


@contextlib.contextmanager
def running(command: list[str], port: int, core: str, **env: str) -> Iterator[None]:
    """A process that listens on *port*."""
    process = subprocess.Popen(
        pinned(core, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False, timeout=5)
                break
            if process.poll() is not None:
                raise SystemExit(f"benchmarks: {command[0]} did not start")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[int]:
    """nginx that lets `FIXED` requests through and refuses the others."""
    port = free_port()
    command = nginx_command(folder, port, upstream)
    assert command is not None
    file = folder / "nginx.conf"
    limits = "limit_conn_zone $server_port zone=all:1m; limit_conn_status 503;"
    conf = file.read_text()
    conf = conf.replace("access_log off;", f"access_log off; {limits}", 1)
    conf = conf.replace("location / {", f"location / {{ limit_conn all {FIXED};", 1)
    file.write_text(conf)
    with running(command, port, GATEWAY_CORE):
        yield port


@contextlib.contextmanager
def penstock(folder: Path, upstream: str) -> Iterator[int]:
    """The gateway with its defaults."""
    port = free_port()
    settings = folder / "penstock.yaml"
    settings.write_text(
        json.dumps({"version": 1, "upstreams": [{"name": "box", "url": upstream, "local": True}]})
    )
    command = [
        sys.executable, "-m", "penstock", "serve", "--config", str(settings), "--port", str(port)
    ]  # fmt: skip
    places = {f"XDG_{part}_HOME": str(folder) for part in ("STATE", "CACHE", "CONFIG")}
    with running(command, port, GATEWAY_CORE, XDG_RUNTIME_DIR=str(folder), **places):
        yield port


Ways = dict[str, Callable[[], contextlib.AbstractContextManager[int]]]


def ways_to(url: str, folder: Path, quick: bool) -> Ways:
    """What is compared in front of the server at *url*."""
    port = int(url.rsplit(":", 1)[1])
    ways: Ways = {"Penstock": lambda: penstock(folder, url)}
    if quick:
        return ways
    others: Ways = {"direct": lambda: contextlib.nullcontext(port)}
    if nginx_command(folder, 1, 1) is not None:
        others[f"nginx, {FIXED} at a time"] = lambda: nginx(folder, port)
    return {**others, **ways}


def until_empty(port: int) -> None:
    """Wait until the server works on nothing that an earlier load has left."""
    with httpx.Client(trust_env=False, timeout=10) as http:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            # Under a heap of requests llama.cpp answers nobody for a while, not even this.
            with contextlib.suppress(httpx.TimeoutException):
                slots = http.get(f"http://127.0.0.1:{port}/slots").json()
                if not any(slot["is_processing"] for slot in slots):
                    return
            time.sleep(0.1)
    raise SystemExit("benchmarks: the server did not become idle within 300 s")


def run(
    ways: Ways,
    server: int,
    plan_at: Callable[[float, float, int], list[Asked]],
    loads: Sequence[float],
    for_s: float,
    *,
    known: bool,
) -> dict[tuple[str, float], Figures]:
    """
    All ways at all loads.

    Args:
        plan_at: makes a plan of (times the capacity, seconds, seed).
    """
    found: dict[tuple[str, float], Figures] = {}
    for way, start in ways.items():
        with start() as port:
            # Each is warm when it is measured; Penstock has looked once whether fewer at a time are better.
            asyncio.run(send(port, plan_at(1.5, 5.0, SEED + 1)))
            for load in loads:
                asked = plan_at(load, for_s, SEED)
                say(f"{way}, {load:g} x capacity: {len(asked)} requests ...")
                for _ in range(_TRIES):
                    until_empty(server)
                    saws = asyncio.run(send(port, asked))
                    seen = figures(asked, saws, for_s, known=known)
                    before = found.get((way, load))
                    if before is None or seen.late_ms < before.late_ms:
                        found[way, load] = seen
                    if seen.late_ms <= _BUSY_MS:
                        break
                    say(f"the machine is busy: requests were sent {seen.late_ms:.0f} ms late (p99)")
    return found


# Tables.


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def row(load: float, way: str, seen: Figures) -> str:
    """A line of the table."""
    goodput = f"{seen.answers_s:.1f} a second" if seen.goodput is None else f"{seen.goodput:.0%}"
    refused = "-" if not seen.refused else f"{seen.refused:.0%}"
    quick = (
        "-"
        if seen.refused_p50_ms is None
        else f"{_ms(seen.refused_p50_ms)} / {_ms(seen.refused_p99_ms)}"
    )
    return (
        f"| {load:g} x | {way} | {goodput} | {seen.first_p50_s:.2f} / {seen.first_p99_s:.2f} "
        f"| {refused} | {quick} | {seen.failed or '-'} |"
    )


HEAD = [
    "| load | | goodput | first token, p50 / p99 (s) | refused | in, p50 / p99 (ms) | failed |",
    "|---|---|---|---|---|---|---|",
]


def table(found: dict[tuple[str, float], Figures]) -> str:
    """All figures, by load."""
    lines = list(HEAD)
    for load in dict.fromkeys(load for _, load in found):
        lines += [row(load, way, seen) for (way, at), seen in found.items() if at == load]
    return "\n".join(lines)


def misses(found: dict[tuple[str, float], Figures], slack: float = 1.0) -> list[str]:
    """What is not reached by Penstock; *slack* times worse than the aim is let pass."""
    missed = []
    for (way, load), seen in found.items():
        if way != "Penstock":
            continue
        best = found.get(("an ideal queue", load))
        if seen.failed > AIMS["failed"]:
            missed.append(f"{load:g} x: {seen.failed} failed")
        if (
            load >= 4
            and seen.goodput is not None
            and seen.goodput < 1 - slack * (1 - AIMS["goodput"])
        ):
            missed.append(f"{load:g} x: goodput {seen.goodput:.1%}")
        if best and seen.first_p99_s > slack * AIMS["first"] * max(best.first_p99_s, 0.05):
            ratio = seen.first_p99_s / best.first_p99_s
            missed.append(f"{load:g} x: first token {ratio:.2f} times that of an ideal queue (p99)")
        if seen.refused_p99_ms is not None and seen.refused_p99_ms > slack * AIMS["refused_ms"]:
            missed.append(f"{load:g} x: refusals within {seen.refused_p99_ms:.1f} ms (p99)")
    return missed


def simulated(quick: bool, for_s: float) -> dict[tuple[str, float], Figures]:
    """Before the simulated server."""
    loads = LOADS[2:] if quick else LOADS
    per_s = capacity_per_s()

    def plan_at(load: float, seconds: float, seed: int) -> list[Asked]:
        return plan(load * per_s, seconds, seed)

    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        port = free_port()
        command = [sys.executable, str(HERE / "slotted_server.py"), str(port), str(SLOTS), str(WINDOW)]  # fmt: skip
        with running(command, port, LOAD_CORE):
            ways = ways_to(f"http://127.0.0.1:{port}", Path(name), quick)
            found = run(ways, port, plan_at, loads, for_s, known=True)
    for load in loads:
        asked = plan_at(load, for_s, SEED)
        found["an ideal queue", load] = figures(asked, ideal(asked), for_s, known=True)
    return found


def real(for_s: float) -> dict[tuple[str, float], Figures]:
    """Before a real llama.cpp on a tiny model: it shares the machine with everything else."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        with llamacpp("full", REAL_WINDOW, folder) as server:
            port = int(server.url.rsplit(":", 1)[1])
            ways = ways_to(server.url, folder, False)
            asked = plan(200.0, 30.0, SEED, prompts=_REAL_PROMPTS)
            per_s = asyncio.run(answers_per_s(port, asked, 2 * SLOTS, 8.0))
            say(f"the real llama.cpp answers {per_s:.1f} requests a second")
            until_empty(port)

            def plan_at(load: float, seconds: float, seed: int) -> list[Asked]:
                return plan(load * per_s, seconds, seed, prompts=_REAL_PROMPTS)

            return run(ways, port, plan_at, LOADS, for_s, known=False)


def write(name: str, text: str) -> None:
    """Put a table between its marks in the README."""
    page = HERE / "README.md"
    before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    if not mark:
        raise SystemExit(f"benchmarks/README.md has no place for {name}")
    after = rest.partition(f"<!-- end of {name} -->")[2]
    page.write_text(f"{before}{mark}{text}\n<!-- end of {name} -->{after}")


def main() -> int:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    parser.add_argument("--quick", action="store_true", help="only Penstock, for a short while")
    parser.add_argument("--real", action="store_true", help="before a real llama.cpp as well")
    parser.add_argument("--seconds", type=float, default=None, help="measured at each load")
    asked = parser.parse_args()
    if shutil.which("taskset") is None:
        say("there is no taskset: load and gateway share their cores")
    for_s = WARM_S + (asked.seconds or (6.0 if asked.quick else 24.0))
    found = simulated(asked.quick, for_s)
    text = table(found)
    print(text)
    if asked.write:
        write("overload", text)
    missed = misses(found)
    for line in missed:
        say(f"not reached: {line}")
    if asked.real:
        text = table(real(for_s))
        print(text)
        if asked.write:
            write("overload of a real server", text)
    return 1 if asked.quick and misses(found, 3.0) else 0


if __name__ == "__main__":
    sys.exit(main())
