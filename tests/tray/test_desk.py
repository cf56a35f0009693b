"""The desk without a desktop: what it makes of the gateway's word, of clicks and of what goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.client import Client, NoGateway, NotRunning
from penstock_tray import actions, desk, gateway_process, notices
from penstock_tray.backends import Calls, Look
from penstock_tray.desk import Desk
from penstock_tray.follower import Follower
from penstock_tray.instance import Instance
from penstock_tray.menu import App, Item
from penstock_tray.snapshot import Server, Snapshot

RUNNING = Snapshot(
    "running", url="http://127.0.0.1:1", ours=True, servers=(Server("a", "u", "ok"),)
)


class Shown:
    """A backend that keeps the last look."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.look = Look()

    async def start(self) -> None:
        """There is always a place."""

    def show(self, look: Look) -> None:
        self.look = look

    def stop(self) -> None:
        """Nothing to take away."""

    def item(self, key: str) -> Item | None:
        rows = [one for top in self.look.items for one in (top, *top.items)]
        return next((one for one in rows if one.key == key), None)


class Asked:
    """Stands in for `Instance`: nobody asks."""

    async def listen(self, asked: Callable[[str], None]) -> None:
        """Nobody will."""


class NoFollower:
    """Tells nothing: the tests do."""

    def __init__(self, told: Callable[[Snapshot], None]) -> None:
        self.start = self.end = lambda: None


class World:
    """
    What is around the desk.

    Attributes:
        first: what runs when it is asked.
        starts: how many gateways were started.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.first = Snapshot()
        self.starts = 0
        self.desk: Desk
        self.shown: Shown
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(name, str(tmp_path))
        monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
        monkeypatch.setattr(desk, "Follower", NoFollower)
        monkeypatch.setattr(gateway_process, "look", lambda: self.first)
        monkeypatch.setattr(gateway_process, "start", self.started)
        monkeypatch.setattr(actions, "apps", lambda: (App("codex", "Codex", False),))

    def started(self, _log: Path) -> Any:
        self.starts += 1
        raise OSError("no space left on device")

    @asynccontextmanager
    async def tray(self) -> AsyncIterator[None]:
        def choose(calls: Calls) -> Shown:
            self.shown = Shown(calls)
            return self.shown

        self.desk = Desk(choose, starts=False)
        run = asyncio.create_task(self.desk.run(cast(Instance, Asked())))
        await until(lambda: self.desk.snapshot == self.first and self.shown.item("quit"))
        yield
        self.desk.end()
        await run


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Everything around it is a stand-in."""
    return World(monkeypatch, tmp_path)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def play(world: World, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def played() -> None:
        async with world.tray():
            await steps()

    asyncio.run(played())


def test_clients_are_listed_where_the_gateway_ran_before_the_tray(world: World) -> None:
    """The first look is enough to ask which clients are there."""
    world.first = RUNNING

    async def steps() -> None:
        await until(lambda: world.shown.item("app codex"))

    play(world, steps)


@pytest.mark.parametrize(
    ("before", "starts"),
    [
        pytest.param(RUNNING, 1, id="it died"),
        pytest.param(replace(RUNNING, ending=True), 0, id="it was switched off and killed while it drained"),
        pytest.param(replace(RUNNING, ours=False), 0, id="something else started it"),
    ],
)  # fmt: skip
def test_only_what_nobody_ended_is_started_again(
    world: World, before: Snapshot, starts: int
) -> None:
    """A death while a gateway was to end anyway is neither a failure nor a reason to start one."""

    async def steps() -> None:
        world.desk._told(before)
        world.desk._told(Snapshot("failed", "it ended by itself"))
        if starts:
            await until(lambda: world.starts == starts)
        else:
            assert world.desk._deaths == ()
            gone = "off" if before.ending else "failed"
            assert world.desk.snapshot.gateway == gone

    play(world, steps)


def test_a_gateway_that_cannot_be_started_is_said(world: World) -> None:
    """The toggle can be clicked again, the reason stands in the menu, and Quit waits for nothing."""

    async def steps() -> None:
        world.desk.clicked("on")
        await until(lambda: "no space left" in world.shown.look.title)
        on = world.shown.item("on")
        assert on is not None
        assert (on.enabled, on.checked) == (True, False)

    play(world, steps)


def test_what_goes_wrong_in_a_click_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours is logged and said, and the search can be begun again."""
    world.first = RUNNING

    def broken(_snapshot: Snapshot) -> Any:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(actions, "search", broken)

    async def steps() -> None:
        world.desk.clicked("search")
        await until(lambda: world.shown.item("said"))
        search = world.shown.item("search")
        assert search is not None
        assert search.enabled

    play(world, steps)
    assert "ZeroDivisionError" in caplog.text


def test_a_gateway_that_hangs_is_seen_when_the_menu_opens(world: World) -> None:
    """Icon and title say so; one that is ours stays ours, and is well as soon as it tells something."""
    world.first = RUNNING

    async def steps() -> None:
        world.first = Snapshot("unclear", "The gateway at u does not answer: timed out")
        world.desk._opened()
        await until(lambda: "does not answer" in world.shown.look.title)
        assert world.shown.look.icon.state == "error"
        assert world.desk.snapshot.ours
        on = world.shown.item("on")
        assert on is not None
        assert not on.enabled
        world.first = RUNNING
        world.desk._opened()
        await until(lambda: world.shown.look.icon.state == "ok")

    play(world, steps)


def test_an_answer_that_is_older_than_the_streams_word_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for when the menu opened does not overwrite what was told meanwhile."""
    world.first = RUNNING
    asked, answer = threading.Event(), threading.Event()

    async def steps() -> None:
        def slow() -> Snapshot:
            asked.set()
            answer.wait(10)
            return replace(RUNNING, bypass="none")

        monkeypatch.setattr(gateway_process, "look", slow)
        world.desk._opened()
        await asyncio.to_thread(asked.wait, 10)
        world.desk._told(replace(RUNNING, bypass="all"))
        answer.set()
        await until(lambda: not world.desk._refreshes)
        assert world.desk.snapshot.bypass == "all"

    play(world, steps)


def test_one_timer_waits_for_what_lasts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often something is shown while a change is pending."""
    world.first = RUNNING

    async def steps() -> None:
        loop = asyncio.get_running_loop()
        handles: list[asyncio.TimerHandle] = []
        call_at = loop.call_at

        def counted(when: float, call: Any, *values: Any, **more: Any) -> asyncio.TimerHandle:
            handle = call_at(when, call, *values, **more)
            if call == world.desk._tell_what_lasts:
                handles.append(handle)
            return handle

        monkeypatch.setattr(loop, "call_at", counted)
        world.desk._told(replace(RUNNING, servers=(Server("a", "u", "unreachable"),)))
        await until(lambda: handles)
        for _ in range(5):
            world.desk._show_now()
        assert len(handles) > 5
        assert [one.cancelled() for one in handles].count(False) == 1
        assert handles[-1].when() - loop.time() <= notices.LASTS_S

    play(world, steps)


@pytest.mark.parametrize(
    ("error", "gateway"),
    [
        pytest.param(NoGateway("No Penstock gateway runs."), "off", id="none"),
        pytest.param(NotRunning("Several gateways run"), "unclear", id="several"),
    ],
)
def test_none_and_several_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: NotRunning, gateway: str
) -> None:
    """Where several gateways run none is started beside them, and the sentence is shown."""

    def find(_port: int | None = None) -> Client:
        raise error

    monkeypatch.setattr(Client, "find", find)
    seen = gateway_process.look()
    assert seen.gateway == gateway
    assert seen.why == (str(error) if gateway == "unclear" else "")


@pytest.mark.parametrize(
    ("cause", "gateway"),
    [
        pytest.param(ConnectionRefusedError(), "off", id="it listens no more"),
        pytest.param(TimeoutError("timed out"), "unclear", id="it hangs"),
    ],
)
def test_ended_and_hanging_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, cause: OSError, gateway: str
) -> None:
    """Its process is there in both cases."""

    def find(_port: int | None = None) -> Client:
        raise NotRunning("The gateway does not answer") from cause

    monkeypatch.setattr(Client, "find", find)
    assert gateway_process.look().gateway == gateway


def test_the_follower_says_that_it_cannot_know_which_gateway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Several gateways are not taken for none, and the sentence that says what to do comes along."""

    def find(_port: int | None = None) -> Client:
        raise NotRunning("Several gateways run (a, b); name one.")

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(Client, "find", find)
    told: list[Snapshot] = []
    heard = threading.Event()

    def tell(snapshot: Snapshot) -> None:
        told.append(snapshot)
        heard.set()

    follower = Follower(tell)
    follower.start()
    assert heard.wait(10)
    follower.end()
    follower.join(10)
    assert told[0] == Snapshot("unclear", "Several gateways run (a, b); name one.")
