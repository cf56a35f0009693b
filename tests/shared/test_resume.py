"""Whether an answer that broke off may be continued, and by which request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.resume import (
    ResumeOptions,
    Said,
    Way,
    continuation,
    cut,
    decide,
    joined,
    judge,
    obstacle,
    probe_body,
    whole_counts,
)

USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "m", "messages": [USER], "max_tokens": 20, "temperature": 0}
ALL: frozenset[Way] = frozenset({"text", "thinking", "text after thinking"})


@pytest.mark.parametrize(
    ("more", "why"),
    [
        pytest.param({}, "", id="a plain question"),
        pytest.param({"tools": [{"type": "function"}], "tool_choice": "auto"}, "", id="tools"),
        pytest.param({"response_format": {"type": "text"}}, "", id="text was asked for"),
        pytest.param({"logprobs": False, "n": 1, "stop": ["x"]}, "", id="defaults that are said"),
        pytest.param({"n": 2}, "several answers", id="n"),
        pytest.param({"logprobs": True}, "logprobs", id="logprobs"),
        pytest.param({"top_logprobs": 3}, "logprobs", id="top_logprobs"),
        pytest.param({"grammar": "root ::= [a-z]"}, "grammar", id="grammar"),
        pytest.param({"json_schema": {"type": "object"}}, "json_schema", id="json_schema"),
        pytest.param({"guided_json": {"type": "object"}}, "guided_json", id="guided_json"),
        pytest.param({"format": "json"}, "format", id="Ollama's format"),
        pytest.param({"response_format": {"type": "json_object"}}, "given form", id="JSON mode"),
        pytest.param({"echo": True}, "echo", id="echo"),
        pytest.param({"tool_choice": "required"}, "demanded", id="a call is demanded"),
        pytest.param({"messages": [USER, {"role": "assistant", "content": "a"}]}, "continue", id="continued already"),
        pytest.param({"messages": []}, "no conversation", id="no messages"),
        pytest.param({"messages": "x"}, "no conversation", id="messages of another shape"),
    ],
)  # fmt: skip
def test_requests_whose_answers_have_a_form_are_left_alone(more: dict[str, Any], why: str) -> None:
    """Only free text is continued."""
    found = obstacle({**BODY, **more})
    assert (why in found) if why else found == ""


@pytest.mark.parametrize(
    ("said", "proven", "resumed", "why"),
    [
        pytest.param(Said("a"), ALL, 0, "", id="text"),
        pytest.param(Said("", "t"), ALL, 0, "", id="thinking"),
        pytest.param(Said("a", "t"), frozenset({"text", "thinking"}), 0, "text after thinking", id="unproven"),
        pytest.param(Said("a"), frozenset(), 0, "continue text", id="nothing is proven"),
        pytest.param(Said(), frozenset(), 0, "", id="nothing was said: simply again"),
        pytest.param(Said("a", calls=True), ALL, 0, "tool call", id="in a call"),
        pytest.param(Said("a", ended=True), ALL, 0, "ends", id="it had ended"),
        pytest.param(Said("a"), ALL, 2, "2 times", id="often enough"),
    ],
)  # fmt: skip
def test_only_what_was_proven_is_continued(
    said: Said, proven: frozenset[Way], resumed: int, why: str
) -> None:
    """And not for ever."""
    found = decide(said, proven, resumed=resumed, options=ResumeOptions())
    assert (why in found) if why else found == ""


def test_the_text_so_far_goes_back_as_the_last_message() -> None:
    """Thinking under the server's own name, with the switches of its kind, and a budget that is smaller."""
    said = Said("so far", "hm", tokens=7)
    made = continuation(
        BODY, said, fields={"continue_final_message": True}, thinking_field="reasoning"
    )
    assert made == {
        **BODY,
        "messages": [USER, {"role": "assistant", "content": "so far", "reasoning": "hm"}],
        "max_tokens": 13,
        "continue_final_message": True,
    }
    assert BODY["messages"] == [USER]


def test_what_said_nothing_is_sent_again_as_it_was() -> None:
    """There is nothing to continue."""
    assert continuation(BODY, Said(), fields={"x": 1}, thinking_field="y") == BODY


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({**BODY, "max_tokens": 7}, id="max_tokens"),
        pytest.param({**BODY, "max_completion_tokens": 5}, id="max_completion_tokens"),
        pytest.param({**BODY, "options": {"num_predict": 7}}, id="num_predict"),
    ],
)
def test_a_spent_budget_is_not_overspent(body: dict[str, Any]) -> None:
    """The answer was as long as it may be."""
    assert continuation(body, Said("x", tokens=7), fields={}, thinking_field="t") is None


def test_no_budget_stays_no_budget() -> None:
    """-1 and null mean none."""
    body = {**BODY, "max_tokens": -1, "max_completion_tokens": None}
    made = continuation(body, Said("x", tokens=7), fields={}, thinking_field="t")
    assert made is not None
    assert (made["max_tokens"], made["max_completion_tokens"]) == (-1, None)


@given(
    first=st.none() | st.integers(-1, 5000),
    said=st.integers(0, 500),
    prompt=st.integers(0, 5000),
    completion=st.integers(0, 500),
    cached=st.none() | st.integers(0, 5000),
)
def test_counts_add_up_to_the_servers_own(
    first: int | None, said: int, prompt: int, completion: int, cached: int | None
) -> None:
    """Whatever is known: no count is negative, the sum is the server's, no more is cached than there is."""
    whole = whole_counts(Said(tokens=said, prompt_tokens=first), prompt, completion, cached)
    assert whole.prompt_tokens + whole.completion_tokens == prompt + completion
    assert min(whole.prompt_tokens, whole.completion_tokens) >= 0
    assert whole.cached_tokens is None or whole.cached_tokens <= whole.prompt_tokens
    if first is not None and 0 < first <= prompt:
        assert whole.prompt_tokens == first


PIECES = [
    ("", f"{word} ") for word in ["one", "two", "three", "four", "five", "six", "seven", "eight"]
]
THINKING = [(f"{word} ", "") for word in ["let", "me", "see", "what", "this", "might", "be"]]


def test_an_answer_is_cut_in_its_text_or_in_its_thinking() -> None:
    """What is cut is proven; too little proves nothing."""
    in_text = cut([*THINKING, *PIECES], in_text=True)
    assert in_text is not None
    assert (in_text[0].text, in_text[1].text) == ("one two three four ", "five six seven eight ")
    assert in_text[0].thinking == "let me see what this might be "
    in_thinking = cut([*THINKING, *PIECES], in_text=False)
    assert in_thinking is not None
    assert in_thinking[0] == Said("", "let me see ", 3)
    assert in_thinking[1].text.startswith("one")
    assert cut(PIECES[:3], in_text=True) is None
    assert cut(PIECES, in_text=False) is None


@pytest.mark.parametrize(
    ("continued", "proves"),
    [
        pytest.param(Said("five six seven eight "), True, id="the rest"),
        pytest.param(Said("five six seven eight nine ten "), True, id="the rest and more"),
        pytest.param(Said("five six "), True, id="a part of the rest"),
        pytest.param(Said("five"), False, id="too little"),
        pytest.param(Said("one two three four "), False, id="another answer"),
        pytest.param(Said("one two three four five six seven eight "), False, id="repeated"),
        pytest.param(Said(" five six seven eight "), False, id="a blank too many"),
        pytest.param(Said("five six seven eight ", "hm, let me see"), False, id="it thinks again"),
        pytest.param(Said(), False, id="nothing"),
    ],
)
def test_a_continuation_is_the_rest_and_nothing_else(continued: Said, proves: bool) -> None:
    """A server that begins again has not continued."""
    assert judge(joined(PIECES[:4]), joined(PIECES[4:]), continued) is proves


def test_an_answer_that_repeats_itself_proves_nothing() -> None:
    """Its rest looks like its beginning, so that nobody could tell."""
    same = [("", "ha ")] * 8
    assert not judge(joined(same[:4]), joined(same[4:]), joined(same[4:]))


def test_thinking_is_judged_with_what_follows_it() -> None:
    """The switch from thinking to text is part of the rest."""
    beginning, rest = joined(THINKING[:3]), joined([*THINKING[3:], *PIECES])
    assert judge(beginning, rest, rest)
    as_text = Said(rest.thinking + rest.text)
    assert not judge(beginning, rest, as_text)


def test_a_probe_is_short_and_greedy() -> None:
    """In both dialects."""
    assert probe_body("m", native=False, options={})["temperature"] == 0
    native = probe_body("m", native=True, options={"num_ctx": 8192})
    assert native["options"]["num_ctx"] == 8192
    assert (
        native["options"]["num_predict"] == probe_body("m", native=False, options={})["max_tokens"]
    )
