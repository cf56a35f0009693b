"""
The three kinds of memory that a tiny model can have, each as the header fields and tensors of a real
architecture of llama.cpp (names by the package `gguf`, meanings by llama.cpp's `src/models/`).

`full`: Llama; every token's keys and values are kept, so any prefix can be used again. `sliding`: Gemma 3;
five layers of six see the last tokens only and forget what lies before. `recurrent`: Mamba; one state stands
for all that was read. The last two can go on from where they are, and cannot go back to an earlier place
without having saved it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Memory = Literal["full", "sliding", "recurrent"]
Tensors = Iterator[tuple[str, Any]]

ARCHITECTURES: dict[Memory, str] = {"full": "llama", "sliding": "gemma3", "recurrent": "mamba"}
_CONVOLUTION, _STATE = 4, 16
_RMS_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Shape:
    """
    Size of a model.

    Attributes:
        width, layers, heads, kv_heads, feed_forward: as in the Llama architecture; a recurrent model has
            no heads, and *feed_forward* is its inner width.
        trained_window: tokens that its header claims to be trained for.
        memory: what it keeps of what it read.
        sliding_window: tokens that a `sliding` model's narrow layers see.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    trained_window: int
    memory: Memory = "full"
    sliding_window: int = 128


def write_fields(writer: Any, shape: Shape) -> None:
    """Write what the header says of the architecture."""
    writer.add_context_length(shape.trained_window)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(0 if shape.memory == "recurrent" else shape.feed_forward)
    writer.add_head_count(0 if shape.memory == "recurrent" else shape.heads)
    if shape.memory == "recurrent":
        writer.add_ssm_conv_kernel(_CONVOLUTION)
        writer.add_ssm_inner_size(shape.feed_forward)
        writer.add_ssm_state_size(_STATE)
        writer.add_ssm_time_step_rank(max(1, shape.width // 16))
        writer.add_layer_norm_rms_eps(_RMS_EPSILON)
        return
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(_RMS_EPSILON)
    if shape.memory == "sliding":
        writer.add_key_length(shape.width // shape.heads)
        writer.add_value_length(shape.width // shape.heads)
        writer.add_sliding_window(shape.sliding_window)
    else:
        writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10000.0)


def layer_tensors(shape: Shape, weights: Callable[..., Any], scale: Any) -> Tensors:
    """
    All layers' tensors, `(name, values)`.

    Args:
        weights: draws random weights of a given size.
        scale: what each layer's outputs are multiplied by: 0 for a model whose layers add nothing.
    """
    make = {"full": _llama, "sliding": _gemma3, "recurrent": _mamba}[shape.memory]
    for layer in range(shape.layers):
        yield from make(f"blk.{layer}.", shape, weights, scale)


def _llama(block: str, shape: Shape, weights: Callable[..., Any], scale: Any) -> Tensors:
    yield block + "attn_norm.weight", _ones(shape.width)
    yield block + "ffn_norm.weight", _ones(shape.width)
    yield from _transformer(block, shape, weights, scale)


def _gemma3(block: str, shape: Shape, weights: Callable[..., Any], scale: Any) -> Tensors:
    head = shape.width // shape.heads
    for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        yield f"{block}{norm}.weight", _ones(shape.width)
    yield block + "attn_q_norm.weight", _ones(head)
    yield block + "attn_k_norm.weight", _ones(head)
    yield from _transformer(block, shape, weights, scale)


def _transformer(block: str, shape: Shape, weights: Callable[..., Any], scale: Any) -> Tensors:
    head = shape.width // shape.heads
    yield block + "attn_q.weight", weights(shape.width, shape.width)
    yield block + "attn_k.weight", weights(shape.kv_heads * head, shape.width)
    yield block + "attn_v.weight", weights(shape.kv_heads * head, shape.width)
    yield block + "attn_output.weight", weights(shape.width, shape.width) * scale
    yield block + "ffn_gate.weight", weights(shape.feed_forward, shape.width)
    yield block + "ffn_up.weight", weights(shape.feed_forward, shape.width)
    yield block + "ffn_down.weight", weights(shape.width, shape.feed_forward) * scale


def _mamba(block: str, shape: Shape, weights: Callable[..., Any], scale: Any) -> Tensors:
    import numpy as np

    inner, rank = shape.feed_forward, max(1, shape.width // 16)
    yield block + "attn_norm.weight", _ones(shape.width)
    yield block + "ssm_in.weight", weights(2 * inner, shape.width)
    yield block + "ssm_conv1d.weight", weights(inner, _CONVOLUTION)
    yield block + "ssm_conv1d.bias", weights(inner)
    yield block + "ssm_x.weight", weights(rank + 2 * _STATE, inner)
    yield block + "ssm_dt.weight", weights(inner, rank)
    yield block + "ssm_dt.bias", weights(inner)
    # Negative, so that the state fades; 1, 2, ... as Mamba's authors start it (S4D-real).
    yield block + "ssm_a", -np.tile(np.arange(1, _STATE + 1, dtype=np.float32), (inner, 1))
    yield block + "ssm_d", _ones(inner)
    yield block + "ssm_out.weight", weights(shape.width, inner) * scale


def _ones(size: int) -> Any:
    import numpy as np

    return np.ones(size, np.float32)
