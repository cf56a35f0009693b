"""Step 9, for the breaker: how a request ended is told to it once."""

from __future__ import annotations

import asyncio
import random

from penstock.breaker import Pass
from penstock.domain.fault import Outcome
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState


def teach_breaker(
    runtime: Runtime, state: UpstreamState, passed: Pass, exchange: Exchange, why: str
) -> None:
    """
    Tell the breaker of *state* what became of a request.

    Args:
        passed: what it was let through by.
        why: the fault in words, "" where there was none.
    """
    breaker, now_s = state.breaker, asyncio.get_running_loop().time()
    if exchange.outcome is Outcome.DROPPED and not state.comes_back:
        _failed(runtime, state, passed, why)
    elif (
        exchange.outcome is Outcome.DROPPED
        and state.supervised is not None
        and state.supervised.is_suspected
    ):
        runtime.spawn(_failed_if_alive(runtime, state, passed, why), "breaker lesson")
    elif exchange.outcome is Outcome.SUCCESS:
        if breaker.succeeded(passed, now_s) is not None:
            runtime.breaker_closed(state)
    else:
        # A client that hung up, or that was at fault itself: a server that is broken answers these as well.
        breaker.taught_nothing(passed)


def _failed(runtime: Runtime, state: UpstreamState, passed: Pass, why: str) -> None:
    now_s = asyncio.get_running_loop().time()
    opened = state.breaker.failed(passed, why, now_s, random.random())
    if opened is not None:
        runtime.breaker_opened(state, opened)


async def _failed_if_alive(runtime: Runtime, state: UpstreamState, passed: Pass, why: str) -> None:
    """A server of ours that has died is restarted and was not at fault; one that lives on was."""
    assert state.supervised is not None
    await state.supervised.settled()
    if state.comes_back:
        state.breaker.taught_nothing(passed)
    else:
        _failed(runtime, state, passed, why)


def answer_began(runtime: Runtime, state: UpstreamState, passed: Pass | None) -> Pass | None:
    """
    The upstream has begun to answer: a probe has shown by that what it was to show, and nobody else waits for the
    end of an answer that may take minutes. How the answer ends counts like that of any other request.

    Returns:
        what the request is let through by from now on.
    """
    if passed is None or not passed.is_probe:
        return passed
    now_s = asyncio.get_running_loop().time()
    if state.breaker.succeeded(passed, now_s) is not None:
        runtime.breaker_closed(state)
    return state.breaker.ask(now_s)
