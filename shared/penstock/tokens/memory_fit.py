"""
How long a context, for how many requests, fits the memory that a server without a GPU may take. Pure.

llama.cpp fits itself to the memory of a GPU, not to the limit of a container: what it takes beyond that limit gets it
killed. So the number is chosen here, from what the file says of itself (`ModelFacts`) and the limit:

    memory = weights + attention cache + work space + process

The weights are mapped, and the kernel could take their pages back, but a server that reads them anew for each token is
of no use: they count in full. The work space is that of one batch: llama.cpp keeps, for each of its 512 tokens, a
number for each word of the vocabulary and a few rows as wide as the model (`llama-context.cpp`, `graph_reserve`).

A server that was killed for memory nevertheless is made smaller, step by step: first fewer requests at a time, since
those can queue, then a shorter context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from penstock.tokens.kv_cache import KvShape, Layer, kv_shape

Limit = Literal["Asked", "Trained", "Memory", "Usual", "Killed"]
"""What a context could not be longer for: it was asked for, the model was trained for no more, the memory, what is
usual where nothing else bounds it, or the server was killed for memory."""

USUAL_TOKENS = 8192
"""Where nothing tells how much memory there is."""
MOST_TOKENS = 32_768
"""Without a GPU a longer prompt takes minutes to read, whatever the memory."""
LEAST_TOKENS = 512
VOCABULARY = 256_000
"""Of a model that does not tell; among the largest there are."""
SHARE = 0.95
"""Of the memory that is planned for."""
_PROCESS_BYTES = 128 * 1024**2
_BATCH = 512
_ROWS = 8
_GRAIN = 256


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """
    What the header of a model's file tells about memory.

    Attributes:
        weights_bytes: size of all its files.
        trained_window: tokens it was trained for, None when it does not tell.
        vocabulary: words it knows, 0 when it does not tell.
        width: of its rows.
        shape: of its attention cache, None when it does not tell.
    """

    architecture: str
    weights_bytes: int
    trained_window: int | None
    vocabulary: int
    width: int
    shape: KvShape | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON, some hundred bytes; layers of one kind are counted."""
        layers = Counter(self.shape.layers if self.shape is not None else ())
        return {
            "architecture": self.architecture,
            "weightsBytes": self.weights_bytes,
            "trainedContextLength": self.trained_window,
            "vocabulary": self.vocabulary,
            "width": self.width,
            "layers": [
                [count, one.key_elements, one.value_elements, one.window, one.state_elements]
                for one, count in layers.items()
            ],
        }


def facts_of(metadata: Mapping[str, Any], weights_bytes: int, words: int = 0) -> ModelFacts:
    """
    Args:
        metadata: of a GGUF header.
        words: length of its list of tokens; 0 takes what it says of its vocabulary.
    """
    architecture = metadata.get("general.architecture")
    of = architecture if isinstance(architecture, str) else ""
    window = _number(metadata.get(f"{of}.context_length"))
    return ModelFacts(
        architecture=of[:64],
        weights_bytes=weights_bytes,
        trained_window=window or None,
        vocabulary=words or _number(metadata.get(f"{of}.vocab_size")),
        width=_number(metadata.get(f"{of}.embedding_length")),
        shape=kv_shape(metadata),
    )


def facts_from(value: Mapping[str, Any]) -> ModelFacts | None:
    """From `ModelFacts.to_dict`; None when it is none of those."""
    try:
        layers = tuple(
            Layer(int(key), int(kept), None if window is None else int(window), int(state))
            for count, key, kept, window, state in value["layers"]
            for _ in range(min(int(count), 4096))
        )
        window = value["trainedContextLength"]
        return ModelFacts(
            architecture=str(value["architecture"]),
            weights_bytes=int(value["weightsBytes"]),
            trained_window=None if window is None else int(window),
            vocabulary=int(value["vocabulary"]),
            width=int(value["width"]),
            shape=KvShape(layers) if layers else None,
        )
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Fit:
    """
    What a server is started with.

    Attributes:
        context_length: tokens of one request; parallel: requests at a time.
        limited_by: what the context could not be longer for.
        fits: False when even the shortest context needs more than there is.
    """

    context_length: int
    parallel: int
    limited_by: Limit
    fits: bool = True

    @property
    def tokens(self) -> int:
        """Of all requests together, llama.cpp's `--ctx-size`."""
        return self.context_length * self.parallel


def fit(
    facts: ModelFacts | None,
    *,
    memory_bytes: int | None,
    parallel: int = 1,
    context_length: int | None = None,
    steps_down: int = 0,
    cache_type: str = "f16",
) -> Fit:
    """
    Args:
        facts: None when they are not known.
        memory_bytes: the limit; None when there is none.
        context_length: asked for by a person, who is believed.
        steps_down: how often it was made smaller since it was killed.
    """
    chosen = _unstepped(facts, memory_bytes, parallel, context_length, cache_type)
    for _ in range(steps_down):
        chosen = smaller(chosen)
    return chosen


def memory_bytes(facts: ModelFacts, chosen: Fit, cache_type: str = "f16") -> int:
    """What it takes, weights and all."""
    cache = 0
    if facts.shape is not None:
        cache = facts.shape.bytes_for(
            chosen.tokens, sequences=chosen.parallel, key_type=cache_type, value_type=cache_type
        )
    return facts.weights_bytes + cache + _work_bytes(facts) + _PROCESS_BYTES


def smaller(chosen: Fit) -> Fit:
    """One step down; the same when it cannot be smaller."""
    if chosen.parallel > 1:
        return Fit(chosen.context_length, chosen.parallel // 2, "Killed", chosen.fits)
    half = chosen.context_length // 2 // _GRAIN * _GRAIN
    if half < LEAST_TOKENS:
        return chosen
    return Fit(half, 1, "Killed", chosen.fits)


def _unstepped(
    facts: ModelFacts | None, memory: int | None, parallel: int, asked: int | None, cache_type: str
) -> Fit:
    if asked is not None:
        chosen = Fit(asked, parallel, "Asked")
        if facts is None or memory is None:
            return chosen
        return Fit(asked, parallel, "Asked", memory_bytes(facts, chosen, cache_type) <= memory)
    usual = USUAL_TOKENS if memory is None or facts is None else MOST_TOKENS
    most, limit = usual, "Usual"
    if facts is not None and facts.trained_window is not None and facts.trained_window <= usual:
        most, limit = facts.trained_window, "Trained"
    if facts is None or memory is None or facts.shape is None:
        return Fit(most, parallel, limit)  # type: ignore[arg-type]
    room = int(memory * SHARE) - facts.weights_bytes - _work_bytes(facts) - _PROCESS_BYTES
    tokens = facts.shape.most_tokens(
        room, most=most * parallel, sequences=parallel, key_type=cache_type, value_type=cache_type
    )
    each = tokens // parallel // _GRAIN * _GRAIN
    if each >= most // _GRAIN * _GRAIN:
        return Fit(most, parallel, limit)  # type: ignore[arg-type]
    least = min(LEAST_TOKENS, most)
    return Fit(max(each, least), parallel, "Memory", fits=each >= least)


def _work_bytes(facts: ModelFacts) -> int:
    return _BATCH * 4 * ((facts.vocabulary or VOCABULARY) + _ROWS * facts.width)


def _number(value: Any) -> int:
    ok = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if ok else 0
