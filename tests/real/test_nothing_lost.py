"""
A real llama.cpp under supervision dies in the middle of ten streams: nobody loses anything, and nothing stays
behind in the gateway.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest

import parts
from gateways import RunningGateway, free_port, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="sends signals")]

TEXT = "Words: " + " ".join(c + v for c in "bdfgklmn" for v in "aeiou") + ", and an end."
SETTINGS = {"supervise": {"first_delay_s": 0.1}, "resume": {"probe_after_s": 0.05}}
ASKED = {"model": "any", "temperature": 0, "max_tokens": 200, "stream": True}


class Reader(threading.Thread):
    """A client that reads one stream to its end."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self._url, self._number = url, number
        self.text = self.facts = ""
        self.problem = ""
        self.ended = False

    def run(self) -> None:
        """See `threading.Thread`."""
        messages = [{"role": "user", "content": f"Tell me story number {self._number}."}]
        try:
            with (
                httpx.Client(timeout=90.0, trust_env=False) as http,
                http.stream(
                    "POST", f"{self._url}/v1/chat/completions", json={**ASKED, "messages": messages}
                ) as answer,
            ):
                for line in answer.iter_lines():
                    self._take(line)
        except httpx.HTTPError as exc:
            self.problem = repr(exc)

    def _take(self, line: str) -> None:
        if line.startswith(": penstock "):
            self.facts = line
        elif line == "data: [DONE]":
            self.ended = True
        elif line.startswith("data: "):
            value = json.loads(line[6:])
            if "error" in value:
                self.problem = line
            for choice in value.get("choices", ()):
                self.text += choice["delta"].get("content") or ""


def test_ten_streams_outlive_their_server(tmp_path: Path) -> None:
    """All ten have the whole text, those that were cut off are told so; afterwards the gateway is as it was."""
    port = free_port()
    command = (
        sys.executable, "-m", "penstock", "llama-server", str(parts.model("slow", says=TEXT, by_words=True)),
        "--port", str(port), "--ctx-size", "4096", "--parallel", "2", "--threads", "1",
    )  # fmt: skip
    flags = ("--supervise", "--", *command)
    with RunningGateway(tmp_path, SETTINGS, flags=flags) as gateway:
        until(lambda: gateway.upstream()["supervised"]["state"] == "running", 30.0, "it is ready")
        first = Reader(gateway.url, 0)
        first.run()
        assert first.text == TEXT
        until(lambda: "answers that break off are continued" in gateway.log(), 30.0, "the proof")
        before = at_rest(gateway)
        readers = [Reader(gateway.url, number) for number in range(1, 11)]
        for reader in readers:
            reader.start()
        until(lambda: sum(len(r.text) > 20 for r in readers) >= 2, 30.0, "two streams run")
        os.kill(gateway.upstream()["supervised"]["pid"], signal.SIGKILL)
        for reader in readers:
            reader.join()
        assert [r.problem for r in readers] == [""] * 10
        assert {r.text for r in readers} == {TEXT}
        assert all(r.ended for r in readers)
        assert sum('"resumed":1' in r.facts for r in readers) == 2
        assert gateway.upstream()["supervised"]["restarts"] == 1
        assert gateway.upstream()["breaker"]["state"] == "closed"
        # llama.cpp closes idle connections after some seconds; then all is as before.
        until(lambda: at_rest(gateway) <= before, 60.0, "as few descriptors as before")


def at_rest(gateway: RunningGateway) -> int:
    """Descriptors of the gateway when nothing is in flight, queued, held or haunted."""
    until(lambda: not any(gateway.upstream()["concurrency"][g] for g in GAUGES), 30.0, "at rest")
    return psutil.Process(gateway.process.pid).num_fds()


GAUGES = ("in_flight", "queued", "ghosts", "held")
