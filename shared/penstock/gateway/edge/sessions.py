"""
What clients say of which conversation a request belongs to, besides `penstock-conversation`.

Only what names a session. `user` and `metadata.user_id` of other clients name a person, with several conversations
side by side; they are read last, and a conversation that is recognised by its beginning is worth more than they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEADERS = (
    "x-claude-code-session-id",  # Claude Code
    "x-session-id",  # opencode
    "session-id",  # Codex
    "session_id",
    "x-session-affinity",
    "x-conversation-id",
)
_FIELDS = ("prompt_cache_key", "session_id", "conversation_id")
_LONGEST = 1024


def session_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """The client's own name for the session; "" when it says none."""
    for name in _HEADERS:
        if name in headers:
            return headers[name]
    for name in _FIELDS:
        if name in body and (told := _text(body[name])):
            return told
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping) and (told := _text(metadata.get("user_id"))):
        return told
    return _text(body.get("user"))


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""
