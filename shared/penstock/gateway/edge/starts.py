"""
Requests are started a few at a time, so that answers are read in between.

When many requests come in the same moment, an event loop would do the first part of all of them before it
looks at the sockets again: the first answer would wait until the last request was sent. So a few are
started in each round of the loop, and the others wait for the next one, first come first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

_IN_ONE_ROUND = 1

Work = Coroutine[Any, Any, Any]


class Starts:
    """Belongs to one server; all of its connections share it."""

    __slots__ = ("_left", "_waiting")

    def __init__(self) -> None:
        self._left = _IN_ONE_ROUND
        self._waiting: deque[tuple[set[asyncio.Task[Any]], Work]] = deque()

    def add(
        self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]], work: Work
    ) -> None:
        """
        Start *work* as a task, now or in one of the next rounds.

        Args:
            tasks: keeps the task as long as it runs.
        """
        if self._left == _IN_ONE_ROUND:
            loop.call_soon(self._next_round, loop)
        if self._left:
            self._left -= 1
            _start(loop, tasks, work)
        else:
            self._waiting.append((tasks, work))

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting
        self._left = _IN_ONE_ROUND
        if not waiting:
            return
        loop.call_soon(self._next_round, loop)
        while waiting and self._left:
            self._left -= 1
            _start(loop, *waiting.popleft())


def _start(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]], work: Work) -> None:
    task = loop.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
