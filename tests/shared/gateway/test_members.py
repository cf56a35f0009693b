"""One declared upstream, several servers behind its name: found by DNS, each with its own state, conversations stay."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Self

import httpx
import pytest

from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams import endpoints
from penstock.gateway.upstreams.endpoints import member_at
from penstock.placement import order, prefix_of
from rawserver import CHUNKED_HEAD, RawServer
from scripted import Here, ScriptedLlama, delta, event, gateway_here, stream

SERVER = Upstream("server", "http://pods.test:1", local=True, endpoints="dns")


def in_loop(scene: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs in an event loop of its own."""

    @functools.wraps(scene)
    def test(*args: Any, **named: Any) -> None:
        asyncio.run(scene(*args, **named))

    return test


class Pod(ScriptedLlama):
    """A llama.cpp at an address of its own, at the port that all have."""

    def __init__(self, host: str, port: int = 0, **given: Any) -> None:
        super().__init__(**given)
        self._raw = RawServer([self._serve], host=host)
        self._raw.port = port

    async def __aenter__(self) -> Self:
        if self._raw.port:
            await self._raw.listen_again()
        else:
            await self._raw.__aenter__()
        return self


class Names:
    """What DNS says; `fails`: nobody can be asked."""

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.fails = False
        self.asked = 0

    async def addresses_of(self, host: str) -> tuple[str, ...]:
        """As `penstock.adapters.addresses` has it."""
        assert host == "pods.test"
        self.asked += 1
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.addresses


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The resolver, in the test's hands."""
    names = Names()
    monkeypatch.setattr(endpoints, "addresses_of", names.addresses_of)
    return names


@contextlib.asynccontextmanager
async def pods(number: int, **given: Any) -> AsyncIterator[dict[str, Pod]]:
    """So many servers, at 127.0.0.1 and so on, by address."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Pod] = {}
        port = 0
        for last in range(1, number + 1):
            pod = await stack.enter_async_context(Pod(f"127.0.0.{last}", port, **given))
            found[f"127.0.0.{last}"] = pod
            port = pod.port
        yield found


def declared(found: dict[str, Pod]) -> list[Upstream]:
    """The upstream as it is configured."""
    port = next(iter(found.values())).port
    return [Upstream("server", f"http://pods.test:{port}", local=True, endpoints="dns")]


async def until(what: Callable[[], object], within_s: float = 8.0) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.01)


def members(gateway: Here) -> dict[str, bool | None]:
    """Upstreams that there are, and whether they were reached."""
    return {state.name: state.reachable for state in gateway.runtime.fleet}


async def all_seen(gateway: Here, number: int) -> None:
    """Until so many members are there and were looked at."""
    await until(lambda: list(members(gateway).values()) == [True] * number)


def said(text: str) -> list[dict[str, str]]:
    """A conversation that begins with *text*."""
    return [{"role": "user", "content": text}]


def first_of(text: str, found: dict[str, Pod]) -> str:
    """The address that a conversation wants first."""
    body = {"model": "m", "messages": said(text)}
    names = [f"server/{address}" for address in found]
    return order(prefix_of(body), names)[0].removeprefix("server/")


def wanting(address: str, found: dict[str, Pod]) -> str:
    """The first words of a conversation that wants this address."""
    return next(t for t in map(str, range(1000)) if first_of(t, found) == address)


async def status_of(gateway: Here) -> dict[str, Any]:
    """The status document."""
    token = {"penstock-admin-token": gateway.runtime.admin_token}
    return dict((await gateway.http.get("/penstock/status", headers=token)).json())


@in_loop
async def test_a_conversation_keeps_its_server_and_gateways_agree(dns: Names) -> None:
    """Two gateways send each conversation to the same pod, turn after turn; both pods get some."""
    async with pods(2) as found:
        dns.addresses = tuple(found)
        async with gateway_here(declared(found)) as one, gateway_here(declared(found)) as other:
            await all_seen(one, 2)
            await all_seen(other, 2)
            texts = [wanting(address, found) for address in found]
            for text in texts:
                turns: list[dict[str, str]] = said(text)
                for gateway in (one, other, one):
                    answer = await gateway.chat(messages=turns)
                    assert answer.status_code == 200
                    turns = [*turns, {"role": "assistant", "content": "hello"}, *said("go on")]
            for address, text in zip(found, texts, strict=True):
                asked = [
                    json.loads(r.body)["messages"][0]["content"] for r in found[address].requests
                ]
                assert asked == [text] * 3


@in_loop
async def test_a_full_server_gives_way(dns: Names) -> None:
    """A pod whose permits are out gets no queue while another one idles."""
    go_on = asyncio.Event()
    async with pods(2, slots=1) as found:
        dns.addresses = tuple(found)
        for pod in found.values():
            pod.play([[CHUNKED_HEAD, event(delta("a")), go_on, *stream("b")[1:]]])
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 2)
            text = wanting("127.0.0.1", found)
            first = asyncio.create_task(gateway.chat(messages=said(text), stream=True))
            await until(lambda: found["127.0.0.1"].requests)
            second = asyncio.create_task(gateway.chat(messages=said(text), stream=True))
            await until(lambda: found["127.0.0.2"].requests)
            go_on.set()
            assert [(await one).status_code for one in (first, second)] == [200, 200]


@in_loop
async def test_without_an_address_requests_are_held(dns: Names) -> None:
    """Nobody there yet is no error: the request waits, with heartbeats, and is answered by the first pod."""
    async with pods(1) as found:
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        async with gateway_here(declared(found), settings=settings) as gateway:
            asked = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: gateway.runtime.fleet.get("server").holding.waiting)
            shown = (await status_of(gateway))["upstreams"][0]
            assert (shown["name"], shown["state"]) == ("server", "loading")
            assert shown["held_because"] == ["no_address"]
            dns.addresses = tuple(found)
            gateway.runtime.endpoints.look_soon()
            answer = await asked
            assert answer.status_code == 200
            assert gateway.runtime.recorder.recent()[0].heartbeats
            assert '"hello"' in answer.text
            assert "server/127.0.0.1" in members(gateway)


@in_loop
async def test_a_held_request_gives_up_at_its_limit(dns: Names) -> None:
    """What waits for an address waits no longer than `timeouts.hold_s`."""
    async with gateway_here([SERVER], settings={"timeouts": {"hold_s": 0.1}}) as gateway:
        answer = await gateway.chat()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "hold_expired"
        assert "no address" in answer.json()["error"]["message"]


@in_loop
async def test_a_vanished_server_ends_what_it_runs_and_gets_nothing_new(dns: Names) -> None:
    """The running answer comes whole; who waited behind it, and who comes later, is answered elsewhere."""
    go_on = asyncio.Event()
    async with pods(2, slots=1) as found:
        dns.addresses = ("127.0.0.1",)
        found["127.0.0.1"].play([[CHUNKED_HEAD, event(delta("long")), go_on, *stream("b")[1:]]])
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 1)
            runs = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: found["127.0.0.1"].requests)
            waits = asyncio.create_task(gateway.chat(stream=True))
            gone = gateway.runtime.fleet.get("server/127.0.0.1")
            await until(lambda: gone.limiter.waiting)
            dns.addresses = ("127.0.0.2",)
            gateway.runtime.endpoints.look_soon()
            assert '"hello"' in (await waits).text
            text = wanting("127.0.0.1", found)
            assert (await gateway.chat(messages=said(text), stream=True)).status_code == 200
            assert not runs.done()
            go_on.set()
            assert '"long"' in (await runs).text
            assert len(found["127.0.0.1"].requests) == 1
            assert len(found["127.0.0.2"].requests) == 2
            acts = [(act.upstream, act.act) for act in gateway.runtime.recorder.acts]
            assert ("server/127.0.0.1", "member_gone") in acts
            assert ("server/127.0.0.2", "member_found") in acts


@in_loop
async def test_last_known_addresses_stay_while_dns_fails(dns: Names) -> None:
    """A resolver that cannot be asked costs nothing but a notice; it goes away when it answers again."""
    async with pods(2) as found:
        dns.addresses = tuple(found)
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 2)
            dns.fails = True
            asked = dns.asked
            gateway.runtime.endpoints.look_soon()
            await until(lambda: dns.asked > asked)
            await until(lambda: gateway.runtime.notices)
            assert "last known" in gateway.runtime.notices["endpoints of server"]
            assert (await gateway.chat()).status_code == 200
            assert set(members(gateway)) == {"server/127.0.0.1", "server/127.0.0.2"}
            dns.fails = False
            gateway.runtime.endpoints.look_soon()
            await until(lambda: not gateway.runtime.notices)


@in_loop
async def test_a_held_conversation_has_its_place_already(dns: Names) -> None:
    """Requests that waited for the first pods go where their conversations want to be, not all to one."""
    async with pods(2) as found, gateway_here(declared(found)) as gateway:
        texts = [wanting(address, found) for address in found]
        asked = [asyncio.create_task(gateway.chat(messages=said(text))) for text in texts]
        await until(lambda: gateway.runtime.fleet.get("server").holding.waiting == 2)
        dns.addresses = tuple(found)
        gateway.runtime.endpoints.look_soon()
        assert [(await one).status_code for one in asked] == [200, 200]
        assert [len(pod.requests) for pod in found.values()] == [1, 1]


@in_loop
async def test_the_notice_goes_with_its_upstream(dns: Names) -> None:
    """What cannot be looked up is told of while it is configured, and no longer."""
    dns.fails = True
    async with gateway_here([SERVER]) as gateway:
        await until(lambda: "endpoints of server" in gateway.runtime.notices)
        gateway.runtime.reload(gateway.runtime.settings, ())
        await until(lambda: not gateway.runtime.notices)


@in_loop
async def test_no_address_is_believed_when_it_is_said_twice(dns: Names) -> None:
    """One empty answer is passed over; after the second one requests are held."""
    async with pods(1) as found, gateway_here(declared(found)) as gateway:
        dns.addresses = tuple(found)
        await gateway.runtime.endpoints.look()
        assert set(members(gateway)) == {"server/127.0.0.1"}
        dns.addresses = ()
        await gateway.runtime.endpoints.look()
        assert set(members(gateway)) == {"server/127.0.0.1"}
        await gateway.runtime.endpoints.look()
        assert set(members(gateway)) == {"server"}


@in_loop
async def test_a_failed_connect_asks_again_and_the_request_goes_elsewhere(dns: Names) -> None:
    """The pod of a conversation has died: another one answers at once, and DNS is asked without waiting 5 s."""
    async with pods(2) as found:
        dns.addresses = tuple(found)
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 2)
            text = wanting("127.0.0.1", found)
            await found["127.0.0.1"].leave()
            asked = dns.asked
            dns.addresses = ("127.0.0.2",)
            answer = await gateway.chat(messages=said(text))
            assert answer.status_code == 200
            assert len(found["127.0.0.2"].requests) == 1
            await until(lambda: dns.asked > asked, within_s=3.0)
            await until(lambda: set(members(gateway)) == {"server/127.0.0.2"}, within_s=3.0)


@in_loop
async def test_a_new_server_is_looked_at_before_it_gets_requests(dns: Names) -> None:
    """A pod that has an address and still loads gets none of the conversations that want it."""
    async with pods(2) as found:
        dns.addresses = ("127.0.0.1",)
        found["127.0.0.2"].ready = False
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 1)
            dns.addresses = tuple(found)
            await gateway.runtime.endpoints.look()
            text = wanting("127.0.0.2", found)
            for _ in range(3):
                assert (await gateway.chat(messages=said(text))).status_code == 200
            assert not found["127.0.0.2"].requests
            found["127.0.0.2"].ready = True
            await gateway.runtime.keeper.look_anew(gateway.runtime.fleet.get("server/127.0.0.2"))
            assert (await gateway.chat(messages=said(text))).status_code == 200
            assert len(found["127.0.0.2"].requests) == 1


@in_loop
async def test_it_is_one_upstream_to_clients_and_in_metrics(dns: Names) -> None:
    """Models are listed once, the declared name works in paths and switches, and counters know no addresses."""
    async with pods(2) as found:
        dns.addresses = tuple(found)
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 2)
            listed = (await gateway.http.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["m"]
            answers = [
                await gateway.chat(messages=said(wanting(address, found)), model="server/m")
                for address in found
            ]
            named = await gateway.http.get("/upstream/server/v1/models")
            assert [a.status_code for a in (*answers, named)] == [200] * 3
            chat = {"model": "m", "messages": said("x")}
            path = "/upstream/server/v1/chat/completions"
            assert (await gateway.http.post(path, json=chat)).status_code == 200
            text = (await gateway.http.get("/metrics")).text
            assert 'penstock_member_up{member="127.0.0.2",upstream="server"} 1.0' in text
            assert 'penstock_concurrency_limit{upstream="server"} 4.0' in text
            with_address = [line for line in text.splitlines() if "127.0.0." in line]
            assert all(line.startswith("penstock_member_") for line in with_address)
            shown = (await status_of(gateway))["upstreams"]
            assert [(u["name"], u["member_of"]) for u in shown] == [
                ("server/127.0.0.1", "server"), ("server/127.0.0.2", "server")
            ]  # fmt: skip


@in_loop
async def test_a_switch_holds_for_all_members(dns: Names) -> None:
    """A drain of the declared upstream holds in front of every pod, also of one that comes during it."""
    async with pods(2) as found:
        dns.addresses = ("127.0.0.1",)
        async with gateway_here(declared(found)) as gateway:
            await all_seen(gateway, 1)
            token = {"penstock-admin-token": gateway.runtime.admin_token}

            async def post(path: str, **body: Any) -> httpx.Response:
                return await gateway.http.post(f"/penstock/{path}", json=body, headers=token)

            assert (await post("drain", upstream="server", hold=True)).status_code == 200
            dns.addresses = ("127.0.0.2",)
            await gateway.runtime.endpoints.look()
            state = gateway.runtime.fleet.get("server/127.0.0.2")
            assert state.holding.reasons == ("drained",)
            asked = asyncio.create_task(gateway.chat())
            await until(lambda: state.holding.waiting)
            assert (await post("resume", upstream="server")).json()["away"] == []
            assert (await asked).status_code == 200


@pytest.mark.parametrize(
    ("url", "address", "expected"),
    [
        pytest.param("http://a.b:8080", "10.0.0.7", "http://10.0.0.7:8080", id="IPv4"),
        pytest.param("http://a.b:8080/api", "fd00::7", "http://[fd00::7]:8080/api", id="IPv6"),
        pytest.param("http://a.b", "10.0.0.7", "http://10.0.0.7", id="no port"),
    ],
)
def test_the_url_of_a_member(url: str, address: str, expected: str) -> None:
    """Its address stands in place of the name."""
    member = member_at(Upstream("server", url, endpoints="dns"), address)
    assert (member.name, member.url, member.declared) == (f"server/{address}", expected, "server")
    assert not member.awaits_address
