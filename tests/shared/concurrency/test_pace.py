"""What requests show of their server's pace, whatever they were about."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.concurrency.pace import NO_PREFILL, Prefill, Seen, compare, fit_prefill


def seen(
    prompt: float, *, rate: float = 1000.0, fixed_s: float = 0.05, answer: int = 100, level: int = 4
) -> Seen:
    """A request to a server with this prefill rate."""
    return Seen(fixed_s + prompt / rate, prompt, 0.02, answer, level)


@given(
    st.floats(0.0, 5.0),
    st.floats(1e-5, 0.1),
    st.lists(st.floats(1.0, 100_000.0), min_size=8, max_size=30, unique_by=lambda v: v // 50),
)
def test_the_cost_of_a_prompt_token_is_found(
    fixed_s: float, token_s: float, prompts: list[float]
) -> None:
    """From a few requests of different lengths, exactly where nothing disturbs."""
    group = [Seen(fixed_s + token_s * prompt, prompt, None, 0, 1) for prompt in prompts]
    found = fit_prefill(group)
    if found is not NO_PREFILL:
        assert found.token_s == pytest.approx(token_s, rel=1e-3)
        assert found.fixed_s == pytest.approx(fixed_s, abs=1e-3 + 1e-3 * token_s * max(prompts))


def test_nonsense_in_between_does_no_harm() -> None:
    """A quarter of the requests waited behind something, or were counted wrongly."""
    rng = random.Random(4)
    group = []
    for number in range(40):
        prompt = rng.uniform(50, 5000)
        wrong = number % 4 == 0
        group.append(
            Seen(
                (0.1 + prompt / 500) * rng.lognormvariate(0, 0.1) + (60.0 if wrong else 0.0),
                prompt * (10 if wrong and number % 8 == 0 else 1), None, 0, 1,
            )
        )  # fmt: skip
    assert fit_prefill(group).token_s == pytest.approx(1 / 500, rel=0.25)


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param([], id="nothing"),
        pytest.param([500.0] * 30, id="all alike"),
        pytest.param([500.0, 505.0] * 15, id="nearly alike"),
        pytest.param([0.0] * 30, id="all cached"),
    ],
)
def test_without_difference_there_is_no_correction(prompts: list[float]) -> None:
    """Prompts that are all alike tell nothing of the cost of a token."""
    assert fit_prefill([seen(prompt) for prompt in prompts]) is NO_PREFILL


def test_a_longer_prompt_is_no_slowness() -> None:
    """Twenty times the prompt at the same rate is the same pace, once it is corrected for; without, it is not."""
    short = [seen(prompt) for prompt in (90, 100, 110, 120, 200, 300)]
    long = [seen(prompt) for prompt in (1800, 2000, 2200, 2400, 4000, 6000)]
    one, other = compare(short, long, fit_prefill([*short, *long]))
    assert other.standard_s == pytest.approx(one.standard_s, rel=0.01)
    one, other = compare(short, long)
    assert other.standard_s > 1.5 * one.standard_s


@given(st.integers(2, 10_000), st.integers(2, 10_000))
def test_a_longer_answer_is_no_slowness(one_answer: int, other_answer: int) -> None:
    """The same time per token is the same pace."""
    one, other = compare([seen(100, answer=one_answer)] * 6, [seen(100, answer=other_answer)] * 6)
    assert one.standard_s == pytest.approx(other.standard_s)
    assert one.per_s == pytest.approx(other.per_s)


def test_what_flows_is_the_level_by_the_time() -> None:
    """Little's law: twice the requests in the same time each are twice as many a second."""
    one, other = compare([seen(100, level=2)] * 6, [seen(100, level=4)] * 6)
    assert other.per_s == pytest.approx(2 * one.per_s)


def test_doubt_is_less_with_more_requests() -> None:
    """It falls with the root of their number, and is nothing where all are alike."""
    rng = random.Random(1)

    def group(size: int) -> list[Seen]:
        return [Seen(rng.lognormvariate(0, 0.4), 100, 0.02, 10, 1) for _ in range(size)]

    few, many = compare(group(200), group(3200))
    assert few.doubt == pytest.approx(4 * many.doubt, rel=0.35)
    assert compare([seen(100)] * 5, [seen(100)] * 5)[0].doubt == 0.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 100), st.floats(0, 1))
def test_a_correction_is_bounded(
    tokens: float, standard: float, fixed_s: float, token_s: float
) -> None:
    """Whatever was learned, no request counts for nothing or for everything."""
    assert 0.02 <= Prefill(fixed_s, token_s).factor(tokens, standard) <= 50
