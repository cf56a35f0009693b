"""Conversations keep their slot, and nobody's slot is taken while another one will do."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.conversations.slots import Slots, with_slot


def test_a_conversation_comes_back_to_its_slot() -> None:
    """Also when others were there in between."""
    slots = Slots()
    first, second = slots.take(1, 2), slots.take(2, 2)
    assert {first, second} == {0, 1}
    slots.give_back(0)
    slots.give_back(1)
    assert (slots.take(1, 2), slots.take(2, 2)) == (first, second)


def test_a_new_conversation_takes_the_slot_that_was_used_longest_ago() -> None:
    """And its owner gets another one next time."""
    slots = Slots()
    for conversation in (1, 2, 1):
        slot = slots.take(conversation, 2)
        assert slot is not None
        slots.give_back(slot)
    assert slots.take(3, 2) == 1
    assert slots.take(2, 2) == 0


def test_two_requests_of_one_conversation_do_not_wait_for_one_slot() -> None:
    """The second one goes where the server likes."""
    slots = Slots()
    assert slots.take(1, 2) == 0
    assert slots.take(1, 2) is None


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=60))
def test_no_slot_is_given_twice_at_a_time(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever comes and goes, and however many slots the server has by now."""
    slots, out = Slots(), []
    for conversation, number, ends in steps:
        slot = slots.take(conversation, number)
        if slot is not None:
            assert slot not in out
            assert 0 <= slot < number
            out.append(slot)
        if ends and out:
            slots.give_back(out.pop(0))


def test_the_slot_is_spliced_in() -> None:
    """Behind what the body holds."""
    assert json.loads(with_slot(b'{"a": 1}\n', 3)) == {"a": 1, "id_slot": 3}
