"""What is found at an upstream, what is done about it, and how often at most."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.pressure import Pressure
from penstock.health import (
    SMALLEST_WINDOW,
    Act,
    Done,
    HealthOptions,
    Offers,
    Reading,
    Seen,
    find,
    propose,
    within_bounds,
)

OPTIONS = HealthOptions()
ALL = Offers(unload=True, load=True, smaller_window=True, restart=True)
WELL = Reading(answered=True, response_s=0.01)
BIG = Seen("big", "loaded", 32_768, rested_s=500.0, memory_bytes=1)
SMALL = Seen("small", "loaded", 8_192, rested_s=5.0, memory_bytes=1)


def names(reading: Reading) -> list[str]:
    """Findings by name."""
    return [finding.name for finding in find(reading, OPTIONS)]


def done(reading: Reading, offers: Offers = ALL) -> list[tuple[str, str, int | None]]:
    """Proposed acts: kind, model, window."""
    return [(act.kind, act.model, act.window) for act in propose(reading, offers, OPTIONS)]


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        pytest.param(WELL, [], id="well"),
        pytest.param(replace(WELL, answered=False, refused_checks=1), ["unreachable"], id="nobody listens"),
        pytest.param(replace(WELL, answered=False, silent_checks=1), ["slow"], id="silent once"),
        pytest.param(replace(WELL, answered=False, silent_checks=3), ["hung"], id="silent three times"),
        pytest.param(
            replace(WELL, answered=False, silent_checks=9, at_work=1), ["slow"], id="silent, and at work"
        ),
        pytest.param(replace(WELL, ready=False), ["loading"], id="it loads"),
        pytest.param(replace(WELL, response_s=2.5), ["slow"], id="a slow answer"),
        pytest.param(replace(WELL, requests=20, errors=2), [], id="a tenth of errors"),
        pytest.param(replace(WELL, requests=20, errors=3), ["errors"], id="more than a tenth"),
        pytest.param(replace(WELL, requests=4, errors=4), [], id="too few requests to tell"),
        pytest.param(replace(WELL, pressure=Pressure.PRESSURE, used_share=0.85), ["memory"], id="short of memory"),
        pytest.param(replace(WELL, pressure=Pressure.HEAVY), [], id="not our machine's memory"),
        pytest.param(replace(WELL, memory_wanted=True), ["memory"], id="a request waits for memory"),
        pytest.param(replace(WELL, ran_out_of_memory=True), ["out_of_memory"], id="ran out of memory"),
        pytest.param(replace(WELL, models=(Seen("m", "failed"),)), ["model_failed"], id="a model's process ended"),
        pytest.param(
            replace(WELL, answered=False, refused_checks=9, away=True), [], id="away on purpose"
        ),
    ],
)  # fmt: skip
def test_findings(reading: Reading, expected: list[str]) -> None:
    """What is not as it should be is found, and nothing is while an upstream is away on purpose."""
    assert names(reading) == expected


SHORT = replace(WELL, pressure=Pressure.PRESSURE, used_share=0.85, models=(BIG, SMALL))
HEAVY = replace(SHORT, pressure=Pressure.HEAVY, used_share=0.95)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        pytest.param(replace(WELL, models=(BIG, SMALL)), [], id="calm: nothing"),
        pytest.param(SHORT, [("unload", "big", None)], id="the one that rested longest"),
        pytest.param(replace(SHORT, models=(SMALL,)), [], id="the one used last stays"),
        pytest.param(
            replace(SHORT, models=(replace(BIG, requests=1), SMALL)), [("unload", "small", None)],
            id="the others of one at work",
        ),
        pytest.param(
            replace(SHORT, models=(replace(BIG, requests=1), replace(SMALL, requests=1))), [], id="all at work"
        ),
        pytest.param(
            replace(SHORT, models=(replace(BIG, memory_bytes=0), replace(SMALL, rested_s=900.0), Seen("c", "loaded", 1, rested_s=1.0))),
            [("unload", "small", None)], id="what lies on the GPU frees nothing",
        ),
        pytest.param(replace(SHORT, models=(replace(BIG, status=""), replace(SMALL, status=""))), [], id="a server that is its model"),
        pytest.param(
            replace(HEAVY, models=(replace(SMALL, rested_s=61.0),)), [("unload", "small", None)],
            id="heavy: the last one too, once it has rested",
        ),
        pytest.param(
            replace(HEAVY, models=(replace(BIG, requests=1),)), [("shrink", "big", 16_384)],
            id="heavy and none idle: a smaller window",
        ),
        pytest.param(
            replace(HEAVY, models=(replace(BIG, requests=1, window_is_fixed=True),)), [], id="the user's window stays"
        ),
        pytest.param(
            replace(HEAVY, models=(replace(BIG, requests=1, window=SMALLEST_WINDOW),)), [], id="no window below the smallest"
        ),
        pytest.param(
            replace(HEAVY, ran_out_of_memory=True, models=(replace(BIG, ran_out=True), SMALL)),
            [("unload", "big", None), ("shrink", "big", 16_384)], id="after out of memory: both, for the model that ran out",
        ),
        pytest.param(
            replace(WELL, ran_out_of_memory=True, pressure=Pressure.HEAVY, models=(Seen("big", "unloaded", 6_000, ran_out=True),)),
            [("shrink", "big", 4_096)], id="also one that never came to be loaded",
        ),
        pytest.param(
            replace(WELL, memory_wanted=True, models=(BIG, SMALL)), [("unload", "big", None)], id="a request waits for memory"
        ),
        pytest.param(
            replace(HEAVY, used_share=0.4, models=(BIG, replace(SMALL, requests=1))), [("unload", "big", None)],
            id="another server here ran out: an idle model is let go",
        ),
        pytest.param(
            replace(HEAVY, used_share=0.4, models=(replace(BIG, requests=1),)), [], id="another ran out: windows stay"
        ),
        pytest.param(replace(WELL, models=(Seen("m", "failed"),)), [("load", "m", None)], id="failed: loaded again"),
        pytest.param(replace(WELL, answered=False, refused_checks=1), [], id="refused once may be a moment"),
        pytest.param(replace(WELL, answered=False, refused_checks=2), [("restart", "", None)], id="dead"),
        pytest.param(replace(WELL, answered=False, silent_checks=2), [], id="silent twice"),
        pytest.param(replace(WELL, answered=False, silent_checks=3), [("restart", "", None)], id="hung"),
        pytest.param(replace(WELL, answered=False, silent_checks=3, at_work=1), [], id="silent in a long prefill"),
        pytest.param(replace(WELL, answered=False, refused_checks=5, away=True), [], id="away on purpose"),
    ],
)  # fmt: skip
def test_acts(reading: Reading, expected: list[tuple[str, str, int | None]]) -> None:
    """The mildest thing that may help is proposed, and nothing that would harm a request at work."""
    assert done(reading) == expected


def test_only_what_is_offered() -> None:
    """A server that offers nothing is left alone, and so is everything when it is switched off."""
    ill = replace(
        HEAVY, ran_out_of_memory=True, models=(replace(BIG, ran_out=True), Seen("m", "failed"))
    )
    assert done(ill, Offers()) == []
    assert done(replace(WELL, answered=False, refused_checks=5), Offers()) == []
    assert len(done(ill)) == 3
    assert propose(ill, ALL, HealthOptions(remediate=False)) == ()


ACT = Act("unload", "memory", "m")


def test_the_pause_grows() -> None:
    """The same act waits two minutes after the first time, then four, then eight."""
    times, history, now_s = [], [], 0.0
    while now_s < 3000:
        if within_bounds([ACT], history, now_s, OPTIONS):
            history.append(Done("unload", "m", now_s))
            times.append(now_s)
        now_s += 10
    assert times == [0, 120, 360, 840, 1800]


def test_another_model_does_not_wait() -> None:
    """The pause is one act's on one model; the bound per hour is all of an upstream's."""
    history = [Done("unload", str(number), 0.0) for number in range(5)]
    sixth = Act("unload", "memory", "5")
    assert within_bounds([sixth], history, 1.0, OPTIONS) == (sixth,)
    assert within_bounds([sixth, ACT], history, 1.0, OPTIONS) == (sixth,)
    assert within_bounds([ACT], [*history, Done("unload", "5", 1.0)], 3000.0, OPTIONS) == ()
    assert within_bounds([ACT], [*history, Done("unload", "5", 1.0)], 3700.0, OPTIONS) == (ACT,)


@given(
    asked=st.lists(
        st.tuples(
            st.floats(0, 60), st.sampled_from(["unload", "restart"]), st.sampled_from(["", "m"])
        ),
        max_size=200,
    )
)
def test_no_storm(asked: list[tuple[float, str, str]]) -> None:
    """However often something is proposed, no hour sees more than six acts of a kind."""
    now_s, history = 0.0, []
    for pause_s, kind, model in asked:
        now_s += pause_s
        act = Act(kind, "why", model)  # type: ignore[arg-type]
        for allowed in within_bounds([act], history, now_s, OPTIONS):
            history.append(Done(allowed.kind, allowed.model, now_s))
    for kind in ("unload", "restart"):
        times = [one.at_s for one in history if one.kind == kind]
        for start in times:
            assert sum(start <= at < start + 3600 for at in times) <= OPTIONS.most_acts_per_hour
