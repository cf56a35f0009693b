"""Windows, overrides, output budgets and cloud windows (behaviours B, contracts 8)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.profile import WindowSource
from penstock.limits import (
    LimitOptions,
    LocalModelEnvironment,
    cloud_window,
    decide_window,
    explicit_window,
    output_budget,
    parse_tokens,
    prompt_lower_bound,
)


@pytest.mark.parametrize(
    ("known", "tokens", "source"),
    [
        pytest.param({"explicit": 9, "env": 8, "running": 7, "learned": 6}, 9, "explicit", id="the setting wins"),
        pytest.param({"env": 8, "running": 7, "learned": 6}, 8, "env", id="then the environment"),
        pytest.param({"running": 7, "learned": 6}, 7, "running", id="then what the server runs with"),
        pytest.param({"learned": 6, "last": 5}, 6, "learned", id="then what was learned"),
        pytest.param({"last": 5}, 5, "learned", id="then what it ran with last"),
        pytest.param({}, 4096, "name", id="then the name"),
        pytest.param({"model": "nobody-knows"}, 8192, "fallback", id="then a guess"),
        pytest.param({"explicit": 9000, "refused": 512}, 512, "refusal", id="a refusal caps the setting"),
        pytest.param({"running": 4096, "refused": 512}, 512, "refusal", id="and what the server says"),
        pytest.param({"running": 4096, "refused": 8192}, 4096, "running", id="but raises nothing"),
        pytest.param({"model": "x-72b"}, 32768, "name", id="70B class"),
        pytest.param({"model": "x-32b"}, 16384, "name", id="30B class"),
        pytest.param({"model": "x-13b"}, 8192, "name", id="13B class"),
        pytest.param({"model": "x-3b"}, 2048, "name", id="3B class"),
    ],
)  # fmt: skip
def test_the_order_of_sources(known: dict[str, Any], tokens: int, source: str) -> None:
    """Each source yields to the ones before it; a refusal caps them all."""
    window = decide_window(**{"model": "some-7b", **known})
    assert (window.tokens, window.source) == (tokens, WindowSource(source))
    assert window.detail


def test_windows_by_model_and_for_all() -> None:
    """By name, by pattern, for all, in that order."""
    options = LimitOptions(window="16k", models={"qwen*": 8192, "qwen-special": "4k"})
    assert explicit_window("qwen-special", options) == 4096
    assert explicit_window("qwen3", options) == 8192
    assert explicit_window("llama", options) == 16384
    assert explicit_window("llama", LimitOptions()) is None


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        (16384, 16384), ("16384", 16384), ("16k", 16384), ("16K", 16384), (" 16k ", 16384), ("1e5", 100_000),
        ("128k", 131072), ("1m", 1_048_576), ("0.5k", 512), ("1.5k", 1536), ("16,384", 16384), ("16_384", 16384),
        (1e5, 100_000), ("32 k", 32768), ("8ki", 8192), ("4096 tokens", 4096), (1, 1), ("1", 1),
    ],
)  # fmt: skip
def test_counts_as_people_write_them(written: Any, tokens: int) -> None:
    """16k is 16,384."""
    assert parse_tokens(written) == tokens


@pytest.mark.parametrize(
    "written",
    ["", "k", "many", "16kk", "16x", "0", "-1", "-16k", "0k", "1.5", "nan", "inf", "1e99", "1,2,3", "1.2.3",
     10**400, None, True, False, [], {}, -5, 0, 1.5, float("nan"), float("inf"), 10**12, "16k;rm", "١٦"],
)  # fmt: skip
def test_counts_that_are_refused(written: Any) -> None:
    """With a sentence that says what was expected; nothing is guessed."""
    with pytest.raises(ValueError, match="expected a count of tokens"):
        parse_tokens(written)


@given(st.one_of(st.text(max_size=20), st.floats(), st.integers(), st.none(), st.booleans()))
def test_whatever_is_written_is_a_count_or_refused(written: Any) -> None:
    """A count above zero, or ValueError; nothing else."""
    try:
        assert parse_tokens(written) > 0
    except ValueError:
        pass


def test_variables_that_make_no_sense_do_not_take_effect() -> None:
    """The good ones do, and each bad one is named."""
    values, problems = LocalModelEnvironment.parse(
        {
            "LOCAL_MODEL_TOKEN_LIMIT": "8k",
            "LOCAL_MODEL_MAX_TOKENS": "lots",
            "LOCAL_MODEL_MAX_CONCURRENCY": "99999",
        }
    )
    assert values == LocalModelEnvironment(token_limit=8192)
    assert len(problems) == 2
    assert problems[0].startswith("LOCAL_MODEL_MAX_TOKENS: expected")
    assert LocalModelEnvironment.parse({})[0] == LocalModelEnvironment()


def budget(**known: Any) -> tuple[int | None, str]:
    """The budget and its source for what is known."""
    given: dict[str, Any] = {
        "requested": None, "default": None, "env_default": None, "window": 4096,
        "prompt_tokens_at_least": 0, "memory_short": False, "options": LimitOptions(), **known,
    }  # fmt: skip
    found = output_budget(**given)
    return found.tokens, found.source


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param({}, (None, "server"), id="nobody says anything: the server's window"),
        pytest.param({"requested": 100}, (100, "request"), id="the request"),
        pytest.param({"requested": 100, "default": 7, "env_default": 8}, (100, "request"), id="before all others"),
        pytest.param({"default": 7, "env_default": 8}, (7, "settings"), id="the settings"),
        pytest.param({"env_default": 8}, (8, "LOCAL_MODEL_MAX_TOKENS"), id="the environment"),
        pytest.param({"memory_short": True}, (1024, "memory"), id="short of memory: conservative"),
        pytest.param({"requested": 64_000}, (4096, "request"), id="what cannot fit is reduced"),
        pytest.param({"requested": 4000, "prompt_tokens_at_least": 1000}, (3096, "request"), id="together with the prompt"),
        pytest.param({"requested": 10, "prompt_tokens_at_least": 5000}, (10, "request"), id="a prompt that cannot fit is the server's to refuse"),
        pytest.param({"requested": 10, "window": None}, (10, "request"), id="no window known"),
    ],
)  # fmt: skip
def test_output_budgets(known: dict[str, Any], expected: tuple[int | None, str]) -> None:
    """Request, settings, environment, memory; a change is announced."""
    assert budget(**known) == expected


def test_a_reduced_budget_is_announced() -> None:
    """With the numbers."""
    found = output_budget(
        requested=64_000, default=None, env_default=None, window=4096,
        prompt_tokens_at_least=0, memory_short=False, options=LimitOptions(),
    )  # fmt: skip
    assert found.change is not None
    assert found.change.action == "reduced"
    assert "64000" in found.change.detail
    assert "4096" in found.change.detail


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4o", 128_000), ("gpt-4o-mini-2024-07-18", 128_000), ("openai/gpt-4o", 128_000), ("gpt-4.1-nano", 1_047_576),
        ("gpt-5", 400_000), ("gpt-5-chat-latest", 128_000), ("gpt-4", 8192), ("gpt-4-turbo", 128_000), ("o3-mini", 200_000),
        ("claude-opus-4-5-20251101", 200_000), ("claude-3-5-sonnet-latest", 200_000), ("gemini-2.5-pro", 1_048_576),
        ("deepseek-chat", 131_072), ("grok-4", 262_144), ("mistral-large-latest", 131_072),
    ],
)  # fmt: skip
def test_documented_windows_of_clouds(model: str, tokens: int) -> None:
    """From the table, by the longest prefix."""
    found = cloud_window(model)
    assert found is not None
    assert found.tokens == tokens


def test_a_model_that_the_table_does_not_know() -> None:
    """None, and no guess."""
    assert cloud_window("my-own-model") is None


@given(st.lists(st.text(alphabet="abcdefghij ", max_size=400), max_size=8))
def test_the_lower_bound_is_below_any_usual_tokenizer(texts: list[str]) -> None:
    """A tokenizer with one token for every 16 characters would be needed to reach it."""
    body = {"messages": [{"role": "user", "content": text} for text in texts]}
    assert prompt_lower_bound(body) <= sum(len(text) for text in texts) / 16


def test_the_lower_bound_reads_all_shapes() -> None:
    """Texts, parts, prompts; nothing else counts and nothing raises."""
    text = "x" * 160
    parts = [{"type": "text", "text": text}, {"type": "image_url"}, 5]
    assert prompt_lower_bound({"messages": [{"content": parts}, {"content": None}, 7]}) == 10
    assert prompt_lower_bound({"prompt": text}) == 10
    assert prompt_lower_bound({"messages": "no"}) == 0
