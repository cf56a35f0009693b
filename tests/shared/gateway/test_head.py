"""Heads of requests are read once for all requests of a connection that say the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.domain.upstream import Upstream
from penstock.gateway.edge.access import AccessRules
from penstock.gateway.edge.head import Head
from scripted import ScriptedLlama, gateway_here

Headers = list[tuple[bytes, bytes]]


def said(**fields: bytes) -> Headers:
    """Headers of a request that differ by *fields*."""
    given = {"Host": b"h", "Content-Length": b"10", "Authorization": b"Bearer a", **fields}
    return [(name.encode(), value) for name, value in given.items()]


@pytest.mark.parametrize(
    ("other", "again"),
    [
        pytest.param(said(), True, id="the same"),
        pytest.param(said(**{"Content-Length": b"11"}), True, id="another length"),
        pytest.param(said(Authorization=b"Bearer b"), False, id="another key"),
        pytest.param(said(Host=b"x", **{"Content-Length": b"11"}), False, id="another host"),
        pytest.param(said(Cookie=b"c"), False, id="one more"),
        pytest.param(said()[:2], False, id="one less"),
        pytest.param(said()[::-1], False, id="another order"),
        pytest.param(
            [(b"Host", b"h"), (b"Transfer-Encoding", b"10"), (b"Authorization", b"Bearer a")],
            False,
            id="another field where the length stood",
        ),
    ],
)
def test_only_the_length_may_differ(other: Headers, again: bool) -> None:
    """A head counts as said again only where nothing but the body's length differs, and then reads as if new."""
    head = Head(said())
    before = head.text, head.lowered, head.raw
    kept = [dict(head.text), list(head.lowered), list(head.raw)]
    assert head.is_said_again_by(other) is again
    assert [*before] == kept
    if again:
        fresh = Head(other)
        assert (head.raw, head.lowered, head.text) == (fresh.raw, fresh.lowered, fresh.text)


def test_lengths_that_contradict_are_never_taken_over() -> None:
    """Two lengths are another head each time one of them changes."""
    head = Head([*said(), (b"content-length", b"10")])
    assert not head.is_said_again_by([*said(), (b"content-length", b"11")])


@pytest.mark.parametrize(
    ("first", "second"),
    [("Bearer sk-right", "Bearer sk-wrong"), ("Bearer sk-wrong", "Bearer sk-right")],
    ids=["then the wrong one", "then the right one"],
)
def test_another_key_is_another_decision(first: str, second: str) -> None:
    """What was decided of one request of a connection says nothing of the next one with another key."""

    async def main() -> None:
        async with (
            ScriptedLlama() as llama,
            gateway_here(llama.url, keys={"me": "sk-right"}) as here,
        ):
            for key in (first, first, second, second):
                answer = await here.http.get("/v1/models", headers={"authorization": key})
                assert answer.status_code == (200 if key.endswith("right") else 401)

    asyncio.run(main())


def test_other_rules_are_another_decision() -> None:
    """New rules hold for the next request of a connection that says the same as before."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            app: Any = here.server.config.app
            rules: AccessRules = app.rules
            assert (await here.chat()).status_code == 200
            app.rules = AccessRules({"me": "k"}, rules.admin_token, (), (), True, False)
            assert (await here.chat()).status_code == 401
            app.rules = rules
            assert (await here.chat()).status_code == 200

    asyncio.run(main())


def test_each_upstream_gets_its_own_key() -> None:
    """Requests of one connection that say the same carry the key of the upstream they go to."""

    async def main() -> None:
        async with ScriptedLlama() as one, ScriptedLlama() as other:
            upstreams = [
                Upstream("one", one.url, api_key="key-1"),
                Upstream("other", other.url, api_key="key-2"),
            ]
            async with gateway_here(upstreams) as here:
                for name in ("one", "other", "one", "other"):
                    body = {"model": "m", "messages": [{"role": "user", "content": name * 9}]}
                    path = f"/upstream/{name}/v1/chat/completions"
                    assert (await here.http.post(path, json=body)).status_code == 200
            for llama, key in ((one, b"Bearer key-1"), (other, b"Bearer key-2")):
                sent = [dict(request.headers)[b"authorization"] for request in llama.requests]
                assert sent == [key, key]

    asyncio.run(main())
