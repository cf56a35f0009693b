"""What the file of a model tells about the memory that it takes, and the choice that a server makes from it."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.adapters.gguf_file import read_gguf
from penstock.adapters.machine import cgroup_memory
from penstock.tokens.gguf import NotGguf
from penstock.tokens.memory_fit import Fit, ModelFacts, facts_of, fit

_WORDS = "tokenizer.ggml.tokens"
_SPLIT = re.compile(r"-00001-of-(\d{5})\.gguf$")
_MOST_PARTS = 4096


def model_facts(path: Path) -> ModelFacts | None:
    """
    Of the GGUF file at *path*, and of the further files of a model that was split; None when it is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        metadata = read_gguf(path, keep=frozenset({_WORDS})).metadata
    except NotGguf:
        return None
    words = metadata.get(_WORDS)
    size = sum(one.stat().st_size for one in _files(path))
    return facts_of(metadata, size, len(words) if isinstance(words, list) else 0)


def fit_file(path: Path, *, parallel: int, steps_down: int, root: Path = Path("/")) -> Fit:
    """
    What a server of that file is started with, within the memory limit of the container that we run in.

    Args:
        root: where `proc` and `sys` are; another folder in tests.
    """
    limit, _ = cgroup_memory(root)
    facts = model_facts(path) if path.is_file() else None
    return fit(facts, memory_bytes=limit, parallel=parallel, steps_down=steps_down)


def _files(path: Path) -> list[Path]:
    split = _SPLIT.search(path.name)
    if split is None:
        return [path]
    parts = min(int(split[1]), _MOST_PARTS)
    stem = path.name[: split.start()]
    names = [f"{stem}-{part:05}-of-{split[1]}.gguf" for part in range(1, parts + 1)]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]
