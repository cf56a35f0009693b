"""
How many bytes the attention cache of a model takes, from its shape.

For each layer that attends and each token in the window a key and a value are kept, for each KV head:

    bytes = sum over layers of cells * (kv_heads * key_length * k + kv_heads * value_length * v)

with k and v the bytes of one element (2 for f16; the quantised types hold 32 elements in a block). Layers
with a sliding window keep only that much and one batch; recurrent layers keep one state per sequence,
whatever the window; latent attention (MLA) keeps one compressed vector instead of keys and values.

Sources: llama.cpp `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp`, `llama-memory-recurrent.cpp`,
`llama-hparams.cpp`, `llama-model.cpp` (`set_swa_pattern`); block sizes from `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ELEMENT_BYTES: Mapping[str, float] = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes per element by the name of the cache type (`--cache-type-k`, `OLLAMA_KV_CACHE_TYPE`)."""

_CELLS_ROUNDED_TO = 256
_BATCH = 512
_MOST_LAYERS = 4_096
# Of so many layers in a row all but the last have the sliding window.
_PATTERNS = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "gptoss": 2, "cohere2": 4, "exaone4": 4,
    "olmo2": 4, "olmo3": 4, "smallthinker": 4, "llama4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """
    What one layer keeps.

    Attributes:
        key_elements, value_elements: per token in the window.
        window: tokens of its sliding window, None when it attends to all.
        state_elements: of its recurrent state, per sequence (kept as 32-bit numbers).
    """

    key_elements: int = 0
    value_elements: int = 0
    window: int | None = None
    state_elements: int = 0


@dataclass(frozen=True, slots=True)
class KvShape:
    """What the layers of a model keep."""

    layers: tuple[Layer, ...]

    def bytes_for(
        self,
        tokens: int,
        *,
        sequences: int = 1,
        key_type: str = "f16",
        value_type: str = "f16",
    ) -> int:
        """
        Bytes of the cache.

        Args:
            tokens: the window of all sequences together.
            sequences: slots; each has its own recurrent state and its own sliding window.
            key_type, value_type: see `ELEMENT_BYTES`; what is not listed counts as f16.
        """
        k = ELEMENT_BYTES.get(key_type, 2.0)
        v = ELEMENT_BYTES.get(value_type, 2.0)
        cells = _rounded(tokens)
        total = 0.0
        for layer in self.layers:
            used = cells
            if layer.window is not None:
                used = min(cells, _rounded(layer.window * sequences + _BATCH))
            total += used * (layer.key_elements * k + layer.value_elements * v)
            total += layer.state_elements * 4 * sequences
        return round(total)

    def most_tokens(self, size_bytes: int, *, most: int = 2**20, **types: Any) -> int:
        """The largest window, in steps of 256 tokens up to *most*, whose cache fits *size_bytes*; 0 for none."""
        low, high = 0, most // _CELLS_ROUNDED_TO
        while low < high:
            middle = (low + high + 1) // 2
            if self.bytes_for(middle * _CELLS_ROUNDED_TO, **types) <= size_bytes:
                low = middle
            else:
                high = middle - 1
        return low * _CELLS_ROUNDED_TO


def kv_shape(metadata: Mapping[str, Any]) -> KvShape | None:
    """
    The shape that GGUF metadata describe (file headers, Ollama's `/api/show` `model_info`).

    Returns:
        None when the essentials are missing.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        return None
    of = _Fields(metadata, architecture)
    count = of.number("block_count")
    heads = of.per_layer("attention.head_count")
    if not 0 < count <= _MOST_LAYERS:
        return None
    kv_heads = of.per_layer("attention.head_count_kv") or heads
    if not heads and not of.number("ssm.state_size") and not of.number("wkv.head_size"):
        return None
    width = of.number("embedding_length")
    layers = tuple(
        _layer(of, place, architecture, width, _at(heads, place), _at(kv_heads, place))
        for place in range(count)
    )
    return KvShape(layers) if any(_keeps(layer) for layer in layers) else None


def _layer(
    of: _Fields, place: int, architecture: str, width: int, heads: int, kv_heads: int
) -> Layer:
    interval = of.number("full_attention_interval")
    recurrent = kv_heads == 0 or (interval > 1 and (place + 1) % interval != 0)
    state = _state(of)
    if recurrent or (not heads and state):
        return Layer(state_elements=state)
    latent = of.number("attention.kv_lora_rank")
    if latent:
        return Layer(key_elements=latent + of.number("rope.dimension_count"))
    usual = width // heads if heads else 0
    window = of.number("attention.sliding_window")
    slides = window > 0 and _slides(of, place, architecture)
    suffix = "_swa" if slides else ""
    key = of.number(f"attention.key_length{suffix}") or of.number("attention.key_length") or usual
    value = (
        of.number(f"attention.value_length{suffix}") or of.number("attention.value_length") or usual
    )
    # Hybrid models of the Falcon H1 kind attend and recur in each layer.
    return Layer(
        kv_heads * key, kv_heads * value, window if slides else None, state * (not interval)
    )


def _slides(of: _Fields, place: int, architecture: str) -> bool:
    """Whether the layer has the sliding window."""
    said = of.value("attention.sliding_window_pattern")
    if isinstance(said, list) and said:
        return bool(said[place % len(said)])
    pattern = said if isinstance(said, int) and said > 1 else _PATTERNS.get(architecture)
    return pattern is not None and place % pattern < pattern - 1


def _state(of: _Fields) -> int:
    """Elements of a recurrent layer's state: Mamba's and its kin's, or RWKV's."""
    inner, state = of.number("ssm.inner_size"), of.number("ssm.state_size")
    if inner and state:
        groups = of.number("ssm.group_count")
        kernel = max(0, of.number("ssm.conv_kernel") - 1)
        return inner * state + kernel * (inner + 2 * groups * state)
    head = of.number("wkv.head_size")
    if head:
        width = of.number("embedding_length")
        return width * head + 2 * width
    return 0


class _Fields:
    """Fields of one architecture; numbers that are none, or absurd, are 0."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata = metadata
        self._prefix = architecture

    def value(self, name: str) -> Any:
        return self._metadata.get(f"{self._prefix}.{name}")

    def number(self, name: str) -> int:
        value = self.value(name)
        if isinstance(value, list) and value:
            value = value[0]
        return _plausible(value)

    def per_layer(self, name: str) -> list[int]:
        value = self.value(name)
        if isinstance(value, list):
            return [_plausible(one) for one in value]
        return [_plausible(value)] if value is not None else []


def _plausible(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        return 0
    return value


def _at(values: list[int], place: int) -> int:
    return (values[place] if place < len(values) else values[-1]) if values else 0


def _keeps(layer: Layer) -> bool:
    return bool(layer.key_elements or layer.value_elements or layer.state_elements)


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELLS_ROUNDED_TO) * _CELLS_ROUNDED_TO
