"""
A llama.cpp that plays the model's part for a real agent, in a thread of its own.

To a request that offers tools it answers with one call, to one that brings the result with a closing text,
and to one without tools (agents ask for titles) with a short title. So any number of repeated requests
comes to the same end. Before that it has the troubles that a test asks for, one for each request with tools:
silence, a stream that breaks, a restart.

Tokens are words here (`scripted.ScriptedLlama`), in counts as in usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rawserver import CHUNKED_HEAD, RESET, Peer, Received, chunk
from scripted import Script, ScriptedLlama, delta, event, reply


@dataclass(frozen=True)
class Call:
    """
    What the model calls.

    Attributes:
        tool: its name, as the agent offers it.
        arguments: for it.
    """

    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Silence:
    """Nothing comes for *wait_s*, as in a long prefill; then the answer."""

    wait_s: float


@dataclass(frozen=True)
class Break:
    """The stream begins and is reset after a few words."""


@dataclass(frozen=True)
class Restart:
    """The process dies with the request and listens again after *down_s*."""

    down_s: float


Trouble = Silence | Break | Restart


class PlayingLlama(ScriptedLlama):
    """
    See the module.

    Attributes:
        bodies: of the requests that offered tools, in order.
        said: the closing text.
    """

    def __init__(
        self, call: Call, said: str, *, troubles: Sequence[Trouble] = (), window: int
    ) -> None:
        super().__init__(window=window)
        self.call = call
        self.said = said
        self.bodies: list[dict[str, Any]] = []
        self._troubles = list(troubles)
        self._restarting: set[asyncio.Task[None]] = set()

    def script_for(self, request: Received) -> Script:
        """One of the answers, or a trouble and then the answer."""
        body = json.loads(request.body)
        offered = {tool["function"]["name"] for tool in body.get("tools") or ()}
        if not offered:
            return self._answer(body, "A title")
        self.bodies.append(body)
        # A call in the conversation, not only its result: some strategies shorten results.
        done = any(message["role"] == "tool" for message in body["messages"])
        if not done and self.call.tool not in offered:
            return [_refusal(f"no tool {self.call.tool} among {sorted(offered)}")]
        answer = self._answer(body, self.said) if done else self._called(body)
        match self._troubles.pop(0) if self._troubles else None:
            case Silence(wait_s):

                async def wait(_: Peer) -> None:
                    await asyncio.sleep(wait_s)

                return [wait, *answer]
            case Break():
                return [CHUNKED_HEAD, event(delta("Let me ")), event(delta("see ")), RESET]
            case Restart(down_s):

                async def die(_: Peer) -> None:
                    task = asyncio.create_task(self._restart(down_s))
                    self._restarting.add(task)
                    task.add_done_callback(self._restarting.discard)

                return [die, RESET]
            case None:
                return answer

    async def _restart(self, down_s: float) -> None:
        await self.leave()
        await asyncio.sleep(down_s)
        await self.come_back()

    def _answer(self, body: dict[str, Any], text: str) -> Script:
        head, tail = text.split(" ", 1)
        return _played(body, [delta(f"{head} "), delta(tail)], "stop", len(text.split()))

    def _called(self, body: dict[str, Any]) -> Script:
        arguments = json.dumps(self.call.arguments)
        half = len(arguments) // 2
        function = {"name": self.call.tool, "arguments": arguments[:half]}
        first = {"index": 0, "id": "call_1", "type": "function", "function": function}
        rest = {"index": 0, "function": {"arguments": arguments[half:]}}
        chunks = [delta(""), delta("")]
        for each, piece in zip(chunks, (first, rest), strict=True):
            each["choices"][0]["delta"] = {"tool_calls": [piece]}
        return _played(body, chunks, "tool_calls", 9)


def _played(
    body: dict[str, Any], chunks: list[dict[str, Any]], reason: str, written: int
) -> Script:
    """A stream, or a plain answer if the request wanted one, with usage."""
    read = len(" ".join(str(message) for message in body["messages"]).split())
    usage = {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
    }  # fmt: skip
    if not body.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for each in chunks:
            message["content"] += each["choices"][0]["delta"].get("content", "")
        plain = {**chunks[0], "object": "chat.completion", "usage": usage}
        plain["choices"] = [{"index": 0, "message": message, "finish_reason": reason}]
        return [reply(plain)]
    steps = [CHUNKED_HEAD, *map(event, chunks), event(delta("", reason))]
    if (body.get("stream_options") or {}).get("include_usage"):
        steps.append(event({**delta(""), "choices": [], "usage": usage}))
    return [*steps, event(b"[DONE]"), chunk(b"")]


def _refusal(why: str) -> bytes:
    return reply({"error": {"message": why, "code": 400}}, b"400 Bad Request")


@contextlib.contextmanager
def playing(
    call: Call, said: str, *, troubles: Sequence[Trouble] = (), window: int = 65_536
) -> Iterator[PlayingLlama]:
    """Run one in a thread."""
    started = threading.Event()
    made: list[PlayingLlama] = []
    ends: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with PlayingLlama(call, said, troubles=troubles, window=window) as model:
            made.append(model)
            ends.append(lambda: loop.call_soon_threadsafe(over.set))
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="playing model")
    thread.start()
    try:
        assert started.wait(10)
        yield made[0]
    finally:
        for end in ends:
            end()
        thread.join(10)
