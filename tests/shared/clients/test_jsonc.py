"""JSON with comments is edited as text: what is not ours stays to the letter."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients import jsonc
from penstock.clients.paths import MISSING, CannotEdit, get, item

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
COMMENTS = ("// ours? no\n", "/* a\n b */", " ", "\n", "\t", "\r\n")


@st.composite
def commented(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """An object, and its JSON with comments and trailing commas thrown in between the tokens."""
    value = draw(OBJECTS)
    made = json.dumps(value, indent=draw(st.sampled_from([None, 2, "\t"])), ensure_ascii=False)
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"{}\[\],:]+|[{}\[\],:]|\s+', made)
    out, last = [], ""
    for token in tokens:
        if token in "}]" and last not in ("{", "[") and draw(st.booleans()):
            out.append(",")
        out.append(token)
        last = token if token.strip() else last
        if draw(st.integers(0, 5)) == 0:
            out.append(draw(st.sampled_from(COMMENTS)))
    return value, "".join(out)


def bare_comments(text: str) -> list[str]:
    """The comments of a text, in order, without their line ends."""
    return re.findall(r"//[^\r\n]*|/\*.*?\*/", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text), re.DOTALL)


@given(commented())
def test_reads_what_it_means(given_: tuple[dict[str, Any], str]) -> None:
    """Comments and trailing commas change nothing."""
    value, text = given_
    assert jsonc.read(text) == value


PATHS = st.lists(st.sampled_from(["a", "b", "env", 'ä"\n']), min_size=1, max_size=3).map(tuple)


@given(commented(), PATHS, VALUES)
def test_puts_one_value_and_keeps_every_comment_outside(
    given_: tuple[dict[str, Any], str], path: tuple[str, ...], value: Any
) -> None:
    """The value stands at its path, everything else means the same, and the comments are all there."""
    old, text = given_
    try:
        new = jsonc.put(text, path, value)
    except CannotEdit:
        prefixes = [get(old, path[:n]) for n in range(1, len(path))]
        assert any(found is not MISSING and not isinstance(found, dict) for found in prefixes)
        return
    read = jsonc.read(new)
    assert get(read, path) == value
    if get(old, path) is MISSING:
        assert bare_comments(new) == bare_comments(text)
        expected = json.loads(json.dumps(old))
        place = expected
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
        assert read == expected
        assert jsonc.read(jsonc.take(new, path)) == (
            old if get(old, path[:-1]) is not MISSING else jsonc.read(jsonc.take(new, path))
        )


@given(commented(), PATHS)
def test_takes_one_value_out(given_: tuple[dict[str, Any], str], path: tuple[str, ...]) -> None:
    """Gone, and everything else means the same; where nothing stood, nothing changes."""
    old, text = given_
    new = jsonc.take(text, path)
    if get(old, path) is MISSING:
        assert new == text
        return
    expected = json.loads(json.dumps(old))
    place = expected
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    assert jsonc.read(new) == expected


LAYOUTS = [
    pytest.param(
        '{\n  // first\n  "a": 1 // one\n}\n',
        '{\n  // first\n  "a": 1, // one\n  "k": true\n}\n',
        id="a comment stays beside its value",
    ),
    pytest.param('{\n\t"a": 1,\n}', '{\n\t"a": 1,\n\t"k": true,\n}', id="trailing comma and tabs"),
    pytest.param("{}", '{\n  "k": true\n}', id="an empty object"),
    pytest.param("", '{\n  "k": true\n}\n', id="an empty file"),
    pytest.param("// only this\n", '// only this\n{\n  "k": true\n}\n', id="a comment and nothing else"),
    pytest.param('{ "a": 1 }', '{ "a": 1, "k": true }', id="on one line"),
    pytest.param(
        '{\r\n    "a": 1\r\n}\r\n', '{\r\n    "a": 1,\r\n    "k": true\r\n}\r\n', id="Windows' line ends"
    ),
    pytest.param('{\n  "a": 1\n  // end\n}', '{\n  "a": 1,\n  // end\n  "k": true\n}', id="a last comment"),
    pytest.param('{"k": false, "a": 1}', '{"k": true, "a": 1}', id="replaced in its place"),
    pytest.param('{"k": 1, "k": 2}', '{"k": 1, "k": true}', id="of two the last, which readers take"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LAYOUTS)
def test_new_settings_look_like_their_neighbours(text: str, expected: str) -> None:
    """Indent, line ends and commas are those of the file; it is as before when they are taken out again."""
    assert jsonc.put(text, ("k",), True) == expected


@pytest.mark.parametrize("text", [row.values[0] for row in LAYOUTS[:8] if row.values[0][:1] == "{"])
def test_taken_out_it_is_as_before(text: str) -> None:
    """Of what was added no sign is left, but for braces that are opened."""
    back = jsonc.take(jsonc.put(text, ("k",), True), ("k",))
    assert back in (text, "{\n}" if text == "{}" else text)


def test_elements_of_lists_are_found_by_what_is_in_them() -> None:
    """One that is there is replaced, one that is not is added at the end."""
    path = ("models", item(envKey="OURS"))
    text = '{"models": [{"envKey": "THEIRS", "id": 1}]}'
    added = jsonc.put(text, path, {"envKey": "OURS", "id": 2})
    assert [m["id"] for m in jsonc.read(added)["models"]] == [1, 2]
    again = jsonc.put(added, path, {"envKey": "OURS", "id": 3})
    assert [m["id"] for m in jsonc.read(again)["models"]] == [1, 3]
    assert jsonc.take(again, path) == text


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "line 1: expected a name in double quotes, got the end of the file"),
        ('{\n"a" 1}', "line 2: expected a colon, got '1}'"),
        ('{"a": 1 "b": 2}', "line 1: expected a comma or the end"),
        ('{"a": nope}', "line 1: expected a value, got 'nope}'"),
        ('{"a": 1}}', "line 1: expected nothing more, got '}'"),
        ("{'a': 1}", "line 1: expected a name in double quotes"),
        ('{"a": [1 2]}', "line 1: expected a comma or the end"),
        ('{"a": "\\x"}', "line 1: a string that JSON cannot read"),
        ('{"a": 1,, "b": 2}', "line 1: expected a name in double quotes"),
        ("/* open", "line 1: expected a value, got '/* open'"),
    ],
)
def test_what_is_no_json_is_refused_with_its_line(text: str, where: str) -> None:
    """By line and by what was expected."""
    with pytest.raises(CannotEdit) as caught:
        jsonc.put(text, ("k",), 1)
    assert str(caught.value).startswith(where)


def test_a_setting_below_something_else_is_refused() -> None:
    """`env` that is no object is nobody's to replace."""
    with pytest.raises(CannotEdit, match="line 2: expected an object at env"):
        jsonc.put('{\n"env": "x"}', ("env", "A"), 1)


def test_nesting_to_any_depth_costs_no_stack() -> None:
    """A hundred thousand lists in each other are read, and an edit beside them works."""
    text = '{"deep": ' + "[" * 100_000 + "]" * 100_000 + ', "a": 1}'
    assert jsonc.put(text, ("a",), 2) == text.replace('"a": 1', '"a": 2')
