"""The switches at work: who waits, who is refused, what passes unchanged, and who may switch."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from loops import until
from penstock.domain.upstream import Upstream
from penstock.errors import ErrorCode, Refused
from penstock.gateway.upstreams.gate import Gate
from penstock.gateway.upstreams.holding import Holding
from penstock.gateway.views.status import overall
from penstock.switches import Switches
from rawserver import CHUNKED_HEAD, GONE
from scripted import Here, ScriptedLlama, delta, event, gateway_here, reply, stream


async def post(here: Here, path: str, **fields: Any) -> httpx.Response:
    """A switch, with the admin token."""
    token = {"penstock-admin-token": here.runtime.admin_token}
    return await here.http.post(f"/penstock/{path}", json=fields, headers=token)


async def drain(here: Here, **fields: Any) -> list[dict[str, Any]]:
    """The lines of a drain."""
    answer = await post(here, "drain", **fields)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize(
    ("by_s", "after_s"),
    [
        pytest.param(None, 15.0, id="nobody waits for its end"),
        pytest.param(130.0, 30.0, id="what is left of the drain"),
        pytest.param(90.0, 5.0, id="not at once"),
        pytest.param(9000.0, 60.0, id="a minute at most"),
    ],
)
def test_a_refusal_says_when_to_ask_again(by_s: float | None, after_s: float) -> None:
    """By how long the drain may still take."""
    gate = Gate()
    gate.set_by(Switches().turned("drain", None, "refuse"), "box", Holding())
    gate.drained_by_s = by_s
    with pytest.raises(Refused) as raised:
        gate.refuse("box", 100.0)
    assert raised.value.code is ErrorCode.DRAINING
    assert raised.value.retry_after_s == after_s


@pytest.mark.parametrize(
    ("states", "word"),
    [
        pytest.param([], "error", id="no upstream"),
        pytest.param(["unknown", "loading"], "starting", id="nothing answered yet"),
        pytest.param(["ok", "loading"], "ok", id="one is ready"),
        pytest.param(["cloud"], "ok", id="a cloud"),
        pytest.param(["ok", "unreachable"], "degraded", id="one is away"),
        pytest.param(["unreachable"], "error", id="all are away"),
    ],
)
def test_one_word_for_an_icon(states: list[str], word: str) -> None:
    """`off` is said by nobody: there is no gateway then."""
    assert overall(states) == word


def test_pause_holds_or_refuses_and_running_requests_go_on() -> None:
    """A stream that runs is not touched; what waits is answered after `resume`, in the window of then."""

    async def scene() -> None:
        go = asyncio.Event()
        first = [CHUNKED_HEAD, event(delta("a")), go, *stream("b")[1:]]
        async with (
            ScriptedLlama(first, stream("c")) as llama,
            gateway_here(llama.url) as here,
        ):
            running = asyncio.create_task(here.chat(stream=True))
            state = here.runtime.fleet.get("box")
            await until(lambda: here.runtime.at_work(state))
            assert (await post(here, "pause", upstream="box")).json() == {
                "upstreams": ["box"],
                "kept": False,
            }
            waiting = asyncio.create_task(here.chat())
            await until(lambda: state.holding.waiting)
            go.set()
            assert (await running).text.endswith("data: [DONE]\n\n")
            assert len(llama.requests) == 1
            await post(here, "pause", refuse=True)
            refused = await here.chat()
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            assert refused.headers["x-should-retry"] == "true"
            assert int(refused.headers["retry-after"]) > 0
            assert not waiting.done()
            llama.window = 2048
            assert (await post(here, "resume")).json() == {"resumed": ["box"], "away": []}
            assert (await waiting).headers["penstock-window"] == "2048"
            assert (await here.chat()).status_code == 200
            assert (state.limiter.running, state.holding.waiting) == (0, 0)

    asyncio.run(scene())


def test_a_drain_tells_how_far_it_is_and_lets_the_queue_be_answered() -> None:
    """Without a hold, who stood in the queue before is answered; with one it is held."""

    async def scene() -> None:
        go = asyncio.Event()
        slow = [CHUNKED_HEAD, event(delta("a")), go, *stream("b")[1:]]
        async with (
            ScriptedLlama(slow, stream("c"), slots=1) as llama,
            gateway_here(llama.url) as here,
        ):
            state = here.runtime.fleet.get("box")
            await here.runtime.keeper.look(state)
            tasks = [asyncio.create_task(here.chat(stream=True)) for _ in range(2)]
            await until(lambda: state.limiter.waiting and here.runtime.at_work(state))
            draining = asyncio.create_task(drain(here, timeout_s=20))
            await until(lambda: state.gate.refusing)
            assert (await here.chat()).status_code == 503
            go.set()
            lines = await draining
            assert lines[0]["upstreams"] == [
                {"upstream": "box", "running": 1, "queued": 1, "held": 0}
            ]
            assert [line["state"] for line in lines[:-1]] == ["draining"] * (len(lines) - 1)
            assert lines[-1]["state"] == "drained"
            assert [(await task).status_code for task in tasks] == [200, 200]
            status = (await here.http.get("/penstock/status")).json()
            assert status["switched"]["drained"] == "all"
            assert status["upstreams"][0]["drained"] == "refuse"
            await post(here, "resume")
            assert (await here.chat()).status_code == 200

    asyncio.run(scene())


def test_a_drain_that_nobody_waits_for_stays_in_force() -> None:
    """Whoever hangs up ends the waiting; a second `resume` finds nothing to end."""

    async def scene() -> None:
        async with (
            ScriptedLlama([CHUNKED_HEAD, event(delta("a")), GONE], stream("b")) as llama,
            gateway_here(llama.url) as here,
        ):
            state = here.runtime.fleet.get("box")
            running = asyncio.create_task(here.chat(stream=True))
            await until(lambda: here.runtime.at_work(state))
            lines = await drain(here, upstream="box", hold=True, wait=False)
            assert [line["state"] for line in lines] == ["expired"]
            assert state.holding.reasons == ("drained",)
            running.cancel()
            await until(lambda: not state.limiter.running)
            held = asyncio.create_task(here.chat())
            await until(lambda: state.holding.waiting)
            assert (await post(here, "resume")).json()["resumed"] == ["box"]
            assert (await held).status_code == 200
            assert (await post(here, "resume")).json() == {"resumed": [], "away": []}

    asyncio.run(scene())


def test_a_drain_that_nobody_renews_ends_by_itself() -> None:
    """Whoever drained and died leaves no gateway that holds for ever; renewed, it goes on, and is told once."""

    async def scene() -> None:
        async with ScriptedLlama(stream("a")) as llama, gateway_here(llama.url) as here:
            state = here.runtime.fleet.get("box")
            await here.runtime.keeper.look(state)
            await drain(here, upstream="box", hold=True, wait=False, release_s=30.0)
            waiting = asyncio.create_task(here.chat())
            await until(lambda: state.holding.waiting)
            for release_s in (30.0, 0.05):
                lines = await drain(
                    here, upstream="box", hold=True, wait=False, release_s=release_s
                )
                assert [one["held"] for one in lines[-1]["upstreams"]] == [1]
            assert (await waiting).status_code == 200
            assert here.runtime.board.switches == Switches()
            acts = [act["act"] for act in (await here.http.get("/penstock/status")).json()["acts"]]
            assert acts.count("draining") == 1
            assert acts.count("resumed") == 1

    asyncio.run(scene())


def test_a_drain_can_be_ended_without_ending_a_pause() -> None:
    """Two people switch: who ends a drain leaves the other's pause alone."""

    async def scene() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            await here.runtime.keeper.look(here.runtime.fleet.get("box"))
            await post(here, "pause", upstream="box")
            await drain(here, upstream="box", hold=True, wait=False)
            await post(here, "resume", upstream="box", keep_pause=True)
            state = here.runtime.fleet.get("box")
            await until(lambda: state.holding.reasons == ("paused",))
            assert here.runtime.board.switches.drain.at("box") == ""

    asyncio.run(scene())


def test_a_pause_that_begins_while_a_server_is_waited_for_stays() -> None:
    """The end of an earlier resume ends only what nobody wants any more."""

    async def scene() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            state = here.runtime.fleet.get("box")
            await here.runtime.keeper.look(state)
            await post(here, "drain", upstream="box", hold=True)
            await llama.leave()
            assert (await post(here, "resume", wait_s=0)).json()["away"] == ["box"]
            assert state.holding.reasons == ("drained",)
            await post(here, "pause", upstream="box")
            await llama.come_back()
            await until(lambda: state.holding.reasons == ("paused",))
            await post(here, "resume")
            assert (await here.chat()).status_code == 200

    asyncio.run(scene())


def test_a_cloud_can_be_paused_too() -> None:
    """Its requests wait, and pass unchanged afterwards."""

    async def scene() -> None:
        async with (
            ScriptedLlama([reply({"ok": 1})]) as cloud,
            gateway_here(cloud.url, local=False) as here,
        ):
            await post(here, "pause")
            waiting = asyncio.create_task(here.chat())
            state = here.runtime.fleet.get("box")
            await until(lambda: state.holding.waiting)
            assert cloud.requests == []
            await post(here, "resume")
            assert (await waiting).json() == {"ok": 1}

    asyncio.run(scene())


def test_bypass_changes_neither_request_nor_answer() -> None:
    """Byte for byte, but for an alias; one attempt; the permit comes back; a broken stream is cut."""

    async def scene() -> None:
        answer = reply({"choices": [], "odd": "😀"})
        failure = reply({"error": {"message": "Loading model"}}, b"503 Service Unavailable")
        broken = [CHUNKED_HEAD, event(delta("a")), GONE]
        settings = {"routing": {"aliases": {"nick": "m"}}}
        async with (
            ScriptedLlama([answer], [answer], [failure], broken) as llama,
            gateway_here(llama.url, settings=settings) as here,
        ):
            await here.runtime.keeper.look(here.runtime.fleet.get("box"))
            await post(here, "bypass", on=True)
            raw = (
                b'{"model":  "m", "temperature": 9, "messages": [], "penstock": {"explain": true}}'
            )
            kind = {"content-type": "application/json"}
            passed = await here.http.post("/v1/chat/completions", content=raw, headers=kind)
            assert llama.requests[0].body == raw
            assert passed.content == answer.split(b"\r\n\r\n", 1)[1]
            assert not any(name.startswith("penstock") for name in passed.headers)
            await here.http.post(
                "/v1/messages", content=raw.replace(b'"m"', b'"nick"'), headers=kind
            )
            assert llama.requests[1].line.startswith(b"POST /v1/messages ")
            assert llama.requests[1].body == raw
            refused = await here.chat()
            assert refused.status_code == 503
            assert len(llama.requests) == 3
            streaming = asyncio.create_task(here.chat(stream=True))
            await until(lambda: here.runtime.fleet.get("box").limiter.running)
            await until(lambda: len(llama.requests) == 4)
            streaming.cancel()
            await until(lambda: not here.runtime.fleet.get("box").limiter.running)
            await post(here, "bypass", on=False)
            assert (await here.chat(messages=[])).status_code == 400

    asyncio.run(scene())


def test_upstreams_come_and_go() -> None:
    """An added one serves at once; what is configured cannot be taken out here."""

    async def scene() -> None:
        async with ScriptedLlama() as one, ScriptedLlama() as two, gateway_here(one.url) as here:
            two.model = "other"
            added = (await post(here, "upstreams/add", url=two.url + "/v1", name="two")).json()
            assert (added["upstream"]["kind"], added["upstream"]["models"]) == (
                "llamacpp",
                ["other"],
            )
            answer = await here.chat(model="other")
            assert answer.headers["penstock-upstream"] == "two"
            listed = (await here.http.get("/penstock/upstreams")).json()["upstreams"]
            assert [(u["name"], u["found_by"]) for u in listed] == [
                ("box", "configured"),
                ("two", "state"),
            ]
            await post(here, "pause", upstream="two")
            held = asyncio.create_task(here.chat(model="other"))
            await until(lambda: here.runtime.fleet.get("two").holding.waiting)
            assert (await post(here, "upstreams/forget", name="two")).status_code == 200
            assert (await held).status_code == 200
            assert [state.name for state in here.runtime.fleet] == ["box"]
            refused = await post(here, "upstreams/forget", name="box")
            assert refused.status_code == 409
            assert "settings file" in refused.json()["error"]["message"]
            again = await post(here, "upstreams/add", url=one.url)
            assert again.status_code == 409

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        pytest.param("pause", {"upstream": "x"}, 404, "there are: box", id="no such upstream"),
        pytest.param("pause", {"upsteam": "box"}, 400, "no such field", id="a slip"),
        pytest.param("pause", {"refuse": "yes"}, 400, "true or false", id="another type"),
        pytest.param("bypass", {}, 400, "expected true or false", id="neither on nor off"),
        pytest.param("drain", {"timeout_s": -1}, 400, "seconds", id="before it began"),
        pytest.param("drain", {"timeout_s": True}, 400, "a number", id="no time"),
        pytest.param("unload", {}, 400, "is needed", id="no model"),
        pytest.param("upstreams/add", {"url": "ftp://x"}, 400, "expected http", id="no URL"),
        pytest.param("upstreams/add", {"url": "http://h", "name": "a b"}, 400, "name", id="no name"),
        pytest.param("upstreams/add", {"url": "http://h", "kind": "x"}, 400, "kind", id="no kind"),
        pytest.param("upstreams/forget", {"name": "x"}, 404, "No upstream", id="none to forget"),
    ],
)  # fmt: skip
def test_what_cannot_be_switched_is_told(
    path: str, body: dict[str, Any], status: int, told: str
) -> None:
    """In one sentence; nothing is switched then."""

    async def scene() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            await here.runtime.keeper.look(here.runtime.fleet.get("box"))
            answer = await post(here, path, **body)
            assert answer.status_code == status, answer.text
            assert told in answer.json()["error"]["message"]
            assert here.runtime.board.switches == Switches()

    asyncio.run(scene())


def test_only_the_admin_token_switches_and_only_by_json() -> None:
    """A web page that posts blindly, or a client without the token, changes nothing."""

    async def scene() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            assert (await here.http.post("/penstock/pause", json={})).status_code == 403
            token = {"penstock-admin-token": here.runtime.admin_token}
            for content, kind, status in (
                (b"{}", "text/plain", 415),
                (b"[]", "application/json", 400),
                (b"{", "application/json", 400),
                (b" " * 70_000, "application/json", 413),
            ):
                headers = {**token, "content-type": kind}
                answer = await here.http.post("/penstock/pause", content=content, headers=headers)
                assert answer.status_code == status
            assert here.runtime.board.switches == Switches()

    asyncio.run(scene())


def test_a_reload_keeps_what_is_switched() -> None:
    """Also for an upstream that is declared anew; who was held in front of one that is gone goes on."""

    async def scene() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as here:
            await here.runtime.keeper.look(here.runtime.fleet.get("box"))
            await post(here, "pause", upstream="box")
            held = asyncio.create_task(here.chat())
            await until(lambda: here.runtime.fleet.get("box").holding.waiting)
            changed = Upstream("box", llama.url, models=("m",))
            here.runtime.reload(here.runtime.settings, (changed,))
            assert here.runtime.fleet.get("box").holding.reasons == ("paused",)
            assert (await held).status_code == 200

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("status", "body", "expected", "told"),
    [
        pytest.param(b"200 OK", {"success": True}, 200, "", id="a router does"),
        pytest.param(b"404 Not Found", {"error": {"message": "File Not Found"}}, 409, "cannot unload", id="no router"),
        pytest.param(b"400 Bad Request", {"error": {"message": "model is not running"}}, 409, "is not running", id="it refuses"),
        pytest.param(b"200 OK", {"error": "Unexpected endpoint"}, 409, "refused", id="a 200 with an error"),
    ],
)  # fmt: skip
def test_unloading_is_what_the_server_says(
    status: bytes, body: dict[str, Any], expected: int, told: str
) -> None:
    """Done when it says so, and its own words when it does not."""

    async def scene() -> None:
        async with ScriptedLlama([reply(body, status)]) as llama, gateway_here(llama.url) as here:
            await here.runtime.keeper.look(here.runtime.fleet.get("box"))
            answer = await post(here, "unload", model="m")
            assert answer.status_code == expected, answer.text
            assert llama.requests[0].line.startswith(b"POST /models/unload ")
            assert json.loads(llama.requests[0].body) == {"model": "m"}
            assert told in (answer.json().get("error") or {"message": ""})["message"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("url", "local"),
    [pytest.param("http://127.0.0.1:9", False, id="a cloud"), pytest.param("http://127.0.0.1:9", True, id="a generic server")],
)  # fmt: skip
def test_who_has_no_way_to_unload_says_so(url: str, local: bool) -> None:
    """Nothing is sent there."""

    async def scene() -> None:
        async with gateway_here([Upstream("box", url, local=local, models=("m",))]) as here:
            answer = await post(here, "unload", model="m", upstream="box")
            assert answer.status_code == 409
            assert "unload" in answer.json()["error"]["message"]

    asyncio.run(scene())
