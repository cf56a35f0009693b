"""Which window Ollama is asked for: few classes, never below what is loaded, never more than can be held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.limits.num_ctx import UNKNOWN_MEMORY_CAP, choose_num_ctx, largest_class, size_class

NOTHING: dict[str, Any] = {
    "needed": 0, "wish": None, "loaded": None, "configured": None, "assumed": 2048,
    "trained": None, "fixed": None, "affordable": 131_072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("known", "window", "send"),
    [
        pytest.param({"needed": 500, "loaded": 2048}, 2048, 2048, id="it fits what is loaded"),
        pytest.param({"needed": 500, "configured": 2048}, 2048, 2048, id="it fits the Modelfile's"),
        pytest.param({"needed": 500}, 4096, None, id="nothing is known and little is needed"),
        pytest.param({"needed": 5000}, 8192, 8192, id="nothing is known and more is needed"),
        pytest.param({"needed": 5000, "loaded": 2048}, 8192, 8192, id="a larger class is loaded"),
        pytest.param({"needed": 5000, "loaded": 6000}, 6000, 6000, id="an odd window that holds it stays"),
        pytest.param({"needed": 100, "loaded": 2048, "wish": 9000}, 16_384, 16_384, id="a wish is rounded up"),
        pytest.param({"needed": 100, "loaded": 16_384, "wish": 9200}, 16_384, 16_384, id="another wish reloads nothing"),
        pytest.param({"needed": 100, "loaded": 16_384}, 16_384, 16_384, id="a side request reloads nothing"),
        pytest.param({"needed": 100, "loaded": 16_384, "wish": 2048}, 16_384, 16_384, id="never below what is loaded"),
        pytest.param({"needed": 60_000, "loaded": 4096, "affordable": 20_000}, 16_384, 16_384, id="what memory holds"),
        pytest.param({"needed": 60_000, "loaded": 4096, "affordable": 2000}, 4096, 4096, id="memory holds no more"),
        pytest.param({"needed": 60_000, "loaded": 4096, "affordable": None}, UNKNOWN_MEMORY_CAP, UNKNOWN_MEMORY_CAP,
                     id="nothing is known of its memory"),
        pytest.param({"needed": 60_000, "loaded": 4096, "trained": 8192}, 8192, 8192, id="no more than it was trained for"),
        pytest.param({"needed": 60_000, "loaded": 4096, "trained": 40_960}, 40_960, 40_960, id="trained for an odd number"),
        pytest.param({"needed": 60_000, "loaded": 4096, "fixed": 6000}, 6000, 6000, id="the user's word"),
    ],
)  # fmt: skip
def test_the_window_that_is_asked_for(known: dict[str, Any], window: int, send: int | None) -> None:
    """By what is needed, loaded, configured, trained, affordable and set."""
    found = choose_num_ctx(**{**NOTHING, **known})
    assert (found.window, found.send) == (window, send)
    assert bool(found.why) == (send is not None and send > (known.get("loaded") or known.get("configured") or 0)
                               and "fixed" not in known)  # fmt: skip


@pytest.mark.parametrize(
    ("known", "window", "send"),
    [
        pytest.param({"needed": 100, "loaded": 16_384, "most": 8192}, 8192, 8192, id="below what is loaded"),
        pytest.param({"needed": 100, "configured": 16_384, "most": 8192}, 8192, 8192, id="below the Modelfile's"),
        pytest.param({"needed": 100, "assumed": 16_384, "most": 8192}, 8192, 8192, id="below what is assumed"),
        pytest.param({"needed": 60_000, "loaded": 4096, "most": 8192}, 8192, 8192, id="grows no further"),
        pytest.param({"needed": 100, "loaded": 2048, "most": 8192}, 2048, 2048, id="what is smaller stays"),
        pytest.param({"needed": 100, "loaded": 8192, "most": 8192}, 8192, 8192, id="once it is loaded so, nothing changes"),
        pytest.param({"needed": 60_000, "loaded": 4096, "fixed": 32_768, "most": 8192}, 32_768, 32_768, id="the user's word"),
    ],
)  # fmt: skip
def test_while_memory_is_short(known: dict[str, Any], window: int, send: int) -> None:
    """No larger window than that is asked for, even where one is loaded, unless the user set it."""
    found = choose_num_ctx(**{**NOTHING, **known})
    assert (found.window, found.send) == (window, send)


@given(st.integers(0, 2**22))
def test_the_largest_class_that_fits(tokens: int) -> None:
    """It is a class, and fits, unless nothing does."""
    found = largest_class(tokens)
    assert size_class(found) == found
    assert found <= max(tokens, 4096) < 2 * max(found, 4096)


@given(
    needed=st.integers(0, 400_000),
    wish=st.none() | st.integers(1, 400_000),
    loaded=st.none() | st.integers(512, 300_000),
    trained=st.none() | st.integers(512, 300_000),
    affordable=st.none() | st.integers(512, 300_000),
)
def test_laws(
    needed: int, wish: int | None, loaded: int | None, trained: int | None, affordable: int | None
) -> None:
    """A loaded window never shrinks, and asking again for what was just asked changes nothing."""
    known = {
        **NOTHING,
        "needed": needed,
        "wish": wish,
        "trained": trained,
        "affordable": affordable,
    }
    found = choose_num_ctx(**{**known, "loaded": loaded})
    assert found.window >= (loaded or 0)
    if found.send is not None:
        assert found.send == found.window
        again = choose_num_ctx(**{**known, "loaded": found.send})
        assert again.send == found.send
        if loaded is None or found.send > loaded:
            assert trained is None or found.send <= max(trained, 4096)


def test_classes_are_few() -> None:
    """All windows up to 128k fall into six classes."""
    assert {size_class(n) for n in range(1, 131_073, 97)} == {
        4096,
        8192,
        16_384,
        32_768,
        65_536,
        131_072,
    }
