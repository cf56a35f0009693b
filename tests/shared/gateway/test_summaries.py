"""Summaries of what cuts left out: how many are on their way, and how many are kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.gateway.conversations import summaries as module
from penstock.gateway.conversations.summaries import Summaries


def test_few_summaries_are_on_their_way_at_a_time() -> None:
    """Each holds a conversation; a server that is never idle lets them wait for minutes."""

    async def main() -> None:
        tasks: list[asyncio.Task[Any]] = []

        def spawn(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
            tasks.append(asyncio.create_task(work, name=name))
            return tasks[-1]

        nothing = cast("Any", None)
        summaries = Summaries(nothing, spawn, nothing, nothing, b"")
        busy = cast("Any", SimpleNamespace(limiter=SimpleNamespace(free=0, waiting=1)))
        for number in range(500):
            dropped = [{"role": "user", "content": "x"}]
            summaries.want("me", f"{number}", dropped, busy, nothing, nothing)
        assert 0 < len(tasks) <= 64
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        summaries.want("me", "late", dropped, busy, nothing, nothing)
        assert tasks[-1].cancel()  # there is room again
        await asyncio.gather(tasks[-1], return_exceptions=True)

    asyncio.run(main())


def test_a_folder_of_summaries_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go; a file of the user's stays."""
    monkeypatch.setattr(module, "_MOST_FILES", 8)
    nothing = cast("Any", None)
    summaries = Summaries(nothing, nothing, nothing, nothing, b"")
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    for number in range(20):
        summaries._keep(f"{number:032x}", "text", str(tmp_path))
        os.utime(tmp_path / f"{number:032x}.txt", (number, number))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) <= 9
    assert names[-2:] == [f"{19:032x}.txt", "notes.txt"]
