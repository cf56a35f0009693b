"""
Makes tiny GGUF models in a second, so that demo and tests run on a real llama.cpp without any download.

Three kinds: random weights (1.5 MB, quick), the same but slow enough to be caught in the act (203 MB),
and one that says a given text: its attention and feed-forward outputs are zero, every piece of the text
is a token of its own, and each output row points at the embedding of its predecessor, so that greedy
decoding walks the chain.

Format: GGUF version 3 by the package `gguf`; architecture `llama`; a byte-level BPE vocabulary in the
manner of GPT-2 (`bytes_to_unicode` of its published encoder), so any text can be tokenised.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from penstock.errors import MissingPart

CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# A ChatML template with tools in the Hermes manner, as Qwen 2.5 and its kin use it: llama.cpp
# recognises the format and parses `<tool_call>` into tool calls.
HERMES_TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n\\nYou may call one or more functions.\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments"
    " within <tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}{%- endif %}'
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and message.tool_calls %}{{- '<|im_start|>assistant' }}"
    "{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}"
    "{%- for tool_call in message.tool_calls %}"
    "{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' }}{{- tool_call.name }}{{- \'", "arguments": \' }}'
    "{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_MERGES = (
    ("t", "h"), ("h", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("r", "e"), ("o", "n"), ("Ġ", "t"),
    ("Ġ", "a"), ("th", "e"), ("Ġ", "the"), ("Ġ", "o"), ("in", "g"),
)  # fmt: skip
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Shape:
    """
    Size of a model.

    Attributes:
        width, layers, heads, kv_heads, feed_forward: as in the Llama architecture.
        trained_window: tokens that its header claims to be trained for.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    trained_window: int


TINY = Shape(128, 2, 4, 2, 256, 8192)
"""1.5 MB: prefills 32,000 and decodes 5,500 tokens a second on two cores."""
SLOW = Shape(768, 8, 12, 4, 2048, 32768)
"""203 MB: prefills 760 and decodes 89 tokens a second on two cores."""


def write_model(
    path: Path,
    *,
    shape: Shape = TINY,
    name: str = "penstock-tiny",
    template: str | None = None,
    says: str | None = None,
    seed: int = 0,
) -> Path:
    """
    Write a model, whole or not at all.

    Args:
        path: the file; its folder must exist.
        template: the chat template (Jinja); ChatML, or the Hermes one for a model that *says* something.
        says: the text that it answers, greedily, to everything; None for random weights.
        seed: of the random weights; equal arguments make equal files.

    Returns:
        *path*.

    Raises:
        MissingPart: `gguf` or `numpy` is not installed.
    """
    try:
        import gguf
        import numpy as np
    except ImportError as exc:
        raise MissingPart(
            "Making a model needs the extra `embedded`: pip install 'penstock[embedded]'"
        ) from exc

    tokens, merges = _vocabulary()
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(_SPECIAL)
    tokens.extend(_SPECIAL)
    pieces = _pieces(says, set(tokens)) if says is not None else []
    first_piece = len(tokens)
    tokens.extend(pieces)
    kinds.extend([gguf.TokenType.NORMAL] * len(pieces))

    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(name)
    writer.add_context_length(shape.trained_window)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template or (CHATML_TEMPLATE if says is None else HERMES_TEMPLATE))

    rng = np.random.default_rng(seed)

    def weights(*size: int) -> Any:
        return (rng.standard_normal(size, dtype=np.float32) * np.float32(0.05)).astype(np.float32)

    embedding = weights(len(tokens), shape.width)
    output = weights(len(tokens), shape.width)
    if says is not None:
        newline = tokens.index(_byte_names()[10])  # the template ends the prompt with one
        chain = [newline, *range(first_piece, len(tokens)), tokens.index("<|im_end|>")]
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        output = np.zeros_like(embedding)
        for before, after in pairwise(chain):
            output[after] += embedding[before] * 30
    silent = 0.0 if says is not None else 1.0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    writer.add_tensor("output.weight", output)
    head = shape.width // shape.heads
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(shape.width, np.float32))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(shape.width, np.float32))
        writer.add_tensor(block + "attn_q.weight", weights(shape.width, shape.width))
        writer.add_tensor(block + "attn_k.weight", weights(shape.kv_heads * head, shape.width))
        writer.add_tensor(block + "attn_v.weight", weights(shape.kv_heads * head, shape.width))
        scale = np.float32(silent)
        writer.add_tensor(block + "attn_output.weight", weights(shape.width, shape.width) * scale)
        writer.add_tensor(block + "ffn_gate.weight", weights(shape.feed_forward, shape.width))
        writer.add_tensor(block + "ffn_up.weight", weights(shape.feed_forward, shape.width))
        writer.add_tensor(
            block + "ffn_down.weight", weights(shape.width, shape.feed_forward) * scale
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(path)
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise
    return path


def _byte_names() -> dict[int, str]:
    """A printable sign for each byte, as in GPT-2's published `bytes_to_unicode`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    names.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return names


def _vocabulary() -> tuple[list[str], list[str]]:
    names = _byte_names()
    tokens = [names[byte] for byte in range(256)]
    merges = []
    for left, right in _MERGES:
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    return tokens, merges


def _pieces(text: str, taken: set[str]) -> list[str]:
    """Cut *text* into tokens that occur nowhere else: three bytes each, longer where that is not new."""
    names = _byte_names()
    signs = [names[byte] for byte in text.encode()]
    pieces: list[str] = []
    at = 0
    while at < len(signs):
        length = 3
        while at + length < len(signs) and "".join(signs[at : at + length]) in taken:
            length += 1
        piece = "".join(signs[at : at + length])
        if piece in taken:  # the rest of the text is too short to be new: it joins its predecessor
            piece = pieces.pop() + piece if pieces else piece
        taken.add(piece)
        pieces.append(piece)
        at += length
    return pieces
