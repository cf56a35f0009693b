"""What changes with every request is taken out of system messages."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.compress import ContextOptions
from penstock.compress.nonce import without_nonces

BILLING = "x-anthropic-billing-header: cc_version=2.1.37.abc; cc_entrypoint=cli; cch=0f3a9;"


def part(text: str) -> dict[str, Any]:
    """A part of a content list."""
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("content", "patterns", "expected"),
    [
        pytest.param(f"{BILLING}\nYou are Claude Code.", [], "You are Claude Code.", id="Claude Code's line"),
        pytest.param([part(BILLING), part("You are.")], [], [part("You are.")], id="as a part of its own"),
        pytest.param([part(BILLING)], [], "", id="and nothing else"),
        pytest.param("cch=ab12f; You are.", [], "You are.", id="its changing part alone"),
        pytest.param("x" * 3000 + "\n" + BILLING, [], None, id="far down it is somebody's text"),
        pytest.param("a patch= b; you", [], None, id="words that only look like it"),
        pytest.param("It is 10:05. Be brief.", [r"It is \d+:\d+\. "], "Be brief.", id="the user's own pattern"),
        pytest.param("Be brief.", [r"It is \d+:\d+\. "], None, id="nothing to be found"),
        pytest.param(None, ["x"], None, id="no content"),
    ],
)  # fmt: skip
def test_nonces_go(content: Any, patterns: list[str], expected: Any) -> None:
    """Removed and announced; what has none stays the identical object."""
    messages = [{"role": "system", "content": content}, {"role": "user", "content": BILLING}]
    cleaned = without_nonces(messages, patterns)
    if expected is None:
        assert cleaned.messages is messages
        assert not cleaned.changes
    else:
        assert list(cleaned.messages) == [{"role": "system", "content": expected}, messages[1]]
        assert [change.field for change in cleaned.changes] == ["messages[0].content"]
        assert messages[0]["content"] == content


def test_own_patterns_reach_later_system_messages() -> None:
    """Wherever they stand."""
    messages = [{"role": "user", "content": "t=1"}, {"role": "system", "content": "t=1 on"}]
    assert without_nonces(messages, [r"t=\d+ "]).messages[1]["content"] == "on"
    assert without_nonces(messages).messages is messages


@pytest.mark.parametrize("pattern", ["(", "x*", ""])
def test_patterns_that_cannot_be_meant_are_refused(pattern: str) -> None:
    """One that is broken, or matches everywhere."""
    with pytest.raises(ValidationError, match="regular expression"):
        ContextOptions(nonce_patterns=[pattern])
