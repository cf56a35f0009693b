"""Two real llama.cpp servers behind one name: a conversation keeps its server, and outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import parts
from gateways import RunningGateway, until
from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams import endpoints
from scripted import gateway_here

pytestmark = pytest.mark.real


def test_conversations_find_their_cache_and_a_dead_server_is_left(
    llamacpp: Callable[..., parts.LlamaCpp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each later turn is answered from its own server's cache; when that one dies, the other one answers."""
    first = llamacpp(host="127.0.0.1", alias="m", parallel=2)
    second = llamacpp(host="127.0.0.2", alias="m", parallel=2, port=first.port)
    there = ["127.0.0.1", "127.0.0.2"]

    async def addresses_of(_: str) -> tuple[str, ...]:
        return tuple(there)

    monkeypatch.setattr(endpoints, "addresses_of", addresses_of)
    declared = Upstream("server", f"http://pods.test:{first.port}", local=True, endpoints="dns")

    async def scene() -> None:
        async with gateway_here([declared]) as gateway:
            async with asyncio.timeout(20):
                while [s.reachable for s in gateway.runtime.fleet] != [True, True]:
                    await asyncio.sleep(0.02)

            async def ask(turns: list[dict[str, Any]]) -> tuple[str, int]:
                answer = await gateway.chat(messages=turns, max_tokens=4, temperature=0)
                assert answer.status_code == 200, answer.text
                done = gateway.runtime.recorder.recent()[0]
                return done.upstream, done.cached_tokens or 0

            places = set()
            talks = [
                [{"role": "user", "content": f"{n} " + "tell me of rivers " * 20}] for n in range(6)
            ]
            for turns in talks:
                where, _ = await ask(turns)
                places.add(where)
                turns += [
                    {"role": "assistant", "content": "so"},
                    {"role": "user", "content": "and"},
                ]
                again, cached = await ask(turns)
                assert again == where
                assert cached > 40
            assert places == {"server/127.0.0.1", "server/127.0.0.2"}
            second.stop()
            there.remove("127.0.0.2")
            for turns in talks:
                assert (await ask(turns))[0] == "server/127.0.0.1"

    asyncio.run(scene())


def test_a_gateway_process_asks_the_systems_resolver(
    llamacpp: Callable[..., parts.LlamaCpp], tmp_path: Any
) -> None:
    """With `endpoints: dns` in its settings file, a name of this machine leads to a member."""
    server = llamacpp(alias="m")
    settings = {
        "upstreams": [
            {"name": "server", "url": f"http://localhost:{server.port}", "local": True, "endpoints": "dns"}
        ]
    }  # fmt: skip
    with RunningGateway(tmp_path / "gateway", settings) as gateway:
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert gateway.http.post("/v1/chat/completions", json=chat).status_code == 200
        token = {"penstock-admin-token": gateway.token}

        def shown() -> list[dict[str, Any]]:
            return list(gateway.http.get("/penstock/status", headers=token).json()["upstreams"])

        until(lambda: any(u["state"] == "ok" for u in shown()))
        assert {"server/127.0.0.1"} <= {u["name"] for u in shown() if u["member_of"] == "server"}
