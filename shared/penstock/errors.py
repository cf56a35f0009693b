"""
Every error that Penstock raises or reports, sorted by what the caller should do.

Two things live here: the exception tree, and `ERROR_TABLE`, the one table from which the HTTP status,
the advice to the client (`x-should-retry`, `Retry-After`), the retry loop and the breaker follow. The
foreign exceptions of the outside world (sockets, TLS, YAML) are translated into these at the edge, in
`penstock.adapters`; the shapes on the wire are made in `penstock.dialects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class ErrorCode(StrEnum):
    """Every value that `error.code` can have in an answer of Penstock."""

    # The request cannot work, whatever the upstream does.
    INVALID_REQUEST = "invalid_request"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNAUTHORIZED = "unauthorized"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    ADMIN_TOKEN_REQUIRED = "admin_token_required"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    LOOP_DETECTED = "loop_detected"
    INTERNAL_ERROR = "internal_error"
    # Refusals: our own decision not to send now.
    QUEUE_FULL = "queue_full"
    QUEUE_DEADLINE = "queue_deadline"
    BREAKER_OPEN = "breaker_open"
    MEMORY_SHORT = "memory_short"
    DRAINING = "draining"
    HOLD_EXPIRED = "hold_expired"
    # Faults: a classified failure of an upstream.
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_LOADING = "upstream_loading"
    MODEL_MISSING = "model_missing"
    OUT_OF_MEMORY = "out_of_memory"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    UPSTREAM_OVERLOADED = "upstream_overloaded"
    RATE_LIMITED = "rate_limited"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    STALL_TIMEOUT = "stall_timeout"
    UNSUPPORTED_INPUT = "unsupported_input"
    GRAMMAR_REFUSED = "grammar_refused"
    UNPARSEABLE_GENERATION = "unparseable_generation"
    UPSTREAM_BAD_REQUEST = "upstream_bad_request"
    UPSTREAM_AUTH = "upstream_auth"
    BROKEN_STREAM = "broken_stream"
    BAD_ANSWER = "bad_answer"
    UPSTREAM_ERROR = "upstream_error"


Blame = Literal["client", "penstock", "upstream"]
RetryRule = Literal["never", "policy", "readiness", "once", "once_refit", "connect_only", "unsent"]


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """What follows from an error code."""

    status: int
    """HTTP status of the answer, unless the upstream's own is passed on (`upstream_bad_request`)."""
    type: str
    """OpenAI's `error.type`."""
    blame: Blame
    """Whose fault it is: `client` (the request), `penstock` (a refusal), `upstream` (a fault)."""
    retry: RetryRule
    """
    How the retry loop treats it, for local upstreams: `never`; `policy`; `readiness` (wait until the
    server is ready, which counts no attempts); `once`; `once_refit` (once, after fitting the request to
    what the refusal said); `connect_only` (by policy when it was the connect that timed out); `unsent`
    (by policy while nothing was relayed).
    """
    breaker: bool
    """Whether it speaks against the server: the breaker counts it, the limiter slows down."""
    meaning: str
    """One sentence for the documentation."""


def _client(status: int, meaning: str, type_: str = "invalid_request_error") -> ErrorRow:
    return ErrorRow(status, type_, "client", "never", False, meaning)


def _refusal(status: int, type_: str, meaning: str) -> ErrorRow:
    return ErrorRow(status, type_, "penstock", "never", False, meaning)


def _fault(status: int, type_: str, retry: RetryRule, breaker: bool, meaning: str) -> ErrorRow:
    return ErrorRow(status, type_, "upstream", retry, breaker, meaning)


_C = ErrorCode
ERROR_TABLE: dict[ErrorCode, ErrorRow] = {
    _C.INVALID_REQUEST: _client(400, "The request is not what the API defines."),
    _C.BODY_TOO_LARGE: _client(413, "The request body is larger than `listen.max_body_bytes`."),
    _C.HEADERS_TOO_LARGE: _client(431, "The request's headers are larger than the limit."),
    _C.UNAUTHORIZED: _client(
        401, "A client key is needed and none that fits was presented.", "authentication_error"
    ),
    _C.HOST_NOT_ALLOWED: _client(
        403, "The `Host` header names a host that is not allowed.", "permission_error"
    ),
    _C.ORIGIN_NOT_ALLOWED: _client(
        403, "A web page of another origin sent the request.", "permission_error"
    ),
    _C.ADMIN_TOKEN_REQUIRED: _client(
        403, "The path changes state and needs the admin token.", "permission_error"
    ),
    _C.MODEL_NOT_FOUND: _client(404, "No upstream has this model.", "not_found_error"),
    _C.NOT_FOUND: _client(404, "No such path.", "not_found_error"),
    _C.METHOD_NOT_ALLOWED: _client(405, "The path does not take this method."),
    _C.REQUEST_TIMEOUT: _client(408, "The client was too slow in sending its request."),
    _C.UNSUPPORTED_MEDIA_TYPE: _client(415, "The body must be JSON by its content type."),
    _C.LOOP_DETECTED: _client(508, "The request has passed this gateway already.", "server_error"),
    _C.INTERNAL_ERROR: ErrorRow(
        500, "server_error", "penstock", "never", False, "A defect in Penstock."
    ),
    _C.QUEUE_FULL: _refusal(
        429, "rate_limit_error", "As many requests wait for this upstream as are allowed to."
    ),
    _C.QUEUE_DEADLINE: _refusal(
        503, "overloaded_error", "The request waited in the queue for as long as it may."
    ),
    _C.BREAKER_OPEN: _refusal(
        503, "overloaded_error", "The upstream failed repeatedly and is given time to recover."
    ),
    _C.MEMORY_SHORT: _refusal(
        503, "overloaded_error", "The memory left would not hold the request."
    ),
    _C.DRAINING: _refusal(
        503,
        "overloaded_error",
        "The gateway is about to stop, or the upstream is drained or paused: no new requests.",
    ),
    _C.HOLD_EXPIRED: _refusal(
        503, "overloaded_error", "The upstream did not come back while the request was held."
    ),
    _C.UPSTREAM_UNREACHABLE: _fault(
        502,
        "server_error",
        "policy",
        True,
        "No connection to the upstream, or it was lost before an answer began.",
    ),
    _C.UPSTREAM_LOADING: _fault(
        503,
        "overloaded_error",
        "readiness",
        False,
        "The upstream was still loading the model when the load limit passed.",
    ),
    _C.MODEL_MISSING: _fault(
        404, "not_found_error", "never", False, "The upstream says that it does not have the model."
    ),
    _C.OUT_OF_MEMORY: _fault(503, "server_error", "never", True, "The upstream ran out of memory."),
    _C.CONTEXT_LENGTH_EXCEEDED: _fault(
        400,
        "invalid_request_error",
        "once_refit",
        False,
        "The prompt does not fit the window that the server runs with.",
    ),
    _C.UPSTREAM_OVERLOADED: _fault(
        503, "overloaded_error", "policy", False, "The upstream is busy and says so."
    ),
    _C.RATE_LIMITED: _fault(
        429, "rate_limit_error", "policy", False, "The upstream limits the rate of requests."
    ),
    _C.CONNECT_TIMEOUT: _fault(
        504, "timeout_error", "connect_only", True, "Connecting to the upstream took too long."
    ),
    _C.FIRST_TOKEN_TIMEOUT: _fault(
        504, "timeout_error", "never", True, "No first token and no progress within the limit."
    ),
    _C.STALL_TIMEOUT: _fault(
        504,
        "timeout_error",
        "never",
        True,
        "The stream stopped between tokens for longer than the limit.",
    ),
    _C.UNSUPPORTED_INPUT: _fault(
        400,
        "invalid_request_error",
        "never",
        False,
        "The model cannot take this kind of input, for example an image.",
    ),
    _C.GRAMMAR_REFUSED: _fault(
        400,
        "invalid_request_error",
        "once",
        False,
        "The server cannot compile the tool or response schema.",
    ),
    _C.UNPARSEABLE_GENERATION: _fault(
        502, "server_error", "once", False, "The server could not parse what its model generated."
    ),
    _C.UPSTREAM_BAD_REQUEST: _fault(
        400,
        "invalid_request_error",
        "never",
        False,
        "The upstream refused the request; its own status and message are passed on.",
    ),
    _C.UPSTREAM_AUTH: _fault(
        502,
        "authentication_error",
        "never",
        False,
        "The upstream refused the credential that is configured for it.",
    ),
    _C.BROKEN_STREAM: _fault(
        502, "server_error", "unsent", True, "The answer broke off before its end."
    ),
    _C.BAD_ANSWER: _fault(
        502,
        "server_error",
        "unsent",
        True,
        "The upstream answered with something that is not an answer.",
    ),
    _C.UPSTREAM_ERROR: _fault(
        502, "server_error", "policy", True, "Any other failure inside the upstream."
    ),
}


class PenstockError(Exception):
    """Base of all that Penstock raises on purpose."""


class AnswerError(PenstockError):
    """
    An error that becomes the answer to a client's request.

    Attributes:
        code: its row in `ERROR_TABLE`.
        message: what happened, in one or two sentences.
        hint: what to do about it, or None.
        param: the request's field that is at fault, or None.
        status: HTTP status; the row's unless the upstream's own is passed on.
        retry_after_s: seconds after which trying again makes sense, or None.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.param = param
        self.status = ERROR_TABLE[code].status if status is None else status
        self.retry_after_s = retry_after_s

    @property
    def row(self) -> ErrorRow:
        """What follows from the code."""
        return ERROR_TABLE[self.code]


class RequestError(AnswerError):
    """The request cannot work anywhere: the client must change it."""


class Refused(AnswerError):
    """Our own decision; nothing was sent. Trying again after `retry_after_s` makes sense."""


class UpstreamFault(AnswerError):
    """
    A classified failure of an upstream, ready to be told to the client.

    Attributes:
        upstream: the upstream's name.
        attempts: attempts made for this request so far.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        upstream: str,
        attempts: int = 1,
        hint: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            code, message, hint=hint, param=param, status=status, retry_after_s=retry_after_s
        )
        self.upstream = upstream
        self.attempts = attempts


class SettingsError(PenstockError):
    """
    Settings that cannot be used: exit code 2 before the start, "the old ones stay in force" later.

    Attributes:
        problems: one sentence per mistake, each with its path and place.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class MissingPart(PenstockError):
    """An optional part is not installed; the message names the command that installs it."""
