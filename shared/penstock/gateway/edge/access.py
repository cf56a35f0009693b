"""
Who may do what (contracts 11, design 7). Pure: headers and settings in, a decision or a refusal out.

A peer on loopback proves nothing: web pages, containers and port forwards come from there as well.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.routes import Route

_SAME_SITE = frozenset({"", "same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Access:
    """
    Who a request is from.

    Attributes:
        client: name of the client key, or `anonymous`.
        presented_key_is_ours: the credential is one of our client keys (it never goes upstream).
        is_admin: the admin token was presented.
    """

    client: str = "anonymous"
    presented_key_is_ours: bool = False
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class AccessRules:
    """
    What requests are held against.

    Attributes:
        client_keys: name -> key.
        allowed_hosts: names besides IP addresses and localhost.
        origins: of web pages that may send requests.
        only_loopback: every listener is loopback or a Unix socket.
    """

    client_keys: Mapping[str, str]
    admin_token: str
    allowed_hosts: Collection[str]
    origins: Collection[str]
    only_loopback: bool
    metrics_open: bool


_FROM_A_PAGE = frozenset({"origin", "sec-fetch-site"})
_LOG = "/penstock/log"
"""The one thing to read that needs the admin token: it tells of every client."""

_NOBODY = ("anonymous", False)
_ANYBODY = Access()


def decide_access(
    *, method: str, route: Route, headers: Mapping[str, str], rules: AccessRules
) -> Access:
    """
    Let a request in, or refuse it.

    Args:
        headers: by lower-case name.

    Raises:
        RequestError: `host_not_allowed`, `origin_not_allowed`, `unauthorized`, `admin_token_required`,
            `unsupported_media_type`.
    """
    if route.kind != "health":
        _check_host(headers.get("host", ""), tuple(rules.allowed_hosts))
    if not _FROM_A_PAGE.isdisjoint(headers):
        _check_origin(headers, rules.origins)
    token = headers.get("penstock-admin-token", "")
    is_admin = bool(token) and same(token, rules.admin_token)
    is_admin = is_admin or (not token and _has_cookie(headers, rules.admin_token))
    client, ours = _client(headers, rules.client_keys) if rules.client_keys else _NOBODY
    access = Access(client, ours, is_admin) if ours or is_admin else _ANYBODY
    if token and not is_admin:
        raise RequestError(
            ErrorCode.ADMIN_TOKEN_REQUIRED,
            "The admin token is not this gateway's.",
            hint="It changes at each start, and `penstock` finds it by itself; one from listen.admin_token_file stays. "
            "That of a LocalModel is in the Secret NAME-admin.",
        )
    if route.kind == "health":
        if route.upstream_path == "/metrics" and not (
            rules.only_loopback or rules.metrics_open or is_admin or ours
        ):
            raise _unauthorized("/metrics", rules)
        return access
    if route.kind == "admin":
        if method == "GET" and _is_page(route.upstream_path):
            return access
        if not is_admin and (method not in ("GET", "HEAD") or route.upstream_path == _LOG):
            raise _admin(route.upstream_path)
        if not (rules.only_loopback or is_admin or ours):
            raise _unauthorized(route.upstream_path, rules)
        return access
    if rules.client_keys and not ours and not is_admin:
        raise _unauthorized(route.upstream_path, rules)
    if route.kind == "change" and not is_admin:
        raise _admin(route.upstream_path)
    if route.kind == "generate":
        kind = headers.get("content-type", "")
        if kind == "application/json":
            return access
        kind = kind.split(";")[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            # A blind text/plain POST from a web page passes closed CORS and a Host check.
            raise RequestError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                f"The body must be application/json, not {kind[:60]}.",
            )
        if not kind and any(name in headers for name in ("origin", "sec-fetch-site")):
            raise RequestError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json."
            )
    return access


def same(first: str, second: str) -> bool:
    """Equal, in a time that does not tell how much of it is."""
    return hmac.compare_digest(first.encode("utf-8", "replace"), second.encode("utf-8", "replace"))


def cookie_name(host: str) -> str:
    """A cookie is sent to all ports of a host: each gateway has a name of its own."""
    port = host.rpartition("]")[2].rpartition(":")[2]
    return f"penstock-{port}" if port.isdigit() else "penstock"


def cookie_of(admin_token: str) -> str:
    """What a browser shows in place of the admin token; it ends with the token."""
    return hmac.new(admin_token.encode(), b"dashboard", hashlib.sha256).hexdigest()


def _has_cookie(headers: Mapping[str, str], admin_token: str) -> bool:
    """Whether the dashboard asks; pages of another origin do not, even if `listen.origins` has them."""
    sent, host = headers.get("cookie", ""), headers.get("host", "").lower()
    if not sent or not admin_token:
        return False
    origin = headers.get("origin", "").lower()
    if origin and origin not in (f"http://{host}", f"https://{host}"):
        return False
    if headers.get("sec-fetch-site", "").lower() not in _SAME_SITE:
        return False
    name = cookie_name(host)
    pairs = (part.strip().partition("=") for part in sent.split(";"))
    return any(key == name and same(value, cookie_of(admin_token)) for key, _, value in pairs)


def _is_page(path: str) -> bool:
    """Files of the dashboard, and the exchange of a code for a cookie: they tell nothing."""
    return path in ("/", "/penstock/session") or path.startswith("/penstock/dashboard/")


def check_bind(host: str, *, has_keys: bool, allow_anonymous: bool) -> str | None:
    """Why the gateway must not listen on *host*; None when it may."""
    if is_loopback(host) or has_keys or allow_anonymous:
        return None
    return (
        f"listen.host: {host} can be reached by others and no client key is set, so anyone could use "
        "the models. Set listen.client_keys, or say listen.allow_anonymous: true if that is meant."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach *host*."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _check_host(value: str, allowed: tuple[str, ...]) -> None:
    host = value.strip().lower()
    is_ipv6 = host.startswith("[")
    host = host[1:].partition("]")[0] if is_ipv6 else host.partition(":")[0]
    host = host.rstrip(".")
    if not host or host == "localhost" or host in {name.lower() for name in allowed}:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise RequestError(
            ErrorCode.HOST_NOT_ALLOWED,
            f"The host name {host[:100]} is not one of this gateway's.",
            hint="Add it to listen.allowed_hosts if it is meant; this guards against DNS rebinding.",
        ) from None


def _check_origin(headers: Mapping[str, str], origins: Collection[str]) -> None:
    origin = headers.get("origin", "")
    site = headers.get("sec-fetch-site", "").lower()
    if origin and origin in origins:
        return
    if not origin and site in _SAME_SITE:
        return
    host = headers.get("host", "")
    if origin and host and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}"):
        return
    raise RequestError(
        ErrorCode.ORIGIN_NOT_ALLOWED,
        f"Web pages of {(origin or 'another site')[:100]} may not use this gateway.",
        hint="Add the origin to listen.origins if it is meant.",
    )


def _client(headers: Mapping[str, str], keys: Mapping[str, str]) -> tuple[str, bool]:
    presented = []
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        presented.append(value.strip())
    if headers.get("x-api-key"):
        presented.append(headers["x-api-key"])
    found: str | None = None
    for key in presented:
        for name, known in keys.items():  # all of them, always: the time tells nothing
            if same(key, known):
                found = name
    return found or "anonymous", found is not None


def _unauthorized(path: str, rules: AccessRules) -> RequestError:
    if not rules.client_keys:
        return RequestError(
            ErrorCode.UNAUTHORIZED,
            f"{path} is told only to who runs this gateway, which has no client keys.",
            hint="Run `penstock open` where the gateway runs, or send its admin token as `penstock-admin-token`.",
        )
    return RequestError(
        ErrorCode.UNAUTHORIZED,
        f"{path} needs a client key of this gateway.",
        hint="Send it as `Authorization: Bearer ...` or `x-api-key`.",
    )


def _admin(path: str) -> RequestError:
    return RequestError(
        ErrorCode.ADMIN_TOKEN_REQUIRED,
        f"{path} changes something and needs the admin token in `penstock-admin-token`.",
        hint="The command line sends it by itself; it stands in the gateway's runtime file.",
    )
