"""How long a context fits: chosen from real headers, compared with what the real llama.cpp takes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

import parts
from penstock.adapters.model_file import fit_file, model_facts
from penstock.tokens.memory_fit import ModelFacts, facts_from, facts_of, fit, memory_bytes, smaller

GIB = 2**30
LLAMA = facts_of(
    {
        "general.architecture": "llama", "llama.context_length": 131072, "llama.block_count": 32,
        "llama.embedding_length": 4096, "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8, "llama.vocab_size": 128256,
    },
    4_920_000_000,
)  # fmt: skip
"""Llama 3.1 8B with four bits a weight."""


def test_facts_of_a_real_file_survive_json() -> None:
    """What the header of a real file tells comes back from a termination message of few bytes."""
    facts = model_facts(parts.model("slow"))
    assert facts is not None
    text = json.dumps(facts.to_dict())
    assert len(text) < 1024
    back = facts_from(json.loads(text))
    assert back is not None
    assert back.shape is not None
    assert facts.shape is not None
    assert back.shape.bytes_for(4096) == facts.shape.bytes_for(4096) > 0
    assert (back.vocabulary, back.weights_bytes) == (facts.vocabulary, facts.weights_bytes)
    assert facts.vocabulary > 0
    assert facts_from({"layers": "x"}) is None


def test_the_estimate_holds_what_the_real_engine_takes() -> None:
    """llama.cpp with the chosen window stays below the estimate, which is no more than 200 MiB above it."""
    file = parts.model("slow")
    facts = model_facts(file)
    assert facts is not None
    chosen = fit(facts, memory_bytes=700 * 2**20)
    assert chosen.limited_by in ("Memory", "Trained", "Usual")
    with parts.start_llamacpp("slow", ctx_size=chosen.tokens) as server:
        taken = psutil.Process(server.pid).memory_info().rss
    estimated = memory_bytes(facts, chosen)
    assert taken < estimated < taken + 200 * 2**20
    assert estimated <= 700 * 2**20


@pytest.mark.parametrize(
    ("memory_gib", "asked", "context", "limited_by"),
    [
        (None, None, 8192, "Usual"),
        (16, None, 32_768, "Usual"),
        (7, None, 13_312, "Memory"),
        (4, None, 512, "Memory"),
        (4, 65_536, 65_536, "Asked"),
    ],
)
def test_the_context_and_what_limits_it(
    memory_gib: int | None, asked: int | None, context: int, limited_by: str
) -> None:
    """An 8B model in so many GiB: as long as fits, what a person asked for wins, too little is said."""
    memory = None if memory_gib is None else memory_gib * GIB
    chosen = fit(LLAMA, memory_bytes=memory, context_length=asked)
    assert (chosen.context_length, chosen.limited_by) == (context, limited_by)
    assert chosen.fits is (memory_gib != 4)


def test_a_short_trained_window_limits() -> None:
    """A model is not given more tokens than it was trained for, whatever the memory."""
    facts = ModelFacts("llama", 1, 2048, 1000, 64, LLAMA.shape)
    assert fit(facts, memory_bytes=16 * GIB).context_length == 2048
    assert fit(facts, memory_bytes=None).limited_by == "Trained"


def test_smaller_gives_up_requests_first_and_ends() -> None:
    """Four at a time become two and one before the context is halved; at the least it stays."""
    sizes = [fit(LLAMA, memory_bytes=None, parallel=4)]
    while smaller(sizes[-1]) != sizes[-1]:
        sizes.append(smaller(sizes[-1]))
    assert [(one.context_length, one.parallel) for one in sizes] == [
        (8192, 4), (8192, 2), (8192, 1), (4096, 1), (2048, 1), (1024, 1), (512, 1),
    ]  # fmt: skip
    assert sizes[3] == fit(LLAMA, memory_bytes=None, parallel=4, steps_down=3)


def test_a_server_fits_itself_to_the_limit_of_its_container(tmp_path: Path) -> None:
    """The limit of the cgroup decides; without one the usual window is taken."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    file = parts.model("slow")
    assert fit_file(file, parallel=1, steps_down=0, root=tmp_path).context_length == 8192
    (group / "memory.max").write_text(f"{380 * 2**20}\n")
    tight = fit_file(file, parallel=1, steps_down=0, root=tmp_path)
    assert tight.limited_by == "Memory"
    assert 512 <= tight.context_length < 8192
    half = fit_file(file, parallel=1, steps_down=1, root=tmp_path)
    assert half.context_length <= tight.context_length // 2
