"""Heartbeats of streams that count their events: each number once and in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from penstock.dialects.base import AnswerHead
from penstock.dialects.responses import RESPONSES
from penstock.dialects.sse import parse_event, split_events
from penstock.dialects.surfaces import RESPONSES as SURFACE
from penstock.domain.chat import TextDelta
from penstock.gateway.edge.answer import ClientAnswer
from penstock.gateway.edge.exchange import Exchange
from rawserver import CHUNKED_HEAD, RESET, Peer
from scripted import ScriptedLlama, delta, event, gateway_here, stream


class Wire:
    """A client that has room when told so, as cycle, flow and connection in one."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write_paused = False
        self.has_room = asyncio.Event()
        self.disconnected = False
        self.cycle = self
        self.flow = self

    async def room(self) -> None:
        await self.has_room.wait()

    def begin(self, status: int, headers: Any, *, hold: bool = False) -> None:
        assert not self.written

    def piece(self, data: bytes, *, more: bool) -> None:
        self.written.append(data)

    def write_buffer_size(self) -> int:
        return 0


def answer_on(wire: Wire) -> ClientAnswer:
    """A streamed Responses answer."""
    made: Any = wire
    answer = ClientAnswer(
        made, SURFACE, Exchange("req_1", "responses", "responses", "POST", "/v1/responses", 0.0)
    )
    asked = RESPONSES.read({"model": "m", "input": "hi", "stream": True})
    answer.writer = RESPONSES.writer(AnswerHead("1", "m", 1), asked)
    return answer


def numbers(raw: bytes) -> list[int]:
    """The numbers of a stream's events."""
    return [json.loads(parse_event(one).data)["sequence_number"] for one in split_events(raw)]


def test_a_heartbeat_stands_before_what_is_written_after_it() -> None:
    """Also when the answer's first bytes come in the very turn of the loop in which silence ended."""

    async def main() -> None:
        wire = Wire()
        answer = answer_on(wire)
        assert answer.writer is not None
        answer.beat()
        await answer.write(answer.writer.write(TextDelta("hello")))
        await asyncio.sleep(0)
        sent = b"".join(wire.written)
        assert numbers(sent) == [*range(5)]

    asyncio.run(main())


def test_no_heartbeat_overtakes_what_waits_for_room() -> None:
    """What was made before it stands before it, also when the client had no room for it."""

    async def main() -> None:
        wire = Wire()
        answer = answer_on(wire)
        assert answer.writer is not None
        await answer.start(200, [])
        wire.write_paused = True
        writing = asyncio.create_task(answer.write(answer.writer.write(TextDelta("hello"))))
        await asyncio.sleep(0)
        wire.write_paused = False
        wire.has_room.set()
        answer.beat()
        await writing
        answer.beat()
        sent = b"".join(wire.written)
        assert numbers(sent) == [*range(6)]

    asyncio.run(main())


def test_a_second_attempt_goes_on_from_the_heartbeats_of_the_first() -> None:
    """The server had told how far it was with the prompt when it went away: the stream is still created once."""
    beaten, gates = asyncio.Event(), [asyncio.Event(), asyncio.Event()]
    progress = {**delta(""), "prompt_progress": {"total": 50, "cache": 0, "processed": 10}}

    async def tell(peer: Peer) -> None:
        beaten.set()

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        first = [CHUNKED_HEAD, event(progress), tell, gates[0], RESET]
        async with (
            ScriptedLlama(first, [gates[1], *stream("hello")]) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
            gateway.http.stream(
                "POST", "/v1/responses", json={"model": "m", "input": "hi", "stream": True}
            ) as response,
        ):
            raw, after = b"", 0
            async with asyncio.timeout(10):
                async for data in response.aiter_bytes():
                    raw += data
                    said = raw.count(b"\n\n")
                    if beaten.is_set() and not gates[0].is_set() and said >= 2:
                        gates[0].set()
                        after = said
                    elif gates[0].is_set() and said > after + 1:
                        gates[1].set()
            assert len(llama.requests) == 2
            assert numbers(raw) == [*range(len(numbers(raw)))]
            assert raw.count(b"event: response.created") == 1
            assert b"event: response.completed" in raw

    asyncio.run(main())
