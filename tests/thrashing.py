"""
A llama.cpp that thrashes: everything takes longer by the square of what it has too much to do, as a server does
whose memory is moved to and fro. No real server does that on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rawserver import CHUNKED_HEAD, Peer, Received, Step, chunk
from scripted import Script, ScriptedLlama, delta, event

_TOKENS = 6


class ThrashingLlama(ScriptedLlama):
    """
    Attributes:
        knee: requests at a time past which it thrashes.
        token_s: per token, and three times that to the first, when it does not.
        at_work, most_at_work: requests now, and the most since it was last set.
    """

    def __init__(self, *, slots: int, knee: float, token_s: float = 0.01) -> None:
        super().__init__(slots=slots)
        self.knee = knee
        self.token_s = token_s
        self.at_work = self.most_at_work = 0

    def script_for(self, request: Received) -> Script:
        """One answer, as slow as it is just now."""
        return list(self._steps())

    def _steps(self) -> Iterator[Step]:
        async def begin(peer: Peer) -> None:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            await self._work(3)

        async def token(peer: Peer) -> None:
            await self._work(1)
            await peer.send(event(delta("word ")))

        async def end(peer: Peer) -> None:
            self.at_work -= 1

        yield CHUNKED_HEAD
        yield begin
        for _ in range(_TOKENS):
            yield token
        yield end
        yield from (event(delta("", "stop")), event(b"[DONE]"), chunk(b""))

    async def _work(self, amount: float) -> None:
        slow = max(1.0, self.at_work / self.knee) ** 2
        await asyncio.sleep(amount * self.token_s * slow)
