"""The scale: each message weighed once, exactly where somebody counts, bounded in memory."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens import Lane, Overhead, Scale, countable, measure_text

USER = {"role": "user", "content": "How is the weather in Oslo?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": '{"at": "Oslo"}'}}],
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}


class Halves:
    """A vocabulary in which each two signs are a token; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count(self, text: str) -> int:
        self.asked.append(text)
        return -(-len(text) // 2)


def test_a_message_weighs_its_texts_and_the_template() -> None:
    """Without a count, a message weighs what the frozen measure says, and the template's overhead."""
    scale = Scale(exact=False)
    weighed = scale.weigh([USER, CALL])
    usual = Overhead()
    assert weighed.tokens == [
        measure_text(USER["content"]) + usual.per_message,
        measure_text("look") + measure_text('{"at": "Oslo"}') + usual.per_message + usual.per_call,
    ]
    assert weighed.uncounted == []
    assert weighed.mix.tokens == sum(weighed.tokens)
    assert weighed.mix.amount(Lane.MESSAGES) == 2


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        pytest.param(IMAGE, 1024, id="image"),
        pytest.param({**IMAGE, "image_url": {"url": "x", "detail": "low"}}, 256, id="small image"),
        pytest.param({"type": "input_audio", "input_audio": {}}, 1000, id="audio"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_images_and_audio_are_never_free(part: dict[str, Any], tokens: int, exact: bool) -> None:
    """An image weighs a documented default, whoever counts the texts."""
    scale = Scale(exact=exact)
    message = {"role": "user", "content": [part]}
    assert scale.weigh_one(message)[0] == tokens + Overhead().per_message


def test_what_is_not_counted_yet_weighs_its_upper_bound() -> None:
    """One token per byte of UTF-8 and the template, and the place is named."""
    scale = Scale(exact=True)
    chinese = {"role": "user", "content": "\u4e2d" * 10}
    weighed = scale.weigh([USER, chinese])
    assert weighed.uncounted == [0, 1]
    assert weighed.tokens[1] == 30 + Overhead().per_message
    scale.learn(chinese, 7)
    weighed = scale.weigh([USER, chinese])
    assert weighed.uncounted == [0]
    assert weighed.tokens[1] == 7 + Overhead().per_message
    assert scale.weigh_one(chinese) == (12, True)
    assert scale.weigh_one(USER)[1] is False


def test_a_measured_template_counts_by_role() -> None:
    """What was measured of the template is as good as counted."""
    overhead = Overhead(base=3, roles={"user": 7, "assistant": 12}, per_message=12, measured=True)
    scale = Scale(exact=True, overhead=overhead)
    said = {"role": "assistant", "content": "x"}
    for message in (USER, said):
        scale.learn(message, 10)
    mix = scale.weigh_request([USER, said], {})
    assert mix.tokens == mix.amount(Lane.COUNTED) == 3 + 17 + 22


def test_a_vocabulary_counts_at_once() -> None:
    """With a vocabulary a new message is counted while it is weighed; a long one is left to the caller."""
    halves = Halves()
    scale = Scale(exact=False, vocabulary=halves)
    assert scale.exact
    long = {"role": "user", "content": "x" * 20_000}
    weighed = scale.weigh([USER, long])
    assert weighed.uncounted == [1]
    assert weighed.tokens[0] == 14 + Overhead().per_message
    scale.weigh([USER])
    assert halves.asked == [USER["content"]]
    assert scale.weigh_tools(TOOLS)[1] is True


def test_tools_are_weighed_with_their_preamble() -> None:
    """Tool definitions weigh their JSON and what the template says about them; a schema for the answer nothing."""
    scale = Scale(exact=False)
    text = orjson.dumps(TOOLS["tools"]).decode()
    assert scale.weigh_tools(TOOLS) == (measure_text(text) + Overhead().toolset, True)
    assert scale.weigh_tools({"response_format": {"type": "json_object"}}) == (0, True)
    assert scale.weigh_tools({"tools": []}) == (0, True)
    counted = Scale(exact=True)
    assert counted.weigh_tools(TOOLS) == (len(text) + Overhead().toolset, False)
    counted.learn_tools(TOOLS, 33)
    assert counted.weigh_tools(dict(TOOLS)) == (33, True)
    assert counted.weigh_request([], TOOLS).tokens == 33 + Overhead().base


def test_a_request_carries_its_messages_in_their_order() -> None:
    """Requests are recognised by tools and messages: another order is another request."""
    scale = Scale(exact=False)
    one = scale.weigh_request([USER, CALL], {})
    assert one.keys == scale.weigh_request([dict(USER), dict(CALL)], {}).keys
    assert one.keys != scale.weigh_request([CALL, USER], {}).keys
    assert one.keys != scale.weigh_request([USER, CALL], TOOLS).keys


def test_memory_is_bounded() -> None:
    """However many messages come, no more than so many are remembered; what is in use stays."""
    scale = Scale(exact=True, most_entries=100)
    scale.learn(USER, 5)
    for number in range(1000):
        scale.learn({"role": "user", "content": str(number)}, 1)
        assert scale.weigh_one(USER)[1]
    assert len(scale) <= 100
    for number in range(2000):
        scale.learn_tools({"tools": [number]}, 1)
    scale.forget()
    assert len(scale) == 0
    assert scale.weigh_one(USER)[1] is False


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool"]),
            "content": st.text() | st.none(),
        },
        optional={"name": st.text(), "reasoning_content": st.text()},
    ),
    max_size=8,
)


@given(MESSAGES, st.booleans())
def test_two_scales_agree_whatever_they_saw_before(
    messages: list[dict[str, Any]], exact: bool
) -> None:
    """A weight depends on the message alone: not on neighbours, not on what was weighed earlier."""
    fresh = Scale(exact=exact)
    used = Scale(exact=exact, most_entries=4)
    for message in reversed(messages):
        used.weigh([message])
    copies = json.loads(json.dumps(messages))
    assert used.weigh(messages).tokens == fresh.weigh(copies).tokens == fresh.weigh(messages).tokens
    assert all(tokens > 0 for tokens in fresh.weigh(messages).tokens)


@given(MESSAGES)
def test_the_upper_bound_is_one(messages: list[dict[str, Any]]) -> None:
    """No count by bytes exceeds the upper bound, and counting only ever lowers a weight."""
    scale = Scale(exact=True)
    before = scale.weigh(messages).tokens
    for message in messages:
        scale.learn(message, sum(len(text.encode()) for text in countable(message).texts))
    after = scale.weigh(messages)
    assert after.tokens == before
    assert after.uncounted == []


def test_a_long_conversation_is_weighed_quickly() -> None:
    """2,000 messages of 1 MB: warm well within the time of `json.loads`, cold within ten times that."""
    chance = random.Random(1)
    words = ["look", "\u4e2d\u6587", "x = 12;\n", "there", "Oslo", "because"]
    messages = [
        {"role": "user", "content": " ".join(chance.choice(words) for _ in range(90))}
        for _ in range(2000)
    ]
    body = json.dumps(messages, ensure_ascii=False)
    ratios_warm, ratios_cold = [], []
    scale = Scale(exact=False)
    for _ in range(12):
        fresh = orjson.loads(body)
        times = [time.process_time()]
        json.loads(body)
        times.append(time.process_time())
        Scale(exact=False).weigh(fresh)
        times.append(time.process_time())
        scale.weigh(orjson.loads(body))
        fresh = orjson.loads(body)
        times.append(time.process_time())
        scale.weigh(fresh)
        times.append(time.process_time())
        loads, cold, _, warm = (after - before for before, after in pairwise(times))
        ratios_warm.append(warm / loads)
        ratios_cold.append(cold / loads)
    assert min(ratios_warm) < 2
    assert min(ratios_cold) < 10
