"""What an attention cache takes, from a model's shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens.kv_cache import Layer, kv_shape

MIB = 1024 * 1024


def model(architecture: str, **fields: Any) -> dict[str, Any]:
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in fields.items()}
    return {"general.architecture": architecture, **named}


LLAMA3_8B = model(
    "llama",
    block_count=32,
    embedding_length=4096,
    attention__head_count=32,
    attention__head_count_kv=8,
)
GEMMA3_4B = model(
    "gemma3", block_count=34, embedding_length=2560, attention__head_count=8, attention__head_count_kv=4,
    attention__key_length=256, attention__value_length=256, attention__sliding_window=1024,
)  # fmt: skip
DEEPSEEK = model(
    "deepseek2", block_count=27, embedding_length=2048, attention__head_count=16,
    attention__kv_lora_rank=512, rope__dimension_count=64,
)  # fmt: skip
MAMBA = model(
    "mamba", block_count=64, embedding_length=2560, attention__head_count=0, ssm__inner_size=5120,
    ssm__state_size=16, ssm__conv_kernel=4,
)  # fmt: skip
QWEN3_NEXT = model(
    "qwen3next", block_count=8, embedding_length=2048, attention__head_count=16,
    attention__head_count_kv=2, attention__key_length=256, attention__value_length=256,
    full_attention_interval=4, ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=16,
    ssm__conv_kernel=4,
)  # fmt: skip
GPT2 = model("gpt2", block_count=12, embedding_length=768, attention__head_count=12)


@pytest.mark.parametrize(
    ("metadata", "tokens", "types", "expected"),
    [
        # llama.cpp prints "KV self size = 1024.00 MiB" for Llama 3 8B with 8,192 tokens.
        pytest.param(LLAMA3_8B, 8192, {}, 1024 * MIB, id="Llama 3 8B, f16"),
        pytest.param(
            LLAMA3_8B, 8192, {"key_type": "q8_0", "value_type": "q8_0"}, 544 * MIB, id="8 bits"
        ),
        pytest.param(
            LLAMA3_8B, 8192, {"key_type": "q4_0", "value_type": "f16"}, 656 * MIB, id="keys in 4 bits"
        ),
        pytest.param(LLAMA3_8B, 8192, {"key_type": "what", "value_type": "f32"}, 1536 * MIB, id="odd type"),
        pytest.param(LLAMA3_8B, 8000, {}, 1024 * MIB, id="rounded to cells"),
        # 29 of 34 layers keep 1,024 + 512 tokens, 5 keep all: 4 KiB a token and layer.
        pytest.param(GEMMA3_4B, 32768, {}, (5 * 32768 + 29 * 1536) * 4096, id="sliding window"),
        pytest.param(GEMMA3_4B, 512, {}, 34 * 512 * 4096, id="window smaller than the sliding one"),
        pytest.param(DEEPSEEK, 4096, {}, 27 * 4096 * 576 * 2, id="latent attention"),
        pytest.param(MAMBA, 4096, {}, 64 * (5120 * 16 + 3 * 5120) * 4, id="recurrent"),
        pytest.param(MAMBA, 131072, {}, 64 * (5120 * 16 + 3 * 5120) * 4, id="recurrent, any window"),
        pytest.param(
            QWEN3_NEXT, 1024, {},
            2 * 1024 * 2 * 512 * 2 + 6 * (4096 * 128 + 3 * (4096 + 2 * 16 * 128)) * 4,
            id="hybrid: every fourth layer attends",
        ),
        pytest.param(GPT2, 1024, {}, 12 * 1024 * 2 * 768 * 2, id="a head of keys for each"),
    ],
)  # fmt: skip
def test_bytes(metadata: dict[str, Any], tokens: int, types: dict[str, str], expected: int) -> None:
    """By the published formulas, which servers print the results of."""
    shape = kv_shape(metadata)
    assert shape is not None
    assert shape.bytes_for(tokens, **types) == expected


def test_layers_may_differ() -> None:
    """Heads per layer: none means that the layer does not attend."""
    shape = kv_shape(
        model(
            "granitehybrid", block_count=3, embedding_length=64, attention__head_count=4,
            attention__head_count_kv=[2, 0, 4], ssm__inner_size=8, ssm__state_size=4,
        )
    )  # fmt: skip
    assert shape is not None
    assert shape.layers[0].key_elements == 32
    assert shape.layers[1] == Layer(state_elements=32)
    assert shape.layers[2].key_elements == 64


def test_a_pattern_in_the_file_wins() -> None:
    """A list says which layers slide; a number, which do not."""
    fields = {**GEMMA3_4B, "gemma3.block_count": 4}
    told = kv_shape(
        {**fields, "gemma3.attention.sliding_window_pattern": [True, False, False, True]}
    )
    every = kv_shape({**fields, "gemma3.attention.sliding_window_pattern": 2})
    assert told is not None
    assert every is not None
    assert [layer.window for layer in told.layers] == [1024, None, None, 1024]
    assert [layer.window for layer in every.layers] == [1024, None, 1024, None]


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"general.architecture": 5}, id="no name"),
        pytest.param(model("llama"), id="no layers"),
        pytest.param({**LLAMA3_8B, "llama.block_count": 2**40}, id="absurd layers"),
        pytest.param({**LLAMA3_8B, "llama.block_count": "32"}, id="a text"),
        pytest.param(model("clip", block_count=4), id="no heads"),
        pytest.param({**LLAMA3_8B, "llama.embedding_length": -5}, id="nothing is kept"),
    ],
)
def test_what_says_too_little_has_no_shape(metadata: dict[str, Any]) -> None:
    """No guess where the essentials are missing or absurd."""
    assert kv_shape(metadata) is None


@pytest.mark.parametrize("metadata", [LLAMA3_8B, GEMMA3_4B, DEEPSEEK, QWEN3_NEXT])
@given(size=st.integers(0, 2**36))
def test_the_largest_window_that_fits(metadata: dict[str, Any], size: int) -> None:
    """It fits, and the next one does not."""
    shape = kv_shape(metadata)
    assert shape is not None
    tokens = shape.most_tokens(size)
    assert tokens % 256 == 0
    assert tokens == 0 or shape.bytes_for(tokens) <= size
    assert tokens == 2**20 or shape.bytes_for(tokens + 256) > size


def test_slots_have_their_own() -> None:
    """Each sequence has its recurrent state and its sliding window."""
    mamba, gemma = kv_shape(MAMBA), kv_shape(GEMMA3_4B)
    assert mamba is not None
    assert gemma is not None
    assert mamba.bytes_for(4096, sequences=4) == 4 * mamba.bytes_for(4096)
    assert gemma.bytes_for(32768, sequences=4) - gemma.bytes_for(32768) == 29 * 3072 * 4096
