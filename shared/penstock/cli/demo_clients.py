"""Clients of `penstock demo`: one that streams and keeps account, some that behave badly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

_REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client was told of its wait, and when: seconds after it had asked."""

    position: int
    expected_wait_s: float
    at_s: float


class Client(threading.Thread):
    """
    A client that streams.

    Attributes:
        sent: set when its request is on its way.
        status: of the answer, None when there was none.
        request_id: as Penstock calls it, "" without Penstock.
        first_s: seconds until its first word, None when it got none.
        text: what it got.
        announced: what it was told of its wait.
        ended: whether the stream came to its end.
        problem: what went wrong, "" when nothing did.
    """

    def __init__(self, base: str, text: str, *, key: str = "demo", **fields: Any) -> None:
        super().__init__(daemon=True)
        self._base, self._key = base, key
        self._body = {
            "model": "demo", "stream": True, "messages": [{"role": "user", "content": text}], **fields,
        }  # fmt: skip
        self.sent = threading.Event()
        self.status: int | None = None
        self.first_s: float | None = None
        self.text = self.problem = self.request_id = ""
        self.announced: list[Announced] = []
        self.ended = False

    @property
    def answered(self) -> bool:
        """Whether it got all of an answer."""
        return self.ended and not self.problem

    @property
    def refused(self) -> bool:
        """Whether it was told to come again."""
        return self.status in _REFUSALS

    def run(self) -> None:
        """See `threading.Thread`."""
        # So the official clients say how patient they are; heartbeats come in time for that.
        headers = {"authorization": f"Bearer {self._key}", "x-stainless-read-timeout": "1"}
        started = time.monotonic()
        try:
            with (
                httpx.Client(timeout=120.0, trust_env=False) as http,
                http.stream(
                    "POST",
                    f"{self._base}/v1/chat/completions",
                    json=self._body,
                    headers=headers,
                    extensions={"trace": self._trace},
                ) as answer,
            ):
                self.status = answer.status_code
                self.request_id = answer.headers.get("penstock-request-id", "")
                if answer.status_code != 200:
                    self.problem = answer.read().decode(errors="replace")
                    return
                for line in answer.iter_lines():
                    self._take(line, time.monotonic() - started)
        except httpx.HTTPError as exc:
            self.problem = str(exc) or type(exc).__name__

    def _trace(self, event: str, _: object) -> None:
        if event == "http11.send_request_body.complete":
            self.sent.set()

    def _take(self, line: str, now_s: float) -> None:
        if line.startswith(": penstock "):
            place = json.loads(line.removeprefix(": penstock ")).get("queue")
            if place is not None:
                self.announced.append(Announced(place["position"], place["expected_wait_s"], now_s))
        elif line == "data: [DONE]":
            self.ended = True
        elif line.startswith("data: "):
            value = json.loads(line[6:])
            if "error" in value:
                self.problem = value["error"]["message"]
            for choice in value.get("choices", ()):
                said = choice["delta"].get("content") or ""
                self.text += said
                if said and self.first_s is None:
                    self.first_s = now_s


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients that have asked at once, and are done."""

    clients: Sequence[Client]

    @property
    def answered(self) -> int:
        """How many got all of an answer."""
        return sum(client.answered for client in self.clients)

    @property
    def last(self) -> Client:
        """Who had to wait longest for its first word."""
        return max(self.clients, key=lambda client: client.first_s or 0.0)

    @property
    def told(self) -> int:
        """How many learned of their place in a queue."""
        return sum(bool(client.announced) for client in self.clients)

    def shown(self) -> str:
        """How many were answered, refused or failed, and the longest wait."""
        refused = sum(client.refused for client in self.clients)
        failed = len(self.clients) - self.answered - refused
        return (
            f"{self.answered} answered, {refused} refused, {failed} failed; "
            f"longest wait for a first word {self.last.first_s or 0.0:.1f} s"
        )

    def announcements(self) -> str:
        """What they were told of their waits, and what it was worth to the one that waited longest."""
        if not self.told:
            return "nobody was told how long"
        last = self.last
        if not last.announced or last.first_s is None:
            return f"{self.told} were told their place and expected wait"
        first = last.announced[0]
        return (
            f"{self.told} were told their place and expected wait (the last one: place {first.position}, "
            f"{first.expected_wait_s:.1f} s; it took {last.first_s - first.at_s:.1f} s)"
        )


def gone(clients: Sequence[Client]) -> None:
    """Wait until all are done."""
    for client in clients:
        client.join()


def at_once(clients: Sequence[Client]) -> Crowd:
    """All of them ask at the same time; returns when the last one is done."""
    for client in clients:
        client.start()
    gone(clients)
    return Crowd(clients)


@contextmanager
def asked_and_silent(base: str, body: dict[str, Any]) -> Iterator[None]:
    """A client that has sent a chat completion, reads nothing of the answer, and hangs up at the end of the block."""
    host, port = base.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    with socket.socket() as client:
        # Little room on the way, or the systems at both ends would read megabytes for it: it is for them that a
        # client which stopped reading is so hard to tell from one that reads.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if hasattr(socket, "TCP_MAXSEG"):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        client.connect((host, int(port)))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(content), content)
        )
        yield
