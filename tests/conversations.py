"""Conversations for tests of fitting: generated ones, a plain measure, and a template that is strict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

Message = Mapping[str, Any]

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
IMAGE_TOKENS = 90


def by_bytes(message: Message) -> int:
    """A token for four bytes, four for the message, and what an image costs."""
    return _weigh(message, lambda text: (len(text.encode("utf-8", "surrogatepass")) + 3) // 4)


def by_script(message: Message) -> int:
    """As tokenizers do: a foreign sign costs more than its share of bytes."""
    return _weigh(
        message,
        lambda text: 2 * (len(text) - len(text.encode("ascii", "ignore"))) + (len(text) + 3) // 4,
    )


def _weigh(message: Message, measure: Any) -> int:
    tokens = 4
    for name, value in message.items():
        if name == "content" and isinstance(value, list):
            for part in value:
                tokens += measure(part["text"]) if "text" in part else IMAGE_TOKENS
        elif isinstance(value, str):
            tokens += measure(value)
        elif value is not None:
            tokens += measure(json.dumps(value))
    return tokens


def weights(messages: Sequence[Message], weigh: Any) -> list[int]:
    """Of each message."""
    return [weigh(message) for message in messages]


WORDS = st.sampled_from(
    ["", "a", "hello there", "def f(x):\n    return x\n", "你好，世界", "прочитай это", "🙂👩‍👩‍👧🇩🇪", "e\u0301o\u0308", "ERROR: no\n", '{"a": [1, 2, 3]}']
)  # fmt: skip
TIMES = st.sampled_from([1, 1, 1, 3, 20, 60, 400])
TEXTS = st.builds(
    lambda words, times, more: words * times + more, WORDS, TIMES, st.text(max_size=5)
)
JSON_TEXTS = st.builds(
    lambda count: json.dumps([{"id": i, "text": "x" * 30} for i in range(count)]),
    st.integers(0, 60),
)
PARTS = st.lists(
    st.one_of(st.just(IMAGE), st.builds(lambda text: {"type": "text", "text": text}, TEXTS)),
    max_size=3,
)
USER_CONTENT = st.one_of(TEXTS, TEXTS, PARTS, st.none())
RESULT_CONTENT = st.one_of(TEXTS, JSON_TEXTS, PARTS)


@st.composite
def proper(draw: st.DrawFn, most_turns: int = 12) -> list[dict[str, Any]]:
    """A conversation as clients send it: turns with rounds of tool calls, ending wherever a request may."""
    messages: list[dict[str, Any]] = []
    for content in draw(st.lists(TEXTS, max_size=2)):
        messages.append(
            {"role": draw(st.sampled_from(["system", "developer"])), "content": content}
        )
    calls = 0
    turns = draw(st.integers(1, most_turns))
    for turn in range(turns):
        messages.append({"role": "user", "content": draw(USER_CONTENT)})
        for _ in range(draw(st.integers(0, 3))):
            count = draw(st.integers(1, 2))
            ids = [f"call_{calls + i}" for i in range(count)]
            calls += count
            made = [
                {"id": i, "type": "function", "function": {"name": "look", "arguments": "{}"}}
                for i in ids
            ]
            messages.append(
                {
                    "role": "assistant",
                    "content": draw(st.one_of(st.none(), TEXTS)),
                    "tool_calls": made,
                }
            )
            for call in ids:
                messages.append(
                    {"role": "tool", "tool_call_id": call, "content": draw(RESULT_CONTENT)}
                )
        if turn < turns - 1 or draw(st.booleans()):
            messages.append({"role": "assistant", "content": draw(TEXTS)})
            if draw(st.integers(0, 9)) == 0:
                messages.append({"role": "system", "content": draw(WORDS)})
    return messages


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "strange"])
CALL_IDS = st.sampled_from(["1", "2", "3"])
WILD = st.lists(
    st.builds(
        lambda role, content, calls, answered: {
            "role": role,
            "content": content,
            **({"tool_calls": [{"id": c} for c in calls]} if role == "assistant" and calls else {}),
            **({"tool_call_id": answered} if role == "tool" else {}),
        },
        ROLES, USER_CONTENT, st.lists(CALL_IDS, max_size=2), CALL_IDS,
    ),
    max_size=30,
)  # fmt: skip
ANY = st.one_of(proper(), WILD)


def strict_template(messages: Sequence[Message]) -> str | None:
    """
    What a strict chat template says against these messages, or None.

    As Mistral's: apart from system messages and tool rounds, user and assistant alternate, and the user
    begins; results stand directly behind their calls.
    """
    expected = "user"
    open_calls: set[str] = set()
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            continue
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                return "a result without its call"
            open_calls.discard(message["tool_call_id"])
            continue
        if open_calls:
            return "a call without its result"
        if message.get("tool_calls"):
            if expected != "assistant":
                return "a call without a user message before it"
            open_calls = {call["id"] for call in message["tool_calls"]}
            continue
        if role != expected:
            return f"roles must alternate: {role} where {expected} was expected"
        expected = "assistant" if role == "user" else "user"
    return "a call without its result" if open_calls else None


def requests(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The requests in which a conversation grew: one wherever the model was asked."""
    for place, message in enumerate(messages):
        following = messages[place + 1]["role"] if place + 1 < len(messages) else "assistant"
        if message["role"] in ("user", "tool") and following in ("assistant",):
            yield list(messages[: place + 1])
