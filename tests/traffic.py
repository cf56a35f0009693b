"""
Constant traffic against one base URL, and what became of it: how a rollout is judged.

Streams and plain requests arrive at a fixed rate whatever the server does (an open loop: a slow answer delays no later
arrival), over kept connections, without a single retry: what a client would have to repeat counts as failed. By hand:

    python tests/traffic.py http://127.0.0.1:8080/v1 --model qwen --for 60

Source of the idea: KServe's rollout tests, which keep asking while something is replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import httpx

Ending = Literal["whole", "refused", "error", "broken"]
_SHOWN = 5


@dataclass
class Outcome:
    """
    What became of one request.

    Attributes:
        phase: in which it was sent; seconds: until it ended.
        ending: `whole`; `refused` by an HTTP status; `error`, told by an event of the stream; `broken`: the connection
            failed, or the stream ended without its end.
        silence_s: longest time without a byte.
        pause_s: longest time without a piece of the answer, the wait for the first one among them.
        why: of all but `whole`.
    """

    phase: str
    streams: bool
    ending: Ending = "broken"
    seconds: float = 0.0
    silence_s: float = 0.0
    pause_s: float = 0.0
    text: str = ""
    why: str = ""


@dataclass
class Report:
    """All outcomes, counted."""

    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, phase: str) -> Report:
        """Those that were sent in *phase*."""
        return Report([one for one in self.outcomes if one.phase == phase])

    def counted(self, *, streams: bool) -> Counter[Ending]:
        """How many ended how."""
        return Counter(one.ending for one in self.outcomes if one.streams is streams)

    @property
    def failed(self) -> list[Outcome]:
        """All that are not whole."""
        return [one for one in self.outcomes if one.ending != "whole"]

    @property
    def broken_streams(self) -> list[Outcome]:
        """Streams that ended without a word."""
        return [one for one in self.outcomes if one.streams and one.ending == "broken"]

    @property
    def silence_s(self) -> float:
        """The longest silence that a streaming client saw."""
        return max((one.silence_s for one in self.outcomes if one.streams), default=0.0)

    @property
    def pause_s(self) -> float:
        """The longest wait for a piece of an answer."""
        return max((one.pause_s for one in self.outcomes if one.streams), default=0.0)

    def __str__(self) -> str:
        phases = list(dict.fromkeys(one.phase for one in self.outcomes))
        lines = [f"{'phase':<24} {'streams':>8} {'plain':>6} {'failed':>7} {'broken':>7} {'silence s':>10} {'pause s':>8}"]  # fmt: skip
        for name, one in [*((name, self.of(name)) for name in phases), ("all", self)]:
            streams, plain = (one.counted(streams=is_stream) for is_stream in (True, False))
            lines.append(
                f"{name:<24} {streams.total():>8} {plain.total():>6} {len(one.failed):>7} "
                f"{len(one.broken_streams):>7} {one.silence_s:>10.1f} {one.pause_s:>8.1f}"
            )
        for bad in self.failed[:_SHOWN]:
            kind = "stream" if bad.streams else "plain"
            lines.append(f"{bad.phase}: {kind} {bad.ending} after {bad.seconds:.1f} s: {bad.why}")
        return "\n".join(lines)


class Traffic:
    """
    Args:
        url: base URL, with `/v1`.
        streams_per_s, plain_per_s: arrivals.
        stream_tokens, plain_tokens: longest answers; None for what the model says by itself.
        most: requests at a time; an arrival beyond it does not take place, or a slow machine would only queue.
        within_s: how long one request may take.
    """

    def __init__(
        self, url: str, model: str, *, streams_per_s: float = 0.4, plain_per_s: float = 1.0,
        stream_tokens: int | None = None, plain_tokens: int | None = 4, most: int = 1000, within_s: float = 180.0,
        key: str = "any", **fields: Any,
    ) -> None:  # fmt: skip
        self.report = Report()
        self.phase = "before"
        self._url, self._model, self._fields = url.rstrip("/"), model, fields
        self._rates = ((True, streams_per_s, stream_tokens), (False, plain_per_s, plain_tokens))
        self._within_s, self._key, self._most = within_s, key, most
        self._stop = threading.Event()
        self._running = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Report:
        """No new requests; wait for those that run."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return self.report

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return self._running

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        headers = {"authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(
            timeout=self._within_s, trust_env=False, verify=False, limits=limits, headers=headers
        ) as client:
            async with asyncio.TaskGroup() as group:
                for is_stream, per_s, tokens in self._rates:
                    if per_s:
                        group.create_task(self._arrivals(group, client, is_stream, per_s, tokens))

    async def _arrivals(
        self, group: asyncio.TaskGroup, client: httpx.AsyncClient, streams: bool, per_s: float,
        tokens: int | None,
    ) -> None:  # fmt: skip
        loop, number = asyncio.get_running_loop(), 0
        began_s = loop.time()
        while not self._stop.is_set():
            number += 1
            text = f"{'stream' if streams else 'plain'} request number {number}"
            body = {
                "model": self._model, "messages": [{"role": "user", "content": text}],
                "stream": streams, "temperature": 0, **self._fields,
            }  # fmt: skip
            if tokens is not None:
                body["max_tokens"] = tokens
            if self._running < self._most:
                self._running += 1
                group.create_task(self._one(client, body, Outcome(self.phase, streams)))
            due_s = began_s + number / per_s
            while not self._stop.is_set() and (left_s := due_s - loop.time()) > 0:
                await asyncio.sleep(min(left_s, 0.1))

    async def _one(self, client: httpx.AsyncClient, body: dict[str, Any], outcome: Outcome) -> None:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._within_s):
                await self._ask(client, body, outcome)
        except (httpx.HTTPError, TimeoutError) as exc:
            outcome.ending, outcome.why = "broken", f"{type(exc).__name__}: {exc}"
        finally:
            outcome.seconds = time.monotonic() - began_s
            self._running -= 1
            self.report.outcomes.append(outcome)

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any], outcome: Outcome) -> None:
        byte_s = piece_s = time.monotonic()
        async with client.stream("POST", f"{self._url}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                outcome.ending, outcome.why = "refused", (await answer.aread()).decode()[:300]
                return
            if not outcome.streams:
                value = json.loads(await answer.aread())
                outcome.text, outcome.ending = value["choices"][0]["message"]["content"], "whole"
                return
            outcome.why = "it ended without [DONE]"
            async for line in answer.aiter_lines():
                now_s = time.monotonic()
                outcome.silence_s = max(outcome.silence_s, now_s - byte_s)
                byte_s = now_s
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    outcome.ending, outcome.why = "whole", ""
                    return
                event = json.loads(data)
                if "error" in event:
                    outcome.ending, outcome.why = "error", str(event["error"].get("message"))[:300]
                    return
                piece = "".join(
                    (one.get("delta") or {}).get("content") or "" for one in event["choices"]
                )
                if piece:
                    outcome.pause_s = max(outcome.pause_s, now_s - piece_s)
                    outcome.text, piece_s = outcome.text + piece, now_s


def texts(outcomes: Iterable[Outcome]) -> set[str]:
    """The different answers among whole streams."""
    return {one.text for one in outcomes if one.streams and one.ending == "whole"}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Constant traffic, and what became of it.")
    parser.add_argument("url", help="base URL, with /v1")
    parser.add_argument("--model", default="any")
    parser.add_argument("--key", default="any")
    parser.add_argument("--streams", type=float, default=0.4, metavar="PER_SECOND")
    parser.add_argument("--plain", type=float, default=1.0, metavar="PER_SECOND")
    parser.add_argument("--tokens", type=int, default=256, help="of a streamed answer, at most")
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, metavar="SECONDS")
    said = parser.parse_args()
    with Traffic(
        said.url, said.model, streams_per_s=said.streams, plain_per_s=said.plain,
        stream_tokens=said.tokens, key=said.key,
    ) as traffic:  # fmt: skip
        traffic.phase = "all the time"
        time.sleep(said.seconds)
    print(traffic.report)
    raise SystemExit(1 if traffic.report.failed else 0)


if __name__ == "__main__":
    main()
