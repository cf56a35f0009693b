"""
The worked examples of kubernetes-sizing.md, computed by the code that sizes servers. `python docs/sizing_examples.py`
prints the tables; a test holds that the page has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.tokens.memory_fit import Fit, ModelFacts, facts_of, fit, memory_bytes, smaller

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Example:
    """A model as its header tells it, with the size of its file."""

    name: str
    facts: ModelFacts


def _example(name: str, gigabytes: float, architecture: str, **fields: Any) -> Example:
    header = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    header["general.architecture"] = architecture
    return Example(name, facts_of(header, round(gigabytes * 10**9)))


EXAMPLES = (
    _example(
        "Qwen3 4B, Q4_K_M", 2.5, "qwen3", block_count=36, embedding_length=2560, context_length=40960,
        attention__head_count=32, attention__head_count_kv=8, attention__key_length=128,
        attention__value_length=128, vocab_size=151936,
    ),
    _example(
        "Llama 3.1 8B, Q4_K_M", 4.92, "llama", block_count=32, embedding_length=4096, context_length=131072,
        attention__head_count=32, attention__head_count_kv=8, vocab_size=128256,
    ),
    _example(
        "Gemma 3 12B, Q4_K_M", 7.3, "gemma3", block_count=48, embedding_length=3840, context_length=131072,
        attention__head_count=16, attention__head_count_kv=8, attention__key_length=256,
        attention__value_length=256, attention__sliding_window=1024, vocab_size=262208,
    ),
)  # fmt: skip
LIMITS_GIB = (4, 6, 8, 12, 16)


def fits() -> list[str]:
    """For each model and limit: the context of one request."""
    head = ["model", *(f"{one} GiB" for one in LIMITS_GIB), "no limit", "asks for"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in EXAMPLES:
        chosen = [fit(one.facts, memory_bytes=size * GIB) for size in LIMITS_GIB]
        free = fit(one.facts, memory_bytes=None)
        asks = f"{-(-memory_bytes(one.facts, free) // 2**20):,} MiB"
        rows.append(f"| {' | '.join([one.name, *(_told(c) for c in chosen), _told(free), asks])} |")
    return rows


def steps() -> list[str]:
    """What becomes of Llama 3.1 8B that was asked to serve four at a time with 16,384 tokens each."""
    facts = EXAMPLES[1].facts
    rows = ["| killed | context | requests at a time | needs |", "|---|---|---|---|"]
    chosen = fit(facts, memory_bytes=None, parallel=4, context_length=16_384)
    for killed in range(5):
        needs = f"{-(-memory_bytes(facts, chosen) // 2**20):,} MiB"
        rows.append(f"| {killed} | {chosen.context_length:,} | {chosen.parallel} | {needs} |")
        chosen = smaller(chosen)
    return rows


def _told(chosen: Fit) -> str:
    return f"{chosen.context_length:,} ({chosen.limited_by})" if chosen.fits else "too little"


if __name__ == "__main__":
    print("\n".join([*fits(), "", *steps()]))
