"""Conversations recognised by their prefix."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.compress import prefix
from penstock.compress.prefix import Conversations, Difference, chain, head_key


def m(role: str, content: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content}


FIRST = [m("system", "Be brief."), m("user", "hello")]
SECOND = [*FIRST, m("assistant", "hi"), m("user", "how are you?")]
THIRD = [*SECOND, m("assistant", "fine"), m("user", "good")]


def test_a_growing_conversation_is_one() -> None:
    """Its requests have one number, and the earlier one is the beginning of the later one."""
    known = Conversations()
    reports = [known.seen(request) for request in (FIRST, SECOND, THIRD, THIRD)]
    assert [r.conversation for r in reports] == [1, 1, 1, 1]
    assert [r.previous_messages for r in reports] == [0, 2, 4, 6]
    assert [r.shared_messages for r in reports] == [0, 2, 4, 6]
    assert not any(r.first_difference or r.before_last_turn for r in reports)
    assert len(known) == 1


def test_a_nonce_in_the_system_message_is_found() -> None:
    """With the byte where it stands, in UTF-8."""
    known = Conversations()
    known.seen([m("system", "Heute ist schön: 10:00."), *SECOND[1:]])
    report = known.seen([m("system", "Heute ist schön: 10:05."), *THIRD[1:]])
    assert report.conversation == 1
    assert report.first_difference == Difference(
        0, "system", 22, "system message 0 differs at byte 22"
    )
    assert report.before_last_turn


def test_a_corrected_question_is_no_broken_prefix() -> None:
    """Only what lies before the last turn costs more than it must."""
    known = Conversations()
    known.seen(SECOND)
    report = known.seen([*SECOND[:3], m("user", "how is it?")])
    assert report.first_difference is not None
    assert report.first_difference.message == 3
    assert not report.before_last_turn


def test_a_shorter_request_is_named() -> None:
    """The client took messages back."""
    known = Conversations()
    known.seen(THIRD)
    report = known.seen(FIRST)
    assert report.first_difference is not None
    assert report.first_difference.why == "the request ends before assistant message 2"


def test_conversations_that_begin_alike_are_told_apart() -> None:
    """Where they part both are remembered, so that neither disturbs the other."""
    known = Conversations()
    one, other = [*SECOND], [*FIRST, m("assistant", "yes?"), m("user", "tell me")]
    known.seen(one)
    parted = known.seen(other)
    for _ in range(3):
        one = [*one, m("assistant", "a"), m("user", "b")]
        other = [*other, m("assistant", "c"), m("user", "d")]
        for request in (one, other):
            assert known.seen(request).first_difference is None
    assert parted.conversation == 2
    assert len(known) == 2


def test_scopes_do_not_mix() -> None:
    """Two clients that say the same have two conversations."""
    known = Conversations()
    assert known.seen(FIRST, "a").conversation != known.seen(FIRST, "b").conversation
    assert known.seen(SECOND, "a").previous_messages == 2


def test_memory_is_bounded() -> None:
    """In conversations and in bytes; what is too large is known by its places only."""
    known = Conversations(most=10, most_bytes=40_000)
    for number in range(200):
        known.seen([m("system", "s" * 3000), m("user", f"{number}")])
        assert len(known) <= 10
        assert known.size_bytes <= 40_000
    large = [m("system", "s" * 50_000), m("user", "large")]
    known.seen(large)
    report = known.seen([m("system", "t" * 50_000), m("user", "large")])
    assert report.first_difference == Difference(0, "system", None, "system message 0 differs")
    for number in range(2000):
        known.seen([m("user", f"{number}")])
    assert len(known._by_end) <= 10
    assert len(known._by_head) <= 10


def test_odd_messages_have_keys() -> None:
    """Parts, calls, large numbers, half surrogates."""
    odd = [
        m("user", [{"type": "text", "text": "\ud800"}]),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "n": 2**80}]},
        {},
    ]
    assert len(set(chain(odd))) == 3
    assert chain(odd)[:2] == chain(odd[:2])
    assert head_key([*FIRST, *odd]) == head_key(SECOND) != head_key(odd)
    assert Conversations().seen(odd).previous_messages == 0


def test_each_message_is_written_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key and its size come from one look: this is on the way of every request."""
    written = 0

    def counted(message: Any, as_bytes: Any = prefix._as_bytes) -> Any:
        nonlocal written
        written += 1
        return as_bytes(message)

    monkeypatch.setattr(prefix, "_as_bytes", counted)
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}] * 10
    Conversations().seen([{"role": "user", "content": "look"}, *messages])
    assert written == 10
