"""Headers of GGUF files: read, bounded, and not believed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.gguf_file import read_gguf
from penstock.tokens.gguf import Header, MoreNeeded, NotGguf, read_header


def text(value: str, order: str = "<") -> bytes:
    raw = value.encode()
    return struct.pack(order + "Q", len(raw)) + raw


def entry(key: str, kind: int, raw: bytes, order: str = "<") -> bytes:
    return text(key, order) + struct.pack(order + "I", kind) + raw


def array(kind: int, count: int, raw: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "IQ", kind, count) + raw


def file(*entries: bytes, version: int = 3, count: int | None = None, order: str = "<") -> bytes:
    number = len(entries) if count is None else count
    return b"GGUF" + struct.pack(order + "IQQ", version, 7, number) + b"".join(entries)


def test_every_type_is_read() -> None:
    """Numbers of each size, texts, truth values, arrays."""
    raw = file(
        entry("u8", 0, struct.pack("<B", 200)),
        entry("i8", 1, struct.pack("<b", -5)),
        entry("u16", 2, struct.pack("<H", 60_000)),
        entry("i16", 3, struct.pack("<h", -300)),
        entry("u32", 4, struct.pack("<I", 4_000_000_000)),
        entry("i32", 5, struct.pack("<i", -7)),
        entry("f32", 6, struct.pack("<f", 0.5)),
        entry("yes", 7, b"\1"),
        entry("name", 8, text("M\u00fcll")),
        entry("heads", 9, array(4, 3, struct.pack("<3I", 8, 0, 8))),
        entry("words", 9, array(8, 2, text("a") + text("bc"))),
        entry("u64", 10, struct.pack("<Q", 2**60)),
        entry("i64", 11, struct.pack("<q", -(2**60))),
        entry("f64", 12, struct.pack("<d", 0.25)),
    )
    assert read_header(raw + b"weights") == Header(
        3, 7,
        {
            "u8": 200, "i8": -5, "u16": 60_000, "i16": -300, "u32": 4_000_000_000, "i32": -7, "f32": 0.5,
            "yes": True, "name": "M\u00fcll", "heads": [8, 0, 8], "words": ["a", "bc"], "u64": 2**60,
            "i64": -(2**60), "f64": 0.25,
        },
    )  # fmt: skip


def test_long_arrays_are_left_out_unless_wanted() -> None:
    """A vocabulary of 5,000 words is walked over, or kept when it is asked for."""
    words = array(8, 5000, b"".join(text(str(n)) for n in range(5000)))
    scores = array(6, 5000, struct.pack("<5000f", *range(5000)))
    raw = file(entry("tokens", 9, words), entry("scores", 9, scores), entry("last", 4, b"\1\0\0\0"))
    assert read_header(raw).metadata == {"last": 1}
    kept = read_header(raw, keep=frozenset({"tokens"})).metadata
    assert kept["tokens"] == [str(n) for n in range(5000)]
    assert "scores" not in kept


def test_the_other_byte_order() -> None:
    """A file from a big-endian machine."""
    raw = file(entry("n", 4, struct.pack(">I", 9), ">"), order=">")
    assert read_header(raw) == Header(3, 7, {"n": 9})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"PK\3\4" + b"\0" * 40, "does not begin", id="another file"),
        pytest.param(b"P", "does not begin", id="one byte of another file"),
        pytest.param(file(version=1), "version is 1", id="version 1"),
        pytest.param(file(version=9), "version is 9", id="a version of the future"),
        pytest.param(file(count=2**60), "entries", id="too many entries"),
        pytest.param(file(struct.pack("<Q", 2**62)), "text of", id="a key without end"),
        pytest.param(
            file(entry("a", 8, struct.pack("<Q", 2**40))), "text of", id="a text without end"
        ),
        pytest.param(
            file(entry("a", 9, array(4, 2**50, b""))), "array of", id="an array without end"
        ),
        pytest.param(
            file(entry("a", 9, array(9, 1, b""))), "array of arrays", id="arrays in arrays"
        ),
        pytest.param(file(entry("a", 77, b"")), "unknown type", id="an unknown type"),
        pytest.param(file(entry("a", 9, array(77, 5, b""))), "unknown type", id="an array of it"),
    ],
)
def test_lies_are_refused(raw: bytes, says: str) -> None:
    """Nothing is read or kept because a file claims it, and the reason is one sentence."""
    with pytest.raises(NotGguf, match=says) as refused:
        read_header(raw)
    assert not isinstance(refused.value, MoreNeeded)


WHOLE = file(
    entry("name", 8, text("tiny")),
    entry("tokens", 9, array(8, 4200, text("x") * 4200)),
    entry("scores", 9, array(6, 4200, b"\0" * 4 * 4200)),
    entry("layers", 4, b"\2\0\0\0"),
)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_part_asks_for_more(length: int) -> None:
    """However it is cut, the beginning of a header is told from something that is none."""
    with pytest.raises(MoreNeeded):
        read_header(WHOLE[:length])


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8))
def test_no_corruption_raises_anything_else(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes change, it is read, refused, or asks for more."""
    raw = bytearray(WHOLE)
    for place, byte in changes:
        raw[place] = byte
    try:
        assert read_header(bytes(raw)).version in (2, 3)
    except NotGguf:
        pass


def test_a_file_is_read_as_far_as_needed(tmp_path: Path) -> None:
    """A header beyond the first megabyte is read; a file that ends within is refused."""
    long = file(
        entry("tokens", 9, array(8, 200_000, text("token") * 200_000)),
        entry("name", 8, text("tiny")),
    )
    path = tmp_path / "long.gguf"
    path.write_bytes(long + b"\0" * 1000)
    assert read_gguf(path).metadata == {"name": "tiny"}
    path.write_bytes(long[:-2])
    with pytest.raises(MoreNeeded):
        read_gguf(path)


def test_our_own_model_is_read(tmp_path: Path) -> None:
    """The file that the tests run llama.cpp on, written by another library."""
    tiny_model = pytest.importorskip("penstock.adapters.tiny_model")
    path: Any = tiny_model.write_model(tmp_path / "tiny.gguf")
    header = read_gguf(path, keep=frozenset({"tokenizer.ggml.tokens"}))
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["tokenizer.ggml.tokens"]
