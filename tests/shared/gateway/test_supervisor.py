"""The supervisor with real processes of Python's own web server: cheap, and they start in a moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateways import free_port
from loops import Run, on_both_loops, until
from penstock.domain.upstream import Upstream
from penstock.errors import ErrorCode, UpstreamFault
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.supervisor import ServerToRun, Supervisor
from penstock.limits import LocalModelEnvironment
from penstock.settings import Settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

_SERVER = """
import http.server, json, sys
class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Models).serve_forever()
"""
QUICK = {"first_delay_s": 0.01, "stop_s": 2.0}


class Scene:
    """A supervisor with its upstream."""

    def __init__(self, runtime: Runtime, supervisor: Supervisor) -> None:
        self.runtime = runtime
        self.supervisor = supervisor

    @property
    def state(self) -> UpstreamState:
        """Its upstream."""
        return self.runtime.fleet.get("box")

    def acts(self) -> list[str]:
        """What was done."""
        return [act.act for act in self.runtime.recorder.acts]

    async def until(self, state: str) -> None:
        """Wait for a state of the supervisor."""
        await until(lambda: self.supervisor.state == state)


@asynccontextmanager
async def scene(
    tmp_path: Path, *script: str, port: int | None = None, **options: Any
) -> AsyncIterator[Scene]:
    """*script*: Python that runs; the server when there is none."""
    port = port or free_port()
    settings = Settings.model_validate({"supervise": {**QUICK, **options}})
    url = f"http://127.0.0.1:{port}"
    upstream = Upstream("box", url, local=True, found_by="supervised")
    runtime = Runtime(settings, (upstream,), LocalModelEnvironment())
    command = (sys.executable, "-S", "-c", *(script or (_SERVER,)), str(port))
    supervisor = Supervisor(
        ServerToRun("box", command, url, "a test"),
        runtime.fleet, runtime.keeper, runtime.recorder, lambda: runtime.settings, tmp_path / "box.log",
    )  # fmt: skip
    await runtime.start()
    supervisor.begin()
    supervisor.attach()
    try:
        yield Scene(runtime, supervisor)
    finally:
        await supervisor.stop()
        await runtime.stop()


@on_both_loops
def test_requests_are_held_until_it_is_ready(run: Run, tmp_path: Path) -> None:
    """At the first start and at each one after it."""

    async def play() -> None:
        async with scene(tmp_path) as it:
            assert it.state.holding.reasons == ("restarting",)
            assert it.state.comes_back
            await it.state.holding.wait("box", 20.0)
            assert it.supervisor.state == "running"
            assert list(it.state.profiles) == ["m"]
            assert it.supervisor.pid is not None
            os.kill(it.supervisor.pid, signal.SIGKILL)
            await it.until("restarting")
            assert it.state.holding.reasons == ("restarting",)
            await it.state.holding.wait("box", 20.0)
            assert it.supervisor.state == "running"
            assert it.supervisor.restarts == 1
            assert it.acts() == [
                "server_started", "server_ready", "server_died", "server_started", "server_ready",
            ]  # fmt: skip

    run(play())


@on_both_loops
def test_a_restart_that_was_ordered(run: Run, tmp_path: Path) -> None:
    """It is another process then, no death is counted, and the caller learns that it runs."""

    async def play() -> None:
        async with scene(tmp_path, give_up_after=1) as it:
            await it.until("running")
            pid = it.supervisor.pid
            assert it.state.restart is not None
            assert await it.state.restart("it hangs")
            assert it.supervisor.state == "running"
            assert it.supervisor.pid not in (None, pid)
            assert it.supervisor.shown(0.0)["why"] == "restarted: it hangs"
            assert it.state.holding.reasons == ()
            assert "server_died" not in it.acts()

    run(play())


@on_both_loops
def test_a_server_that_does_not_heed_is_restarted_all_the_same(run: Run, tmp_path: Path) -> None:
    """A stopped process hears no SIGTERM."""

    async def play() -> None:
        async with scene(tmp_path, stop_s=0.2) as it:
            await it.until("running")
            assert it.supervisor.pid is not None
            os.kill(it.supervisor.pid, signal.SIGSTOP)
            assert await it.supervisor.restart("it hangs")

    run(play())


def test_a_broken_connection_holds_until_the_process_was_looked_at(tmp_path: Path) -> None:
    """One that lives lets requests go on; one that has died holds them until it is back."""

    async def play() -> None:
        async with scene(tmp_path) as it:
            await it.until("running")
            it.state.suspect()
            assert it.state.holding.reasons == ("restarting",)
            await it.state.holding.wait("box", 20.0)
            assert it.supervisor.state == "running"
            assert it.supervisor.restarts == 0
            assert it.supervisor.pid is not None
            os.kill(it.supervisor.pid, signal.SIGKILL)
            it.state.suspect()
            await it.state.holding.wait("box", 20.0)
            assert it.supervisor.restarts == 1

    asyncio.run(play())


def test_a_fresh_process_has_a_fresh_breaker(tmp_path: Path) -> None:
    """What the one before did says nothing of it."""

    async def play() -> None:
        async with scene(tmp_path) as it:
            await it.until("running")
            breaker = it.state.breaker
            for _ in range(3):
                passed = breaker.ask(0.0)
                assert passed is not None
                breaker.failed(passed, "it broke", 0.0, 0.0)
            assert breaker.is_open(0.0)
            assert await it.supervisor.restart("it fails")
            assert not breaker.is_open(0.0)
            assert it.acts()[-1] == "breaker_closed"

    asyncio.run(play())


@on_both_loops
def test_it_is_given_up_and_tried_again(run: Run, tmp_path: Path) -> None:
    """Requests are told why, a restart is refused, and somebody can have it tried again."""
    flag = tmp_path / "mended"
    script = (
        f"import os, sys; os.path.exists({str(flag)!r}) or sys.exit('no model here')\n{_SERVER}"
    )

    async def play() -> None:
        async with scene(tmp_path, script, give_up_after=2) as it:
            await it.until("given_up")
            assert it.state.holding.reasons == ()
            assert not it.state.takes_requests(0.0)
            assert not await it.supervisor.restart("it is away")
            with pytest.raises(UpstreamFault, match="died 2 times") as told:
                it.supervisor.refuse_if_given_up()
            assert told.value.code is ErrorCode.UPSTREAM_UNREACHABLE
            assert "no model here" in str(told.value)
            flag.touch()
            it.supervisor.try_again()
            await it.state.holding.wait("box", 20.0)
            assert it.supervisor.state == "running"
            it.supervisor.refuse_if_given_up()

    run(play())


def test_one_that_never_gets_ready(tmp_path: Path) -> None:
    """It is ended and counts as dead."""

    async def play() -> None:
        script = "import time; print('hm', flush=True); time.sleep(300)"
        async with scene(tmp_path, script, give_up_after=2, ready_within_s=0.3) as it:
            await it.until("given_up")
            assert it.supervisor.why == "it was not ready within 0.3 s"

    asyncio.run(play())


def test_what_it_said_while_it_served_is_told_to_nobody(tmp_path: Path) -> None:
    """There may be prompts in it: then only its log file has it."""
    script = _SERVER.replace('"serving"', 'json.dumps("a secret prompt")')

    async def play() -> None:
        async with scene(tmp_path, script, give_up_after=1) as it:
            await it.until("running")
            assert it.supervisor.pid is not None
            os.kill(it.supervisor.pid, signal.SIGTERM)
            await it.until("given_up")
            with pytest.raises(UpstreamFault) as told:
                it.supervisor.refuse_if_given_up()
            shown = json.dumps([*map(str, it.runtime.recorder.acts), it.supervisor.shown(0.0)])
            assert "secret" not in shown + str(told.value)

    asyncio.run(play())
    assert "secret" in (tmp_path / "box.log").read_text()
