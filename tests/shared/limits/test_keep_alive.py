"""How long Ollama keeps a model: a client's wish, rounded up to one of few classes."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.limits.keep_alive import FOR_EVER, keep_alive_class


@pytest.mark.parametrize(
    ("wish", "sent"),
    [
        pytest.param(0, 300, id="gone at once"),
        pytest.param("0", 300, id="gone at once, as text"),
        pytest.param("5m", 300, id="the default"),
        pytest.param("5m0s", 300, id="as Go prints it"),
        pytest.param(301, 1800, id="rounded up"),
        pytest.param("1h30m", 7200, id="an hour and a half"),
        pytest.param("24h", 86_400, id="a day"),
        pytest.param("48h", FOR_EVER, id="longer than a day"),
        pytest.param(-1, FOR_EVER, id="for ever"),
        pytest.param("-1", FOR_EVER, id="for ever, as text"),
        pytest.param("-1m", FOR_EVER, id="negative is for ever"),
        pytest.param(1.5, 300, id="a fraction"),
        pytest.param("soon", None, id="no duration"),
        pytest.param("5m ", 300, id="white space"),
        pytest.param("m5", None, id="turned round"),
        pytest.param("", None, id="empty"),
        pytest.param(True, None, id="a boolean"),
        pytest.param([5], None, id="a list"),
    ],
)
def test_wishes_fall_into_classes(wish: Any, sent: int | None) -> None:
    """Never shorter than Ollama's own default, never another number for each request."""
    assert keep_alive_class(wish) == sent
