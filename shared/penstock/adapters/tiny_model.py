"""
Makes tiny GGUF models in a second, so that demo and tests run on a real llama.cpp without any download.

Three kinds: random weights (1.5 MB, quick), the same but slow enough to be caught in the act (203 MB),
and one that says a given text: its attention and feed-forward outputs are zero, every piece of the text
is a token of its own, and each output row points at the embedding of its predecessor, so that greedy
decoding walks the chain.

Format: GGUF version 3 by the package `gguf`. What a model keeps of what it read (all, a sliding window, one
state) is told by `tiny_layers`, its words by `tiny_vocabulary`, how it is asked by `tiny_templates`.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from penstock.adapters.tiny_layers import ARCHITECTURES, Shape, layer_tensors, write_fields
from penstock.adapters.tiny_templates import CHATML_TEMPLATE, HERMES_TEMPLATE, THINKING_TEMPLATE
from penstock.adapters.tiny_vocabulary import SPECIAL, byte_names, pieces, spelled, vocabulary
from penstock.errors import MissingPart

__all__ = [
    "CHATML_TEMPLATE",
    "HERMES_TEMPLATE",
    "RECURRENT",
    "SLIDING",
    "SLOW",
    "THINKING_TEMPLATE",
    "TINY",
    "Shape",
    "write_model",
]

TINY = Shape(128, 2, 4, 2, 256, 8192)
"""1.5 MB: prefills 32,000 and decodes 5,500 tokens a second on two cores."""
SLOW = Shape(768, 8, 12, 4, 2048, 32768)
"""203 MB: prefills 760 and decodes 89 tokens a second on two cores."""
SLIDING = Shape(128, 6, 4, 2, 256, 8192, memory="sliding")
"""Five of its six layers see the last 128 tokens, as in Gemma 3."""
RECURRENT = Shape(128, 2, 0, 0, 256, 8192, memory="recurrent")
"""Two layers of Mamba."""


def write_model(
    path: Path,
    *,
    shape: Shape = TINY,
    name: str = "penstock-tiny",
    template: str | None = None,
    says: str | None = None,
    reads: str = "",
    by_words: bool = False,
    seed: int = 0,
) -> Path:
    """
    Write a model, whole or not at all.

    Args:
        path: the file; its folder must exist.
        template: the chat template (Jinja); ChatML, or the Hermes one for a model that *says* something.
        says: the text that it answers, greedily, to everything; None for random weights.
        reads: a text whose words become tokens of their own; without it a token is a letter or two.
        by_words: what it *says* is made of the tokens that its tokeniser makes of that text, so that an answer
            can be cut anywhere and continued. No word may occur twice; `<think>` and `</think>` are one token
            each, with the line feeds around them.
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

    tokens, merges = vocabulary(reads + (says or "") if by_words else reads)
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(SPECIAL)
    tokens.extend(SPECIAL)
    spoken: list[int] = []
    if says is not None and by_words:
        named = spelled(says)
        marks = [mark for mark in named if mark not in tokens]
        tokens.extend(marks)
        kinds.extend([gguf.TokenType.USER_DEFINED] * len(marks))
        spoken = [tokens.index(word) for word in named]
    elif says is not None:
        first_piece = len(tokens)
        tokens.extend(pieces(says, set(tokens)))
        kinds.extend([gguf.TokenType.NORMAL] * (len(tokens) - first_piece))
        spoken = [*range(first_piece, len(tokens))]

    writer = gguf.GGUFWriter(None, ARCHITECTURES[shape.memory])
    writer.add_name(name)
    write_fields(writer, shape)
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
        newline = tokens.index(byte_names()[10])  # the template ends the prompt with one
        chain = [newline, *spoken, tokens.index("<|im_end|>")]
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        output = np.zeros_like(embedding)
        for before, after in pairwise(chain):
            output[after] += embedding[before] * 30
    silent = 0.0 if says is not None else 1.0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    writer.add_tensor("output.weight", output)
    for tensor, values in layer_tensors(shape, weights, np.float32(silent)):
        writer.add_tensor(tensor, values)
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
