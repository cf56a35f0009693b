"""
Which path means what (contracts 7 and 11). Pure; paths are normalised before any decision.

Generating paths go through the pipeline, and so do those that count tokens; listings are answered from memory, other
reads pass, what changes an upstream's state needs the admin token. `/upstream/NAME/...` reaches an upstream's own paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.exchange import Operation

RouteKind = Literal["generate", "count", "models", "read", "change", "admin", "health"]


@dataclass(frozen=True, slots=True)
class Route:
    """
    Where a request goes.

    Attributes:
        kind: `generate` (the pipeline), `count` (tokens of a conversation), `models` (listings from memory), `read`
            (passes), `change` (passes with the admin token), `admin` (`/penstock/*`), `health` (`/healthz` and the like).
        operation: what kind of work it is.
        dialect: of the client.
        upstream: named in the path, None for the one the model leads to.
        upstream_path: the path there.
    """

    kind: RouteKind
    operation: Operation
    dialect: str
    upstream_path: str
    upstream: str | None = None


DASHBOARD = Route("admin", "other", "openai", "/")

# path -> (operation, dialect). Every spelling that servers have; with and without /v1.
_GENERATING: dict[str, tuple[Operation, str]] = {
    "/v1/chat/completions": ("chat", "openai"),
    "/chat/completions": ("chat", "openai"),
    "/api/v0/chat/completions": ("chat", "openai"),
    "/v1/completions": ("completions", "openai"),
    "/api/v0/completions": ("completions", "openai"),
    "/v1/embeddings": ("embeddings", "openai"),
    "/embeddings": ("embeddings", "openai"),
    "/api/v0/embeddings": ("embeddings", "openai"),
    "/v1/responses": ("responses", "responses"),
    "/responses": ("responses", "responses"),
    "/v1/messages": ("messages", "anthropic"),
    "/api/chat": ("generate", "ollama"),
    "/api/generate": ("generate", "ollama"),
    "/api/embed": ("embeddings", "ollama"),
    "/api/embeddings": ("embeddings", "ollama"),
    "/completion": ("generate", "llamacpp"),
    "/completions": ("generate", "llamacpp"),
    "/infill": ("generate", "llamacpp"),
    "/v1/rerank": ("other", "openai"),
    "/rerank": ("other", "openai"),
    "/v1/reranking": ("other", "openai"),
    "/v1/audio/speech": ("other", "openai"),
    "/v1/images/generations": ("other", "openai"),
}
# Tokens of a request that is not sent: by the gateway's own counting, in front of any server.
_COUNTING = {
    "/v1/messages/count_tokens": "anthropic",
    "/v1/responses/input_tokens": "responses",
    "/v1/chat/completions/input_tokens": "openai",
}
# What the pipeline sends there: one spelling that every server has.
_CANONICAL = {
    "/chat/completions": "/v1/chat/completions",
    "/api/v0/chat/completions": "/v1/chat/completions",
    "/api/v0/completions": "/v1/completions",
    "/embeddings": "/v1/embeddings",
    "/api/v0/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
}
_LISTINGS = ("/v1/models", "/models", "/api/v0/models")
_OLLAMA_LISTINGS = frozenset({"/api/tags", "/api/ps", "/api/show", "/api/version"})
_HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
# POSTs that only ask.
_ASKING = frozenset(
    {
        "/tokenize", "/detokenize", "/apply-template", "/v1/tokenize", "/v1/detokenize",
        "/api/extra/tokencount", "/v1/token/encode", "/v1/token/decode", "/v1/internal/token-count",
        "/v1/internal/encode", "/v1/internal/decode", "/chat_tokenize", "/v1/moderations",
    }
)  # fmt: skip
# GETs that change something, or start work that nobody asked for.
_CHANGING = re.compile(
    r"^/(?:api/(?:pull|push|create|copy|delete|blobs|unload)|slots/|lora-adapters|models/(?:load|unload)|"
    r"api/v\d/models/(?:load|unload|download)|v1/(?:load|unload|pull|delete)|"
    r"v1/internal/(?:.*/)?(?:load|unload|stop|delete)|engines/.*configure)"
)
# Cloud paths that a configured key may be used for; anything else would make an open proxy of it.
_CLOUD_PATHS = re.compile(
    r"^/v1(?:beta)?/(?:chat/completions|completions|embeddings|responses|messages|models|audio|images|"
    r"moderations|files|batches|rerank|fine_tuning/jobs|assistants|threads|vector_stores|uploads|"
    r"realtime/sessions)(?:[/:].*)?$"
)


# An escape sequence that is itself escaped: whoever decodes twice reads another path than we do.
_TWICE_ENCODED = re.compile(rb"%25[0-9a-f]{2}")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~:@!$&'()*+,;=-]*")
_LONGEST_REMEMBERED = 200


def normalise_path(raw: bytes) -> str:
    """
    The path that all decisions are made on; see `_normalised`. Only short ones are remembered: strangers
    may send 64 KiB.
    """
    if len(raw) <= _LONGEST_REMEMBERED:
        return _normalised(raw)
    return _normalised.__wrapped__(raw)


def wire_path(path: str) -> str:
    """
    A path from `normalise_path` as it goes on: encoded again, so that an upstream reads the very path
    that was decided on (a `?` or a space in a name ends neither the path nor the request line).
    """
    if _PLAIN_PATH.fullmatch(path):
        return path
    return quote(path, safe="/._~:@!$&'()*+,;=-")


@lru_cache(maxsize=1024)
def _normalised(raw: bytes) -> str:
    """
    The path that all decisions are made on.

    Percent-encoding of unreserved characters is undone once, doubled slashes become one. A path that
    only some would read as another (`..`, encoded slashes or dots, backslashes, absolute form, NUL) is
    refused.

    Raises:
        RequestError: such a path.
    """
    if not raw.startswith(b"/"):
        raise RequestError(
            ErrorCode.INVALID_REQUEST, "The request's target must be a path that begins with '/'."
        )
    path_bytes = raw.split(b"?", 1)[0]
    decoded = unquote_to_bytes(path_bytes)
    try:
        path = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(ErrorCode.INVALID_REQUEST, "The path is not valid UTF-8.") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in path) or "\\" in path:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, "The path holds control characters or backslashes."
        )
    path = re.sub(r"/{2,}", "/", path)
    if any(part in ("..", ".") for part in path.split("/")):
        raise RequestError(ErrorCode.INVALID_REQUEST, "The path holds '.' or '..'.")
    low = path_bytes.lower()
    if b"%2e%2e" in low or _TWICE_ENCODED.search(low) or b"%00" in low or b"%5c" in low:
        raise RequestError(ErrorCode.INVALID_REQUEST, "The path is encoded twice or ambiguously.")
    return path if len(path) == 1 else path.rstrip("/") or "/"


def route(method: str, path: str) -> Route:
    """Where a request goes; see `_routed`. Only short paths are remembered."""
    if len(path) <= _LONGEST_REMEMBERED:
        return _routed(method, path)
    return _routed.__wrapped__(method, path)


@lru_cache(maxsize=1024)
def _routed(method: str, path: str) -> Route:
    """
    Where a request goes.

    Args:
        method: upper case.
        path: from `normalise_path`.

    Raises:
        RequestError: 405 for a generating path that is not POSTed to.
    """
    if path.startswith("/upstream/"):
        name, _, rest = path.removeprefix("/upstream/").partition("/")
        inner = route(method, f"/{rest}")
        if inner.kind in ("admin", "health"):
            # Ours by name, not there: what is no question may change something.
            asks = method in ("GET", "HEAD", "OPTIONS")
            inner = Route("read" if asks else "change", "other", "openai", f"/{rest}")
        return replace(inner, upstream=name)
    if path in _HEALTH or (path == "/" and method == "HEAD"):  # Ollama's clients ask it first
        return Route("health", "other", "openai", path)
    if path == "/penstock" or path.startswith("/penstock/"):
        return Route("admin", "other", "openai", path)
    generating = _GENERATING.get(path)
    if generating is not None:
        if method != "POST":
            raise RequestError(
                ErrorCode.METHOD_NOT_ALLOWED, f"{path} takes POST, not {method}.", status=405
            )
        operation, dialect = generating
        return Route("generate", operation, dialect, _CANONICAL.get(path, path))
    if path in _COUNTING and method == "POST":
        return Route("count", "other", _COUNTING[path], path)
    if path in _OLLAMA_LISTINGS:
        return Route("models", "other", "ollama", path)
    if method in ("GET", "HEAD") and any(
        path == base or path.startswith(f"{base}/") for base in _LISTINGS
    ):
        return Route("models", "other", "openai", path)
    dialect = "ollama" if path.startswith("/api/") else "openai"
    if _CHANGING.match(path) and not (method in ("GET", "HEAD") and path.startswith("/slots")):
        return Route("change", "other", dialect, path)
    if method in ("GET", "HEAD", "OPTIONS") or path in _ASKING:
        return Route("read", "other", dialect, path)
    return Route("change", "other", dialect, path)


def allowed_for_cloud(path: str) -> bool:
    """Whether a path may be asked of a cloud with the configured key."""
    return _CLOUD_PATHS.match(path) is not None
