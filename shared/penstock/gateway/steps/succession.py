"""
Who goes on with an answer that broke off: the same upstream once it is back, or another one with the same model.

"The same" is what a proof holds for (`gateway.upstreams.proving`): server kind and version, model, template. A
server that was restarted as something else goes on with nothing. Another upstream is asked when it has a permit
free at this moment: a broken answer waits in no second queue.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from penstock import resume
from penstock.adapters.transport import UpstreamRequest, UpstreamTransport
from penstock.breaker import Pass
from penstock.concurrency import Ask
from penstock.errors import Refused
from penstock.gateway.conversations.slots import with_slot
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.limiter import Permit
from penstock.gateway.steps.opening import Means
from penstock.gateway.steps.prepare import Preparation
from penstock.gateway.steps.translate import Work
from penstock.gateway.steps.tune import Tuned
from penstock.gateway.steps.upstream_headers import headers_for
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.proving import Identity, identity

_POLL_S = 0.25


class Run(Protocol):
    """What of `pipeline.LocalRun` is needed here."""

    incoming: Incoming
    exchange: Exchange
    runtime: Runtime
    transport: UpstreamTransport
    state: UpstreamState
    ready: Preparation

    @property
    def tuned(self) -> Tuned:
        """The request as it is sent."""

    def ask(self) -> Ask:
        """What it asks of admission."""

    def move_to(self, state: UpstreamState, passed: Pass, permit: Permit) -> None:
        """Another upstream goes on with the request."""


def means_of(run: Run, work: Work) -> Means | None:
    """How this request's answer is continued if it breaks off; None where it is not."""
    proofs, tuned, profile = run.runtime.proofs, run.tuned, run.exchange.profile
    if proofs is None or profile is None or not (tuned.streams and work.is_chat):
        return None
    state = run.state
    proven = proofs.of(state, profile)
    if not proven or not run.runtime.settings.resume.enabled or resume.obstacle(work.body):
        return None
    model, key = run.exchange.upstream_model, identity(state, profile)
    return Means(
        tuned.body,
        proven,
        partial(_ready_again, run, model, key),
        partial(_request, run),
        run.transport,
        ndjson=tuned.chat is not None,
    )


def have_proven(run: Run, work: Work) -> None:
    """An answer was complete: when all is quiet, find out whether one that is not could be continued."""
    proofs, tuned, profile = run.runtime.proofs, run.tuned, run.exchange.profile
    settings = run.runtime.settings
    if proofs is None or profile is None or not (tuned.streams and work.is_chat):
        return
    if settings.resume.enabled:
        proofs.want(run.state, profile, tuned.body, settings)


def _request(run: Run, state: UpstreamState, body: bytes) -> UpstreamRequest:
    path = run.tuned.path
    slot = run.ready.take_slot() if state is run.state else None
    return UpstreamRequest(
        b"POST",
        (state.prefix + path).encode("ascii"),
        headers_for(run.incoming, state, path, run.runtime.via),
        body if slot is None else with_slot(body, slot),
    )


async def _ready_again(run: Run, model: str, key: Identity, wait_s: float) -> UpstreamState | None:
    """The upstream that goes on; None when there is none in time. A load may take as long as its clock lets it."""
    loop = asyncio.get_running_loop()
    keeper, state = run.runtime.keeper, run.state
    give_up_s = loop.time() + wait_s
    while True:
        ready = await keeper.wait_until_ready(state) and await keeper.look_anew(state)
        if ready and _is(state, model, key):
            return state
        other = await _other(run, model, key)
        if other is not None:
            return other
        if ready or loop.time() >= give_up_s:
            return None
        await asyncio.sleep(_POLL_S)


def _is(state: UpstreamState, model: str, key: Identity) -> bool:
    profile = state.profile(model)
    return profile is not None and identity(state, profile) == key


async def _other(run: Run, model: str, key: Identity) -> UpstreamState | None:
    now_s = asyncio.get_running_loop().time()
    for state in run.runtime.fleet.states.values():
        if (
            state is not run.state
            and state.is_local
            and state.takes_requests(now_s)
            and state.ready
            and state.limiter.free
            and not state.gate.bypassed
            and _is(state, model, key)
        ):
            try:
                permit = await state.limiter.acquire(run.ask(), deadline_s=1.0)
            except Refused:
                continue
            passed = state.breaker.ask(now_s)
            if passed is None:
                permit.release()
                continue
            run.move_to(state, passed, permit)
            return state
    return None
