"""Which headers go to an upstream, and with which credential (contracts 3, 7 and 11)."""

from __future__ import annotations

from operator import itemgetter

from penstock.gateway.edge.answer import HeaderFilter, Headers
from penstock.gateway.edge.incoming import Incoming
from penstock.gateway.upstreams.fleet import UpstreamState

# Ours, or made anew for each hop. `expect` is answered by our own server.
_NEVER_SENT = frozenset({b"host", b"content-length", b"expect", b"penstock-admin-token"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_LOCAL_DROPS = _NEVER_SENT | frozenset(
    {
        b"accept-encoding",  # the relay reads what comes back
        b"content-encoding",
        b"penstock-priority",
        b"penstock-deadline",
        b"penstock-strategy",
        b"penstock-explain",
        b"penstock-conversation",
        b"via",
        b"origin",
        b"referer",
        b"cookie",
    }
)

_LOCAL, _LOCAL_OWN_KEY = HeaderFilter(_LOCAL_DROPS), HeaderFilter(_LOCAL_DROPS | _CREDENTIALS)
_CLOUD, _CLOUD_OWN_KEY = HeaderFilter(_NEVER_SENT), HeaderFilter(_NEVER_SENT | _CREDENTIALS)

_first = itemgetter(0)
_MOST_KEPT = 8


def credential(path: str, key: str) -> tuple[bytes, bytes]:
    """The header that carries *key* on *path*: Anthropic's paths have one of their own."""
    if path.startswith(("/v1/messages", "/v1/complete")):
        return b"x-api-key", key.encode("utf-8")
    return b"authorization", b"Bearer " + key.encode("utf-8")


def headers_for(incoming: Incoming, state: UpstreamState, path: str, via: bytes | None) -> Headers:
    """
    What goes to an upstream for a client's request; made once for requests that say the same.

    Args:
        via: see `local_headers`; None for a cloud.
    """
    kept, ours = incoming.connection.head.sent, incoming.access.presented_key_is_ours
    key = (state, path, ours, via)
    headers = kept.get(key)
    if headers is None:
        client = incoming.raw_headers
        if via is None:
            headers = cloud_headers(client, state, path=path, key_is_ours=ours)
        else:
            headers = local_headers(client, state, path=path, key_is_ours=ours, via=via)
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = headers
    return headers


def local_headers(
    client: Headers,
    state: UpstreamState,
    *,
    path: str,
    key_is_ours: bool,
    via: bytes,
) -> Headers:
    """
    Headers for a local upstream.

    Args:
        client: as the client sent them.
        state: the upstream.
        path: the path there.
        key_is_ours: the presented credential is one of our client keys: it never goes upstream.
        via: our own `Via` entry, by which a loop is noticed.
    """
    own = state.upstream.api_key
    keep = _LOCAL_OWN_KEY if own is not None or key_is_ours else _LOCAL
    headers: Headers = [(b"host", state.host), *keep(client)]
    if own is not None:
        headers.append(credential(path, own))
    elif not key_is_ours:
        headers.extend(_carried_over(client, path))
    if 3 in map(len, map(_first, client)):
        earlier = [value for name, value in client if name.lower() == b"via"]
        via = b", ".join([*earlier, via])
    headers.append((b"via", via))
    return headers


def _carried_over(client: Headers, path: str) -> Headers:
    """A key of Anthropic's kind, for a path that takes none of these: the request was translated."""
    if path.startswith("/v1/messages"):
        return []
    keys = {name.lower(): value for name, value in client if name.lower() in _CREDENTIALS}
    if b"authorization" in keys or b"x-api-key" not in keys:
        return []
    return [(b"authorization", b"Bearer " + keys[b"x-api-key"])]


def cloud_headers(
    client: Headers, state: UpstreamState, *, path: str, key_is_ours: bool
) -> Headers:
    """Headers for a cloud upstream: the client's own, only hop-by-hop ones and credentials differ."""
    own = state.upstream.api_key
    keep = _CLOUD_OWN_KEY if own is not None or key_is_ours else _CLOUD
    headers: Headers = [(b"Host", state.host), *keep(client)]
    if own is not None:
        headers.append(credential(path, own))
    return headers
