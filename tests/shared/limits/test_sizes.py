"""Sizes are read from names as a person would (behaviours B2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.limits import parameter_count, size_class

NAMED = [
    ("qwen2.5-72b-instruct", 72, "70B"), ("llama3.1:8b-q4_K_M", 8, "7B"), ("mixtral-8x7b", 56, "30B"),
    ("qwen3-30b-a3b", 30, "30B"), ("phi-3.5-mini", 3.8, "3B"), ("llama-2-7b-chat-v2", 7, "7B"),
    ("Mistral-7B-Instruct-v0.3-4bit", 7, "7B"), ("yarn-mistral-7b-128k", 7, "7B"),
    ("gemma3:270m", 0.27, "3B"), ("gpt-oss:20b", 20, "13B"), ("gpt-oss-120b", 120, "70B"),
    ("deepseek-r1:1.5b", 1.5, "3B"), ("Qwen3-0.6B", 0.6, "3B"), ("mistral", 7, "7B"),
    ("mistral:latest", 7, "7B"), ("kimi-k2-1t", 1000, "70B"), ("smollm2:360m", 0.36, "3B"),
    ("gemma-3n-e4b", 4, "3B"), ("Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf", 70, "70B"),
    ("qwen3-coder:480b-a35b", 480, "70B"), ("llama3.2:1b", 1, "3B"), ("llama3.2:3b-instruct-fp16", 3, "3B"),
    ("llama3.3:70b", 70, "70B"), ("qwen2.5-coder:32b", 32, "30B"), ("qwen2.5-coder:14b", 14, "13B"),
    ("qwen2.5-coder:7b-instruct-q8_0", 7, "7B"), ("codellama:34b", 34, "30B"), ("codellama-13b", 13, "13B"),
    ("deepseek-coder-v2:16b", 16, "13B"), ("deepseek-coder-v2-236b", 236, "70B"), ("deepseek-v3-671b", 671, "70B"),
    ("gemma2:9b", 9, "7B"), ("gemma2-27b-it", 27, "30B"), ("gemma3:12b-it-qat", 12, "13B"),
    ("gemma-3-4b-it", 4, "3B"), ("phi-4-mini", 3.8, "3B"), ("phi4-mini", 3.8, "3B"), ("phi-2", 2.7, "3B"),
    ("phi4", 14, "13B"), ("phi-4-reasoning", 14, "13B"), ("phi3-medium", 14, "13B"),
    ("phi-3-small-8k", 7, "7B"), ("phi-3-mini-128k-instruct", 3.8, "3B"), ("tinyllama", 1.1, "3B"),
    ("tinyllama-1.1b-chat", 1.1, "3B"), ("mistral-nemo", 12, "13B"), ("mistral-small", 24, "13B"),
    ("mistral-small3.2:24b", 24, "13B"), ("mistral-large", 123, "70B"), ("mixtral", 47, "30B"),
    ("mixtral:8x22b", 176, "70B"), ("dolphin-mixtral:8x7b-v2.5", 56, "30B"), ("codestral", 22, "13B"),
    ("command-r", 35, "30B"), ("command-r-plus", 104, "70B"), ("command-r7b", 35, "30B"),
    ("yi-34b-200k", 34, "30B"), ("yi:6b", 6, "7B"), ("falcon-180B", 180, "70B"), ("falcon3:10b", 10, "13B"),
    ("granite3.1-dense:8b", 8, "7B"), ("granite-4.0-h-tiny-7b", 7, "7B"), ("olmo2:13b", 13, "13B"),
    ("nous-hermes2:10.7b", 10.7, "13B"), ("solar:10.7b", 10.7, "13B"), ("starcoder2:15b", 15, "13B"),
    ("starcoder2-3b", 3, "3B"), ("stablelm2:1.6b", 1.6, "3B"), ("qwen:0.5b", 0.5, "3B"),
    ("qwen3:235b-a22b", 235, "70B"), ("Qwen3-Next-80B-A3B-Instruct", 80, "70B"), ("llama4:16x17b", 272, "70B"),
    ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", 3, "3B"), ("unsloth/Qwen3-14B-GGUF", 14, "13B"),
    ("TheBloke/Llama-2-13B-chat-GPTQ", 13, "13B"), ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", 8, "7B"),
    ("Qwen/Qwen2.5-7B-Instruct-1M", 7, "7B"), ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", 70, "70B"),
    ("mlx-community/Mistral-7B-Instruct-v0.3-4bit", 7, "7B"), ("lmstudio-community/gemma-2-2b-it-GGUF", 2, "3B"),
    ("deepseek-r1-distill-qwen-32b", 32, "30B"), ("deepseek-r1-distill-llama-8b", 8, "7B"),
    ("exaone3.5:2.4b", 2.4, "3B"), ("glm4:9b", 9, "7B"), ("internlm2:20b", 20, "13B"), ("wizardlm2:8x22b", 176, "70B"),
    ("minicpm-v:8b", 8, "7B"), ("llava:34b-v1.6", 34, "30B"), ("bakllava:7b", 7, "7B"), ("moondream:1.8b", 1.8, "3B"),
    ("vicuna-33b", 33, "30B"), ("zephyr-7b-beta", 7, "7B"), ("openchat_3.5-7b", 7, "7B"), ("orca2:13b", 13, "13B"),
    ("model_7b_int4", 7, "7B"), ("MODEL-7B", 7, "7B"), ("60b", 60, "70B"), ("25b", 25, "30B"), ("10b", 10, "13B"), ("5b", 5, "7B"),
]  # fmt: skip

UNKNOWN = [
    "nomic-embed-text", "claude", "model-8bit", "llama3.2", "gpt-4o", "qwen-v2", "my-model-128k", "model-q4_K_M",
    "fp16", "int8", "", "my-model-v2.5", "text-embedding-3", "qwen3:latest", "4bit", "1m-context",
    "model.v7", "b7", "7", "x7b8y",
]  # fmt: skip


@pytest.mark.parametrize(("name", "billions", "named_class"), NAMED, ids=[n for n, _, _ in NAMED])
def test_sizes_in_names(name: str, billions: float, named_class: str) -> None:
    """The first size token, as total parameters, and its class."""
    assert parameter_count(name) == pytest.approx(billions)
    assert size_class(parameter_count(name)) == named_class


@pytest.mark.parametrize("name", UNKNOWN, ids=[n or "nothing" for n in UNKNOWN])
def test_names_without_a_size(name: str) -> None:
    """Versions, quantisations and windows are no sizes."""
    assert parameter_count(name) is None


@given(st.text(max_size=60))
def test_no_name_is_too_odd(name: str) -> None:
    """Any text is answered, and a size is above zero."""
    billions = parameter_count(name)
    assert billions is None or billions > 0
    assert size_class(billions) in ("70B", "30B", "13B", "7B", "3B", "unknown")
