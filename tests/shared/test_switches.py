"""Switches: one value for all upstreams, others for some; and what is kept of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.upstream import Upstream
from penstock.switches import Added, Switch, Switches, from_document, share, to_document

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["", "hold", "refuse"])
TURNS = st.lists(st.tuples(st.none() | NAMES, VALUES), max_size=8)


def turned(turns: list[tuple[str | None, str]]) -> Switch:
    """A switch after all of these."""
    switch = Switch()
    for upstream, value in turns:
        switch = switch.turned(upstream, value)
    return switch


@given(TURNS, NAMES, VALUES)
def test_a_turn_for_one_changes_that_one_only(
    turns: list[tuple[str | None, str]], name: str, value: str
) -> None:
    """Whatever was switched before."""
    before = turned(turns)
    after = before.turned(name, value)
    assert after.at(name) == value
    assert all(after.at(other) == before.at(other) for other in "abc" if other != name)


@given(TURNS, VALUES)
def test_a_turn_for_all_means_all(turns: list[tuple[str | None, str]], value: str) -> None:
    """Also those that had a value of their own, and those that come later."""
    after = turned(turns).turned(None, value)
    assert {after.at(name) for name in "abcd"} == {value}


@given(TURNS, TURNS)
def test_what_is_kept_comes_back(
    pauses: list[tuple[str | None, str]], drains: list[tuple[str | None, str]]
) -> None:
    """Through JSON; drains are not kept."""
    switches = Switches(
        pause=turned(pauses),
        drain=turned(drains),
        bypass=Switch().turned("a", "on"),
        added=(Added("x", "http://127.0.0.1:1"),),
        forgotten=("http://127.0.0.1:2",),
    )
    again = from_document(json.loads(json.dumps(to_document(switches))))
    assert (again.added, again.forgotten) == (switches.added, switches.forgotten)
    assert all(again.pause.at(name) == switches.pause.at(name) for name in "abcd")
    assert [again.bypass.at(name) for name in "ab"] == ["on", ""]
    assert not any(again.drain.at(name) for name in "abcd")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param([], "expected an object", id="a list"),
        pytest.param({"pause": 1}, "pause", id="a pause that is a number"),
        pytest.param({"pause": {"everywhere": "on"}}, "none of its values", id="another value"),
        pytest.param({"bypass": {"upstreams": []}}, "bypass.upstreams", id="no names"),
        pytest.param({"bypass": {"everywhere": []}}, "none of its values", id="a value of no kind"),
        pytest.param({"added": [{"name": "x"}]}, "URL of x", id="no URL"),
        pytest.param({"added": [{"url": "http://x"}]}, "added.name", id="no name"),
        pytest.param(
            {"added": [{"name": "x", "url": "http://x", "kind": "y"}]}, "no kind", id="no such kind"
        ),
        pytest.param({"forgotten": [1]}, "list of texts", id="no URLs"),
    ],
)
def test_what_is_no_state_is_told(value: Any, told: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(ValueError, match=told):
        from_document(value)


CONFIGURED = Upstream("box", "http://127.0.0.1:1")
FOUND = Upstream("ollama", "http://127.0.0.1:11434", found_by="discovered")


def test_what_is_configured_comes_first() -> None:
    """An added one of the same name or address stands back until the configured one is gone."""
    switches = (
        Switches()
        .with_added(Added("box", "http://127.0.0.1:8"))
        .with_added(Added("same", "http://127.0.0.1:1"))
        .with_added(Added("other", "http://127.0.0.1:9"))
    )
    assert [u.name for u in switches.in_force((CONFIGURED,))] == ["box", "other"]
    assert switches.in_force((CONFIGURED,))[0] is CONFIGURED
    assert {u.name for u in switches.in_force(())} == {"box", "same", "other"}


def test_a_found_one_can_be_forgotten_renamed_and_remembered() -> None:
    """By its address, since names of what is found depend on what else is found."""
    forgotten = Switches().without(FOUND)
    assert forgotten.in_force((FOUND, CONFIGURED)) == (CONFIGURED,)
    assert [u.name for u in forgotten.with_added(Added("mine", FOUND.url)).in_force((FOUND,))] == [
        "mine"
    ]
    added = Added("mine", FOUND.url)
    gone = Switches().turned("pause", "mine", "hold").with_added(added).without(added.upstream())
    assert gone.in_force((FOUND,)) == (FOUND,)
    assert gone.pause.at("mine") == ""


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        pytest.param([], "none", id="off"),
        pytest.param([(None, "hold")], "all", id="for all"),
        pytest.param([("a", "hold")], "some", id="for one"),
        pytest.param([(None, "hold"), ("a", "")], "some", id="for all but one"),
        pytest.param([("a", "hold"), ("b", "refuse")], "all", id="for each"),
    ],
)
def test_how_many_it_is_on_for(turns: list[tuple[str | None, str]], expected: str) -> None:
    """None, some or all: a badge for an icon."""
    assert share(turned(turns), ["a", "b"]) == expected
