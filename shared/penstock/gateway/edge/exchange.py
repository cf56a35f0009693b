"""
One client request on its way through the gateway: the facts that every step adds to and that the
record at the end is made from. No prompt and no answer is kept here beyond the request's life.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from penstock.domain.change import Change
from penstock.domain.fault import Fault, Outcome
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import Locality


class Spot(Protocol):
    """A place in a queue."""

    @property
    def was_kept(self) -> bool:
        """Whether the request waited rather than take the slot of another conversation."""

    def told(self) -> tuple[int, float] | None:
        """Position, from 1, and seconds that are likely to be waited yet; None when it waits no more."""


Stage = Literal[
    "accepted", "held", "queued", "loading", "forwarding", "prefilling", "streaming", "done"
]

Operation = Literal[
    "chat", "completions", "embeddings", "responses", "messages", "generate", "other"
]
"""What kind of work a request is; the label `operation` of the metrics."""


@dataclass(slots=True)
class Attempt:
    """
    One try to get an answer from an upstream.

    Attributes:
        upstream: its name.
        started_s, ended_s: monotonic seconds.
        status: HTTP status of the answer, None without one.
        fault: why it failed, None when it did not.
        delay_s: what was waited before the next attempt.
    """

    upstream: str
    started_s: float
    ended_s: float | None = None
    status: int | None = None
    fault: Fault | None = None
    delay_s: float = 0.0


@dataclass(slots=True)
class Exchange:
    """
    One request and what became of it. Times are monotonic seconds of the event loop's clock.

    Attributes:
        id: our request id (`req_...`), also in the header `penstock-request-id`.
        arrived_s: when the request's head was complete.
        arrived_at: the same as wall-clock time (seconds since 1970), for people only.
        method, path: as sent by the client, path normalised, without the query.
        operation: what kind of work it is.
        dialect: the client's: `openai`, `anthropic`, `responses`, `ollama`, `llamacpp`.
        client: name of the client key, or `anonymous`.
        user_agent: cut to 120 characters.
        model: as the client asked for it; empty when none.
        upstream_model: as it was sent upstream.
        stream: whether the client asked for a stream.
        body_bytes: size of the request's body.
        queued_s, admitted_s, sent_s, first_token_s, ended_s: when it got there, or None.
        in_flight: requests that the upstream had with this one when it got its permit; 0 without one.
        status: HTTP status sent to the client; 499 when it hung up before there was one.
        error_code, error_message: of the error that the client got, empty for none.
        outcome: what the request teaches about its upstream; None while it runs.
        committed: the status line went out.
        client_gone: the client hung up before its answer was complete.
        chunks: events or pieces relayed.
        answer_bytes: bytes of body sent to the client.
        window: tokens, as announced; prompt_tokens, completion_tokens, cached_tokens: the server's own
            counts; None while unknown.
        prefill_done, prefill_total: the server's own progress in tokens.
        conversation: the client's own name for the conversation, empty when it gave none.
        prefix: of its conversation, where several servers share these; empty elsewhere.
        session: the client's own name for the session, empty when it says none.
        took_over: what it inherited from the same request that was given up: `place`, `ghost`, `load`.
        kept_a_slot: it waited a moment rather than take the slot of another conversation.
        spot: its place in the queue, None when it never had to wait.
        fitted: the strategy by which the conversation was made to fit, empty when it needed nothing.
        prompt_tokens_planned: what we take the prompt that was sent for; prompt_tokens_original: the same
            for what the client sent, None while unknown.
        warnings_told: how many of the warnings stood in the headers.
        repaired: tool calls of the answer that were repaired, or made from text.
        resumed: how often the answer was continued after its server broke off.
        resume_outcome: of the last time that it broke off: `resumed`, `gave_up`, `not_possible`; "" when it never did.
        loop_ended: the gateway ended the answer because it repeated itself.
        tool_calls_mended: what became of tool calls that were not simply right (`repaired`, `recovered`,
            `renumbered`, `flagged`, `cut_off`).
    """

    id: str
    arrived_s: float
    arrived_at: float
    method: str
    path: str
    operation: Operation = "other"
    dialect: str = "openai"
    client: str = "anonymous"
    user_agent: str = ""
    model: str = ""
    upstream_model: str = ""
    upstream: str = ""
    locality: Locality | None = None
    profile: ModelProfile | None = None
    stream: bool = False
    body_bytes: int = 0
    priority: str = "normal"
    stage: Stage = "accepted"
    queued_s: float | None = None
    admitted_s: float | None = None
    sent_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    in_flight: int = 0
    status: int | None = None
    error_code: str = ""
    error_message: str = ""
    outcome: Outcome | None = None
    committed: bool = False
    client_gone: bool = False
    heartbeats: int = 0
    chunks: int = 0
    answer_bytes: int = 0
    window: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    prefill_done: int | None = None
    prefill_total: int | None = None
    finish_reason: str = ""
    conversation: str = ""
    session: str = ""
    prefix: bytes = b""
    spot: Spot | None = None
    took_over: str = ""
    kept_a_slot: bool = False
    fitted: str = ""
    prompt_tokens_planned: int | None = None
    prompt_tokens_original: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    warnings_told: int = 0
    repaired: int = 0
    resumed: int = 0
    resume_outcome: str = ""
    loop_ended: bool = False
    tool_calls_mended: list[str] = field(default_factory=list)
    explain: bool = False

    def begin_again(self) -> None:
        """It goes to another upstream: what is said of the one before no longer holds. Its attempts stay."""
        self.outcome, self.ended_s = None, None
        self.error_code = self.error_message = ""
        self.queued_s = self.admitted_s = self.sent_s = self.first_token_s = None
        self.in_flight, self.profile, self.window, self.fitted = 0, None, None, ""
        self.prompt_tokens_planned = self.prompt_tokens_original = None
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = None
        self.prefill_done = self.prefill_total = None

    @property
    def waited_s(self) -> float:
        """Seconds between arrival in the queue and the permit; 0 when it did not wait."""
        if self.queued_s is None:
            return 0.0
        end = self.admitted_s if self.admitted_s is not None else self.ended_s
        return 0.0 if end is None else max(0.0, end - self.queued_s)

    @property
    def duration_s(self) -> float | None:
        """Seconds from arrival to the end; None while it runs."""
        return None if self.ended_s is None else self.ended_s - self.arrived_s

    @property
    def answering_from_s(self) -> float:
        """Since when its tokens were made, as far as that can be seen: from its first, or from when it was sent."""
        if self.stream and self.first_token_s is not None:
            return self.first_token_s
        return self.arrived_s if self.sent_s is None else self.sent_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds from sending the attempt that was answered to its first token; None without one."""
        if self.first_token_s is None or self.sent_s is None:
            return None
        return self.first_token_s - self.sent_s
