"""The frozen measure: never nothing, never wild, the same for ever, and quick."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokens import Lane, Mix, family_of, measure_text
from penstock.tokens.families import factors
from penstock.tokens.measure import measure_mix

PROSE = "The gateway keeps long conversations alive, and costs as little prefill as possible. "
CODE = 'def look(self, at: int) -> str:\n    return self._found[at + 1] or "nothing"\n'
ZH = "网关让长对话保持活力。"
BASE64 = base64.b64encode(bytes(range(256)) * 4).decode()
FAMILIES = ("", "qwen", "llama3", "gpt", "gemma", "llama2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("a", 1, id="one letter"),
        pytest.param(" ", 1, id="a space"),
        pytest.param(PROSE * 10, 194, id="prose"),
        pytest.param(CODE * 10, 222, id="code"),
        pytest.param(ZH * 10, 94, id="Chinese"),
        pytest.param("\U0001f600" * 10, 21, id="emoji"),
        pytest.param("1234567890" * 10, 98, id="long number"),
        pytest.param(BASE64, 944, id="base64"),
        pytest.param("\ud800 half", 2, id="half a surrogate"),
    ],
)
def test_the_measure_is_frozen(text: str, expected: int) -> None:
    """These numbers decide where the cuts of running conversations lie: they never change."""
    assert measure_text(text) == expected


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.text())
def test_a_text_weighs_something_but_not_more_than_can_be(family: str, text: str) -> None:
    """Not empty is not nothing, and the bound is at least one token per byte of UTF-8."""
    mix = measure_mix(text, factors(family))
    size = len(text.encode("utf-8", "surrogatepass"))
    assert (mix.tokens > 0) is bool(text)
    assert mix.most == size
    assert mix.tokens <= 3 * size + 1


@given(st.text(), st.text())
def test_mixes_add_up(first: str, second: str) -> None:
    """The mix of two texts is the sum of theirs, in every lane."""
    by = factors("")
    one, two = measure_mix(first, by), measure_mix(second, by)
    both = one + two
    for lane in Lane:
        assert both.amount(lane) == one.amount(lane) + two.amount(lane)
    assert both.beyond(one) == two
    assert (one.beyond(both) is None) or not second


def test_lanes_tell_scripts_apart() -> None:
    """Each script is counted in its own lane, sign by sign."""
    mix = measure_mix(
        "ab 1\n.. \u4e2d\u3042\uac00\u0436\u05d0\u0939\u00e9\u2013\U0001f600", factors("")
    )
    found = {lane.name: amount for lane, amount in mix.amounts()}
    assert found == {
        "LETTERS": 2, "SPACES": 3, "LINES": 1, "PUNCTUATION": 2, "MARKS": 1, "DIGITS": 1, "GROUPS": 1,
        "HAN": 1, "KANA": 1, "HANGUL": 1, "CYRILLIC": 1, "SEMITIC": 1, "INDIC": 1, "LATIN": 1,
        "SYMBOLS": 1, "ASTRAL": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "dense"),
    [
        pytest.param(BASE64, len(BASE64), id="base64"),
        pytest.param("see " + "0f" * 32 + " there", 64, id="hexadecimal in a sentence"),
        pytest.param(PROSE * 3, 0, id="prose"),
        pytest.param("9" * 100, 0, id="a long number is digits only"),
        pytest.param("x" * 100, 0, id="letters only"),
        pytest.param("a1" * 15, 0, id="too short"),
    ],
)
def test_dense_runs_are_found(text: str, dense: int) -> None:
    """What is long, without a space and mixed of letters and digits costs more than its letters say."""
    assert measure_mix(text, factors("")).amount(Lane.DENSE) == dense


@pytest.mark.parametrize(
    ("model", "architecture", "family"),
    [
        pytest.param("qwen3:8b", "", "qwen", id="Ollama's name"),
        pytest.param("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama", "llama3", id="file name"),
        pytest.param("llama2:7b", "llama", "llama2", id="Llama 2"),
        pytest.param("mistral-nemo:12b", "llama", "gpt", id="a Mistral with another vocabulary"),
        pytest.param("deepseek-r1-distill-qwen-7b", "", "qwen", id="the longest way into the name"),
        pytest.param("my-model", "gemma3", "gemma", id="the architecture decides"),
        pytest.param("unsloth/gpt-oss-20b", "", "gpt", id="gpt-oss"),
        pytest.param("my-model", "llama", "", id="nothing tells it"),
        pytest.param("", "", "", id="no name"),
        pytest.param("q" * 100_000, "", "", id="a name that is no name"),
    ],
)
def test_families_are_read_from_names(model: str, architecture: str, family: str) -> None:
    """A model's name, or what its file says, tells its vocabulary."""
    assert family_of(model, architecture) == family


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PROSE * 6_000, id="prose"),
        pytest.param(ZH * 15_000, id="Chinese"),
        pytest.param(BASE64 * 360, id="one long run"),
        pytest.param((BASE64[:76] + "\n") * 6_500, id="lines of base64"),
        pytest.param("a1" * 20 + " ", id="short"),
    ],
)
def test_measuring_is_linear(text: str) -> None:
    """Eight times the text takes about eight times as long, not sixty-four times."""

    def best(one: str) -> float:
        took = []
        for _ in range(7):
            began = time.process_time()
            measure_text(one)
            took.append(time.process_time() - began)
        return min(took)

    part = text[: len(text) // 8] or text
    assert best(text) < 40 * best(part) + 0.005


def test_a_mix_of_many_messages_does_not_overflow() -> None:
    """A lane holds more than any memory does: a million messages of a megabyte."""
    one = measure_mix(PROSE * 12, factors(""))
    many = Mix(one.packed * 1_000_000)
    assert many.amount(Lane.LETTERS) == one.amount(Lane.LETTERS) * 1_000_000
    assert many.amount(Lane.PUNCTUATION) == one.amount(Lane.PUNCTUATION) * 1_000_000


def test_tool_schemas_weigh_like_json() -> None:
    """JSON of tools weighs between a sixth and two thirds of its signs."""
    schema = json.dumps(
        [{"type": "function", "function": {"name": "look", "description": PROSE}}] * 5
    )
    assert len(schema) / 6 < measure_text(schema) < len(schema) * 2 / 3
