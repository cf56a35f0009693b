"""
The end of a request's time at its upstream: what is open is closed, and the permit goes back, at once or when the
server has really stopped; a client that hung up may come back for it.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.runtime import Runtime
from penstock.gateway.steps.admit import leave_behind
from penstock.gateway.steps.ghost import expect_ghost, let_load, outlast
from penstock.gateway.steps.inheritance import Haunted
from penstock.gateway.steps.limiter import Limiter, Permit
from penstock.gateway.steps.opening import Job
from penstock.gateway.steps.prepare import Preparation
from penstock.gateway.steps.translate import Work
from penstock.gateway.upstreams.fleet import UpstreamState


class Run(Protocol):
    """What of `pipeline.LocalRun` is needed here."""

    incoming: Incoming
    exchange: Exchange
    runtime: Runtime
    state: UpstreamState
    ready: Preparation
    permit: Permit | None
    job: Job | None
    work: Work | None


def let_go(run: Run) -> None:
    """Close what is open and give the permit back, at once or when the ghost has ended."""
    permit, job, work = run.permit, run.job, run.work
    run.ready.give_slot_back()
    if permit is None:
        return
    is_loading = job is not None and job.sending is not None
    haunted = Haunted(permit, run.state.limiter, "load" if is_loading else "ghost")
    if job is not None:
        job.hang_up()
    if job is None or not (job.sent or is_loading) or not _goes_on(run, job, haunted):
        haunted.release()
    if work is not None and run.incoming.connection.disconnected:
        leave_behind(run.incoming, run.state, work.raw, haunted)


def _goes_on(run: Run, job: Job, haunted: Haunted) -> bool:
    """Whether the server goes on with it; then the permit is released when that has ended."""
    exchange, state, tuned, runtime = run.exchange, run.state, run.ready.tuned, run.runtime
    if tuned is None:
        return False
    work = expect_ghost(
        state.spec.behaviour,
        streamed=tuned.streams,
        decoding=exchange.first_token_s is not None,
        prompt_tokens=exchange.prefill_total
        or exchange.prompt_tokens_planned
        or tuned.prompt_at_least,
        output_tokens=tuned.output_tokens,
        prefill_tokens_per_s=state.prefill_tokens_per_s,
    )
    ghost = partial(outlast, work, state, runtime.keeper, partial(runtime.at_work, state))
    if job.sending is not None:
        is_wanted = partial(_is_wanted, haunted, state.limiter)
        is_loaded = partial(runtime.keeper.is_loaded, state, exchange.upstream_model)
        grace_s = runtime.settings.timeouts.load_grace_s
        runtime.haunt(haunted, let_load(job.sending, grace_s, is_wanted, is_loaded, ghost))
        return True
    if work.expected_s > 0:
        runtime.haunt(haunted, ghost())
        return True
    return False


def _is_wanted(haunted: Haunted, limiter: Limiter) -> bool:
    """Whether somebody waits for a load whose client is gone."""
    return haunted.has_heir or limiter.waiting > 0
