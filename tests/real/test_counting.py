"""Counting on real servers: what is counted is what they report, and estimates learn it."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import parts
from penstock.adapters import counting, probe, tiny_model
from penstock.domain.upstream import ServerKind
from penstock.servers import spec
from penstock.tokens import Calibration, Scale
from tree import ROOT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def report() -> ModuleType:
    """The script that reports the estimator's error."""
    found = importlib.util.spec_from_file_location(
        "counting_error", ROOT / "benchmarks" / "counting_error.py"
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["counting_error"] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server() -> Any:
    """A real llama.cpp that renders tools."""
    file = parts.model(template=tiny_model.HERMES_TEMPLATE, trained_window=32_768)
    with parts.start_llamacpp(model=file, ctx_size=32_768, threads=1) as running:
        yield running


@pytest.mark.parametrize("growing", [True, False])
def test_the_estimator_learns(report: ModuleType, server: parts.LlamaCpp, growing: bool) -> None:
    """After 20 requests at most 3 % off at p95, and never above the stated bound."""
    runs = [
        asyncio.run(report.measure(server.url, count=80, seed=seed, exact=False, growing=growing))
        for seed in (1, 2)
    ]
    late = sorted(error for run in runs for error in run.late())
    assert late[int(len(late) * 0.95)] <= 0.03
    for run in runs:
        assert run.above == []
        assert run.bounds[0] > 0.5
        assert sorted(run.bounds[20:])[30] < 0.2
        assert max(run.classes[20:]) <= 6.0


def test_counted_weights_are_what_the_server_reports(
    report: ModuleType, server: parts.LlamaCpp
) -> None:
    """Messages counted one by one, the template measured, tools as they are rendered: within 0.2 %."""
    found = asyncio.run(report.measure(server.url, count=30, seed=2, exact=True))
    assert max(map(abs, found.relative)) <= 0.002
    assert found.above == []
    assert found.beyond_class == 0
    assert set(found.classes) == {1.0}


def test_a_strict_template_is_measured(llamacpp: Callable[..., parts.LlamaCpp]) -> None:
    """A template that refuses two user messages in a row is measured all the same."""
    strict = (
        "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}"
        "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    running = llamacpp(template=strict)

    async def measured() -> tuple[Any, int | None]:
        llama = spec(ServerKind.LLAMACPP)
        said = [{"role": role, "content": "hello"} for role in ("user", "assistant", "user")]
        async with probe.make_client() as client:
            return (
                await counting.learn_overhead(running.url, llama, "", client=client),
                await counting.count_chat(
                    running.url, llama, "", {"messages": said}, client=client
                ),
            )

    overhead, true = asyncio.run(measured())
    assert overhead is not None
    assert overhead.measured
    hello = 4  # he, l, l, o
    by_parts = overhead.base + 2 * overhead.roles["user"] + overhead.roles["assistant"] + 3 * hello
    assert true is not None
    assert true <= by_parts <= true + 4


def test_ollamas_first_request_is_counted(ollama: Callable[..., parts.Ollama]) -> None:
    """With the vocabulary that it shows, texts count as it counts them; the template is learned at once."""
    running = ollama()
    running.create("tiny", parts.model("tiny"), num_ctx=8192)

    async def read() -> Any:
        async with probe.make_client() as client:
            return await counting.fetch_vocabulary(
                running.url, spec(ServerKind.OLLAMA), "tiny", client=client
            )

    vocabulary = asyncio.run(read())
    assert vocabulary is not None
    scale, calibration = Scale(exact=True, vocabulary=vocabulary), Calibration(exact=True)
    chance = random.Random(4)
    words = ["the", "hello", "\u4e2d\u6587", "x = 12345;\n", "\U0001f600", "don't", "(a+b)", "  "]
    for place in range(9):
        messages = [
            {
                "role": "assistant" if turn % 2 else "user",
                "content": " ".join(chance.choice(words) for _ in range(chance.randrange(5, 80))),
            }
            for turn in range(1 + 2 * chance.randrange(3))
        ]
        mix = scale.weigh_request(messages, {})
        answer = running.post(
            "/api/chat",
            {"model": "tiny", "messages": messages, "stream": False, "options": {"num_predict": 1}},
        )
        true = answer["prompt_eval_count"]
        assert true <= calibration.at_most(mix)
        if place >= 5:
            assert abs(calibration.estimate(mix) - true) <= 0.01 * true + 2
        calibration.learn(mix, true)
    assert calibration.budget_class <= 1.25
