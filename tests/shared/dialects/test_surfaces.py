"""What the gateway says itself before any answer has begun."""

from __future__ import annotations

import json

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.openai.answer import CHAT
from penstock.dialects.sse import parse_event
from penstock.dialects.surfaces import OPENAI
from penstock.domain.chat import ChatRequest, TextDelta


def test_a_heartbeat_before_the_answer_has_the_answers_id() -> None:
    """Clients keep the first id that they see; a translated answer goes on under it."""
    asked = Asked(ChatRequest("m", ()))
    writer = CHAT.writer(AnswerHead("1f", "m", 1), asked)
    ids = {
        json.loads(parse_event(raw).data)["id"]
        for raw in (
            OPENAI.heartbeat("req_1f", "m"),
            writer.write(TextDelta("x")),
            writer.heartbeat(),
        )
    }
    assert ids == {"chatcmpl-1f"}
