"""YAML and TOML are edited so that what is not ours stays to the letter."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients import toml_text, yaml_text
from penstock.clients.paths import MISSING, CannotEdit, get, item

OURS = ("models", item(name="ours"))
ENTRY = {"name": "ours", "roles": ["chat"], "limits": {"context": 1}}

YAML_LAYOUTS = [
    pytest.param("", "models:\n- name: ours\n  roles:\n  - chat\n  limits:\n    context: 1\n", id="empty"),
    pytest.param(
        "# top\nmodels:\n  # theirs\n  - name: theirs # one\n    x: |\n      text\n# below\nz: 1 # last\n",
        "# top\nmodels:\n  # theirs\n  - name: theirs # one\n    x: |\n      text\n"
        "  - name: ours\n    roles:\n    - chat\n    limits:\n      context: 1\n# below\nz: 1 # last\n",
        id="after theirs, before what follows",
    ),
    pytest.param("models: []\nz: 1\n", 'models: [{"name": "ours", "roles": ["chat"], "limits": {"context": 1}}]\nz: 1\n',
                 id="an empty list"),
    pytest.param("models:\nz: 1\n", 'models: [{"name": "ours", "roles": ["chat"], "limits": {"context": 1}}]\nz: 1\n',
                 id="a key without a value"),
    pytest.param("models: [{name: theirs}]\n",
                 'models: [{name: theirs}, {"name": "ours", "roles": ["chat"], "limits": {"context": 1}}]\n',
                 id="a list in brackets"),
    pytest.param("models:\n- name: theirs", "models:\n- name: theirs\n- name: ours\n  roles:\n  - chat\n  limits:\n    context: 1\n",
                 id="no line end at the end"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), YAML_LAYOUTS)
def test_an_entry_is_added_to_a_list(text: str, expected: str) -> None:
    """In the list's own style, and out again with everything else as it was."""
    assert yaml_text.put(text, OURS, ENTRY) == expected
    back = yaml_text.take(expected, OURS)
    theirs = yaml.safe_load(text) or {}
    left = yaml.safe_load(back)
    assert (left.get("models") or []) == (theirs.get("models") or [])
    assert {k: v for k, v in left.items() if k != "models"} == {
        k: v for k, v in theirs.items() if k != "models"
    }
    assert back.count("#") == text.count("#")


def test_an_entry_of_ours_is_replaced() -> None:
    """In its place, and only it."""
    text = yaml_text.put("models:\n  - name: a\n  - name: b\n", OURS, ENTRY)
    text += "tail: 1\n"
    again = yaml_text.put(text, OURS, {"name": "ours", "x": [1, {"y": 2}]})
    assert yaml.safe_load(again) == {
        "models": [{"name": "a"}, {"name": "b"}, {"name": "ours", "x": [1, {"y": 2}]}],
        "tail": 1,
    }


KEYS = st.sampled_from(["model", "timeout", "weak-model", "z"])
PLAIN = st.text(max_size=12) | st.integers() | st.booleans()


def is_writable(value: Any) -> bool:
    """YAML's own text is made of printable signs only."""
    return not isinstance(value, str) or (value.isprintable() and value.isascii())


@given(
    st.dictionaries(KEYS, PLAIN.filter(is_writable), max_size=3),
    KEYS,
    PLAIN.filter(is_writable),
    st.booleans(),
)
def test_a_setting_at_the_top_is_put_and_taken(
    old: dict[str, Any], key: str, value: Any, quoted: bool
) -> None:
    """Whatever its value is made of; comments stay."""
    style = '"' if quoted else None
    body = yaml.safe_dump(old, default_style=style) if old else ""
    text = f"# top\n{body}# tail\n"
    new = yaml_text.put(text, (key,), value)
    assert yaml.safe_load(new) == {**old, key: value}
    assert new.startswith("# top\n")
    assert "# tail\n" in new
    left = {k: v for k, v in old.items() if k != key}
    assert yaml_text.read(yaml_text.take(new, (key,))) == left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("b: 1\na: [1", "line 2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "several documents"),
        ("- 1\n", "expected a mapping at the top"),
        ("{a: 1}\n", "a mapping in braces at the top"),
        ("a: !custom 1\n", "line 1: not valid YAML"),
        ("a: " + "[" * 800, "not valid YAML"),
        ("models: 3\n", "line 1: expected a list under models"),
    ],
)
def test_yaml_that_cannot_be_changed_safely_is_refused(text: str, why: str) -> None:
    """With the reason."""
    with pytest.raises(CannotEdit) as caught:
        yaml_text.put(text, OURS, ENTRY)
    assert why in str(caught.value)


def test_toml_settings_go_before_the_tables() -> None:
    """TOML's top level ends at the first table; comments and spelling stay."""
    text = '# top\na = 1 # one\n\n[t] # t\nz = "x"\n'
    new = toml_text.put(
        toml_text.put(text, ("model",), "m"), ("model_providers", "ours"), {"u": "v"}
    )
    assert tomllib.loads(new) == {
        "a": 1, "model": "m", "t": {"z": "x"}, "model_providers": {"ours": {"u": "v"}}
    }  # fmt: skip
    assert all(part in new for part in ("# top\n", "a = 1 # one\n", "[t] # t\n"))
    back = toml_text.take(toml_text.take(new, ("model_providers", "ours")), ("model",))
    assert toml_text.take(back, ("model_providers",)) == text


TOML_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), TOML_VALUES, max_size=4),
    st.lists(st.from_regex(r"[a-z]{1,4}", fullmatch=True), min_size=1, max_size=2).map(tuple),
    TOML_VALUES,
)
def test_toml_means_the_same_but_for_what_was_put(
    old: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    """The value at its path, and taken out it is gone."""
    import tomlkit

    text = "# mine\n" + tomlkit.dumps(old)
    try:
        new = toml_text.put(text, path, value)
    except CannotEdit:
        assert not isinstance(get(old, path[:1]), dict)
        return
    assert get(tomllib.loads(new), path) == value
    assert "# mine\n" in new
    assert get(tomllib.loads(toml_text.take(new, path)), path) is MISSING


@pytest.mark.parametrize("text", ["a = ", "[t\n", "a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(text: str) -> None:
    """With where it stands."""
    with pytest.raises(CannotEdit, match="not valid TOML"):
        toml_text.put(text, ("a",), 1)


PROVIDER = {"name": "P", "retries": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", '[providers.ours]\nname = "P"\nretries = 1\n', id="an empty file"),
        pytest.param(
            '[providers.a] # a\nx = 1\n\n[z]\ny = 2\n',
            '[providers.a] # a\nx = 1\n\n[providers.ours]\nname = "P"\nretries = 1\n\n[z]\ny = 2\n',
            id="beside its sisters, in the middle",
        ),
        pytest.param(
            "providers = {a = {x = 1}} # in braces\n",
            'providers = {a = {x = 1}, ours = {name = "P", retries = 1}} # in braces\n',
            id="in braces",
        ),
        pytest.param('[providers.ours]\nname = "old"\n\n[z]\ny = 2\n',
                     '[providers.ours]\nname = "P"\nretries = 1\n\n[z]\ny = 2\n', id="in its place"),
    ],
)  # fmt: skip
def test_a_table_is_added_where_it_belongs(text: str, expected: str) -> None:
    """With an empty line around it, in the file's own style."""
    new = toml_text.put(text, ("providers", "ours"), PROVIDER)
    assert new.replace("},o", "}, o").lstrip("\n") == expected


def test_tables_in_other_shapes_are_refused() -> None:
    """A list of tables is not ours to change."""
    with pytest.raises(CannotEdit, match="providers is no table"):
        toml_text.put("[[providers]]\nname = 1\n", ("providers", "ours"), PROVIDER)


def test_brackets_over_several_lines_end_where_they_close() -> None:
    """An entry is added behind the closing brace, not before it."""
    text = "models:\n- {name: a,\n   x: 1\n  }\nz: 1\n"
    new = yaml_text.put(text, OURS, {"name": "ours"})
    assert new == "models:\n- {name: a,\n   x: 1\n  }\n- name: ours\nz: 1\n"
    assert yaml_text.take(new, OURS) == text


NESTED = st.recursive(
    st.integers() | st.from_regex(r"[a-z]{0,6}", fullmatch=True) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), NESTED, max_size=4),
    st.lists(st.dictionaries(st.sampled_from(["name", "x"]), NESTED, min_size=1, max_size=2), max_size=3),
    st.booleans(),
    st.data(),
)  # fmt: skip
def test_yaml_keeps_everything_else_to_the_letter(
    others: dict[str, Any], theirs: list[dict[str, Any]], in_brackets: bool, data: st.DataObject
) -> None:
    """Whatever stands around and in the list: each line of it is there afterwards, comments among them."""
    value = {**others, "models": theirs} if theirs else others
    body = "".join(
        f"{yaml.safe_dump(key).split()[0]}: {json.dumps(inner)}\n"
        if in_brackets
        else yaml.safe_dump({key: inner})
        for key, inner in value.items()
    )
    lines = body.splitlines(keepends=True)
    for number in range(data.draw(st.integers(0, 3))):
        lines.insert(data.draw(st.integers(0, len(lines))), f"# {number}\n")
    text = "".join(lines)
    new = yaml_text.put(text, OURS, ENTRY)
    assert yaml.safe_load(new) == {**value, "models": [*theirs, ENTRY]}
    kept = [line for line in lines if not line.startswith("models:")]
    rest = iter(new.splitlines(keepends=True))
    assert all(line in rest for line in kept)  # in their order
    back = yaml_text.read(yaml_text.take(new, OURS))
    assert back == ({**value} if theirs else {**value, "models": []})
