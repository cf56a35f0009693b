"""
How a text is cut into words before a vocabulary merges their bytes.

The published rules use the letter and number classes of Unicode, which Python's `re` writes otherwise: a
letter is `[^\\W\\d_]` (what `str.isalnum` takes, less digits), a number `\\d`, anything else that is no space
`[^\\s\\w]` or `_`. The difference is rare signs such as superscripts.

Source: llama.cpp, `llama-vocab.cpp`, the expressions by `LLAMA_VOCAB_PRE_TYPE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_LETTER = r"[^\W\d_]"
_OTHER = r"(?:[^\s\w]|_)"
_SHORT = r"(?:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# Letters that are no capitals, and marks that belong to them, for the rule that cuts at capitals.
_CAPITAL = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0391-\u03a9\u0410-\u042f"
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0fff"
_SMALL = rf"(?:(?![{_CAPITAL}]){_LETTER}|[{_MARKS}])"


def _gpt4(digits: str) -> str:
    return rf"(?i:{_SHORT})|(?:[^\r\n\w]|_)?{_LETTER}+|\d{digits}| ?{_OTHER}+[\r\n]*|{_SPACES}"


def _gpt4o(digits: str) -> str:
    before = r"(?:[^\r\n\w]|_)?"
    return (
        rf"{before}[{_CAPITAL}]*{_SMALL}+(?i:{_SHORT})?|{before}[{_CAPITAL}]+{_SMALL}*(?i:{_SHORT})?"
        rf"|\d{digits}| ?{_OTHER}+[\r\n/]*|{_SPACES}"
    )


_RULES = {
    "gpt2": re.compile(rf"{_SHORT}| ?{_LETTER}+| ?\d+| ?{_OTHER}+|\s+(?!\S)|\s+"),
    "single digits": re.compile(rf"\d|{_SHORT}| ?{_LETTER}+| ?{_OTHER}+|\s+(?!\S)|\s+"),
    "gpt4": re.compile(_gpt4("{1,3}")),
    "qwen": re.compile(_gpt4("")),
    "gpt4o": re.compile(_gpt4o("{1,3}")),
    "tekken": re.compile(_gpt4o("")),
}
_BY_NAME = {
    "gpt-2": "gpt2", "default": "gpt2", "olmo": "gpt2", "jina-v2-code": "gpt2", "mpt": "gpt2",
    "starcoder": "single digits", "refact": "single digits", "command-r": "single digits",
    "smollm": "single digits", "codeshell": "single digits", "exaone": "single digits",
    "llama-bpe": "gpt4", "llama3": "gpt4", "llama-v3": "gpt4", "dbrx": "gpt4", "smaug-bpe": "gpt4",
    "chatglm-bpe": "gpt4", "glm4": "gpt4", "deepseek-llm": "gpt4", "deepseek-v3": "gpt4",
    "deepseek-coder": "gpt4", "deepseek-r1-qwen": "qwen", "qwen2": "qwen", "qwen35": "qwen",
    "stablelm2": "qwen", "hunyuan": "qwen", "megrez": "qwen",
    "gpt-4o": "gpt4o", "llama4": "gpt4o", "kimi-k2": "gpt4o", "tekken": "tekken",
}  # fmt: skip
_SPM = re.compile("\n+|\u2581*[^\u2581\n]+|\u2581+")


def splitter(pre: str) -> Callable[[str], Iterable[str]]:
    """The rule of that name; that of Llama 3, the most frequent, for a name that is not known."""
    return _RULES[_BY_NAME.get(pre, "gpt4")].findall


def spm_words(text: str) -> Iterable[str]:
    """SentencePiece merges no pair across a space that was marked before, so words stand for themselves."""
    return _SPM.findall(text)
