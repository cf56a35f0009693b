"""
Which marks are best: the real planner over the conversations of `prefix.py`, without a gateway or an answer.

    python3 benchmarks marks            all marks, some minutes
    python3 benchmarks marks --quick    a few turns

What a server would work on is reckoned (`reckoning.py`) with a real llama.cpp's counts, so many marks can be
tried; `prefix.py --marks` measures those that look well. *kept* is the mean share of the window that a
request fills once the first cut was made: what the model still sees of its conversation.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from long_conversations import AGENT, CHAT, Mix, conversation
from penstock.compress import Marks
from reckoning import Step, Way, steps, watermarks
from serving import client, llamacpp
from ways import Counts, sliding, whole

WINDOWS = (2048, 8192)
MARKS = (
    (0.8, 0.35), (0.8, 0.3), (0.8, 0.25), (0.85, 0.4), (0.85, 0.35), (0.85, 0.3), (0.85, 0.25),
    (0.875, 0.35), (0.875, 0.3), (0.875, 0.25), (0.7, 0.3), (0.6, 0.3),
)  # fmt: skip


def main() -> int:
    """See above."""
    turns = 40 if "--quick" in sys.argv else 200
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-models-") as name,
        llamacpp("full", max(WINDOWS), Path(name)) as server,
        client() as http,
    ):
        counts = Counts(server.url, http)
        for title, mix in (("chat", CHAT), ("agent", AGENT)):
            for window in WINDOWS:
                one_run(title, mix, counts, window, turns)
    return 0


def one_run(title: str, mix: Mix, counts: Counts, window: int, turns: int) -> None:
    """Print what each pair of marks comes to."""

    def all_steps(way: Way) -> list[Step]:
        return [
            step
            for seed in (1, 2)
            for step in steps(conversation(seed, turns, mix).requests(), way, counts)
        ]

    naive = sum(step.new for step in all_steps(sliding(counts, window)))
    once = sum(step.new for step in all_steps(whole))
    print(
        f"{title}, {window:,} tokens a slot: naive {naive:,}; each token once {_beside(naive, once)}"
    )
    for high, low in MARKS:
        taken = all_steps(watermarks(counts, window, Marks(high=high, low=low)))
        shares = [(step.same + step.new) / window for step in taken if step.cut]
        print(
            f"  {high:5}/{low:<4} {_beside(naive, sum(step.new for step in taken))}"
            f"  {statistics.fmean(shares) if shares else 1:.2f} kept"
            f"  prefix moved {sum(step.moved for step in taken)} times",
            flush=True,
        )


def _beside(naive: int, tokens: int) -> str:
    return f"{tokens:9,}, {naive / tokens:4.1f} times fewer"


if __name__ == "__main__":
    sys.exit(main())
