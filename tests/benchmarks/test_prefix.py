"""The benchmark of the prefix: its conversations are real ones, its opponents do what they say, and it runs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ways
from long_conversations import AGENT, CHAT, Mix, conversation
from reckoning import BytesByFour, Message, Way, steps, watermarks

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 2048
WEIGHTS = BytesByFour()


def tokens(messages: list[Message]) -> int:
    return WEIGHTS.fixed + sum(map(WEIGHTS.of, messages))


@pytest.mark.parametrize("mix", [CHAT, AGENT], ids=["chat", "agent"])
def test_conversations_are_the_same_everywhere_and_grow(mix: Mix) -> None:
    """A seed makes one conversation, and each of its requests begins with the one before."""
    requests = list(conversation(1, 30, mix).requests())
    assert requests == list(conversation(1, 30, mix).requests())
    assert requests != list(conversation(2, 30, mix).requests())
    for before, after in itertools.pairwise(requests):
        assert after[: len(before)] == before
        assert len(after) > len(before)


def test_every_result_follows_its_call() -> None:
    """As official clients write it: arguments are JSON text, results name their call."""
    messages = list(conversation(1, 60, AGENT).requests())[-1]
    results = [place for place, message in enumerate(messages) if message["role"] == "tool"]
    assert results
    for place in results:
        call = messages[place - 1]["tool_calls"][0]
        assert call["id"] == messages[place]["tool_call_id"]
        assert json.loads(call["function"]["arguments"])


def test_results_are_of_every_size() -> None:
    """From some words to several kilobytes."""
    turns = conversation(1, 200, CHAT).turns
    sizes = sorted(len(round_.result) for turn in turns for round_ in turn.rounds)
    assert sizes[0] < 150
    assert sizes[-1] > 2000
    assert 100 < sizes[len(sizes) // 2] < 700


@pytest.mark.parametrize(
    ("way", "share"),
    [
        pytest.param(ways.sliding(WEIGHTS, WINDOW), 0.9, id="sliding window"),
        pytest.param(ways.as_ollama(WEIGHTS, WINDOW), 1.0, id="as Ollama cuts"),
        pytest.param(watermarks(WEIGHTS, WINDOW), 0.875, id="watermark replay"),
    ],
)
def test_ways_fit_and_waste_nothing(way: Way, share: float) -> None:
    """What is sent fits, keeps the system prompt and the last message, and is whole while it can be."""
    for messages in conversation(1, 40).requests():
        sent = way(messages)
        assert tokens(sent) <= share * WINDOW
        assert sent[0] == messages[0]
        assert sent[-1] == messages[-1]
        if tokens(messages) <= 0.8 * WINDOW:
            assert sent == messages


def test_replay_moves_the_prefix_less_and_has_less_to_work_on() -> None:
    """Reckoned for both conversations of the benchmark, a quarter of the naive window's tokens at most."""
    naive, ours = (
        [
            step
            for seed in (1, 2)
            for step in steps(conversation(seed, 200).requests(), way, WEIGHTS)
        ]
        for way in (ways.sliding(WEIGHTS, WINDOW), watermarks(WEIGHTS, WINDOW))
    )
    assert sum(step.moved for step in ours) < sum(step.moved for step in naive) / 3
    assert sum(step.new for step in ours) < sum(step.new for step in naive) / 4


@pytest.mark.real
@pytest.mark.slow
def test_benchmark_runs_on_a_real_server(llamacpp: object) -> None:
    """A few turns through a real gateway: no request fails, and naive has more to work on."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "prefix.py"), "--quick", "--turns", "16"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "each token once" in done.stdout


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """10,000 requests of growing conversations leave the process as large as it was."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "soak_context.py"), "10000"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
