"""Which of several equal servers gets a conversation."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.placement import FACTOR, Member, order, place, prefix_of

NAMES = st.lists(
    st.text("0123456789abcdef.:", min_size=1, max_size=15), min_size=1, max_size=12, unique=True
)
PREFIXES = st.binary(max_size=64)
MEMBERS = st.lists(
    st.builds(
        Member,
        st.text("0123456789.", min_size=1, max_size=12),
        st.integers(0, 40),
        st.integers(1, 16),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda member: member.name,
)


@given(PREFIXES, NAMES, st.randoms())
def test_the_order_of_asking_does_not_matter(prefix: bytes, names: list[str], chance: Any) -> None:
    """Gateways that learned of the members in different orders agree."""
    shuffled = list(names)
    chance.shuffle(shuffled)
    assert order(prefix, names) == order(prefix, shuffled)
    assert sorted(order(prefix, names)) == sorted(names)


@given(PREFIXES, NAMES, st.data())
def test_who_goes_moves_only_its_own(prefix: bytes, names: list[str], data: st.DataObject) -> None:
    """Without one member the others stand in the same order as before."""
    gone = data.draw(st.sampled_from(names))
    before = order(prefix, names)
    assert order(prefix, [name for name in names if name != gone]) == [
        name for name in before if name != gone
    ]


@given(PREFIXES, MEMBERS)
def test_nobody_is_loaded_beyond_its_bound(prefix: bytes, members: list[Member]) -> None:
    """Whoever is chosen is of the lowest rank, and has a permit left or no more than its share and a quarter."""
    chosen = next(m for m in members if m.name == place(prefix, members))
    assert chosen.rank == min(m.rank for m in members)
    able = [m for m in members if m.rank == chosen.rank]
    share = (sum(m.load for m in able) + 1) * chosen.permits / sum(m.permits for m in able)
    if len(able) > 1 and any(m.load < m.permits for m in able):
        assert chosen.load < chosen.permits
    elif len(able) > 1:
        assert chosen.load < FACTOR * share + 1


@given(PREFIXES, MEMBERS)
def test_a_free_permit_of_the_first_is_taken(prefix: bytes, members: list[Member]) -> None:
    """A conversation leaves the server that knows it only when that one is full."""
    rank = min(m.rank for m in members)
    able = {m.name: m for m in members if m.rank == rank}
    first = able[order(prefix, able)[0]]
    if first.load < first.permits:
        assert place(prefix, members) == first.name


@given(PREFIXES, st.integers(1, 8), st.integers(0, 4))
def test_a_full_server_gives_way_to_an_idle_one(prefix: bytes, permits: int, more: int) -> None:
    """Nobody waits in a queue while another server has nothing to do."""
    first, second = order(prefix, ["a", "b"])
    members = [Member(first, permits + more, permits), Member(second, 0, permits)]
    assert place(prefix, members) == second


def test_conversations_are_spread() -> None:
    """Of many conversations each of four servers gets a fair part."""
    names = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    firsts = [order(str(n).encode(), names)[0] for n in range(2000)]
    assert all(400 < firsts.count(name) < 600 for name in names)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param({"messages": ["assistant", "user"]}, id="two turns later"),
        pytest.param({"temperature": 0.7, "stream": True}, id="other sampling"),
    ],
)
def test_a_conversation_keeps_its_prefix(later: dict[str, Any]) -> None:
    """What comes later in a conversation does not move it."""
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    more = [{"role": role, "content": "more"} for role in later.get("messages", ())]
    body = {"model": "m", "messages": turns}
    assert prefix_of(body) == prefix_of({**body, **later, "messages": turns + more})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"messages": [{"role": "user", "content": "a"}]},
                     {"messages": [{"role": "user", "content": "b"}]}, id="first words"),
        pytest.param({"system": "x", "messages": []}, {"system": "y", "messages": []}, id="system"),
        pytest.param({"input": "a"}, {"input": "b"}, id="input as text"),
        pytest.param({"prompt": "a"}, {"prompt": "b"}, id="prompt"),
        pytest.param({"model": "a", "prompt": "a"}, {"model": "b", "prompt": "a"}, id="model"),
    ],
)  # fmt: skip
def test_other_conversations_have_other_prefixes(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """What begins differently may go elsewhere."""
    assert prefix_of(one) != prefix_of(other)


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_a_client_sends_has_a_prefix(value: Any) -> None:
    """Odd bodies are refused later, in words; here they do no harm."""
    assert prefix_of({"messages": value, "input": value, "system": value})


def test_every_process_agrees() -> None:
    """The order does not depend on the process, as Python's own hash would."""
    code = "from penstock.placement import order; print(','.join(order(b'x', ['a', 'b', 'c', 'd', 'e'])))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {",".join(order(b"x", ["a", "b", "c", "d", "e"]))}


def test_no_member_is_an_error() -> None:
    """Whoever asks makes sure that there is one."""
    with pytest.raises(ValueError, match="at least one"):
        place(b"", [])
