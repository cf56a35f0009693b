"""
The fault matrix: every cell as owed. One item is one fault at one moment in one scene, in front of all dialects.

The runs are played by processes of their own, as many as there are cores and one more (a run waits half of its time);
an item waits for its run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from matrix.runs import Key, begin, keys, play, said_keys

Play = Callable[[Key], list[str]]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Plays all runs that were asked for; returns what was not as owed in one of them."""
    wanted = [
        item.callspec.params["key"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    workers = max(1, min((os.cpu_count() or 1) + 1, len(wanted), 8))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin) as pool:
        running: dict[Key, Future[list[str]]] = {key: pool.submit(play, key) for key in wanted}
        try:
            yield lambda key: running[key].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _items(wanted: Iterable[Key]) -> list[Any]:
    return [pytest.param(key, id=str(key)) for key in wanted]


@pytest.mark.parametrize("key", _items(keys("alone")))
def test_alone(key: Key, played: Play) -> None:
    """Each client gets what it is owed, and nothing is left behind."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(said_keys()))
def test_what_servers_say(key: Key, played: Play) -> None:
    """Each answer that a server of any kind is known to give means to every client what it should."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("heartbeat")))
def test_after_heartbeats(key: Key, played: Play) -> None:
    """The status is out already: what is owed comes as an event."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("queued")))
def test_with_another_in_the_queue(key: Key, played: Play) -> None:
    """Whoever waits behind is neither lost nor made to pay for it."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("draining")))
def test_while_the_gateway_is_about_to_stop(key: Key, played: Play) -> None:
    """The running request gets what it is owed; who comes late is refused and told when to come again."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("reload")))
def test_while_settings_change(key: Key, played: Play) -> None:
    """New settings touch no request that runs."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("redeclared")))
def test_while_its_upstream_is_declared_anew(key: Key, played: Play) -> None:
    """The request that runs goes on with the upstream as it was."""
    assert played(key) == []


@pytest.mark.parametrize("key", _items(keys("again")))
def test_the_fourth_in_a_row(key: Key, played: Play) -> None:
    """Three faults that speak against the server open its breaker, others never; open, it refuses and asks nobody."""
    assert played(key) == []
