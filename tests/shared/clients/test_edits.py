"""A file is changed only where it is meant, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clients import CannotEdit, Setting, Undo, apply, jsonc, take_back
from penstock.clients.paths import MISSING, as_json, from_json, item, shown

SETTINGS = (Setting(("env", "A"), "1"), Setting(("name",), "ours", if_absent=True))


def test_how_each_setting_is_taken_back_is_told() -> None:
    """What stood there before, and from where on everything is ours."""
    _, undos = apply("json", '{"env": {"A": "0"}}', SETTINGS)
    assert undos == (Undo(("env", "A"), "1", "0", 2), Undo(("name",), "ours", MISSING, 0))
    _, undos = apply("json", '{"name": "theirs"}', SETTINGS)
    assert undos == (Undo(("env", "A"), "1", MISSING, 0),)


def test_null_is_a_value() -> None:
    """It comes back as null, and is not taken for nothing."""
    new, undos = apply("json", '{"name": null, "env": {}}', SETTINGS)
    assert undos[0].before is MISSING
    assert take_back("json", new, undos) == ('{"name": null, "env": {}}', ())


def test_true_is_not_one() -> None:
    """Python takes them for equal; a settings file does not."""
    new, _ = apply("json", '{"a": 1}', (Setting(("a",), True),))
    assert new == '{"a": true}'


@pytest.mark.parametrize("text", ["[1]", "3", '"x"', "null"])
def test_a_file_that_is_no_object_is_refused(text: str) -> None:
    """There is no place for settings."""
    with pytest.raises(CannotEdit, match="expected an object at the top"):
        apply("json", text, SETTINGS)


@pytest.mark.parametrize(
    ("spoils", "why"),
    [
        pytest.param(lambda text: text.replace("theirs", "spoilt"), "not ours", id="something else changes"),
        pytest.param(lambda text: text.replace("ours-1", "other"), "could not be set", id="ours is not there"),
        pytest.param(lambda text: text + "}", "expected nothing more", id="it is no JSON any more"),
    ],
)  # fmt: skip
def test_each_edit_is_read_again(monkeypatch: pytest.MonkeyPatch, spoils: Any, why: str) -> None:
    """An editor that errs is caught, and the file stays as it is."""
    real = jsonc.put
    monkeypatch.setattr(jsonc, "put", lambda text, path, value: spoils(real(text, path, value)))
    with pytest.raises(CannotEdit, match=why):
        apply("json", '{"x": "theirs"}', (Setting(("env", "A"), "ours-1"),))


def test_windows_line_ends_stay() -> None:
    """A file whose lines all end so gets no other ones."""
    new, undos = apply(
        "yaml", "a: 1\r\nb: 2\r\n", (Setting(("models", item(name="x")), {"name": "x", "y": 1}),)
    )
    assert new == "a: 1\r\nb: 2\r\nmodels:\r\n- name: x\r\n  y: 1\r\n"
    assert take_back("yaml", new, undos) == ("a: 1\r\nb: 2\r\n", ())


def test_paths_are_remembered_and_shown() -> None:
    """As JSON and back; as people read them."""
    path = ("modelProviders", "openai", item(id="m", model_info__id="x"))
    assert from_json(as_json(path)) == path
    assert shown(path) == "modelProviders.openai[m]"
