"""Step 1: read a request's body within its bounds, and parse it once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from penstock.errors import ErrorCode, RequestError

SLOWEST_BYTES_PER_S = 16 * 1024
"""A body may take its base time plus one second for each of these: a slow line is no slow-loris."""


class ClientGone(Exception):
    """The client hung up, or takes nothing any more: there is nobody to answer."""


async def read_body(
    receive: Callable[[], Awaitable[Any]],
    headers: Mapping[str, str],
    *,
    max_bytes: int,
    timeout_s: float,
) -> bytes:
    """
    The whole body.

    Args:
        receive: ASGI's.
        headers: by lower-case name.
        max_bytes: `listen.max_body_bytes`.
        timeout_s: base time; see `SLOWEST_BYTES_PER_S`.

    Raises:
        RequestError: too large, or too slow.
        ClientGone: hung up.
    """
    announced = headers.get("content-length")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes, headers)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(started_s + timeout_s) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > max_bytes:
                    raise too_large(max_bytes, headers)
                if not message.get("more_body", False):
                    return part if not parts else b"".join([*parts, part])
                parts.append(part)
                limit.reschedule(started_s + timeout_s + size / SLOWEST_BYTES_PER_S)
    except TimeoutError:
        raise RequestError(
            ErrorCode.REQUEST_TIMEOUT,
            f"The request body was not complete after {loop.time() - started_s:.0f} s "
            f"({size} bytes had come).",
            hint="Send the body without pauses, or raise listen.body_timeout_s.",
        ) from None


def too_large(max_bytes: int, headers: Mapping[str, str]) -> RequestError:
    """The refusal of a body that exceeds *max_bytes*."""
    announced = headers.get("content-length", "")
    size = f"{announced} bytes" if announced.isdigit() else f"more than {max_bytes} bytes"
    return RequestError(
        ErrorCode.BODY_TOO_LARGE,
        f"The request body has {size}; at most {max_bytes} are taken.",
        hint="Raise listen.max_body_bytes if such requests are meant.",
    )


def parse_object(raw: bytes) -> dict[str, Any]:
    """
    The body as a JSON object.

    Raises:
        RequestError: it is not JSON, or not an object. Says where.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        if not raw.strip():
            raise RequestError(
                ErrorCode.INVALID_REQUEST, "The request has no body; a JSON object is needed."
            ) from None
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"The request body is not valid JSON: {exc.msg} at line {exc.lineno}, "
            f"column {exc.colno}.",
        ) from None
    if not isinstance(value, dict):
        name = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(
            type(value), "a number"
        )
        raise RequestError(
            ErrorCode.INVALID_REQUEST, f"The request body is {name}; a JSON object is needed."
        )
    return value
