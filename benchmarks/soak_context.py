"""
Whether memory stays flat: the planner and all that is remembered of conversations, in one process.

    python3 benchmarks soak_context              100,000 requests of growing conversations, some minutes
    python3 benchmarks soak_context 10000        fewer

Eight conversations grow side by side until their body has 100 KB, then others begin. Every request is parsed
from JSON, weighed, recognised, fitted and learned from as in the gateway, once for a server that counts and
once for one that does not. What is remembered is bounded, so its bounds are filled first; from then on the
process may grow by a tenth at most. Fails when it does not.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import psutil

from long_conversations import TOOLS, WORDS
from penstock import tokens
from penstock.compress import ContextOptions, Conversations, DoesNotFit, head_key
from penstock.domain.strategy import Strategy
from penstock.gateway.conversations.fitting import FitTask, fit, goes_next
from penstock.gateway.conversations.slots import Slots

LARGEST_BODY_BYTES = 100_000
SIDE_BY_SIDE = 8
WINDOW = 8192
MAY_GROW = 0.1
_SCALE_ENTRIES = 65_536  # what a scale remembers at most
STRATEGIES = (Strategy.WINDOW, Strategy.WINDOW, Strategy.SUMMARY, Strategy.RESET)


@dataclass
class Model:
    """What the gateway keeps of one model."""

    exact: bool
    conversations: Conversations = field(default_factory=Conversations)
    slots: Slots = field(default_factory=Slots)

    def __post_init__(self) -> None:
        self.scale = tokens.Scale(exact=self.exact, family="qwen")
        self.calibration = tokens.Calibration("qwen", exact=self.exact)

    def serve(self, body: Mapping[str, Any], strategy: Strategy) -> int:
        """One request; tokens that are sent."""
        messages = body["messages"]
        self.conversations.seen(messages)
        self._count(body)
        weighed = self.scale.weigh(messages)
        whole = self.scale.whole(weighed, body)
        task = FitTask(
            messages=messages,
            weights=weighed.tokens,
            fixed=self.scale.weigh_tools(body)[0] + self.scale.overhead.base,
            window=WINDOW,
            strategy=strategy,
            options=ContextOptions(),
            weigh=lambda message: self.scale.weigh_one(message)[0],
            budget_class=1.0 if self.exact else self.calibration.class_for(whole),
        )
        slot = self.slots.take(head_key(messages), 4)
        try:
            plan = fit(task)
        except DoesNotFit:
            return 0
        finally:
            if slot is not None:
                self.slots.give_back(slot)
        if strategy is Strategy.SUMMARY:
            goes_next(task, plan)
        if not self.exact:
            sent = self.scale.weigh_request(plan.messages, body)
            self.calibration.learn(sent, round(plan.tokens * 1.07))
        return plan.tokens

    def _count(self, body: Mapping[str, Any]) -> None:
        """As the server does where it can."""
        messages = body["messages"]
        if not self.exact:
            return
        for place in self.scale.weigh(messages).uncounted:
            self.scale.learn(messages[place], 1 + len(str(messages[place].get("content"))) // 4)
        if not self.scale.weigh_tools(body)[1]:
            self.scale.learn_tools(body, 300)

    def fill(self, chance: random.Random) -> None:
        """Fill everything that has a bound."""
        for number in range(_SCALE_ENTRIES):
            message = {"role": "user", "content": f"{number} is a number"}
            if self.exact:
                self.scale.learn(message, 5)
            else:
                self.scale.weigh((message,))
        for number in range(300):
            talk = [{"role": "user", "content": f"{number}"}]
            talk += [{"role": "assistant", "content": words(chance, 3000)} for _ in range(33)]
            self.conversations.seen(talk)
            self.slots.take(number, 4)


_TEXT = " ".join(random.Random("text").choices(WORDS, k=200_000))


def words(chance: random.Random, size: int) -> str:
    """A text of *size* bytes, hardly ever the same twice."""
    start = chance.randrange(len(_TEXT) - size)
    return _TEXT[start : start + size]


def bodies(chance: random.Random) -> Iterator[bytes]:
    """Requests as they come, without end."""
    growing: list[list[dict[str, Any]]] = [[] for _ in range(SIDE_BY_SIDE)]
    number = 0
    while True:
        for talk in growing:
            if not talk:
                talk.append({"role": "system", "content": words(chance, 600)})
            number += 1
            size = round(40 * 100 ** chance.random())
            talk.append({"role": "user", "content": words(chance, size)})
            yield orjson.dumps({"model": "m", "messages": talk, "tools": TOOLS})
            call = {"name": "read_file", "arguments": orjson.dumps({"path": f"{number}"}).decode()}
            talk += [
                {"role": "assistant", "content": None,
                 "tool_calls": [{"id": f"c{number}", "type": "function", "function": call}]},
                {"role": "tool", "tool_call_id": f"c{number}", "content": words(chance, 2 * size)},
            ]  # fmt: skip
            yield (body := orjson.dumps({"model": "m", "messages": talk, "tools": TOOLS}))
            if len(body) > LARGEST_BODY_BYTES - 20_000:
                talk.clear()
            else:
                talk.append({"role": "assistant", "content": words(chance, size)})


def rss_mb() -> float:
    """Resident memory now."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def soak(requests: int) -> tuple[float, float]:
    """Resident MB when all bounds were reached, and the most that was seen later."""
    chance = random.Random("soak")
    models = [Model(exact=True), Model(exact=False)]
    for model in models:
        model.fill(chance)
    began = time.monotonic()
    before = most = rss_mb()
    for number, body in enumerate(bodies(chance), 1):
        model = models[number % 2]
        model.serve(orjson.loads(body), STRATEGIES[number // 2 % len(STRATEGIES)])
        if number == requests // 5:
            before = most = max(before, rss_mb())
        elif number > requests // 5 and number % max(1, requests // 20) == 0:
            most = max(most, rss_mb())
            took_ms = (time.monotonic() - began) / number * 1000
            print(f"soak: {number:,} requests, {most:.0f} MB, {took_ms:.2f} ms each", flush=True)
        if number == requests:
            break
    return before, most


def main() -> int:
    """See above."""
    before, most = soak(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    print(f"soak: from {before:.1f} MB to {most:.1f} MB at most")
    return 1 if most > before * (1 + MAY_GROW) else 0


if __name__ == "__main__":
    sys.exit(main())
