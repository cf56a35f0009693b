"""The control plane's HTTP client: a look that is given up leaves nothing open."""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest

from loops import Run, on_both_loops, until
from penstock.adapters.control_client import make_client
from rawserver import EVER, RawServer

FOLDER = "/proc/self/fd"


@pytest.mark.skipif(not os.path.isdir(FOLDER), reason="platform: descriptors are counted in /proc")
@on_both_loops
def test_cancelled_at_any_moment(run: Run) -> None:
    """After any number of rounds of the loop: before, in, and after the connect."""

    async def main() -> None:
        async with RawServer(EVER) as server:
            before = len(os.listdir(FOLDER))
            for rounds in range(20):
                async with make_client() as client:
                    task = asyncio.create_task(client.get(server.url, timeout=5.0))
                    for _ in range(rounds):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            await until(lambda: len(os.listdir(FOLDER)) <= before)

    run(main())


@on_both_loops
def test_connections_are_kept_and_failures_are_those_of_httpx(run: Run) -> None:
    """Two questions, one connection; a server that went away is a `ConnectError`."""

    async def main() -> None:
        async with make_client() as client:
            async with RawServer(EVER) as server:
                url = server.url.replace("127.0.0.1", "localhost")
                for _ in range(2):
                    assert (await client.get(url)).text == "ok"
                assert len(server.peers) == 1
            with pytest.raises(httpx.ConnectError):
                await client.get(server.url)

    run(main())
