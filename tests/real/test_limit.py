"""The limit in a real gateway process: at a real llama.cpp, and at a server that thrashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

import parts
from gateways import RunningGateway
from thrashing import ThrashingLlama

pytestmark = pytest.mark.real

BODY = {"model": "any", "stream": True, "max_tokens": 12,
        "messages": [{"role": "user", "content": "Tell me about the sea."}]}  # fmt: skip


class Crowd:
    """Clients that ask again and again, and what the status told meanwhile."""

    def __init__(self, gateway: RunningGateway, size: int) -> None:
        self.gateway = gateway
        self.size = size
        self.answers = 0
        self.failed: list[str] = []
        self.limits: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(base_url=self.gateway.url, timeout=60.0, trust_env=False)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self.size)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def _ask(self) -> None:
        while True:
            answer = await self._http.post("/v1/chat/completions", json=BODY)
            if answer.status_code == 200 and "[DONE]" in answer.text:
                self.answers += 1
            else:
                self.failed.append(answer.text)

    async def concurrency(self) -> dict[str, Any]:
        """What the status tells of the only upstream's concurrency."""
        status = (await self._http.get("/penstock/status")).json()
        found: dict[str, Any] = status["upstreams"][0]["concurrency"]
        self.limits.append(found["limit"])
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 180.0) -> None:
        """Look until what the status tells is as wanted."""
        async with asyncio.timeout(within_s):
            while not holds(await self.concurrency()):
                await asyncio.sleep(0.05)


def test_a_real_server_with_slots_is_given_its_slots(
    llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Path
) -> None:
    """
    Three times as many clients as slots, hundreds of answers: the limit is the slots, and no more. (Something else
    on the machine may make it look below for a moment.)
    """

    async def main() -> None:
        server = llamacpp(ctx_size=4096, parallel=2)
        settings = {"upstreams": [{"name": "box", "url": server.url}]}
        with RunningGateway(tmp_path, settings) as gateway:
            gateway.chat("hello")
            async with Crowd(gateway, 6) as crowd:
                await crowd.until(lambda _: crowd.answers >= 300)
                now = await crowd.concurrency()
            assert crowd.failed == []
            assert max(crowd.limits) == 2
            assert crowd.limits.count(2) >= 0.8 * len(crowd.limits)
            assert now["ceiling"] == 2
            assert gateway.status()["acts"] == []

    asyncio.run(main())


def test_a_server_that_thrashes_gets_less_and_later_all_again(tmp_path: Path) -> None:
    """Six slots of which three make it thrash: the limit goes down; when the trouble is over it comes back."""

    async def main() -> None:
        async with ThrashingLlama(slots=6, knee=2.0) as server:
            settings = {"upstreams": [{"name": "box", "url": server.url}]}
            with RunningGateway(tmp_path, settings) as gateway:
                async with Crowd(gateway, 12) as crowd:
                    await crowd.until(lambda now: now["limit"] <= 3 and now["source"] == "adapted")
                    await crowd.until(lambda now: now["limit"] == 2)
                    acts = (await crowd._http.get("/penstock/status")).json()["acts"]
                    assert {act["act"] for act in acts} == {"limit_lowered"}
                    assert "at a time" in acts[0]["why"]
                    server.knee = 6.0
                    await crowd.until(lambda now: now["limit"] == 6 and now["source"] == "slots")
                    server.most_at_work = 0
                    before = crowd.answers
                    await crowd.until(lambda _: crowd.answers >= before + 60)
                assert crowd.failed == []
                assert min(crowd.limits) >= 1
                assert max(crowd.limits) <= server.most_at_work <= 6

    asyncio.run(main())
