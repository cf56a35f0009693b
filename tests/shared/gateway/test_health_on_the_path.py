"""What the health monitor sees and does, and what a request's path tells it, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateways import RunningGateway
from gateways import until as poll
from loops import until
from penstock import health
from penstock.adapters.machine import Machine
from penstock.adapters.surroundings import Descriptors, Disk, descriptors, disks, read_clocks
from penstock.adapters.transport import UpstreamRequest, client
from penstock.clocks import Clocks
from penstock.domain.upstream import ServerKind, Upstream
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.protocol import WireLimits
from penstock.gateway.memory import Memory
from penstock.gateway.upstreams.fleet import Fleet
from penstock.gateway.upstreams.origin import origin_of
from rawserver import Peer, RawServer
from scripted import Here, ScriptedLlama, gateway_here, reply, stream

GIB = 1024**3
SPACIOUS = Machine(20 * GIB, 10 * GIB, None, 0.5, 8, (), False, False)
QUIET = {"health": {"every_s": 3600}}


@pytest.fixture(autouse=True)
def _only_what_a_test_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first look at its surroundings the gateway takes no other by itself."""
    monkeypatch.setattr("penstock.gateway.housekeeping._LOOK_EVERY_S", 3600.0)


def names(here: Here) -> list[str]:
    """Findings of the only upstream."""
    (state,) = here.runtime.fleet
    return [finding.name for finding in state.vitals.findings]


async def look(here: Here) -> None:
    """One check of all upstreams."""
    await here.runtime.health._check_all(here.runtime.fleet)


def test_failures_are_found() -> None:
    """More than a tenth of the requests failed: that is found, stands in the status, and nothing is done here."""

    async def main() -> None:
        broken = [reply({"error": {"message": "boom"}}, b"500 Internal Server Error")]
        async with (
            ScriptedLlama(broken) as llama,
            gateway_here(
                llama.url,
                settings={
                    **QUIET,
                    "retry": {"local": {"attempts": 1}},
                    "breaker": {"enabled": False},
                },
            ) as here,
        ):
            for _ in range(6):
                assert (await here.chat()).status_code == 502
            await look(here)
            assert names(here) == ["errors"]
            health = (await here.http.get("/penstock/status")).json()["upstreams"][0]["health"]
            assert health["error_share"] == 1.0
            assert health["findings"][0]["detail"] == "6 of the last 6 requests failed"
            assert health["response_ms"] > 0
            assert not here.runtime.recorder.acts

    asyncio.run(main())


def test_a_hung_server_is_restarted_where_it_is_ours() -> None:
    """Three checks in a row without an answer, and nothing at work: it is restarted, once."""

    async def silent(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            await peer.until_gone()

    async def main(monkeypatch: pytest.MonkeyPatch) -> None:
        async with (
            RawServer([silent]) as server,
            gateway_here(
                (Upstream("box", server.url, kind=ServerKind.LLAMACPP),), settings=QUIET
            ) as here,
        ):
            state = here.runtime.fleet.get("box")
            asked: list[str] = []

            async def restart(why: str) -> bool:
                asked.append(why)
                return True

            state.restart = restart
            for _ in range(5):
                await look(here)
            assert names(here) == ["hung"]
            assert asked == ["it answers nothing, at 3 checks in a row"]
            assert [act.act for act in here.runtime.recorder.acts] == ["restart_ordered"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.gateway.upstreams.health._ANSWER_WITHIN_S", 0.05)
        asyncio.run(main(patch))


def test_a_restart_that_takes_long_keeps_no_other_check_waiting() -> None:
    """A server that loads for half an hour is restarted; the others are looked after meanwhile."""

    async def main() -> None:
        async with ScriptedLlama() as one, ScriptedLlama() as other:
            upstreams = (Upstream("one", one.url), Upstream("other", other.url))
            async with gateway_here(upstreams, settings=QUIET) as here:
                await until(lambda: all(state.profiles for state in here.runtime.fleet))
                first, second = here.runtime.fleet
                asked: list[str] = []

                async def restart(why: str) -> bool:
                    asked.append(why)
                    return bool(await asyncio.Event().wait())

                first.restart = restart
                await one.leave()
                for _ in range(3):
                    await look(here)
                assert len(asked) == 1
                checked_s = second.vitals.checked_s
                await look(here)
                assert second.vitals.checked_s != checked_s
                assert len(asked) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.gateway.upstreams.health._CHECK_WITHIN_S", 0.2)
        asyncio.run(main())


def test_nobody_restarts_what_is_held() -> None:
    """While an upstream is away on purpose nothing is found and nothing done."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            await here.chat()
            (state,) = here.runtime.fleet
            asked: list[str] = []

            async def restart(why: str) -> bool:
                asked.append(why)
                return True

            state.restart = restart
            state.holding.begin("drained")
            await llama.leave()
            for _ in range(4):
                await look(here)
            assert (names(here), asked) == ([], [])
            state.holding.end("drained")
            await look(here)
            assert names(here) == ["unreachable"]
            assert asked == ["nobody listens there, at 5 checks in a row"]

    asyncio.run(main())


class Router(ScriptedLlama):
    """A llama.cpp in router mode with one model whose process has ended."""

    loads: list[bytes]

    def _probe(self, target: str) -> bytes:
        if target == "/v1/models":
            status = {"value": "unloaded", "failed": True, "exit_code": 137}
            row = {"id": "m", "object": "model", "owned_by": "llamacpp", "status": status}
            return reply({"object": "list", "data": [row]})
        return super()._probe(target)


def test_a_failed_model_is_loaded_again() -> None:
    """A router's model whose process has ended is loaded again, and not at every check."""

    async def main() -> None:
        done = [reply({"success": True})]
        async with Router(done) as llama, gateway_here(llama.url, settings=QUIET) as here:
            await until(lambda: all(s.profiles for s in here.runtime.fleet))
            for _ in range(3):
                await look(here)
            assert [r.line for r in llama.requests] == [b"POST /models/load HTTP/1.1"]
            assert llama.requests[0].body == b'{"model":"m"}'
            (act,) = here.runtime.recorder.acts
            assert (act.act, act.why) == ("model_reloaded", "m: its process has ended")
            assert names(here) == ["model_failed"]

    asyncio.run(main())


OOM = [reply({"error": {"message": "CUDA error: out of memory"}}, b"500 Internal Server Error")]


def test_after_out_of_memory_windows_are_smaller() -> None:
    """A model that ran out of memory is asked for with half of its window, for ten minutes."""

    async def main() -> None:
        async with ScriptedLlama(OOM) as llama, gateway_here(llama.url, settings=QUIET) as here:
            (state,) = here.runtime.fleet
            state.profiles.clear()
            assert (await here.chat()).json()["error"]["code"] == "out_of_memory"
            assert "m" in state.vitals.ran_out
            await look(here)
            assert "out_of_memory" in names(here)
            # llama.cpp knows no `num_ctx`: nothing is done to it.
            assert not here.runtime.recorder.acts
            state.kind = ServerKind.OLLAMA
            profile = state.profiles["m"]
            window = replace(profile.window, tokens=32_768)
            state.profiles["m"] = replace(profile, window=window)
            reading = here.runtime.health.reading(
                state, ready=True, now_s=asyncio.get_running_loop().time()
            )
            assert reading.models[0].ran_out
            acts = health.propose(
                reading, here.runtime.health._offers(state), here.runtime.settings.health
            )
            assert [(a.kind, a.window) for a in acts] == [("shrink", 16_384)]
            before = state.generation
            await here.runtime.health._do(state, acts[0])
            now_s = asyncio.get_running_loop().time()
            assert state.vitals.most_window("m", now_s) == 16_384
            assert state.vitals.most_window("m", now_s + 601) is None
            assert state.generation == before + 1

    asyncio.run(main())


def test_time_jumps() -> None:
    """After a sleep idle connections are closed, upstreams looked at anew, hooks called, and the act is told."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            assert (await here.chat()).status_code == 200
            house = here.runtime.housekeeping
            assert house.transport is not None
            assert house.transport.idle_connections() == 1  # type: ignore[attr-defined]
            called: list[int] = []
            house.on_jump.append(lambda: called.append(1))
            (state,) = here.runtime.fleet
            looked = state.looked_at
            now_s = asyncio.get_running_loop().time()
            for _ in range(3):
                passed = state.breaker.ask(now_s)
                assert passed is not None
                state.breaker.failed(passed, "it fails", now_s, 0.5)
            assert (await here.chat()).json()["error"]["code"] == "breaker_open"
            house._clocks = None
            house.look_at_clocks(Clocks(0.0, 1e9, 0.0))
            house.look_at_clocks(Clocks(5.0, 1e9 + 5, 5.0))
            assert not here.runtime.recorder.acts
            house.look_at_clocks(Clocks(10.0, 1e9 + 3610, 3610.0))
            assert house.transport.idle_connections() == 0  # type: ignore[attr-defined]
            assert called == [1]
            act = here.runtime.recorder.acts[0]
            assert (act.upstream, act.act) == ("", "time_jumped")
            assert act.why.startswith("the machine slept for 60 min")
            await until(lambda: state.looked_at != looked)
            assert (await here.chat()).status_code == 200

    asyncio.run(main())


def test_descriptors_are_short() -> None:
    """Short of descriptors no idle connection is kept, and the status says so; later they are again."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            house = here.runtime.housekeeping
            transport: Any = house.transport
            await until(lambda: house.descriptors)
            house.look_at_descriptors(Descriptors(90, 100))
            assert (await here.chat()).status_code == 200
            assert transport.idle_connections() == 0
            assert "90 of 100" in here.runtime.notices["descriptors"]
            house.look_at_descriptors(Descriptors(50, 100))
            assert (await here.chat()).status_code == 200
            assert transport.idle_connections() == 1
            assert "descriptors" not in here.runtime.notices

    asyncio.run(main())


def test_a_full_disk_is_told_of(tmp_path: Any) -> None:
    """The fullest one, as a notice, until there is room again."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            house = here.runtime.housekeeping
            await until(lambda: house.descriptors)
            house.look_at_disks([Disk(tmp_path, 10 * GIB, 100 * GIB), Disk(tmp_path, 1, 100 * GIB)])
            assert "nearly full: 0 MiB" in here.runtime.notices["disk"]
            house.look_at_disks([Disk(tmp_path, 10 * GIB, 100 * GIB)])
            assert "disk" not in here.runtime.notices

    asyncio.run(main())


def test_the_surroundings_can_be_read(tmp_path: Any) -> None:
    """Clocks go forward, descriptors are counted, a folder that is not there yet lies on its parent's disk."""
    first, second = read_clocks(1.0), read_clocks(2.0)
    assert second.wall_s >= first.wall_s
    before = descriptors()
    assert before is not None
    with (tmp_path / "one").open("w"):
        after = descriptors()
    assert after is not None
    assert after.in_use == before.in_use + 1
    assert 0 < after.in_use < after.limit
    (disk,) = disks([tmp_path / "not" / "there"])
    assert 0 < disk.free_bytes <= disk.total_bytes


def memory_with(available_bytes: int) -> Memory:
    """The memory of a machine with so much left beyond the twentieth that is kept."""
    memory = Memory(Fleet({}), lambda: None)
    memory.machine = replace(SPACIOUS, available_bytes=available_bytes + GIB)
    return memory


def test_memory_is_promised_once() -> None:
    """Of two requests that need more than half, one waits until the machine was looked at again."""

    async def main() -> None:
        memory = memory_with(100)
        await memory.room_for("box", 60, 5.0)
        second = asyncio.create_task(memory.room_for("box", 60, 5.0))
        await until(lambda: memory.waiting["box"])
        memory.look(0.0)
        await second
        assert not memory.waiting

    asyncio.run(main())


def test_memory_that_does_not_come() -> None:
    """The refusal tells both numbers and when to try again; nobody is counted as waiting afterwards."""

    async def main() -> None:
        memory = memory_with(300 * 1024**2)
        with pytest.raises(Refused) as told:
            await memory.room_for("box", 500 * 1024**2, 0.01)
        assert told.value.code is ErrorCode.MEMORY_SHORT
        assert "500 MiB" in told.value.message
        assert "300 MiB" in told.value.message
        assert told.value.retry_after_s == 30.0
        assert not memory.waiting

    asyncio.run(main())


def test_who_waits_for_memory_may_leave() -> None:
    """A client that hangs up while it waits for memory leaves nothing behind."""

    async def main() -> None:
        memory = memory_with(0)
        waits = asyncio.create_task(memory.room_for("box", 1, 50.0))
        await until(lambda: memory.waiting["box"])
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert not memory.waiting

    asyncio.run(main())


def test_a_cloud_is_never_asked() -> None:
    """Neither by the timer nor on demand."""

    async def main() -> None:
        async with ScriptedLlama(stream("hi")) as llama:
            clouds = (Upstream("cloud", llama.url, local=False, models=("m",)),)
            async with gateway_here(clouds, settings=QUIET) as here:
                assert await here.runtime.health.probe(here.runtime.fleet) == []
                status = (await here.http.get("/penstock/status")).json()
                assert status["upstreams"][0]["health"] is None
                assert llama._raw.peers == []

    asyncio.run(main())


def no_descriptor() -> OSError:
    """What the system says when a process has none left."""
    return OSError(errno.EMFILE, "Too many open files")


def test_a_connection_without_a_descriptor_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client is told to come again; the upstream is not blamed, and reached again as soon as there is one."""

    async def none_left(*_: Any) -> Any:
        raise no_descriptor()

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            assert (await here.chat()).status_code == 200
            (state,) = here.runtime.fleet
            house: Any = here.runtime.housekeeping
            house.transport.drop_idle()
            with monkeypatch.context() as patch:
                patch.setattr("penstock.adapters.transport.client.open_connection", none_left)
                refused = await here.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert refused.headers["retry-after"] == "5"
            assert len(llama.requests) == 1
            assert (state.reachable, state.vitals.requests(0.0)) == (True, (1, 0))
            assert (await here.chat()).status_code == 200

    asyncio.run(main())


def test_idle_connections_give_their_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connect that fails for want of a descriptor closes idle connections and is tried once more."""
    really, failures = client.open_connection, [no_descriptor()]

    async def once_none(*what: Any) -> Any:
        if failures:
            raise failures.pop()
        return await really(*what)

    async def main() -> None:
        transport = client.Transport()
        async with ScriptedLlama() as one, ScriptedLlama() as two:
            answers = []
            for place in (one, two):
                where, host, _ = origin_of(Upstream("box", place.url))
                request = UpstreamRequest(b"GET", b"/health", [(b"host", host)], b"")
                answer = await transport.send(
                    where, request, connect_timeout_s=5.0, head_timeout_s=5.0
                )
                await answer.read(1000)
                answers.append(answer.status)
                assert transport.open_connections() == 1  # the second took the place of the first
                monkeypatch.setattr("penstock.adapters.transport.client.open_connection", once_none)
            assert answers == [200, 200]
            assert not failures
        await transport.aclose()

    asyncio.run(main())


def test_who_cannot_ask_learns_nothing() -> None:
    """A check without a descriptor to ask with finds nothing: three of them would otherwise restart a server."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("all connection attempts failed") from no_descriptor()

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            assert (await here.chat()).status_code == 200
            (state,) = here.runtime.fleet
            await look(here)
            before = state.vitals.checked_s
            keeper = here.runtime.keeper
            real, keeper._client = (
                keeper._client,
                httpx.AsyncClient(transport=httpx.MockTransport(fail)),
            )
            for _ in range(4):
                await look(here)
            assert (names(here), state.vitals.checked_s) == ([], before)
            windows = dict(state.last_windows)
            await keeper.look(state)  # nobody refused: what was learned of it is not forgotten
            assert dict(state.last_windows) == windows != {}
            await keeper._client.aclose()
            keeper._client = real

    asyncio.run(main())


def test_a_crowd_of_clients() -> None:
    """
    Beyond the bound an idle connection makes room; without one a request is refused in words, and far beyond
    it a connection. Who asks how the gateway is gets an answer.
    """

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=QUIET) as here:
            protocol: Any = here.server.config.http_protocol_class
            protocol.limits = WireLimits(connections=4)
            get = b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            silent = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(4)]
            await until(lambda: len(here.server.server_state.connections) == 4)
            refused = await here.raw(get % b"/v1/models")
            assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
            assert b"retry-after: 5\r\n" in refused
            assert b'"queue_full"' in refused
            assert (await here.raw(get % b"/healthz")).startswith(b"HTTP/1.1 200")
            assert (await here.raw(get % b"/penstock/status")).startswith(b"HTTP/1.1 200")
            # Two more that say nothing: the sixth is one too many for words to be waited for.
            silent.append(await asyncio.open_connection("127.0.0.1", here.port))
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            assert (await reader.read()).startswith(b"HTTP/1.1 429")
            writer.close()
            for _, other in silent:
                other.close()
            await until(lambda: not here.server.server_state.connections)
            clients = [httpx.AsyncClient(base_url=here.url, trust_env=False) for _ in range(6)]
            for one in clients:  # each of them keeps its connection; the oldest idle ones give way
                assert (await one.get("/v1/models")).status_code == 200
            assert len(here.server.server_state.connections) <= 4
            for one in clients:
                await one.aclose()

    asyncio.run(main())


class Unannounced(RunningGateway):
    """A gateway that is found by its log, since it has no runtime file."""

    def _wait(self) -> None:
        found = poll(lambda: re.search(r"listening on (http://\S+)", self.log()), 30.0)
        self.url = found[1]


def test_no_room_for_the_runtime_file(tmp_path: Path) -> None:
    """A gateway that cannot write its runtime file runs; that other commands cannot find it is a notice."""
    place = tmp_path / "xdg_runtime_dir" / "penstock"
    place.parent.mkdir(mode=0o700)
    place.write_text("a file in place of the folder: nothing can be written into it")
    settings = {"upstreams": [{"name": "box", "url": "http://127.0.0.1:9"}]}
    with Unannounced(tmp_path, settings) as gateway:
        told = gateway.status()["notices"]["runtime_file"]
        assert told.startswith("Its runtime file cannot be written (")
        assert gateway.stop() == 0
