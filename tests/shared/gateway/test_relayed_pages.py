"""A page that comes from an upstream has no share in what the dashboard's browser may do."""

from __future__ import annotations

import asyncio

from loops import until
from penstock.domain.upstream import Upstream
from scripted import ScriptedLlama, gateway_here

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_what_a_local_server_sends_is_shown_in_a_sandbox() -> None:
    """Whatever a path of its own answers, a browser gives it an origin of its own, and guesses no type."""

    async def main() -> None:
        async with ScriptedLlama() as one, gateway_here((Upstream("one", one.url),)) as here:
            await until(lambda: all(state.profiles for state in here.runtime.fleet))
            answer = await here.http.get("/upstream/one/props", headers=BROWSER)
            assert answer.headers["content-security-policy"].startswith("sandbox")
            assert "allow-same-origin" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"

    asyncio.run(main())


def test_a_clouds_page_is_not_shown() -> None:
    """Its answers pass byte by byte, so that one that a browser wants to show is not asked for."""

    async def main() -> None:
        async with ScriptedLlama() as one:
            upstreams = (Upstream("cloud", one.url, local=False),)
            async with gateway_here(upstreams) as here:
                answer = await here.http.get("/upstream/cloud/v1/files", headers=BROWSER)
                assert answer.status_code == 404
                plain = await here.http.get("/upstream/cloud/v1/files")
                assert "content-security-policy" not in plain.headers
                assert plain.headers["server"] == "llama.cpp"

    asyncio.run(main())
