"""Counting with a vocabulary: as the published tokenisers do, linear, and bounded."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens.vocabulary import Vocabulary, _merge, _merge_simply, read_vocabulary
from penstock.tokens.words import splitter, spm_words

MERGES = [
    "t h",
    "h e",
    "i n",
    "e r",
    "a n",
    "r e",
    "o n",
    "\u0120 t",
    "\u0120 a",
    "th e",
    "\u0120t he",
]
RANKS = {merge.replace(" ", ""): float(rank) for rank, merge in enumerate(MERGES)}
SPM: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [
        "\u2581",
        "t",
        "h",
        "e",
        "th",
        "the",
        "\u2581the",
        "\u2581\u2581",
        "\u4e2d",
    ],
    "tokenizer.ggml.scores": [-9.0, -8.0, -7.0, -6.0, -2.0, -3.0, -4.0, -5.0, -1.0],
}
BPE: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": MERGES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("the", 1, id="one merge after another"),
        pytest.param(" the", 1, id="with its space"),
        pytest.param("there", 3, id="lowest rank first: th, er, e"),
        pytest.param("an on", 3, id="no merge across words"),
        pytest.param("\u4e2d", 3, id="three bytes"),
        pytest.param("\U0001f600", 4, id="four bytes"),
        pytest.param("\ud800", 3, id="half a surrogate"),
    ],
)
def test_bytes_are_merged(text: str, tokens: int) -> None:
    """Byte-level BPE, the lowest rank first, word by word."""
    found = read_vocabulary(BPE)
    assert found is not None
    assert found.count(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("the", 1, id="a space is put before"),
        pytest.param("the the", 2, id="words"),
        pytest.param("x", 2, id="a byte for an unknown sign, and the space"),
        pytest.param("\u4e2d\u6587", 5, id="a known sign, and three bytes"),
        pytest.param("a\n", 3, id="a line's end is a byte"),
    ],
)
def test_pieces_are_merged_by_score(text: str, tokens: int) -> None:
    """SentencePiece: the best score first, unknown signs as bytes."""
    found = read_vocabulary(SPM)
    assert found is not None
    assert found.count(text) == tokens


def test_gemma_puts_no_space_before() -> None:
    """The file says whether a space is put before."""
    found = read_vocabulary({**SPM, "tokenizer.ggml.add_space_prefix": False})
    assert found is not None
    assert found.count("x") == 1


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="nothing"),
        pytest.param(
            {"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["a"]}, id="another kind"
        ),
        pytest.param({"tokenizer.ggml.model": "gpt2"}, id="no merges"),
        pytest.param({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": [1]}, id="no texts"),
        pytest.param(
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": None}, id="left out"
        ),
        pytest.param({**SPM, "tokenizer.ggml.scores": [1.0]}, id="too few scores"),
        pytest.param({**SPM, "tokenizer.ggml.scores": ["x"] * 9}, id="scores that are none"),
    ],
)
def test_what_is_no_vocabulary_is_none(metadata: dict[str, Any]) -> None:
    """What cannot be counted with is not counted with."""
    assert read_vocabulary(metadata) is None


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        pytest.param("gpt-2", "Don't go, 123!", ["Don", "'t", " go", ",", " 123", "!"], id="GPT-2"),
        pytest.param(
            "llama-bpe",
            "x=12345;\n\n  y",
            ["x", "=", "123", "45", ";\n\n", " ", " y"],
            id="Llama 3",
        ),
        pytest.param(
            "qwen2", "I'M 12 (ok)", ["I", "'M", " ", "1", "2", " (", "ok", ")"], id="Qwen"
        ),
        pytest.param(
            "gpt-4o", "camelCase HTTPServer", ["camel", "Case", " HTTPServer"], id="gpt-oss"
        ),
        pytest.param("starcoder", "a1 22", ["a", "1", " ", "2", "2"], id="single digits"),
        pytest.param("what-is-this", "x=1234", ["x", "=", "123", "4"], id="unknown: as Llama 3"),
    ],
)
def test_texts_are_cut_into_words(pre: str, text: str, words: list[str]) -> None:
    """By the rule of the vocabulary."""
    assert list(splitter(pre)(text)) == words


RULES = ["gpt-2", "llama-bpe", "qwen2", "gpt-4o", "tekken", "starcoder"]


@given(st.text(), st.sampled_from(RULES))
def test_no_sign_is_lost(text: str, pre: str) -> None:
    """The words of a text are the text."""
    assert "".join(splitter(pre)(text)) == text
    marked = text.replace(" ", "\u2581")
    assert "".join(spm_words(marked)) == marked


@given(st.text(alphabet="theinrao ", max_size=60))
def test_both_ways_to_merge_agree(text: str) -> None:
    """The way for long words finds the tokens that the simple way finds."""
    signs = list(text.replace(" ", "\u0120"))
    assert _merge(list(signs), RANKS) == _merge_simply(list(signs), RANKS)


def test_long_words_are_counted_in_linear_time() -> None:
    """A megabyte without a space neither hangs nor is miscounted."""
    found = Vocabulary(RANKS, pre="gpt-2")
    began = time.process_time()
    count = found.count("the" * 350_000)
    assert time.process_time() - began < 30
    assert count == pytest.approx(350_000, rel=0.01)


def test_memory_is_bounded() -> None:
    """Words are remembered, but not without end."""
    chance = random.Random(1)
    found = Vocabulary(RANKS, pre="gpt-2")
    for _ in range(90):
        found.count(
            " ".join(chance.choice("ab") + str(chance.randrange(10**9)) for _ in range(500))
        )
    assert len(found._young) + len(found._old) <= 65_536
