"""
Counts with a model's own vocabulary, where a server shows it but does not count (Ollama).

Two kinds, which nearly all chat models have: byte-level BPE (`gpt2` in GGUF: Llama 3, Qwen, gpt-oss, ...)
with its merges, and SentencePiece BPE (`llama`: Llama 2, Mistral, Gemma) with its scores. A text is cut
into words (`words`), each word is merged pair by pair, best pair first, and its count is remembered.
A word costs n log n; what is longer than any word of a language is extrapolated from its ends.

Not counted here: special tokens that stand literally in a text (they count as the text that they are).
Sources: GPT-2's `encoder.py` (`bytes_to_unicode`, the merge loop); llama.cpp's `llama-vocab.cpp`
(`llm_tokenizer_bpe_session`, `llm_tokenizer_spm_session`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from penstock.tokens.words import splitter, spm_words

_MOST_WORDS = 65_536
_LONGEST_WORD = 4_096
_LONGEST_REMEMBERED = 64
_SIMPLE = 24


class Vocabulary:
    """
    A vocabulary that counts.

    Args:
        ranks: what pairs may be merged to -> its rank; the lowest first.
        pieces: what is a token without a merge (SPM); None where every byte is one.
        pre: the name of the rule by which a text is cut into words (`tokenizer.ggml.pre`).
        space_prefix: a space is put before a text (SPM).
    """

    def __init__(
        self,
        ranks: Mapping[str, float],
        *,
        pieces: frozenset[str] | None = None,
        pre: str = "",
        space_prefix: bool = True,
    ) -> None:
        self._ranks = ranks
        self._pieces = pieces
        self._prefix = space_prefix
        self._words = spm_words if pieces is not None else splitter(pre)
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def count(self, text: str) -> int:
        """Tokens of *text*, as it is tokenised by itself."""
        if not text:
            return 0
        if self._pieces is not None:
            text = text.replace(" ", "\u2581")
            if self._prefix:
                text = "\u2581" + text
        young = self._young
        total = 0
        for word in self._words(text):
            known = young.get(word)
            if known is None:
                known = self._missed(word)
                young = self._young
            total += known
        return total

    def _missed(self, word: str) -> int:
        known = self._old.get(word)
        if known is None:
            known = self._word(word)
        if len(word) <= _LONGEST_REMEMBERED:
            if len(self._young) >= _MOST_WORDS // 2:
                self._old, self._young = self._young, {}
            self._young[word] = known
        return known

    def _word(self, word: str) -> int:
        if len(word) > _LONGEST_WORD:
            half = _LONGEST_WORD // 2
            ends = self._merged(word[:half]) + self._merged(word[-half:])
            return -(-ends * len(word) // _LONGEST_WORD)
        return self._merged(word)

    def _merged(self, word: str) -> int:
        if self._pieces is None:
            raw = word.encode("utf-8", "surrogatepass")
            word = raw.decode("latin-1").translate(_BYTE_SIGNS)
            if word in self._ranks:
                # A word that can be merged to one token nearly always is.
                return 1
        symbols = list(word)
        merged = (
            _merge_simply(symbols, self._ranks)
            if len(symbols) <= _SIMPLE
            else _merge(symbols, self._ranks)
        )
        if self._pieces is None:
            return len(merged)
        pieces = self._pieces
        return sum(
            1 if one in pieces else len(one.encode("utf-8", "surrogatepass")) for one in merged
        )


def _merge_simply(symbols: list[str], ranks: Mapping[str, float]) -> list[str]:
    """Merge the best pair until none is left: quickest for words of usual length."""
    while len(symbols) > 1:
        best, at = None, -1
        for place in range(len(symbols) - 1):
            rank = ranks.get(symbols[place] + symbols[place + 1])
            if rank is not None and (best is None or rank < best):
                best, at = rank, place
        if best is None:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


def _merge(symbols: list[str], ranks: Mapping[str, float]) -> list[str]:
    """The same with a heap of pairs and a linked list: n log n for long words."""
    count = len(symbols)
    following = [*range(1, count), -1]
    before = [-1, *range(count - 1)]
    heap: list[tuple[float, int, str]] = []

    def push(left: int, right: int) -> None:
        pair = symbols[left] + symbols[right]
        rank = ranks.get(pair)
        if rank is not None:
            heapq.heappush(heap, (rank, left, pair))

    for place in range(count - 1):
        push(place, place + 1)
    while heap:
        _, left, pair = heapq.heappop(heap)
        right = following[left]
        # A pair that was broken up meanwhile is stale; a dead symbol is empty.
        if right < 0 or not symbols[left] or symbols[left] + symbols[right] != pair:
            continue
        symbols[left], symbols[right] = pair, ""
        after = following[left] = following[right]
        if after >= 0:
            before[after] = left
            push(left, after)
        if before[left] >= 0:
            push(before[left], left)
    return [one for one in symbols if one]


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary | None:
    """
    The vocabulary that GGUF metadata describe, as Ollama's `/api/show` and file headers list them.

    Returns:
        None for a kind that is not known here, and for lists that are missing or no lists of texts.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        merges = _texts(metadata.get("tokenizer.ggml.merges"))
        if merges is None:
            return None
        ranks: dict[str, float] = {}
        for rank, merge in enumerate(merges):
            left, _, right = merge.partition(" ")
            ranks.setdefault(left + right, rank)
        pre = metadata.get("tokenizer.ggml.pre")
        return Vocabulary(ranks, pre=pre if isinstance(pre, str) else "")
    if kind == "llama":
        tokens = _texts(metadata.get("tokenizer.ggml.tokens"))
        scores = metadata.get("tokenizer.ggml.scores")
        if tokens is None or not isinstance(scores, list) or len(scores) != len(tokens):
            return None
        if not all(isinstance(score, int | float) for score in scores):
            return None
        by_score = {
            token: -float(score) for token, score in zip(tokens, scores, strict=True) if token
        }
        prefix = metadata.get("tokenizer.ggml.add_space_prefix")
        return Vocabulary(by_score, pieces=frozenset(by_score), space_prefix=prefix is not False)
    return None


def _texts(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not value:
        return None
    return value if all(isinstance(one, str) for one in value) else None


def _byte_signs() -> dict[int, int]:
    """GPT-2's printable sign for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: 256 + place for place, byte in enumerate(others)}


_BYTE_SIGNS = _byte_signs()
