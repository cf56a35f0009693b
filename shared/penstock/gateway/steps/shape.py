"""
What a conversation looks like before it is weighed: without what clients put in only to change it, without what no
server takes. And what a body wishes for the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock import compress
from penstock.domain.change import Change
from penstock.domain.profile import ModelProfile
from penstock.errors import ErrorCode, RequestError
from penstock.servers import SPECS
from penstock.toolcalls.history import mend_history, unseen_image


def shape(
    body: Mapping[str, Any], profile: ModelProfile, nonce_patterns: list[str]
) -> tuple[Any, tuple[Change, ...]]:
    """
    Messages as they are weighed and fitted: without nonces, and without what no server takes.

    Raises:
        RequestError: an image that the server would leave out silently.
    """
    cleaned = compress.without_nonces(body["messages"], nonce_patterns)
    vision = profile.reading.capabilities.vision
    messages, mended = mend_history(cleaned.messages, vision=vision)
    if vision is False and SPECS[profile.kind].behaviour.drops_images:
        place = unseen_image(messages)
        if place:
            raise RequestError(
                ErrorCode.UNSUPPORTED_INPUT,
                f"{profile.model} cannot see images, and its server would leave this one out silently.",
                hint="Send text only, or choose a model that sees images.",
                param=place,
            )
    return messages, (*cleaned.changes, *mended)


def wished_num_ctx(body: Mapping[str, Any]) -> int | None:
    """The client's own `num_ctx`, at the top or in Ollama's `options`."""
    options = body.get("options")
    for place in (body, options if isinstance(options, Mapping) else {}):
        value = place.get("num_ctx")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
