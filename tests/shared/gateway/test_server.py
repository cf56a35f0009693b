"""The process: what it binds, what a reload leaves as it is, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateways import RunningGateway
from loops import until
from penstock.errors import SettingsError
from penstock.gateway.server import open_sockets
from rawserver import CHUNKED_HEAD, GONE
from scripted import ScriptedLlama, delta, event, gateway_here


def test_a_file_that_is_no_socket_is_not_replaced_by_one(tmp_path: Path) -> None:
    """A wrong `listen.unix_socket` costs nobody their notes."""
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    with pytest.raises(SettingsError, match="is no socket"):
        open_sockets("127.0.0.1", 0, str(notes))
    assert notes.read_text() == "precious"


async def told_to_come_again(gateway: RunningGateway, body: dict[str, Any]) -> httpx.Response:
    """What a client gets over a connection of its own once the gateway has heard that it is to stop."""
    async with asyncio.timeout(10), httpx.AsyncClient(trust_env=False) as client:
        while True:
            answer = await client.post(f"{gateway.url}/v1/chat/completions", json=body)
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "draining"
                assert int(answer.headers["retry-after"]) >= 1
                return answer


async def follow_quietly(client: httpx.AsyncClient, states: list[str]) -> None:
    """Put what the snapshots of the tray's stream say into *states*, until it ends."""
    name = ""
    path = "/penstock/events?quiet=true"
    async with asyncio.timeout(30), client.stream("GET", path, timeout=20.0) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "snapshot":
                states.append(json.loads(line.removeprefix("data: "))["state"])


def test_what_outlives_the_drain_is_told_so_and_has_its_line(tmp_path: Path) -> None:
    """A stream that is cut off ends with an error event; a changed limit that is not in force is told."""

    async def main() -> None:
        async with ScriptedLlama([CHUNKED_HEAD, event(delta("a")), GONE]) as llama:
            settings = {
                "upstreams": [{"name": "box", "url": llama.url}],
                "timeouts": {"drain_s": 3},
            }
            gateway = await asyncio.to_thread(RunningGateway, tmp_path, settings)
            try:
                async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
                    body = {
                        "model": "m",
                        "stream": True,
                        "messages": [{"role": "user", "content": "x"}],
                    }
                    async with client.stream(
                        "POST", "/v1/chat/completions", json=body, timeout=20.0
                    ) as response:
                        lines = response.aiter_lines()
                        assert '"a"' in await anext(lines)
                        changed = {**settings, "listen": {"max_header_bytes": 4096}}
                        gateway.write_settings(changed)
                        async with asyncio.timeout(10):
                            notices: dict[str, str] = {}
                            while not notices:
                                status = await client.get("/penstock/status")
                                notices = status.json()["notices"]
                        assert notices["start"].startswith("listen.max_header_bytes: ")
                        states: list[str] = []
                        quiet = asyncio.create_task(follow_quietly(client, states))
                        async with asyncio.timeout(10):
                            while not states:
                                await asyncio.sleep(0.01)
                        gateway.process.send_signal(signal.SIGTERM)
                        late = await told_to_come_again(gateway, body)
                        assert late.headers["x-should-retry"] == "true"
                        status = await client.get("/penstock/status")
                        assert status.json()["state"] == "draining"
                        rest = [line async for line in lines if line]
                    await quiet
                    assert states[0] == "ok"
                    assert states[-1] == "draining"
                assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
                assert await asyncio.to_thread(gateway.process.wait, 20) == 0
                log = gateway.log()
                assert "code=draining" in log
                assert "Traceback" not in log
            finally:
                await asyncio.to_thread(gateway.stop)

    asyncio.run(main())


def test_a_request_refused_at_the_door_is_counted_and_not_remembered() -> None:
    """A wrong key has its line in the log; strangers do not push others' requests out of the status."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            refused = await gateway.http.get("/v1/models", headers={"host": "evil.example"})
            assert refused.status_code == 403
            metrics = gateway.runtime.recorder.metrics
            await until(lambda: b'code="host_not_allowed"' in metrics.render())
            assert not gateway.runtime.recorder.recent()

    asyncio.run(main())
