"""
The fault matrix with a real server: llama.cpp dies at each stage of twelve requests, one for each dialect, streaming and
plain; and it comes back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import parts
from gateways import RunningGateway
from loops import until
from matrix.fronts import FRONTS, PROMPT, Front, Got, ask

pytestmark = pytest.mark.real

ATTEMPTS = 3
CLIENTS = [(front, streams) for front in FRONTS for streams in (False, True)]
_LONG = "word " * 60
"""So much that it is caught while the prompt is processed."""
_WITHIN_S = 60.0


@dataclass(frozen=True)
class Stage:
    """A slow llama.cpp and a gateway in front of it."""

    server: parts.LlamaCpp
    gateway: RunningGateway

    def stages(self) -> list[str]:
        """Where the requests in flight are."""
        return [one["stage"] for one in self.gateway.status()["requests"]["in_flight"]]

    def is_at_rest(self) -> bool:
        """No request is anywhere."""
        status = self.gateway.status()
        numbers = status["upstreams"][0]["concurrency"]
        left = [numbers[name] for name in ("in_flight", "queued", "ghosts", "held")]
        return not status["requests"]["in_flight"] and not any(left)


@pytest.fixture
def make(tmp_path: Path, llamacpp: Callable[..., parts.LlamaCpp]) -> Iterator[Callable[..., Stage]]:
    """Starts both; *slots* at a time, answers of *tokens*."""
    made: list[RunningGateway] = []

    def start(*, slots: int, tokens: int) -> Stage:
        server = llamacpp("slow", ctx_size=1024 * slots, parallel=slots, batch_size=128)
        settings = {
            "upstreams": [{"name": "box", "url": server.url, "max_concurrency": slots}],
            "limits": {"default_output_tokens": tokens},
            "loop_guard": {"enabled": False},
            # Greedily, this model never says that it is at its end.
            "sampling": {"temperature": 0},
            # What these do is held by tests of their own; twelve deaths at once are many.
            "resume": {"enabled": False},
            "breaker": {"enabled": False},
            "retry": {"local": {"attempts": ATTEMPTS, "first_delay_s": 1.0, "jitter": 0}},
        }
        made.append(RunningGateway(tmp_path / "gateway", settings))
        return Stage(server, made[-1])

    yield start
    for gateway in made:
        gateway.stop()


def _long(front: Front) -> Front:
    body = json.dumps(front.body).replace(json.dumps(PROMPT), json.dumps(_LONG))
    return front._replace(body=json.loads(body))


def _played(
    stage: Stage,
    act: Callable[[list[asyncio.Event]], Coroutine[Any, Any, None]],
    *,
    long: bool = False,
) -> list[Got]:
    """All clients at once, and *act* beside them."""

    async def main() -> list[Got]:
        begun = [asyncio.Event() for _ in CLIENTS]
        async with (
            asyncio.timeout(3 * _WITHIN_S),
            httpx.AsyncClient(base_url=stage.gateway.url, timeout=120.0, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            asked = [
                group.create_task(
                    ask(
                        http, _long(FRONTS[front]) if long else FRONTS[front], "any", streams, event
                    )
                )
                for (front, streams), event in zip(CLIENTS, begun, strict=True)
            ]
            await act(begun)
        return [each.result() for each in asked]

    got = asyncio.run(main())
    asyncio.run(until(stage.is_at_rest, _WITHIN_S))
    assert not [each for each in got if each.broke]
    records = stage.gateway.status()["requests"]["recent"]
    ids = [each.headers["penstock-request-id"] for each in got]
    assert sorted(ids) == sorted(record["id"] for record in records[: len(CLIENTS)])
    assert all(len(record["attempts"]) <= ATTEMPTS for record in records)
    return got


def _in_prefill(stages: list[str]) -> bool:
    return "prefilling" in stages and "streaming" not in stages


def _is_refused(got: Got, code: str) -> bool:
    """An error with a status: nothing of the answer had come."""
    assert got.error is not None, got
    told = (got.error["code"], got.is_event, got.headers["x-should-retry"])
    assert told == (code, False, "false"), got
    assert got.error["attempts"] == ATTEMPTS
    return not got.text


def _is_whole(got: Got) -> bool:
    if got.is_event and got.text:
        return False  # it had begun by then
    assert got.error is None, got.error
    return got.status == 200 and got.is_complete and bool(got.text)


def test_death_in_mid_answer(make: Callable[..., Stage]) -> None:
    """Streams end with an error event of their dialect; plain requests are tried again and told at last."""
    stage = make(slots=len(CLIENTS), tokens=600)

    async def die(begun: list[asyncio.Event]) -> None:
        streams = [e for e, (_, is_stream) in zip(begun, CLIENTS, strict=True) if is_stream]
        await asyncio.wait_for(asyncio.gather(*(e.wait() for e in streams)), _WITHIN_S)
        await until(lambda: stage.stages().count("streaming") == len(CLIENTS), _WITHIN_S)
        stage.server.kill()

    for (_, streams), got in zip(CLIENTS, _played(stage, die), strict=True):
        if not streams:
            assert _is_refused(got, "upstream_unreachable")
            continue
        assert got.status == 200
        assert got.is_event
        assert not got.is_complete
        assert got.error is not None
        assert got.error["code"] == "broken_stream"
        assert got.text


def test_death_in_prefill(make: Callable[..., Stage]) -> None:
    """Nothing has come, so every client gets a status and a code."""
    stage = make(slots=len(CLIENTS), tokens=16)

    async def die(_: list[asyncio.Event]) -> None:
        await until(lambda: _in_prefill(stage.stages()), _WITHIN_S)
        stage.server.kill()

    assert all(_is_refused(got, "upstream_unreachable") for got in _played(stage, die, long=True))


def test_nobody_listens(make: Callable[..., Stage]) -> None:
    """The same for a server that is gone before they ask."""
    stage = make(slots=len(CLIENTS), tokens=16)
    assert stage.gateway.chat().status_code == 200
    stage.server.kill()

    async def wait(_: list[asyncio.Event]) -> None:
        return None

    assert all(_is_refused(got, "upstream_unreachable") for got in _played(stage, wait))


@pytest.mark.parametrize("slots", [len(CLIENTS), 2], ids=["all at once", "most are queued"])
def test_death_and_return(make: Callable[..., Stage], slots: int) -> None:
    """
    A server that dies in prefill and is there again a moment later: everybody gets a whole answer, once. A stream of
    which a part had come already ends with an error event; these are two at most.
    """
    stage = make(slots=slots, tokens=8)

    async def die_and_return(_: list[asyncio.Event]) -> None:
        await until(lambda: _in_prefill(stage.stages()), _WITHIN_S)
        stage.server.kill()
        await asyncio.to_thread(stage.server.restart)

    whole = [_is_whole(got) for got in _played(stage, die_and_return, long=True)]
    assert whole.count(False) <= 2
