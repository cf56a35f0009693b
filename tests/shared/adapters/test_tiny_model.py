"""The models that demo and tests make for themselves."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.tiny_model import (
    HERMES_TEMPLATE,
    RECURRENT,
    SLIDING,
    TINY,
    Shape,
    write_model,
)
from penstock.adapters.tiny_vocabulary import byte_names, pieces, spelled, vocabulary
from penstock.errors import MissingPart


def fields(path: Path) -> dict[str, Any]:
    """The header's fields by name."""
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def test_equal_arguments_make_equal_files(tmp_path: Path) -> None:
    """A model is a function of its arguments, so a cache may go by them."""
    one = write_model(tmp_path / "one.gguf", seed=7).read_bytes()
    assert one == write_model(tmp_path / "two.gguf", seed=7).read_bytes()
    assert one != write_model(tmp_path / "three.gguf", seed=8).read_bytes()


def test_header_says_what_was_asked_for(tmp_path: Path) -> None:
    """Name, trained window and template stand in the header, where servers read them."""
    path = write_model(
        tmp_path / "m.gguf",
        shape=replace(TINY, trained_window=1234),
        name="a name",
        template="{{ messages }}",
    )
    header = fields(path)
    assert header["general.name"] == "a name"
    assert header["llama.context_length"] == 1234
    assert header["tokenizer.chat_template"] == "{{ messages }}"


def test_model_with_a_text_has_the_template_for_tools(tmp_path: Path) -> None:
    """A model that says something can spell a tool call, so its template knows tools."""
    header = fields(write_model(tmp_path / "m.gguf", says="hello there"))
    assert header["tokenizer.chat_template"] == HERMES_TEMPLATE


def test_nothing_but_the_whole_file_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails, neither the model nor a part of it is left, and an older one is untouched."""
    import gguf

    path = tmp_path / "m.gguf"
    path.write_bytes(b"older")

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", no_room)
    with pytest.raises(OSError, match="No space"):
        write_model(path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"older"


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error is one sentence with the command that installs it."""
    genuine = builtins.__import__

    def without_gguf(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return genuine(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(MissingPart, match=r"pip install 'penstock\[embedded\]'"):
        write_model(tmp_path / "m.gguf")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(TEXTS)
def test_pieces_are_the_text_and_all_different(text: str) -> None:
    """The tokens of a scripted text spell it, and none occurs twice or in the vocabulary before."""
    tokens, _ = vocabulary()
    names = byte_names()
    cut = pieces(text, set(tokens))
    assert "".join(cut) == "".join(names[byte] for byte in text.encode())
    if len(text.encode()) > 2:
        assert len({*cut, *tokens}) == len(cut) + len(tokens)


@pytest.mark.parametrize(
    ("shape", "architecture", "key", "value"),
    [
        pytest.param(TINY, "llama", "attention.head_count_kv", 2, id="full attention"),
        pytest.param(SLIDING, "gemma3", "attention.sliding_window", 128, id="sliding window"),
        pytest.param(RECURRENT, "mamba", "ssm.state_size", 16, id="recurrent"),
    ],
)
def test_memory_stands_in_the_header(
    tmp_path: Path, shape: Shape, architecture: str, key: str, value: int
) -> None:
    """The architecture and what it can remember are told as real models tell them."""
    header = fields(write_model(tmp_path / "m.gguf", shape=shape))
    assert header["general.architecture"] == architecture
    assert header[f"{architecture}.{key}"] == value


def test_a_text_gives_words_of_their_own() -> None:
    """A vocabulary that read a text spells each of its words, with the space before it, as one token."""
    text = "several agents write reports: 12 of them, naïve ones"
    tokens, merges = vocabulary(text)
    names = byte_names()
    for word in (" agents", " reports", "several", " 12", " naïve"):
        assert "".join(names[byte] for byte in word.encode()) in tokens
    assert len(set(tokens)) == len(tokens) == 256 + len(merges)
    assert vocabulary(text) == (tokens, merges)


@given(TEXTS)
def test_merges_only_use_what_is_there(text: str) -> None:
    """Each merge joins two tokens that were made before it, whatever text was read."""
    tokens, merges = vocabulary(text)
    made = set(tokens[:256])
    for merge in merges:
        left, right = merge.split(" ")
        assert left in made
        assert right in made
        made.add(left + right)
    assert made == set(tokens)


def test_an_answer_by_words_is_made_of_what_the_tokeniser_makes_of_it() -> None:
    """So what was said so far is read back as it was said; the marks of thinking are one token each."""
    text = "<think>\nI ponder\n</think>\n\nWords: one two"
    known, _ = vocabulary(text)
    named = spelled(text)
    marks = {"<think>\n", "\n</think>\n\n"}
    assert named[0] == "<think>\n"
    assert "\n</think>\n\n" in named
    assert {name for name in named if name not in known} == marks
    with pytest.raises(ValueError, match="twice"):
        spelled("one two one one two")


def test_a_model_that_speaks_by_words_holds_its_marks(tmp_path: Path) -> None:
    """As tokens that the tokeniser finds in any text."""
    text = "<think>\nhm\n</think>\n\nyes"
    tokens = fields(write_model(tmp_path / "m.gguf", says=text, by_words=True))[
        "tokenizer.ggml.tokens"
    ]
    assert {"<think>\n", "\n</think>\n\n", "yes"} <= set(tokens)
