"""
The dashboard: static files of this folder at `/` and `/penstock/dashboard/`, and the way by which a browser gets the
admin's rights. `penstock open` asks for a code with the admin token; the code is good once and for a minute, and the
page that presents it gets a cookie (contracts 11). No file holds anything that is worth a key.
"""

from __future__ import annotations

import secrets
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from penstock.errors import ErrorCode, RequestError
from penstock.gateway.edge.access import cookie_name, cookie_of
from penstock.gateway.runtime import Runtime

_SCRIPTS = (
    "page", "dom", "stream", "charts", "trends", "servers", "conversations", "requests", "activity",
    "chat", "panels", "log", "words",
)  # fmt: skip
_TYPES = {"style.css": "text/css", **{f"{name}.js": "text/javascript" for name in _SCRIPTS}}
_GOOD_FOR_S = 60.0
_MOST_CODES = 16
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Codes:
    """One-time codes. Few are kept, and none for long."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def make(self, now_s: float) -> str:
        """A new code."""
        while len(self._until_s) >= _MOST_CODES:
            del self._until_s[next(iter(self._until_s))]
        code = secrets.token_urlsafe(24)
        self._until_s[code] = now_s + _GOOD_FOR_S
        return code

    def take(self, code: str, now_s: float) -> bool:
        """Whether *code* is good; it is not any more afterwards."""
        return self._until_s.pop(code, 0.0) > now_s


def add_dashboard(app: FastAPI, runtime: Runtime) -> None:
    """Give the admin app the page and the way in."""
    import asyncio

    codes = Codes()
    folder = files(__name__)

    @app.get("/")
    async def page() -> Response:
        """The page."""
        return _file(folder.joinpath("index.html").read_bytes(), "text/html; charset=utf-8")

    @app.get("/penstock/dashboard/{name}")
    async def part(name: str) -> Response:
        """A file of the page."""
        if name not in _TYPES:
            raise RequestError(ErrorCode.NOT_FOUND, "The dashboard has no such file.")
        return _file(folder.joinpath(name).read_bytes(), f"{_TYPES[name]}; charset=utf-8")

    @app.post("/penstock/session")
    async def begin() -> Response:
        """A one-time code for a browser."""
        return JSONResponse({"code": codes.make(asyncio.get_running_loop().time())})

    @app.get("/penstock/session")
    async def enter(request: Request, code: str = "") -> Response:
        """The code for a cookie."""
        if not codes.take(code, asyncio.get_running_loop().time()):
            raise RequestError(
                ErrorCode.ADMIN_TOKEN_REQUIRED,
                "The code was used already or is too old.",
                hint="Run `penstock open` again.",
            )
        answer = RedirectResponse("/", 303, headers=_HEADERS)
        answer.set_cookie(
            cookie_name(request.headers.get("host", "")), cookie_of(runtime.admin_token),
            httponly=True, samesite="strict", path="/penstock/",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer


def _file(content: bytes, kind: str) -> Response:
    return Response(content, headers={**_HEADERS, "content-type": kind})
