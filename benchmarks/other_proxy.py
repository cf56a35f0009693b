"""
headroom (`headroom-ai` on PyPI), where it is installed: compresses tool outputs on their way to the server.

It is no dependency: make an environment of its own outside the checkout and name its command,

    python3 -m venv ~/headroom && ~/headroom/bin/pip install 'headroom-ai[proxy]'
    PENSTOCK_BENCH_HEADROOM=~/headroom/bin/headroom python3 benchmarks prefix
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

COMMAND = "PENSTOCK_BENCH_HEADROOM"


def has_headroom() -> bool:
    """Whether its command is named."""
    return bool(os.environ.get(COMMAND))


@contextlib.contextmanager
def headroom(upstream: str) -> Iterator[str]:
    """headroom's proxy with its default settings in front of *upstream*."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="penstock-bench-headroom-") as name:
        log = (Path(name) / "log").open("wb")
        process = subprocess.Popen(
            [os.environ[COMMAND], "proxy", "--host", "127.0.0.1", "--port", str(port),
             "--openai-api-url", upstream],
            env={**os.environ, "HOME": name, "HEADROOM_TELEMETRY": "off", "OPENAI_API_KEY": "none"},
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            else:
                raise SystemExit(f"headroom did not start:\n{Path(log.name).read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
