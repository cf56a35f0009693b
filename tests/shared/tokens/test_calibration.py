"""The calibration: what it bounds holds, and the budget class follows evidence without flapping."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens import Calibration, Lane, Mix, Overhead, Scale, countable
from penstock.tokens.calibration import STEPS, step
from penstock.tokens.mix import packed

WORDS = [
    "the",
    "gateway",
    "keeps",
    "conversations",
    "alive",
    "and",
    "warm",
    "while",
    "42",
    "servers",
    "come",
    "or",
    "go",
]


def prose(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words)) + ".\n"


def chinese(chance: random.Random, words: int) -> str:
    return "".join(chr(chance.randrange(0x4E00, 0x9000)) for _ in range(words))


def of_bytes(messages: list[dict[str, Any]]) -> int:
    """A server whose tokens are bytes, with a template of 12 + 6 for each message."""
    texts = [text for message in messages for text in countable(message).texts]
    return 12 + 6 * len(messages) + sum(len(text.encode()) for text in texts)


def of_four(messages: list[dict[str, Any]]) -> int:
    """A server with a token for four letters, and two for each Han."""
    texts = "".join(text for message in messages for text in countable(message).texts)
    han = sum(sign > "\u3000" for sign in texts)
    return 20 + 4 * len(messages) + (len(texts) - han + 3) // 4 + 2 * han


def one_request(
    chance: random.Random, kind: Callable[[random.Random, int], str]
) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": kind(chance, chance.randrange(20, 200))}
        for _ in range(chance.randrange(1, 6))
    ]


@pytest.mark.parametrize("server", [of_bytes, of_four])
@pytest.mark.parametrize("family", ["", "qwen", "llama2"])
def test_it_learns_the_vocabulary_and_the_template(
    server: Callable[[list[dict[str, Any]]], int], family: str
) -> None:
    """After 20 answers estimates are within 3 %, none is above its bound, and the bound has shrunk."""
    chance = random.Random(3)
    scale, calibration = Scale(exact=False, family=family), Calibration(family)
    first = calibration.bound
    for place in range(60):
        messages = one_request(chance, prose if place % 3 else chinese)
        mix = scale.weigh_request(messages, {})
        true = server(messages)
        assert true <= calibration.at_most(mix)
        if place >= 20:
            assert abs(calibration.estimate(mix) - true) <= 0.03 * true
            assert calibration.at_least(mix) <= true
        calibration.learn(mix, true)
    assert calibration.bound < first / 20
    assert calibration.error_p95 is not None
    assert calibration.evidence > 48


def test_at_first_the_guard_assumes_one_token_per_byte() -> None:
    """Where nothing is known, a request may have as many tokens as bytes, and the class says so."""
    mix = Scale(exact=False).weigh_request([{"role": "user", "content": "hello there " * 500}], {})
    calibration = Calibration()
    assert calibration.at_most(mix) >= 6000
    assert calibration.class_for(mix) * mix.tokens >= 6000
    assert calibration.budget_class == 5.0
    assert calibration.error_p95 is None


def test_the_class_comes_down_after_the_first_answers_and_does_not_flap() -> None:
    """From one token per byte to the right class within a few answers, and then hardly ever elsewhere."""
    chance = random.Random(5)
    scale, calibration = Scale(exact=False), Calibration()
    classes = []
    for _ in range(80):
        messages = one_request(chance, prose)
        mix = scale.weigh_request(messages, {})
        calibration.learn(mix, of_four(messages))
        classes.append(calibration.budget_class)
    assert max(classes[4:]) <= 1.5
    assert sum(a != b for a, b in pairwise(classes[10:])) <= 2
    assert set(classes) <= set(STEPS)


def test_a_script_that_was_never_learned_keeps_a_high_class() -> None:
    """English teaches nothing about Chinese: such a request gets the class that guards it."""
    chance = random.Random(7)
    scale, calibration = Scale(exact=False, family="gemma"), Calibration("gemma")
    for _ in range(40):
        messages = one_request(chance, prose)
        calibration.learn(scale.weigh_request(messages, {}), of_four(messages))
    messages = [{"role": "user", "content": chinese(chance, 2000)}]
    mix = scale.weigh_request(messages, {})
    assert calibration.budget_class < calibration.class_for(mix)
    assert of_four(messages) <= calibration.class_for(mix) * mix.tokens
    assert of_four(messages) <= calibration.at_most(mix)


def test_a_request_that_continues_another_is_known_up_to_there() -> None:
    """Only the newest messages are in doubt; where a cut lies does not depend on that."""
    scale, calibration = Scale(exact=False), Calibration()
    messages = [{"role": "user", "content": "odd " * 500}]
    calibration.learn(scale.weigh_request(messages, {}), 1999)
    longer = scale.weigh_request([*messages, {"role": "assistant", "content": "so"}], {})
    assert 2000 <= calibration.estimate(longer) <= 2012
    assert calibration.at_most(longer) <= 1999 + 2 + 16
    stranger = Mix(longer.packed)
    assert calibration.at_most(stranger) > 2100
    assert calibration.class_for(longer) == calibration.class_for(stranger)


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_answer_that_reports_far_too_little_teaches_nothing(forgotten: bool) -> None:
    """One truncated answer is passed over; three in a row mean another model, and it begins again."""
    chance = random.Random(11)
    scale, calibration = Scale(exact=False), Calibration()
    for _ in range(30):
        messages = one_request(chance, prose)
        calibration.learn(scale.weigh_request(messages, {}), of_bytes(messages))
    for _ in range(3 if forgotten else 2):
        mix = scale.weigh_request([{"role": "user", "content": prose(chance, 3000)}], {})
        assert calibration.at_least(mix) > 2000
        before = calibration.evidence
        learned = calibration.learn(mix, 2000)
    assert learned is forgotten
    assert calibration.evidence == (1 if forgotten else before)
    if forgotten:
        assert calibration.budget_class >= 5.0


def test_counted_texts_leave_the_template_in_doubt() -> None:
    """With a vocabulary but an unknown template, the class is near 1 and the template is learned."""
    scale = Scale(exact=True)
    calibration = Calibration(exact=True)
    chance = random.Random(13)
    for place in range(30):
        messages = one_request(chance, prose)
        for message in messages:
            scale.learn(message, len(message["content"]) // 4)
        mix = scale.weigh_request(messages, {})
        true = 30 + sum(len(m["content"]) // 4 + 9 for m in messages)
        if place > 5:
            assert abs(calibration.estimate(mix) - true) <= 4
        assert true <= calibration.at_most(mix)
        calibration.learn(mix, true)
    assert calibration.budget_class <= 1.25


def test_what_is_counted_whole_needs_no_class() -> None:
    """With texts and template counted, the window is not divided."""
    overhead = Overhead(base=10, per_message=5, measured=True)
    scale, calibration = (
        Scale(exact=True, overhead=overhead),
        Calibration(exact=True, template_known=True),
    )
    for number in range(20):
        message = {"role": "user", "content": f"number {number} " * 200}
        scale.learn(message, 1000)
        mix = scale.weigh_request([message], {})
        assert calibration.class_for(mix) == 1.0
        calibration.learn(mix, 1016)
    assert calibration.budget_class == 1.0


def test_bare_numbers_are_enough() -> None:
    """Weights without their make calibrate too: a factor, and a bound around it."""
    calibration = Calibration()
    for measured in range(100, 1100, 50):
        calibration.learn(measured, round(measured * 1.7))
    assert calibration.factor == pytest.approx(1.7, abs=0.02)
    assert calibration.estimate(2000) == pytest.approx(3400, rel=0.01)
    assert 3400 <= calibration.at_most(2000) <= 3700
    assert calibration.budget_class == 2.0
    assert calibration.class_for(2000) == 2.0


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5000), min_size=24, max_size=24), st.integers(-5, 100_000)
        ),
        max_size=60,
    )
)
def test_nothing_that_a_server_reports_breaks_it(answers: list[tuple[list[int], int]]) -> None:
    """Whatever numbers come, estimates are finite, positive and ordered."""
    calibration = Calibration()
    for amounts, actual in answers:
        lanes = sum(packed(lane, amount) for lane, amount in zip(Lane, amounts, strict=False))
        mix = Mix(lanes)
        calibration.learn(mix, actual)
        assert 1 <= calibration.estimate(mix) <= calibration.at_most(mix)
        assert 0 <= calibration.at_least(mix) <= calibration.estimate(mix)
        assert calibration.class_for(mix) in STEPS
        assert calibration.budget_class in STEPS


def test_memory_is_bounded() -> None:
    """However many conversations come, only so many are remembered."""
    scale, calibration = Scale(exact=False, most_entries=50), Calibration()
    for number in range(2000):
        mix = scale.weigh_request([{"role": "user", "content": f"{number} there"}], {})
        calibration.learn(mix, 20)
    assert len(calibration._seen) <= 512


@pytest.mark.parametrize(("need", "found"), [(0.2, 1.0), (1.0, 1.0), (1.01, 1.1), (99.0, 16.0)])
def test_steps(need: float, found: float) -> None:
    """The lowest class that is enough, and the highest where none is."""
    assert step(need) == found
