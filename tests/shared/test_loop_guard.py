"""The loop guard: what repeats itself without end, and what only looks so."""

from __future__ import annotations

import base64
import json
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.loop_guard import (
    DATA_CHARS,
    LONGEST_PHRASE,
    PROSE_CHARS,
    PROSE_REPEATS,
    STEP,
    WORD_CHARS,
    LoopGuard,
)

INTRO = "Here is what I found when I looked into your question.\n\n"
PARAGRAPH = (
    "The committee met on Tuesday and could not agree on a date. It was decided that the question"
    " would be taken up again once the figures had arrived, which was expected soon.\n\n"
)


LONG_PHRASE = PARAGRAPH * 7 + "Thus "


def ends_at(text: str, step: int = 5) -> int | None:
    """Characters after which the guard ends *text*, fed in pieces; None when it lets it pass."""
    guard = LoopGuard()
    for at in range(0, len(text), step):
        if guard.feed(text[at : at + step]):
            return at + step
    return None


@pytest.mark.parametrize(
    ("phrase", "limit"),
    [
        pytest.param("I am sorry, but I cannot do that. ", PROSE_CHARS, id="a sentence"),
        pytest.param("Wait, but maybe not. Let me think again.\n\n", PROSE_CHARS, id="thoughts"),
        pytest.param("- Check the log of the server\n", PROSE_CHARS, id="a point of a list"),
        pytest.param("* **Note:** please check the `log` first.\n", PROSE_CHARS, id="Markdown"),
        pytest.param(PARAGRAPH, PROSE_CHARS, id="a paragraph"),
        pytest.param(
            PARAGRAPH * 2 + "Then ", PROSE_CHARS, id="a phrase that repeats itself within"
        ),
        pytest.param(LONG_PHRASE, PROSE_REPEATS * len(LONG_PHRASE), id="a long phrase"),
        pytest.param("我不知道你在说什么。", PROSE_CHARS, id="Chinese"),
        pytest.param("Я не понимаю вопроса, объясните ещё раз. ", PROSE_CHARS, id="Russian"),
        pytest.param("ฉันไม่เข้าใจคำถาม", PROSE_CHARS, id="Thai"),
        pytest.param("Ich weiß es nicht. ", PROSE_CHARS, id="German"),
        pytest.param("\n", PROSE_CHARS, id="line breaks"),
        pytest.param(" \n\t", PROSE_CHARS, id="white space"),
        pytest.param("the ", WORD_CHARS, id="one word"),
        pytest.param("🎉", WORD_CHARS, id="one sign"),
        pytest.param("0, ", DATA_CHARS, id="zeros"),
        pytest.param('{"id": 0, "name": ""},\n', DATA_CHARS, id="equal rows"),
        pytest.param("    x = x + 1\n", DATA_CHARS, id="code"),
    ],
)
def test_endless_repetition_is_ended(phrase: str, limit: int) -> None:
    """Soon after the length that its kind allows, not before."""
    text = INTRO + phrase * (3 * limit // len(phrase))
    at = ends_at(text)
    assert at is not None
    assert limit <= at <= limit + len(INTRO) + 2 * len(phrase) + 2 * STEP


ROWS = random.Random(7)
NOT_LOOPS = {
    "a song": ("We walk along the river, we walk along the shore,\n" * 4 + "{}\n\n", 40),
    "one line, a hundred times": ("I must not talk in class. ", 100),
    "ha ha ha": ("ha ", 1500),
    "around the world": ("Around the world, ", 144),
    "a matrix of zeros": ("[0, 0, 0, 0, 0, 0, 0, 0],\n", 1000),
    "JSON with equal rows": ('  {"id": null, "name": "", "tags": []},\n', 500),
    "JSON with equal rows on one line": ('{"ok": true},', 1500),
    "booleans": ("true, ", 4096),
    "CSV with equal rows": ("no,no,yes,n/a\n", 1500),
    "a table of empty cells": ("|       |       |       |\n", 800),
    "a table of equal cells": ("| yes | no | not yet |\n", 800),
    "tabs": ("yes\tno\tyes\n", 1500),
    "a rule": ("-", 20_000),
    "zeros in hexadecimal": ("0000 0000 0000 0000 ffff\n", 800),
    "words of hexadecimal letters": ("dead beef dead beef\n", 800),
    "a genome": ("ACGT ACGT TTGA\n", 1000),
    "base64 of zeros": ("A" * 76 + "\n", 300),
    "letters without a space": ("ab", 10_000),
    "equal lines of code": ("        self.layers.append(nn.Linear(64, 64))\n", 300),
    "equal calls": ("await page.click('next')\n", 500),
    "shell": ("sleep 1 && echo done\n", 500),
    "LaTeX": ("\\hline a & b \\\\\n", 900),
    "XML": ("<item>text of the item</item>\n", 500),
    "YAML in a fence": ("- name: check\n", 1500),
}


@pytest.mark.parametrize("name", NOT_LOOPS)
def test_what_repeats_itself_rightly(name: str) -> None:
    """Rows, refrains and lines that are asked for pass, in lengths that occur."""
    phrase, count = NOT_LOOPS[name]
    text = "".join(phrase.replace("{}", f"verse {number}") for number in range(count))
    if "fence" in name:
        text = f"```yaml\n{text}```\n"
    assert ends_at(INTRO + text + "And that is all.", 41) is None


LONG = {
    "numbered lines": "\n".join(f"{n}. The same text again" for n in range(5000)),
    "a dump": "\n".join(f"{n:08x}  " + " ".join(["00"] * 16) for n in range(0, 40_000, 16)),
    "base64": base64.b64encode(ROWS.randbytes(90_000)).decode(),
    "hexadecimal": ROWS.randbytes(60_000).hex(),
    "JSON": json.dumps([{"id": n, "name": "same", "ok": True} for n in range(4000)], indent=1),
    "CSV": "\n".join(f"{n},same,same,{n % 7}" for n in range(8000)),
    "a table": "\n".join(f"| {n} | same | same |" for n in range(6000)),
    "code": "\n".join(f"    assert f({n}) == {n * n}" for n in range(5000)),
    "prose": " ".join(ROWS.choices(PARAGRAPH.split(), k=30_000)),
    "primes": ", ".join(str(n) for n in range(3, 60_000, 2)),
}


@pytest.mark.parametrize("name", LONG)
def test_long_answers_pass(name: str) -> None:
    """A hundred thousand characters that are alike and not equal."""
    assert ends_at(LONG[name], 97) is None


def test_a_fence_makes_it_code() -> None:
    """Within a fence even running text may repeat itself for longer; behind it no more."""
    inside = "# the same comment again\n".replace("#", "")
    text = "```\n" + inside * (2 * PROSE_CHARS // len(inside))
    assert ends_at(text) is None
    at = ends_at(text + "```\n" + "I am sorry about that. " * 1000)
    assert at is not None
    assert at > len(text) + PROSE_CHARS


@given(
    st.text(alphabet="ab \n", min_size=1, max_size=20),
    st.text(max_size=300),
    st.lists(st.integers(1, 3000), min_size=1, max_size=10),
)
def test_pieces_make_no_difference(phrase: str, before: str, sizes: list[int]) -> None:
    """The verdict falls at the same character, in whatever pieces the text comes."""
    text = before + phrase * (40_000 // len(phrase))

    def verdict(pieces: list[int]) -> int | None:
        guard, at, turn = LoopGuard(), 0, 0
        while at < len(text):
            size = pieces[turn % len(pieces)]
            if guard.feed(text[at : at + size]):
                return at
            at, turn = at + size, turn + 1
        return None

    one, other = verdict([STEP]), verdict(sizes)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert other - max(sizes) - STEP <= one <= other + max(sizes) + STEP


def test_memory_is_bounded() -> None:
    """A megabyte leaves no more than the longest phrase a few times."""
    guard = LoopGuard()
    for number in range(40_000):
        guard.feed(f"line {number} of the text. ")
    held = sum(len(getattr(guard, name)) for name in ("_tail", "_pending"))
    assert held < 8 * LONGEST_PHRASE


@pytest.mark.parametrize(
    "phrase",
    [
        pytest.param("a" * 300 + "b" + "a" * 301 + "c", id="many places that nearly repeat"),
        pytest.param("ab", id="two signs"),
        pytest.param(LONG["prose"][:5000], id="longer than is looked for"),
    ],
)
def test_work_grows_with_the_text_only(phrase: str) -> None:
    """Four times the text are about four times the work, whatever it is."""

    def calls(size: int) -> int:
        text = phrase * (size // len(phrase) + 1)
        count, guard = 0, LoopGuard()

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            for at in range(0, size, 50):
                guard.feed(text[at : at + 50])
        finally:
            sys.setprofile(None)
        return count

    assert calls(80_000) < 5 * calls(20_000)
