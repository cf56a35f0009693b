"""
Makes a second answer that continues a first one look like the rest of that: the client sees one stream.

The chunks get the first answer's id, time and model; the role is not said again (clients add roles up); the
counts at the end become those of the answer as a whole. All else stays the server's own. It stands in front of the
relay, which goes on with it as if nothing had happened.
"""

from __future__ import annotations

from typing import Any

import orjson

from penstock.dialects.ndjson import NdjsonFramer
from penstock.dialects.sse import SseFramer, parse_event
from penstock.resume import Said, Whole, whole_counts


class Continuing:
    """
    Args:
        said: of the answer before this one began.
        ndjson: lines of Ollama's instead of OpenAI's server-sent events.
    """

    __slots__ = ("_framer", "_ndjson", "_said")

    def __init__(self, said: Said, *, ndjson: bool) -> None:
        self._said = said
        self._ndjson = ndjson
        self._framer: SseFramer | NdjsonFramer = NdjsonFramer() if ndjson else SseFramer()

    def feed(self, data: bytes) -> bytes:
        """What the relay gets for it now."""
        return b"".join(map(self._event, self._framer.feed(data)))

    def end(self) -> bytes:
        """The same for what is left at the end."""
        rest = self._framer.end()
        return self._event(rest) if rest else b""

    def _event(self, raw: bytes) -> bytes:
        data = raw.strip() if self._ndjson else parse_event(raw).data
        if not data or data == b"[DONE]":
            return raw
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return raw  # the relay says what is wrong with it
        if not isinstance(value, dict) or value.get("error"):
            return raw
        if self._ndjson:
            self._count_lines(value)
            return orjson.dumps(value) + b"\n"
        if not self._chunk(value):
            return b""
        return b"data: " + orjson.dumps(value) + b"\n\n"

    def _chunk(self, value: dict[str, Any]) -> bool:
        """Change one chunk. Returns whether anything is left of it."""
        value.update(self._said.head)
        usage, timings = value.get("usage"), value.get("timings")
        if isinstance(usage, dict):
            self._count_usage(usage)
        if isinstance(timings, dict):
            self._count_timings(timings)
        says = bool(usage or timings or value.get("prompt_progress"))
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                delta.pop("role", None)
                says = says or any(delta.values())
            says = says or bool(choice.get("finish_reason"))
        return says

    def _count_usage(self, usage: dict[str, Any]) -> None:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        whole = self._whole(prompt, completion, cached)
        if whole is None:
            return
        usage["prompt_tokens"] = whole.prompt_tokens
        usage["completion_tokens"] = whole.completion_tokens
        if isinstance(details, dict) and whole.cached_tokens is not None:
            details["cached_tokens"] = whole.cached_tokens

    def _count_timings(self, timings: dict[str, Any]) -> None:
        """
        llama.cpp's (`tools/server/server-task.h`, result_timings): counts of the whole, and times as they would
        have been at the pace that was measured.
        """
        new, cached = timings.get("prompt_n"), timings.get("cache_n")
        if not isinstance(new, int) or not isinstance(cached, int):
            return
        whole = self._whole(new + cached, timings.get("predicted_n"), cached)
        if whole is None:
            return
        kept = whole.cached_tokens or 0
        counts = {"cache_n": kept, "prompt_n": whole.prompt_tokens - kept}
        for name, count in (
            ("prompt", counts["prompt_n"]),
            ("predicted", whole.completion_tokens),
        ):
            pace_ms = timings.get(f"{name}_per_token_ms")
            if isinstance(pace_ms, int | float):
                timings[f"{name}_ms"] = pace_ms * count
        timings.update(counts, predicted_n=whole.completion_tokens)

    def _count_lines(self, value: dict[str, Any]) -> None:
        whole = self._whole(value.get("prompt_eval_count"), value.get("eval_count"), None)
        if whole is None:
            return
        value["prompt_eval_count"] = whole.prompt_tokens
        value["eval_count"] = whole.completion_tokens

    def _whole(self, prompt: Any, completion: Any, cached: Any) -> Whole | None:
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return None
        return whole_counts(
            self._said, prompt, completion, cached if isinstance(cached, int) else None
        )
