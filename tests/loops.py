"""Runs a test on asyncio's own loop and on uvloop: they differ in more than speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None


def run_on(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    """`asyncio.run` on another kind of loop, for at most 30 seconds."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(30):
                return await main

        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(bounded())

    return run


on_both_loops = pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_on(asyncio.new_event_loop), id="asyncio"),
        *([pytest.param(run_on(uvloop.new_event_loop), id="uvloop")] if uvloop else []),
    ],
)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until *condition* holds; a test that relies on it fails when it never does."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)
