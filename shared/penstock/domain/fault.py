"""A classified failure of an upstream, and what is recorded of a request when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from penstock.errors import ErrorCode

Phase = Literal["connect", "send", "load", "first_token", "stream", "body"]
"""Where in a request's life a failure struck."""


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What `penstock.faults` makes of a failure.

    Attributes:
        code: its row in `penstock.errors.ERROR_TABLE` (blame is always the upstream's).
        message: the upstream's own words, or one sentence of ours where it had none.
        status: the upstream's HTTP status, None when there was no answer.
        phase: where it struck.
        retry_after_s: what the upstream asked for, None when it did not.
        window: tokens of the window that a refusal for length named, None otherwise.
        prompt_tokens: tokens of the prompt that the refusal named, None otherwise.
        output_tokens: tokens of output that the refusal counted in, None where it counted none.
        transient: for `upstream_error`: a kind that may pass by itself (502, 503, 504, engine restart).
        shared_kv: the KV cache that all slots share was full: other requests had a part in it.
        matched: which rule recognised it, for logs and `explain`.
    """

    code: ErrorCode
    message: str
    status: int | None = None
    phase: Phase = "first_token"
    retry_after_s: float | None = None
    window: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    transient: bool = True
    shared_kv: bool = False
    matched: str = ""

    @property
    def output_room(self) -> int | None:
        """
        Tokens of output that would have fitted, where a refusal for length counted prompt and output
        together and the prompt alone fits: then the output budget is too large, and not the prompt. None
        for all other refusals.
        """
        window, prompt, output = self.window, self.prompt_tokens, self.output_tokens
        if window is None or prompt is None or output is None:
            return None
        return window - prompt if 0 < window - prompt < output else None


class Outcome(StrEnum):
    """What a request teaches about its upstream."""

    SUCCESS = "success"
    DROPPED = "dropped"
    """Speaks against the server: the breaker counts it, the limiter slows down."""
    IGNORED = "ignored"
    """Teaches nothing: the client hung up, we refused, the request was at fault."""
