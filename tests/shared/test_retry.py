"""Try again, and when (behaviours F2 to F4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.fault import Fault
from penstock.errors import ERROR_TABLE, ErrorCode
from penstock.retry import (
    CLOUD,
    LOCAL,
    Decision,
    GiveUp,
    Retry,
    RetryPolicy,
    WaitUntilReady,
    decide,
    decide_cloud,
    delay_s,
)

FAULTS = [code for code, row in ERROR_TABLE.items() if row.blame == "upstream"]


def after(code: str, attempt: int = 1, **more: object) -> Decision:
    """The decision without jitter."""
    known = {
        k: v
        for k, v in more.items()
        if k in ("status", "phase", "retry_after_s", "transient", "matched")
    }
    fault = Fault(ErrorCode(code), "x", **known)  # type: ignore[arg-type]
    return decide(
        fault, attempt=attempt, jitter=0.0, policy=LOCAL,
        relayed=bool(more.get("relayed")), deaths=int(str(more.get("deaths", 0))),
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    ["out_of_memory", "model_missing", "context_length_exceeded", "upstream_bad_request", "upstream_auth",
     "unsupported_input", "first_token_timeout", "stall_timeout"],
)  # fmt: skip
def test_what_is_never_repeated(code: str) -> None:
    """It would only happen again, or compute a long prompt twice."""
    assert isinstance(after(code), GiveUp)


@pytest.mark.parametrize(
    ("code", "more"),
    [
        pytest.param("upstream_unreachable", {"phase": "connect"}, id="refused"),
        pytest.param("upstream_overloaded", {}, id="overloaded"),
        pytest.param("rate_limited", {}, id="rate limited"),
        pytest.param("connect_timeout", {"phase": "connect"}, id="connect time-out"),
        pytest.param("upstream_error", {"status": 500}, id="server error"),
        pytest.param("broken_stream", {}, id="broken before anything was relayed"),
        pytest.param("bad_answer", {}, id="bad answer"),
    ],
)
def test_what_is_repeated_by_policy(code: str, more: dict[str, object]) -> None:
    """Three attempts, after 1 s and 1.5 s, then no more."""
    assert after(code, 1, **more) == Retry(1.0)
    assert after(code, 2, **more) == Retry(1.5)
    assert isinstance(after(code, 3, **more), GiveUp)


@pytest.mark.parametrize("code", ["grammar_refused", "unparseable_generation"])
def test_what_is_repeated_once(code: str) -> None:
    """Two attempts."""
    assert after(code, 1) == Retry(1.0)
    assert isinstance(after(code, 2), GiveUp)


@pytest.mark.parametrize("code", FAULTS)
def test_nothing_is_repeated_once_relayed(code: ErrorCode) -> None:
    """A client would get the beginning twice."""
    assert isinstance(after(code, relayed=True), GiveUp)


def test_loading_waits_and_does_not_count() -> None:
    """As often as it takes; the load limit is another clock."""
    assert after("upstream_loading", 1) == WaitUntilReady(counts=False)
    assert after("upstream_loading", 99) == WaitUntilReady(counts=False)
    assert isinstance(after("upstream_loading", phase="load", matched="load limit"), GiveUp)


def test_a_server_that_dies_on_a_request_gets_one_more_chance() -> None:
    """After it is ready again; a second death is its memory."""
    assert after("upstream_unreachable", 1, phase="first_token", deaths=1) == WaitUntilReady(
        counts=True
    )
    second = after("upstream_unreachable", 2, phase="first_token", deaths=2)
    assert isinstance(second, GiveUp)
    assert second.fault is not None
    assert second.fault.code is ErrorCode.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("asked_s", "expected"),
    [(0.0, Retry(0.0)), (2.0, Retry(2.0)), (8.0, Retry(8.0)), (8.1, None), (3600.0, None)],
)
def test_retry_after_up_to_the_longest_delay(asked_s: float, expected: Retry | None) -> None:
    """Beyond it the answer goes back at once."""
    for code in ("upstream_overloaded", "rate_limited"):
        decision = after(code, retry_after_s=asked_s)
        assert decision == expected if expected else isinstance(decision, GiveUp)


def test_failures_that_do_not_pass_by_themselves() -> None:
    """A server error of a permanent kind is told at once."""
    assert isinstance(after("upstream_error", transient=False), GiveUp)


@given(st.sampled_from(FAULTS), st.integers(1, 100), st.floats(0, 0.999), st.integers(0, 5))
def test_attempts_never_exceed_the_policy(
    code: ErrorCode, attempt: int, jitter: float, deaths: int
) -> None:
    """Whatever fails: at most three attempts that count."""
    decision = decide(Fault(code, "x"), attempt=attempt, jitter=jitter, policy=LOCAL, deaths=deaths)
    if attempt >= LOCAL.attempts:
        assert not isinstance(decision, Retry)
        assert decision != WaitUntilReady(counts=True)


@given(st.integers(1, 10_000), st.floats(0, 0.999), st.floats(1, 10), st.floats(0, 1))
def test_delays_grow_and_stay_bounded(
    attempt: int, jitter: float, factor: float, share: float
) -> None:
    """Never negative, never beyond the longest, however many attempts."""
    policy = RetryPolicy(factor=factor, jitter=share)
    delay = delay_s(attempt, jitter, policy)
    assert 0 <= delay <= policy.longest_delay_s
    assert delay_s(attempt + 1, 0, policy) >= delay_s(attempt, 0, policy)


def test_the_cloud_policy() -> None:
    """5 attempts, 5 s to 30 s, factor 2; Retry-After honoured up to 30 s."""
    fault = Fault(ErrorCode.UPSTREAM_OVERLOADED, "x", status=503)
    delays = [decide_cloud(fault, attempt=n, jitter=0.0, policy=CLOUD) for n in range(1, 6)]
    assert delays[:4] == [Retry(5.0), Retry(10.0), Retry(20.0), Retry(30.0)]
    assert isinstance(delays[4], GiveUp)
    asked = Fault(ErrorCode.RATE_LIMITED, "x", status=429, retry_after_s=12.0)
    assert decide_cloud(asked, attempt=1, jitter=0.0, policy=CLOUD) == Retry(12.0)
    longer = Fault(ErrorCode.RATE_LIMITED, "x", status=429, retry_after_s=31.0)
    assert isinstance(decide_cloud(longer, attempt=1, jitter=0.0, policy=CLOUD), GiveUp)
