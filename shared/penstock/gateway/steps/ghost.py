"""
Ghost work: what a server goes on computing after its client hung up.

The permit is not free when the caller left but when the server has really stopped (contracts 4 and
design 3). Some servers notice a closed stream at once, some only between batches, some compute a prompt
to its end; giving their slot away at once would only queue the next request inside the server, unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.adapters.transport import TransportError, UpstreamResponse
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.servers.base import Behaviour

_POLL_S = 0.1
_POLL_LATER_S = 1.0
_LONGEST_S = 120.0
_LONGEST_BUSY_S = 900.0
"""A server that says it is busy is believed for so long: no client waits longer for a whole answer."""
_ASSUMED_PREFILL_TOKENS_PER_S = 250.0


class SlotReader(Protocol):
    """Asks a server how many of its slots are working."""

    async def busy_slots(self, state: UpstreamState) -> int | None:
        """None when the server does not say."""


@dataclass(frozen=True, slots=True)
class GhostWork:
    """
    What may go on after a hang-up.

    Attributes:
        expected_s: how long at most, by what is known; 0 when nothing goes on.
        ask: whether the server can be asked when it ends.
    """

    expected_s: float
    ask: bool


def expect_ghost(
    behaviour: Behaviour,
    *,
    streamed: bool,
    decoding: bool,
    prompt_tokens: int,
    output_tokens: int | None,
    prefill_tokens_per_s: float | None,
) -> GhostWork:
    """
    What a server goes on with when the upstream connection is closed now.

    Args:
        behaviour: of its kind, measured or documented.
        streamed: the upstream connection was a stream.
        decoding: the first token was there.
        prompt_tokens: tokens of the prompt, at least.
        output_tokens: the output budget, None when nothing bounds it.
        prefill_tokens_per_s: measured on this upstream, None when never measured.
    """
    can_ask = behaviour.busy_probe is not None
    if streamed:
        if decoding and behaviour.notices_hangup_decoding:
            return GhostWork(0.0, False)
        if not decoding and behaviour.notices_hangup_prefill:
            # Noticed after the running batch: a short while, and the server can be asked.
            return GhostWork(10.0 if can_ask else 2.0, can_ask)
    elif not behaviour.plain_ignores_hangup:
        return GhostWork(0.0 if decoding else 1.0, can_ask)
    rate = prefill_tokens_per_s or _ASSUMED_PREFILL_TOKENS_PER_S
    expected_s = prompt_tokens / rate
    if not streamed:
        expected_s += (output_tokens or 1024) / max(10.0, rate / 10.0)
    return GhostWork(min(max(expected_s, 1.0), _LONGEST_S), can_ask)


async def outlast(
    work: GhostWork, state: UpstreamState, reader: SlotReader, others: Callable[[], int]
) -> None:
    """
    Wait until the ghost has ended: by the server's word where it can be asked, for at most 15 minutes, else
    for as long as was expected.

    Args:
        others: tells how many requests of ours run there now and keep slots busy for a reason.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + work.expected_s
    longest = max(deadline, loop.time() + _LONGEST_BUSY_S)
    state.ghosts += 1
    try:
        while True:
            is_late = loop.time() >= deadline
            await asyncio.sleep(_POLL_LATER_S if is_late else _POLL_S)
            busy = await reader.busy_slots(state) if work.ask else None
            if busy is not None and busy <= others():
                return
            if loop.time() >= (deadline if busy is None else longest):
                return
    finally:
        state.ghosts -= 1


async def let_load(
    sending: asyncio.Task[UpstreamResponse],
    grace_s: float,
    is_wanted: Callable[[], bool],
    is_loaded: Callable[[], Awaitable[bool]],
    ghost: Callable[[], Awaitable[None]],
) -> None:
    """
    Hold a request open whose client left while the server loads for it: a while, since many a client that gives up
    asks again, and for as long as somebody waits for that load.

    Args:
        sending: the request; a server like this answers with the first token and throws a load away when the
            connection closes.
        grace_s: how long whoever waits; 0 closes at once.
        is_wanted: whether somebody waits for the load.
        is_loaded: whether there was nothing to load any more: then it works on the prompt, and goes on.
        ghost: outlasts that work.
    """
    if grace_s > 0:
        await asyncio.wait({sending}, timeout=grace_s)
        while not sending.done() and is_wanted():
            await asyncio.wait({sending}, timeout=_POLL_LATER_S)
    had_begun = sending.done()
    if not had_begun:
        sending.cancel()
    try:
        (await sending).close()
    except (TransportError, asyncio.CancelledError):
        pass
    if not had_begun and await is_loaded():
        await ghost()
