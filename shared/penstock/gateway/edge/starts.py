"""
When many requests come in the same moment, answers are read between their starts.

An event loop would do the first part of all of them before it looks at the sockets again: the first
answer would wait until the last request was sent. So what exceeds a handful is started a few at a time, in
one round of the loop after the other, first come first served. The handful itself starts at once: each
further round costs as much as a fifth of a small request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

_AT_ONCE = 16
_A_FEW = 4

Work = Coroutine[Any, Any, Any]


class Starts:
    """Belongs to one server; all of its connections share it."""

    __slots__ = ("_left", "_waiting")

    def __init__(self) -> None:
        self._left = _AT_ONCE
        self._waiting: deque[tuple[set[asyncio.Task[Any]], Work]] = deque()

    def add(
        self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]], work: Work
    ) -> None:
        """
        Start *work* as a task, now or in one of the next rounds.

        Args:
            tasks: keeps the task as long as it runs.
        """
        if self._left == _AT_ONCE:
            loop.call_soon(self._next_round, loop)
        if self._left:
            self._left -= 1
            _start(loop, tasks, work)
        else:
            self._waiting.append((tasks, work))

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting
        if not waiting:
            self._left = _AT_ONCE
            return
        self._left = 0  # whoever comes now stands behind those who wait
        loop.call_soon(self._next_round, loop)
        for _ in range(min(_A_FEW, len(waiting))):
            _start(loop, *waiting.popleft())


def _start(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]], work: Work) -> None:
    task = loop.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
