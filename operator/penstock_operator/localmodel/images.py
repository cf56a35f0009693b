"""
Images of the engines where the spec names none. Pure.

They are pinned: which engine runs is decided by a release of the operator, not by the day on which a node pulls.
llama.cpp's variants come from one commit, but not each build has all of them. Ollama's is the release that the tests
run for real. What is missing here (Ollama or vLLM on Intel) has no image by its project: the spec must name one.
"""

from __future__ import annotations

from collections.abc import Mapping

_LLAMACPP = "ghcr.io/ggml-org/llama.cpp"
ENGINES: Mapping[str, Mapping[str, str]] = {
    "LlamaCpp": {
        "None": f"{_LLAMACPP}:server-b11312",
        "NVIDIA": f"{_LLAMACPP}:server-cuda-b11312",
        "AMD": f"{_LLAMACPP}:server-rocm-b11312",
        "Intel": f"{_LLAMACPP}:server-intel-b10820",
    },
    "Ollama": {
        "None": "docker.io/ollama/ollama:0.17.4",
        "NVIDIA": "docker.io/ollama/ollama:0.17.4",
        "AMD": "docker.io/ollama/ollama:0.17.4-rocm",
    },
    "VLLM": {
        "None": "docker.io/vllm/vllm-openai-cpu:v0.28.0",
        "NVIDIA": "docker.io/vllm/vllm-openai:v0.31.0",
        "AMD": "docker.io/vllm/vllm-openai-rocm:v0.31.0",
    },
}


def image(runtime: str, accelerator: str) -> str:
    """Of that engine for that maker's GPU; empty where there is none."""
    return ENGINES.get(runtime, {}).get(accelerator, "")
