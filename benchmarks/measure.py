"""Starts everything, measures, prints. See `__main__`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GATEWAY_CORE, LOAD_CORE = "0", "1"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")

# What is to be reached: ratio to nginx's CPU in the same run, in brackets the later aim.
AIMS = {"small": (8.0, 4.0), "paced": (3.0, 1.5), "large": (8.0, 4.0)}


@dataclass
class Gateway:
    """A way to the upstream, and what was measured of it."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None
    started_s: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU seconds that its process has used so far."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def rss_mb(self) -> float:
        """Resident memory now."""
        if self.process is None:
            return 0.0
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def say(text: str) -> None:
    """Progress."""
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: str, command: list[str]) -> list[str]:
    """*command* on one core, where that can be had."""
    enough = (os.cpu_count() or 1) > 1 and shutil.which("taskset")
    return ["taskset", "-c", core, *command] if enough else command


@contextlib.contextmanager
def running(
    name: str, port: int, command: list[str], folder: Path, **env: str
) -> Iterator[Gateway]:
    """A process that listens on *port*, until the block ends."""
    log = (folder / f"{name.replace(' ', '-')}.log").open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        pinned(GATEWAY_CORE, command), stdout=log, stderr=log, env={**os.environ, **env}
    )
    try:
        deadline = began + 30
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.005)
        else:
            raise SystemExit(f"{name} did not start:\n{Path(log.name).read_text()}")
        yield Gateway(name, port, process, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def build(folder: Path) -> tuple[str, str]:
    """Compile load generator and upstream."""
    if shutil.which("gcc") is None:
        raise SystemExit("benchmarks: a C compiler (gcc) is needed for the load tools")
    built = []
    for name in ("loadgen", "upstream"):
        target = folder / name
        subprocess.run(
            ["gcc", "-O2", "-w", "-o", str(target), str(HERE / "load" / f"{name}.c")], check=True
        )
        built.append(str(target))
    return built[0], built[1]


def nginx_command(folder: Path, port: int, upstream: int) -> list[str] | None:
    """nginx as a plain reverse proxy without buffering, in one process."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        return None
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{ access_log off; {paths} client_max_body_size 64m; client_body_buffer_size 1m; tcp_nodelay on;
  keepalive_requests 10000000;
  upstream u {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port} backlog=2048;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; }} }} }}
"""
    )
    return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]


def penstock_command(folder: Path, name: str, port: int, upstream: int, local: bool) -> list[str]:
    """The gateway with every feature that is on by default."""
    upstreams = [
        {"name": name, "url": f"http://127.0.0.1:{upstream}", "local": local,
         "models": ["mock", "mock-paced", "mock-short"]}
    ]  # fmt: skip
    settings = folder / f"{name}.yaml"
    settings.write_text(
        json.dumps({"version": 1, "upstreams": upstreams, "log": {"level": "info"}})
    )
    return [
        sys.executable,
        "-m",
        "penstock",
        "serve",
        "--config",
        str(settings),
        "--port",
        str(port),
    ]


def bodies(folder: Path) -> dict[str, Path]:
    """The requests that are sent."""
    text = "The quick brown fox jumps over the lazy dog. "
    small = [{"role": "user", "content": text * 40}]
    large = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": text * 44} for i in range(200)
    ]
    made: dict[str, Any] = {
        "small": {"model": "mock", "messages": small},
        "short": {"model": "mock-short", "messages": small},
        "large": {"model": "mock-short", "messages": large},
        "large-stream": {"model": "mock-short", "messages": large, "stream": True},
        "paced": {"model": "mock-paced", "messages": small, "stream": True},
        "stream": {"model": "mock", "messages": small, "stream": True},
    }
    files = {}
    for name, body in made.items():
        files[name] = folder / f"{name}.json"
        # With spaces after separators, as clients in Python write it.
        files[name].write_text(json.dumps(body))
    return files


class Bench:
    """One run: the tools, and how much is sent."""

    def __init__(self, loadgen: str, files: dict[str, Path], quick: bool) -> None:
        self._loadgen = loadgen
        self._files = files
        self.rounds = 1 if quick else 3
        self.share = 0.25 if quick else 1.0

    def load(
        self,
        gateway: Gateway,
        body: str,
        *,
        connections: int,
        requests: int,
        events: int | None = None,
        options: tuple[str, ...] = (),
    ) -> dict[str, float]:
        """
        Send; the generator's figures and the gateway's CPU for them.

        Args:
            options: more of the generator's (`load/loadgen.c`).
        """
        requests = max(connections, round(requests * self.share))
        command = [self._loadgen, "-p", str(gateway.port), "-f", str(self._files[body]),
                   "-c", str(connections), "-n", str(requests), *options]  # fmt: skip
        if events is not None:
            command += ["-e", str(events)]
        before = gateway.cpu_s()
        done = subprocess.run(
            pinned(LOAD_CORE, command), capture_output=True, text=True, check=True
        )
        figures: dict[str, Any] = json.loads(done.stdout)
        if figures["errs"] or figures["bad"] or figures["incomplete"]:
            raise SystemExit(f"{gateway.name}, {body}: {figures['msg'] or figures}")
        figures["cpu_us"] = (gateway.cpu_s() - before) * 1e6 / max(1, figures["n"])
        if events is not None:
            figures["cpu_us_event"] = (gateway.cpu_s() - before) * 1e6 / max(1, figures["events"])
            figures["events_s"] = figures["events"] / figures["wall"]
        return figures

    def median(
        self,
        gateways: list[Gateway],
        key: str,
        figure: str,
        run: Callable[[Gateway], dict[str, float]],
    ) -> None:
        """Rounds one after the other through all gateways, so that noise hits all alike."""
        seen: dict[str, list[float]] = {g.name: [] for g in gateways}
        for _ in range(self.rounds):
            for gateway in gateways:
                seen[gateway.name].append(run(gateway)[figure])
        for gateway in gateways:
            gateway.figures[key] = statistics.median(seen[gateway.name])


def until_known(port: int) -> None:
    """Wait until the gateway has looked at its upstream."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                if len(json.load(answer)["data"]) == 3:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.02)
    raise SystemExit("benchmarks: the gateway does not know its upstream")


def measure(quick: bool) -> tuple[list[Gateway], dict[str, Gateway]]:
    """Run everything."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        loadgen, upstream_tool = build(folder)
        files = bodies(folder)
        upstream_port = free_port()
        upstream = subprocess.Popen(pinned(LOAD_CORE, [upstream_tool, str(upstream_port)]))
        stack.callback(lambda: (upstream.terminate(), upstream.wait()))
        home = {"XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
        direct = Gateway("direct", upstream_port, None)
        ports = [free_port() for _ in range(4)]
        command = nginx_command(folder, ports[0], upstream_port)
        if command is None:
            raise SystemExit(
                "benchmarks: nginx is needed to compare with (Debian: apt-get install nginx-light)"
            )
        nginx = stack.enter_context(running("nginx", ports[0], command, folder))
        obvious = stack.enter_context(
            running(
                "FastAPI + httpx", ports[1],
                [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "obvious_proxy:app",
                 "--port", str(ports[1]), "--log-level", "warning"],
                folder, UPSTREAM=f"http://127.0.0.1:{upstream_port}",
            )
        )  # fmt: skip
        cloud = stack.enter_context(
            running("Penstock, cloud", ports[2],
                    penstock_command(folder, "cloud", ports[2], upstream_port, local=False), folder, **home)
        )  # fmt: skip
        local = stack.enter_context(
            running("Penstock, local", ports[3],
                    penstock_command(folder, "local", ports[3], upstream_port, local=True), folder, **home)
        )  # fmt: skip
        until_known(cloud.port)
        until_known(local.port)
        everybody = [direct, nginx, obvious, cloud, local]
        bench = Bench(loadgen, files, quick)
        for gateway in everybody:
            bench.load(gateway, "small", connections=4, requests=200)
            bench.load(gateway, "stream", connections=4, requests=40, events=200)
        say("small plain requests, 16 at a time ...")
        bench.median([nginx, obvious, cloud], "small", "cpu_us",
                     lambda g: bench.load(g, "small", connections=16, requests=2000 if g is obvious else 16000))  # fmt: skip
        say("one at a time ...")
        bench.median([direct, nginx, obvious, cloud], "p50", "p50_us",
                     lambda g: bench.load(g, "small", connections=1, requests=1000))  # fmt: skip
        say("plain requests collected from streams of 20 events ...")
        bench.median([local], "collected", "cpu_us",
                     lambda g: bench.load(g, "short", connections=16, requests=4000))  # fmt: skip
        bench.median([direct, local], "collected_p50", "p50_us",
                     lambda g: bench.load(g, "short", connections=1, requests=1000))  # fmt: skip
        say("64 paced streams ...")
        bench.median([nginx, obvious, local], "paced", "cpu_us_event",
                     lambda g: bench.load(g, "paced", connections=64, requests=256, events=200))  # fmt: skip
        bench.median([direct, nginx, obvious, local], "paced_first", "ttfb_p50_us",
                     lambda g: bench.load(g, "paced", connections=64, requests=128, events=200))  # fmt: skip
        say("conversations of 400 KB ...")
        bench.median([nginx, obvious, local], "large", "cpu_us",
                     lambda g: bench.load(g, "large-stream", connections=4, requests=200 if g is obvious else 800, events=20))  # fmt: skip
        say("streams as fast as they go ...")
        bench.median([direct, nginx, obvious, cloud, local], "events", "events_s",
                     lambda g: bench.load(g, "stream", connections=16, requests=100 if g is obvious else 800, events=200))  # fmt: skip
        for gateway in (nginx, obvious, cloud, local):
            gateway.figures["rss"] = gateway.rss_mb()
            gateway.figures["start"] = gateway.started_s
        return everybody, {
            "direct": direct,
            "nginx": nginx,
            "cloud": cloud,
            "local": local,
            "obvious": obvious,
        }


def table(by_name: dict[str, Gateway]) -> tuple[str, list[str]]:
    """The table, and what missed its aim by a factor of three."""
    nginx, cloud, local, obvious, direct = (
        by_name[n].figures for n in ("nginx", "cloud", "local", "obvious", "direct")
    )

    def ratio(figures: dict[str, float], key: str) -> float:
        return figures[key] / nginx[key]

    rows = [
        ("cloud path: CPU of a small request, 16 at a time", f"{nginx['small']:.0f} us", f"**{ratio(cloud, 'small'):.1f}** x nginx",
         f"{ratio(obvious, 'small'):.0f} x", "8 (4)"),
        ("local path: CPU of a chunk, 64 paced streams", f"{nginx['paced']:.1f} us", f"**{ratio(local, 'paced'):.1f}** x nginx",
         f"{ratio(obvious, 'paced'):.1f} x", "3 (1.5)"),
        ("local path: first byte of these, above the direct one", f"{(nginx['paced_first'] - direct['paced_first']) / 1000:.1f} ms",
         f"**{(local['paced_first'] - direct['paced_first']) / 1000:.1f} ms**",
         f"{(obvious['paced_first'] - direct['paced_first']) / 1000:.1f} ms", "5 ms (2)"),
        ("local path: CPU of a conversation of 400 KB", f"{nginx['large']:.0f} us", f"**{ratio(local, 'large'):.1f}** x nginx",
         f"{ratio(obvious, 'large'):.0f} x", "8 (4)"),
        ("cloud path: added to a small request, one at a time (p50)", f"{nginx['p50'] - direct['p50']:.0f} us",
         f"{cloud['p50'] - direct['p50']:.0f} us", f"{obvious['p50'] - direct['p50']:.0f} us", "reported"),
        ("local path: CPU of a plain request collected from 20 events", "-", f"{local['collected']:.0f} us", "-", "reported"),
        ("local path: added to such a request (p50)", "-", f"{local['collected_p50'] - direct['collected_p50']:.0f} us", "-", "reported"),
        ("cloud / local path: streamed events a second, saturated", f"{nginx['events'] / 1000:.0f} k",
         f"{cloud['events'] / 1000:.0f} k / {local['events'] / 1000:.0f} k", f"{obvious['events'] / 1000:.0f} k", "reported"),
        ("memory after all this (cloud / local)", f"{nginx['rss']:.0f} MB", f"{cloud['rss']:.0f} / {local['rss']:.0f} MB",
         f"{obvious['rss']:.0f} MB", "80 MB"),
        ("start until it listens", f"{nginx['start']:.2f} s", f"{cloud['start']:.2f} s", f"{obvious['start']:.2f} s", "1.5 s"),
    ]  # fmt: skip
    lines = ["| | nginx | Penstock | FastAPI + httpx | to reach (aim) |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    reached = {
        "small": ratio(cloud, "small"),
        "paced": ratio(local, "paced"),
        "large": ratio(local, "large"),
    }
    missed = [
        f"{key}: {value:.1f} x nginx" for key, value in reached.items() if value > 3 * AIMS[key][0]
    ]
    return "\n".join(lines), missed


def main() -> int:
    """See `__main__`."""
    quick = "--quick" in sys.argv
    _, by_name = measure(quick)
    text, missed = table(by_name)
    print(text)
    if "--write" in sys.argv:
        page = HERE / "README.md"
        before, _, rest = page.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end -->")[2]
        page.write_text(f"{before}<!-- table -->\n{text}\n<!-- end -->{after}")
    if missed:
        say(f"three times its aim or worse: {'; '.join(missed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
