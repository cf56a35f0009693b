"""Texts made shorter by what they hold."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.compress.shorten import GONE, shorten, size_bytes, without_middle

LOG = "\n".join(
    f"10:00:{i % 60:02d} ERROR disk {i} is full" if i in (180, 320) else f"10:00:{i % 60:02d} INFO step {i} done"
    for i in range(500)
)  # fmt: skip
TRACEBACK = (
    "collected 300 items\n"
    + "tests/test_a.py ......\n" * 200
    + 'Traceback (most recent call last):\n  File "a.py", line 3, in run\n    go()\nValueError: no water\n'
    + "tests/test_b.py ......\n" * 200
    + "done\n"
)
DIFF = "".join(
    f"diff --git a/f{n}.py b/f{n}.py\n--- a/f{n}.py\n+++ b/f{n}.py\n@@ -1,40 +1,40 @@ def f{n}():\n"
    + "".join(f"+    line {i} of {n}\n" for i in range(40))
    for n in range(6)
)
RECORDS = json.dumps([{"id": i, "name": f"pump {i}", "size": 1.50} for i in range(300)])
PROSE = "The water runs from the weir to the wheel. " * 400
HOLDS: dict[str, tuple[str, int, list[str]]] = {
    "errors of a log": (LOG, 1500, ["step 0 ", "disk 180", "disk 320", "step 499", GONE]),
    "a traceback as a whole": (TRACEBACK, 900, ["collected 300", "Traceback", "go()", "ValueError: no water", "done"]),
    "headers and heads of hunks of a diff": (DIFF, 1200, [f"diff --git a/f{n}.py" for n in range(6)] + ["line 0 of 5", "@@ -1,40"]),
    "both ends of anything else": (f"begin {PROSE} end", 500, ["begin", GONE, "end"]),
    "both ends of a single line": ("x" * 9000 + "end", 300, ["xxx", GONE, "end"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "size", "held"), HOLDS.values(), ids=HOLDS)
def test_what_matters_stays(text: str, size: int, held: list[str]) -> None:
    """What somebody would look for is still there."""
    made = shorten(text, size)
    assert size_bytes(made) <= size
    assert [words for words in held if words not in made] == []


def test_json_keeps_its_shape() -> None:
    """First and last elements, all keys, digits as they were, and words where something is missing."""
    made = shorten(RECORDS, 1000)
    value = json.loads(made)
    assert value[0] == {"id": 0, "name": "pump 0", "size": 1.5}
    assert value[-1]["id"] == 299
    assert GONE in value
    assert "1.5" in made
    assert len(made) > 500


@pytest.mark.parametrize(
    ("value", "size"),
    [
        pytest.param({"rows": list(range(5000)), "total": 5000, "next": None}, 300, id="an array in an object"),
        pytest.param({f"key{i}": {"n": i} for i in range(2000)}, 400, id="an object with many keys"),
        pytest.param({"text": "long " * 5000, "ok": True}, 200, id="a long string"),
        pytest.param([["a", "b"] * 100] * 100, 300, id="arrays in arrays"),
        pytest.param({"big": 12345678901234567890123, "small": 1e-30, "list": ["ü" * 50] * 90}, 400, id="large numbers"),
    ],
)  # fmt: skip
def test_json_stays_json(value: Any, size: int) -> None:
    """And says what is missing."""
    made = shorten(json.dumps(value), size)
    assert size_bytes(made) <= size
    read = json.loads(made)
    assert type(read) is type(value)
    assert GONE in made
    if isinstance(value, dict) and "big" in value:
        assert read["big"] == value["big"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="nested deeply"),
        pytest.param('{"a":' * 50_000 + "1" + "}" * 50_000, id="objects nested deeply"),
        pytest.param("[" + "9" * 10_000 + "]", id="a number of many digits"),
        pytest.param("[NaN, " + "1, " * 5000 + "1]", id="NaN"),
        pytest.param('{"cut": [1, 2, ' * 500, id="cut off"),
        pytest.param("\ud800" * 5000, id="half surrogates"),
        pytest.param(json.dumps(["\ud800" * 400] * 50), id="half surrogates in JSON"),
        pytest.param("e" + "\u0301" * 5000, id="one sign with many accents"),
        pytest.param("\n" * 10_000, id="empty lines"),
        pytest.param("error\n" * 10_000, id="errors only"),
        pytest.param("diff --git a b\n" * 5000, id="headers only"),
        pytest.param("\x00\r\n" * 5000, id="NUL"),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 30, 300, 5000])
def test_anything_gets_shorter(text: str, size: int) -> None:
    """Whatever a tool returns."""
    made = shorten(text, size)
    assert size_bytes(made) <= size
    assert shorten(made, size) == made


@given(
    st.one_of(
        st.text(max_size=300),
        st.lists(st.sampled_from(["error: x", "@@ -1 +1", "ok", "[1, 2]", "é"]), max_size=80).map("\n".join),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9)),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
        ).map(json.dumps),
    ),
    st.integers(0, 200),
)  # fmt: skip
def test_never_larger(text: str, size: int) -> None:
    """The result fits; what fits is the same object; the rule is a function of its arguments."""
    made = shorten(text, size)
    if size_bytes(text) <= size:
        assert made is text
    else:
        assert size_bytes(made) <= size
        assert size_bytes(made) < size_bytes(text)
    assert shorten(text, size) == made


@given(st.lists(st.sampled_from(["a", "é", "👩‍👩‍👧", "🇩🇪", "👍🏽", "e\u0301", "क्षि", "\r\n"]), min_size=30, max_size=90), st.integers(40, 90))  # fmt: skip
def test_signs_stay_whole(signs: list[str], size: int) -> None:
    """No accent, flag or joined emoji is parted."""
    text = "".join(signs)
    made = without_middle(text, size)
    if made is text:
        return
    for piece in made.split(f"\n{GONE}\n"):
        if piece:
            assert unicodedata.combining(piece[0]) == 0
            assert piece[0] not in "\u200d\U0001f3fd"
            assert piece[-1] != "\u200d"
    assert made.count("\u200d👧") == made.count("👩\u200d👧")
