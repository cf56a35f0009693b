"""
What planning a long conversation costs, beside Python's own `json.loads` of the same body in the same run.

    .venv/bin/python benchmarks/planning.py

A conversation of 2,000 messages and 1 MB (prose, code and CJK mixed, tool rounds among them) is made to fit
windows of several sizes. Weights are given, as the gateway has them once they are counted; *cold* is the
plan of messages that were just parsed, *warm* that of the same objects again. Compare ratios, never milliseconds.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "shared"))

from penstock import tokens
from penstock.compress import ContextOptions, budget, fit
from penstock.compress.prefix import Conversations
from penstock.domain.pressure import Pressure
from penstock.domain.profile import ModelProfile, ModelReading, Window, WindowSource
from penstock.domain.strategy import Strategy
from penstock.domain.upstream import ServerKind
from penstock.gateway.conversations.fitting import FitTask
from penstock.gateway.conversations.fitting import fit as fit_task
from penstock.gateway.conversations.prefix_guard import PrefixGuard
from penstock.gateway.steps.shape import shape

MESSAGES = 2000
SIZE_BYTES = 1_000_000
WINDOWS = (2048, 8192, 32_768, 131_072)
ROUNDS = 15

_PROSE = "The water runs from the weir through the penstock to the wheel, day and night. "
_CODE = "def flow(level: float) -> float:\n    return max(0.0, level - SILL) ** 1.5\n\n"
_CJK = "水从堰流过压力管道到达水轮，日夜不停。"


def conversation(seed: int = 1) -> list[dict[str, Any]]:
    """Turns with tool rounds; texts of all three kinds; about `SIZE_BYTES` as JSON."""
    chance = random.Random(seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": _PROSE * 10}]
    average = SIZE_BYTES // MESSAGES - 60

    def text(factor: float = 1.0) -> str:
        kind = chance.choice((_PROSE, _CODE, _CJK))
        size = max(20, int(average * factor * chance.uniform(0.3, 1.7)))
        return (kind * (size // len(kind.encode()) + 1))[: size * len(kind) // len(kind.encode())]

    while len(messages) < MESSAGES:
        messages.append({"role": "user", "content": text()})
        for _ in range(chance.randint(0, 3)):
            call = f"call_{len(messages)}"
            function = {"name": "read", "arguments": json.dumps({"path": "flow.py"})}
            calls = [{"id": call, "type": "function", "function": function}]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            messages.append({"role": "tool", "tool_call_id": call, "content": text(2)})
        messages.append({"role": "assistant", "content": text()})
    return messages[:MESSAGES]


def weigh(message: Any) -> int:
    """A quarter of the bytes: what counts here is what the plan costs, not the measure."""
    content = message.get("content") or ""
    return 4 + len(content.encode()) // 4


def least_s(work: Callable[[Any], object], prepare: Callable[[], Any]) -> float:
    """CPU time, the least of several: other work on the machine only adds."""
    taken = []
    for _ in range(ROUNDS):
        prepared = prepare()
        began = thread_time()
        work(prepared)
        taken.append(thread_time() - began)
    return min(taken)


def main() -> None:
    """Print the table."""
    messages = conversation()
    body = json.dumps({"model": "m", "messages": messages}, ensure_ascii=False).encode()
    parsing_s = least_s(json.loads, lambda: body)
    print(
        f"{len(messages):,} messages, {len(body):,} bytes; json.loads takes {parsing_s * 1000:.2f} ms"
    )
    print(f"{'window':>9} {'strategy':>9} {'cuts':>5} {'sent':>5} {'cold':>12} {'warm':>12}")
    weights = [weigh(message) for message in messages]
    options = ContextOptions()

    def fresh() -> Any:
        return json.loads(body)["messages"]

    for window in WINDOWS:
        size = budget(window, pressure=Pressure.CALM, options=options, fixed=100)
        for strategy in (Strategy.WINDOW, Strategy.SUMMARY):
            plan = partial(
                fit,
                weights=weights,
                budget=size,
                weigh=weigh,
                strategy=strategy,
                options=options,
                summary=lambda key: None,
            )
            fitted = plan(messages)
            cold = least_s(plan, fresh) / parsing_s
            warm = least_s(plan, lambda: messages) / parsing_s
            print(
                f"{window:>9} {strategy:>9} {fitted.cuts:>5} {len(fitted.messages):>5}"
                f" {cold:>10.2f} x {warm:>10.2f} x"
            )
    cold = least_s(lambda new: Conversations().seen(new), fresh) / parsing_s
    known = Conversations()
    warm = least_s(known.seen, lambda: messages) / parsing_s
    print(f"recognised by its prefix: {cold:.2f} x cold, {warm:.2f} x warm")
    whole_step(body, parsing_s)


def whole_step(body: bytes, parsing_s: float) -> None:
    """All that the gateway does with a conversation before it is sent: mended, recognised, weighed, fitted."""
    profile = ModelProfile(
        "box", ServerKind.GENERIC, ModelReading("m"), Window(8192, WindowSource.RUNNING)
    )
    options = ContextOptions()

    def step(request: dict[str, Any], scale: tokens.Scale, guard: PrefixGuard) -> None:
        messages, _ = shape(request, profile, [])
        guard.seen(messages, "anonymous")
        weighed = scale.weigh(messages)
        scale.whole(weighed, request)
        fit_task(
            FitTask(
                messages=messages,
                weights=weighed.tokens,
                fixed=scale.overhead.base,
                window=8192,
                strategy=Strategy.WINDOW,
                options=options,
                weigh=lambda message: scale.weigh_one(message)[0],
            )
        )

    def fresh() -> tuple[Any, tokens.Scale, PrefixGuard]:
        return json.loads(body), tokens.Scale(exact=False), PrefixGuard()

    known = tokens.Scale(exact=False), PrefixGuard()
    step(json.loads(body), *known)
    cold = least_s(lambda made: step(*made), fresh) / parsing_s
    warm = least_s(lambda made: step(made, *known), lambda: json.loads(body)) / parsing_s
    print(
        f"the whole step, window 8192: {cold:.2f} x cold, {warm:.2f} x warm (to reach: 10 x, 2 x)"
    )


if __name__ == "__main__":
    main()
