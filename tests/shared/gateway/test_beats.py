"""Heartbeats between the events of a stream that is written in the client's dialect."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson

from penstock.dialects.base import AnswerHead
from penstock.dialects.responses import RESPONSES
from penstock.dialects.sse import parse_event, split_events
from penstock.dialects.surfaces import RESPONSES as SURFACE
from penstock.domain.chat import TextDelta
from penstock.gateway.edge.answer import ClientAnswer


def test_a_heartbeat_is_numbered_when_it_goes_out() -> None:
    """An event that is written before the heartbeat's turn has come has the smaller number."""
    sent: list[bytes] = []

    async def room() -> None:
        return None

    cycle = SimpleNamespace(
        room=room, piece=lambda data, more: sent.append(data), flow=SimpleNamespace(write_paused=False)
    )  # fmt: skip
    connection: Any = SimpleNamespace(cycle=cycle, disconnected=False, write_buffer_size=lambda: 0)
    exchange: Any = SimpleNamespace(id="req_1", model="m", heartbeats=0, answer_bytes=0, chunks=0)

    async def main() -> None:
        answer = ClientAnswer(connection, SURFACE, exchange)
        answer.committed = True
        asked = RESPONSES.read({"model": "m", "input": "hi"})
        writer = answer.begin_writing(RESPONSES.writer(AnswerHead("1", "m", 1), asked))
        await answer.write(writer.write(TextDelta("a")))
        answer.beat()
        await answer.write(writer.write(TextDelta("b")))
        await asyncio.sleep(0)
        await answer.write(writer.write(TextDelta("c")))

    asyncio.run(main())
    events = [orjson.loads(parse_event(raw).data) for raw in split_events(b"".join(sent))]
    assert "response.in_progress" in {event["type"] for event in events[-2:]}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert exchange.heartbeats == 1
