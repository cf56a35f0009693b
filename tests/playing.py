"""
A llama.cpp that plays the model's part for a real agent, in a thread of its own.

To a request that offers tools it answers with a call; how far the calls are it reads from the id of the last
one in the conversation, so a request that is repeated gets the same answer again. When all were made it says
a closing text; to a request without tools (agents ask for titles) it answers with a short one. Before that it
has the troubles that a test asks for, one for each request with tools: silence, a stream that breaks, a
restart. A prompt that is longer than the window is refused in llama.cpp's words.

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
        asked: tokens of each request that offered tools, in order.
        refused: prompts that were too long.
    """

    def __init__(
        self, calls: Sequence[Call], said: str, *, troubles: Sequence[Trouble] = (), window: int
    ) -> None:
        super().__init__(window=window)
        self.calls = list(calls)
        self.said = said
        self.asked: list[int] = []
        self.refused = 0
        self._troubles = list(troubles)
        self._restarting: set[asyncio.Task[None]] = set()

    def script_for(self, request: Received) -> Script:
        """One of the answers, or a trouble and then the answer."""
        body = json.loads(request.body)
        words = self.words(body)
        if words > self.window:
            self.refused += 1
            return [_too_long(words, self.window)]
        offered = {tool["function"]["name"] for tool in body.get("tools") or ()}
        if not offered:
            return _played(words, body, _said("A title"), "stop")
        self.asked.append(words)
        made = _made(body)
        if made == len(self.calls):
            answer = _played(words, body, _said(self.said), "stop")
        elif self.calls[made].tool in offered:
            answer = _played(words, body, _called(self.calls[made], made), "tool_calls")
        else:
            return [_refusal(f"no tool {self.calls[made].tool} among {sorted(offered)}")]
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

    def rendered(self, message: dict[str, Any]) -> str:
        """Calls are part of it."""
        return f"{super().rendered(message)} {message.get('tool_calls') or ''}"

    def words(self, body: dict[str, Any]) -> int:
        """Tools are part of the prompt."""
        texts = [*map(str, body.get("tools") or ()), *map(self.rendered, body["messages"])]
        return len(" ".join([*texts, "<assistant>"]).split())


def _made(body: dict[str, Any]) -> int:
    """How many calls were made, by the newest one that is left of the conversation."""
    calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
    return int(calls[-1]["id"].removeprefix("call_")) + 1 if calls else 0


def _said(text: str) -> list[dict[str, Any]]:
    head, tail = text.split(" ", 1)
    return [delta(f"{head} "), delta(tail)]


def _called(call: Call, number: int) -> list[dict[str, Any]]:
    """A call in two pieces."""
    arguments = json.dumps(call.arguments)
    half = len(arguments) // 2
    function = {"name": call.tool, "arguments": arguments[:half]}
    first = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
    rest = {"index": 0, "function": {"arguments": arguments[half:]}}
    chunks = [delta(""), delta("")]
    for each, piece in zip(chunks, (first, rest), strict=True):
        each["choices"][0]["delta"] = {"tool_calls": [piece]}
    return chunks


def _played(words: int, body: dict[str, Any], chunks: list[dict[str, Any]], reason: str) -> Script:
    """A stream with usage, as Penstock asks for it, whatever its client does."""
    usage = {
        "prompt_tokens": words,
        "completion_tokens": len(chunks),
        "total_tokens": words + len(chunks),
    }
    if not body.get("stream"):
        return [_refusal("this one plays streams only")]
    return [
        CHUNKED_HEAD,
        *map(event, chunks),
        event(delta("", reason)),
        event({**delta(""), "choices": [], "usage": usage}),
        event(b"[DONE]"),
        chunk(b""),
    ]


def _too_long(words: int, window: int) -> bytes:
    said = f"request ({words} tokens) exceeds the available context size ({window} tokens), try increasing it"
    error = {
        "code": 400, "message": said, "type": "exceed_context_size_error",
        "n_prompt_tokens": words, "n_ctx": window,
    }  # fmt: skip
    return reply({"error": error}, b"400 Bad Request")


def _refusal(why: str) -> bytes:
    return reply({"error": {"message": why, "code": 400}}, b"400 Bad Request")


@contextlib.contextmanager
def playing(
    calls: Sequence[Call], said: str, *, troubles: Sequence[Trouble] = (), window: int = 65_536
) -> Iterator[PlayingLlama]:
    """Run one in a thread."""
    started = threading.Event()
    made: list[PlayingLlama] = []
    ends: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with PlayingLlama(calls, said, troubles=troubles, window=window) as model:
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
