"""
Try again, and when? One decision per failed attempt (behaviours F, contracts 5).

The rule of each fault stands in `penstock.errors.ERROR_TABLE`; this adds counting, delays and the two
cases that need memory: a server that died on this very request, and one that is loading.

Sources: full jitter, "Exponential Backoff And Jitter" (AWS Architecture Blog); `Retry-After`,
RFC 9110 section 10.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.fault import Fault
from penstock.domain.options import Options, option
from penstock.errors import ERROR_TABLE
from penstock.errors import ErrorCode as E


class RetryPolicy(Options):
    """How often and how patiently. All attempts of a request together, over all upstreams."""

    attempts: int = option(3, effect="Most attempts of one request.", ge=1, le=20)
    first_delay_s: float = option(
        1.0, effect="Delay before the second attempt.", unit="seconds", ge=0
    )
    longest_delay_s: float = option(8.0, effect="Longest delay.", unit="seconds", ge=0)
    factor: float = option(1.5, effect="Each delay is the one before times this.", ge=1, le=10)
    jitter: float = option(
        0.25,
        effect="Share of the delay that is drawn by chance.",
        unit="share",
        reason="Clients that failed together should not come back together.",
        ge=0,
        le=1,
    )


class CloudRetryPolicy(RetryPolicy):
    """The same with other defaults: a class of its own, so that setting one value keeps the others."""

    attempts: int = option(5, effect="Most attempts of one request.", ge=1, le=20)
    first_delay_s: float = option(
        5.0, effect="Delay before the second attempt.", unit="seconds", ge=0
    )
    longest_delay_s: float = option(30.0, effect="Longest delay.", unit="seconds", ge=0)
    factor: float = option(2.0, effect="Each delay is the one before times this.", ge=1, le=10)


LOCAL = RetryPolicy()
CLOUD = CloudRetryPolicy()


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after so many seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class WaitUntilReady:
    """Wait until the server is ready, then try again. `counts`: the failed attempt counts as one."""

    counts: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No more attempts. `fault`: what it turned out to be, when that is something else."""

    why: str
    fault: Fault | None = None


Decision = Retry | WaitUntilReady | GiveUp


def delay_s(attempt: int, jitter: float, policy: RetryPolicy) -> float:
    """
    Delay after attempt number *attempt* (counted from 1).

    min(longest, first * factor ** (attempt - 1)), of which the share `policy.jitter` is drawn:
    times (1 - policy.jitter * jitter), with *jitter* in [0, 1).
    """
    # The exponent is bounded: float ** 2000 overflows.
    grown = policy.first_delay_s * policy.factor ** min(attempt - 1, 60)
    return min(policy.longest_delay_s, grown) * (1.0 - policy.jitter * jitter)


def decide(
    fault: Fault,
    *,
    attempt: int,
    jitter: float,
    policy: RetryPolicy,
    relayed: bool = False,
    deaths: int = 0,
) -> Decision:
    """
    Decide what to do after attempt number *attempt* at a local upstream failed.

    Args:
        fault: what went wrong.
        attempt: attempts that count, made so far, from 1.
        jitter: a number in [0, 1), drawn by the caller.
        relayed: something went to the client already.
        deaths: how often the server died (dropped a fresh connection without a byte) on this request.
    """
    if relayed:
        return GiveUp("part of the answer went to the client already")
    rule = ERROR_TABLE[fault.code].retry
    # 1. A server that dies on a request twice dies of it: nothing but its memory explains that.
    if fault.code is E.UPSTREAM_UNREACHABLE and fault.phase not in ("connect", "send"):
        if deaths >= 2:
            return GiveUp(
                "the server died twice on this request",
                Fault(
                    E.OUT_OF_MEMORY,
                    "the server died twice while it worked on this request, "
                    "which is what running out of memory looks like",
                    phase=fault.phase,
                    matched="second death",
                ),
            )
        return WaitUntilReady(counts=True) if attempt < policy.attempts else _spent(attempt)
    # 2. Loading is not an error, and waiting for it is no attempt.
    if rule == "readiness":
        return (
            GiveUp("the load limit passed")
            if fault.phase == "load" and "limit" in fault.matched
            else WaitUntilReady(counts=False)
        )
    # 3. What would only fail again.
    if rule == "never" or rule == "once_refit":
        return GiveUp(f"{fault.code.value} would only happen again")
    if fault.code in (E.UPSTREAM_ERROR, E.BAD_ANSWER) and not fault.transient:
        return GiveUp("this kind of failure does not pass by itself")
    if rule == "once" and attempt >= 2:
        return GiveUp("it was tried once more already")
    if attempt >= policy.attempts:
        return _spent(attempt)
    # 4. Whoever asks for a longer pause than the policy has gets the answer back at once.
    if fault.retry_after_s is not None and fault.code in (E.UPSTREAM_OVERLOADED, E.RATE_LIMITED):
        if fault.retry_after_s > policy.longest_delay_s:
            return GiveUp("the upstream asks for a longer pause than the policy allows")
        return Retry(max(fault.retry_after_s, 0.0))
    return Retry(delay_s(attempt, jitter, policy))


def decide_cloud(
    fault: Fault, *, attempt: int, jitter: float, policy: RetryPolicy
) -> Retry | GiveUp:
    """The same for a cloud upstream, before the first byte: statuses and connections only."""
    if attempt >= policy.attempts:
        return _spent(attempt)
    if fault.code in (E.UPSTREAM_BAD_REQUEST, E.FIRST_TOKEN_TIMEOUT, E.BAD_ANSWER):
        return GiveUp(f"{fault.code.value} would only happen again")
    if fault.retry_after_s is not None:
        if fault.retry_after_s > policy.longest_delay_s:
            return GiveUp("the upstream asks for a longer pause than the policy allows")
        return Retry(fault.retry_after_s)
    return Retry(delay_s(attempt, jitter, policy))


def _spent(attempt: int) -> GiveUp:
    return GiveUp(f"{attempt} attempts are all that the policy allows")
