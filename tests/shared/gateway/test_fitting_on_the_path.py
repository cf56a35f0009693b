"""Conversations that outgrow the window, on the live path: what is sent, what is told, what is learned."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from loops import until
from penstock.gateway.conversations import context as conversation_context
from rawserver import CHUNKED_HEAD, chunk
from scripted import Here, ScriptedLlama, delta, event, gateway_here, reply, stream

NOTE = "[Earlier"


def conversation(turns: int, words: int = 40, seed: str = "w") -> list[dict[str, Any]]:
    """Turns of so many words each, and a question at the end. A word is a token for the scripted server."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}]
    for number in range(turns):
        messages.append({"role": "user", "content": f"{seed}{number} " * words})
        messages.append({"role": "assistant", "content": f"a{number} " * words})
    return [*messages, {"role": "user", "content": "and now?"}]


def sent(llama: ScriptedLlama, number: int = -1) -> list[dict[str, Any]]:
    """Messages of a request as the server got them."""
    messages: list[dict[str, Any]] = json.loads(llama.requests[number].body)["messages"]
    return messages


def refusal(prompt: int, window: int) -> bytes:
    """llama.cpp's refusal for length."""
    message = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
    error = {"code": 400, "message": message, "type": "exceed_context_size_error",
             "n_prompt_tokens": prompt, "n_ctx": window}  # fmt: skip
    return reply({"error": error}, b"400 Bad Request")


async def told(gateway: Here, response: Any) -> dict[str, Any]:
    """What the gateway remembers of a request."""
    found = await gateway.http.get(f"/penstock/requests/{response.headers['penstock-request-id']}")
    value: dict[str, Any] = found.json()
    return value


def test_what_fits_is_sent_as_it_came() -> None:
    """Nothing is cut, nothing is announced, and counting it is no part of the request."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(messages=conversation(5))
            assert response.status_code == 200
            assert "penstock-fitted" not in response.headers
            assert sent(llama) == conversation(5)

    asyncio.run(main())


def test_what_does_not_fit_is_cut_and_announced() -> None:
    """System message, first task and last question stay; headers say what was done."""

    async def main() -> None:
        async with ScriptedLlama(window=2048) as llama, gateway_here(llama.url) as gateway:
            messages = conversation(60)
            response = await gateway.chat(messages=messages)
            assert response.status_code == 200
            assert response.headers["penstock-fitted"] == "window"
            assert int(response.headers["penstock-prompt-tokens-original"]) > 4000
            assert "messages dropped" in response.headers["penstock-changed"]
            got = sent(llama)
            assert got[0] == messages[0]
            assert got[-1] == messages[-1]
            assert got[1]["content"].startswith(messages[1]["content"])
            assert NOTE in got[1]["content"]
            assert sum(len(str(m["content"]).split()) for m in got) < 2048
            value = await told(gateway, response)
            assert value["fitted"] == "window"
            assert value["prompt_tokens_planned"] < 2048

    asyncio.run(main())


def test_two_gateways_with_different_pasts_send_the_same_bytes() -> None:
    """What is kept of earlier requests decides nothing; twenty others went through one of them before."""

    async def main() -> None:
        bodies = []
        for past in (0, 20):
            async with ScriptedLlama(window=2048) as llama, gateway_here(llama.url) as gateway:
                for number in range(past):
                    await gateway.chat(messages=conversation(number * 3, seed=f"p{number}x"))
                for turns in (58, 59, 60):
                    await gateway.chat(messages=conversation(turns), temperature=0.5)
                bodies.append([request.body for request in llama.requests[-3:]])
        assert bodies[0] == bodies[1]
        assert len(bodies[0]) == 3

    asyncio.run(main())


def test_equal_bytes_whatever_was_counted_before() -> None:
    """Conversations around the mark, on a gateway that knows some of their messages and on one that knows none."""

    async def main() -> None:
        chance = random.Random(3)
        tried = []
        for _ in range(25):
            messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}]
            for _ in range(chance.randint(12, 30)):
                words = chance.choice((3, 20, 60, 120))
                messages.append({"role": "user", "content": f"{chance.random()} " * words})
                messages.append(
                    {"role": "assistant", "content": f"{chance.random()} " * (words // 2)}
                )
            tried.append([*messages, {"role": "user", "content": "and now?"}])
        bodies = []
        for past in (False, True):
            async with ScriptedLlama(window=2048) as llama, gateway_here(llama.url) as gateway:
                for messages in tried if past else ():
                    await gateway.chat(messages=messages[: len(messages) // 2 * 2 // 3 * 2])
                before = len(llama.requests)
                for messages in tried:
                    await gateway.chat(messages=messages)
                bodies.append([request.body for request in llama.requests[before:]])
        assert len(bodies[0]) == len(tried)
        assert bodies[0] == bodies[1]

    asyncio.run(main())


def test_tools_that_change_are_named_as_what_breaks_the_prefix() -> None:
    """Templates put them before the messages; the server is not blamed for what it computes anew."""

    async def main() -> None:
        tools = [{"type": "function", "function": {"name": name}} for name in ("one", "two")]
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            for turns in range(1, 5):
                await gateway.chat(messages=conversation(turns), tools=[tools[turns % 2]])
            (upstream,) = (await gateway.http.get("/penstock/status")).json()["upstreams"]
            prefix = upstream["models"][0]["context"]["prefix"]
            assert prefix["breaks"] == 3
            assert "tools" in prefix["last_break"]["why"]
            assert prefix["missed"] == 0

    asyncio.run(main())


def test_the_next_turns_find_the_same_prefix() -> None:
    """Between two cuts each request begins with the messages of the one before."""

    async def main() -> None:
        async with ScriptedLlama(window=2048) as llama, gateway_here(llama.url) as gateway:
            for turns in range(20, 60):
                response = await gateway.chat(messages=conversation(turns))
                assert response.status_code == 200
            moved = 0
            for number in range(1, len(llama.requests)):
                before, now = sent(llama, number - 1), sent(llama, number)
                # The last question is answered and another one comes: all before it stays.
                moved += now[: len(before) - 1] != before[:-1]
            assert 0 < moved <= 6

    asyncio.run(main())


def test_a_refusal_for_length_is_refitted_and_sent_once_more() -> None:
    """The client never sees it: the window it named is believed from then on."""

    async def main() -> None:
        async with ScriptedLlama([refusal(3000, 1024)], stream("ok"), window=8192) as llama:
            async with gateway_here(llama.url) as gateway:
                response = await gateway.chat(messages=conversation(36))
                assert response.status_code == 200, response.text
                assert response.headers["penstock-attempts"] == "2"
                assert response.headers["penstock-window"] == "1024"
                assert len(sent(llama, 0)) == len(conversation(36))
                assert sum(len(m["content"].split()) for m in sent(llama, 1)) < 1024
                listed = (await gateway.http.get("/v1/models")).json()["data"][0]
                assert (listed["context_window"], listed["window_source"]) == (1024, "refusal")

    asyncio.run(main())


def test_a_prompt_that_is_longer_than_it_was_taken_for() -> None:
    """The window is the one we believed, so what is sent becomes less, once."""

    async def main() -> None:
        async with ScriptedLlama([refusal(5000, 4096)], stream("ok"), window=4096) as llama:
            async with gateway_here(llama.url) as gateway:
                response = await gateway.chat(messages=conversation(35))
                assert response.status_code == 200, response.text
                first, second = (
                    sum(len(m["content"].split()) for m in sent(llama, n)) for n in (0, 1)
                )
                assert second < first

    asyncio.run(main())


def test_a_refusal_that_repeats_itself_reaches_the_client() -> None:
    """With the server's numbers, and after one refit only."""

    async def main() -> None:
        async with ScriptedLlama([refusal(5000, 4096)], window=4096) as llama:
            async with gateway_here(llama.url) as gateway:
                response = await gateway.chat(messages=conversation(35))
                assert response.status_code == 400
                assert response.json()["error"]["code"] == "context_length_exceeded"
                assert "5000 tokens > 4096 maximum" in response.json()["error"]["message"]
                assert len(llama.requests) == 2

    asyncio.run(main())


def test_a_shared_kv_that_is_full_gives_the_request_the_server_alone() -> None:
    """It waits until the others have ended, and is sent again as it was."""

    async def main() -> None:
        full = reply({"error": {"code": 500, "message": "Context size has been exceeded.",
                                "type": "server_error"}}, b"500 Internal Server Error")  # fmt: skip
        go_on = asyncio.Event()
        held = [
            CHUNKED_HEAD,
            event(delta("x")),
            go_on,
            event(delta("", "stop")),
            event(b"[DONE]"),
            chunk(b""),
        ]
        async with (
            ScriptedLlama(held, [full], stream("ok")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            other = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: len(llama.requests) == 1)
            asked = asyncio.create_task(gateway.chat(messages=conversation(5)))
            await until(lambda: len(llama.requests) == 2)
            state = gateway.runtime.fleet.get("box")
            await until(lambda: state.limiter.waiting == 1)
            assert len(llama.requests) == 2
            go_on.set()
            response = await asked
            await other
            assert response.status_code == 200, response.text
            assert sent(llama, 1) == sent(llama, 2) == conversation(5)
            assert (state.limiter.running, state.limiter.waiting) == (0, 0)

    asyncio.run(main())


def test_a_server_that_cuts_silently_is_noticed() -> None:
    """Its own count is far below what was sent: a warning, a metric, and the status says so."""

    async def main() -> None:
        counted = {
            **delta("", "stop"),
            "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51},
        }
        script = [CHUNKED_HEAD, event(delta("x")), event(counted), event(b"[DONE]"), chunk(b"")]
        async with ScriptedLlama(script, window=8192) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(messages=conversation(30))
            assert response.status_code == 200
            value = await told(gateway, response)
            assert any("cut the prompt" in warning for warning in value["warnings"])
            metrics = (await gateway.http.get("/metrics")).text
            assert 'penstock_silent_truncations_total{upstream="box"} 1.0' in metrics
            (upstream,) = (await gateway.http.get("/penstock/status")).json()["upstreams"]
            assert upstream["models"][0]["context"]["silent_truncations"] == 1

    asyncio.run(main())


def test_a_turn_that_is_to_be_continued_is_not_taken_for_a_cut_prompt() -> None:
    """What templates put around a last message of the assistant is their own affair: its count shows nothing."""

    async def main() -> None:
        counted = {
            **delta("", "stop"),
            "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51},
        }
        script = [CHUNKED_HEAD, event(delta("x")), event(counted), event(b"[DONE]"), chunk(b"")]
        begun = [*conversation(30), {"role": "assistant", "content": "{"}]
        async with ScriptedLlama(script, window=8192) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(messages=begun)
            assert response.status_code == 200
            assert (await told(gateway, response))["warnings"] == []
            (upstream,) = (await gateway.http.get("/penstock/status")).json()["upstreams"]
            assert upstream["models"][0]["context"]["silent_truncations"] == 0

    asyncio.run(main())


def test_a_server_that_does_not_count_is_measured() -> None:
    """Without its own counts the conversation is fitted by a cautious measure, never sent too long."""

    async def main() -> None:
        async with ScriptedLlama(window=2048) as llama:
            llama.counts = False
            async with gateway_here(llama.url) as gateway:
                response = await gateway.chat(messages=conversation(60))
                assert response.status_code == 200
                assert response.headers["penstock-fitted"] == "window"
                assert sum(len(m["content"].encode()) for m in sent(llama)) < 8192

    asyncio.run(main())


def test_a_client_that_changes_its_beginning_each_time_is_named() -> None:
    """The message, the byte and the client stand in status; a pattern takes out what only changes."""

    async def main() -> None:
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            for second in range(3):
                messages = conversation(4 + second)
                messages[0] = {"role": "system", "content": f"It is 12:00:0{second}. Be brief."}
                await gateway.chat(messages=messages)
            (upstream,) = (await gateway.http.get("/penstock/status")).json()["upstreams"]
            prefix = upstream["models"][0]["context"]["prefix"]
            assert prefix["breaks"] == 2
            assert prefix["last_break"]["message"] == 0
            assert prefix["last_break"]["byte"] == len("It is 12:00:0")
            assert prefix["last_break"]["client"] == "anonymous"
            assert (
                'penstock_prefix_breaks_total{upstream="box"} 2.0'
                in (await gateway.http.get("/metrics")).text
            )
        pattern = {"context": {"nonce_patterns": [r"It is \d\d:\d\d:\d\d\. "]}}
        async with ScriptedLlama() as llama, gateway_here(llama.url, settings=pattern) as gateway:
            response = await gateway.chat(messages=messages)
            assert sent(llama)[0]["content"] == "Be brief."
            assert "messages[0].content rewritten" in response.headers["penstock-changed"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "headers", "statuses"),
    [
        pytest.param({}, {"penstock-strategy": "off"}, [400, 400], id="off, by a header"),
        pytest.param({"strategy": "off"}, {}, [400, 400], id="off, by the settings"),
        pytest.param({"strategy": "off", "models": {"m*": "window"}}, {}, [200, 200], id="window, for this model"),
        pytest.param({"client_user_agents": ["agent/*"]}, {"user-agent": "Agent/1"}, [400, 200], id="client, by its name"),
        pytest.param({}, {"penstock-strategy": "client"}, [400, 200], id="client, by a header"),
        pytest.param({"strategy": "client"}, {"penstock-strategy": "window"}, [200, 200], id="the request's word wins"),
        pytest.param({}, {"penstock-strategy": "reset"}, [200, 200], id="reset"),
        pytest.param({}, {"penstock-strategy": "best"}, [400, 400], id="no strategy"),
    ],
)  # fmt: skip
def test_strategies(settings: dict[str, Any], headers: dict[str, str], statuses: list[int]) -> None:
    """Whose word counts, and what the client sees of a conversation that is too long, twice."""

    async def main() -> None:
        async with ScriptedLlama(window=2048) as llama:
            async with gateway_here(llama.url, settings={"context": settings}) as gateway:
                seen = []
                for _ in statuses:
                    body = {"model": "m", "messages": conversation(60)}
                    answer = await gateway.http.post(
                        "/v1/chat/completions", json=body, headers=headers
                    )
                    seen.append(answer.status_code)
                    if answer.status_code == 400 and headers.get("penstock-strategy") != "best":
                        error = answer.json()["error"]
                        assert error["code"] == "context_length_exceeded"
                        assert (
                            "This model's maximum context length is 2048 tokens."
                            in error["message"]
                        )
                        assert answer.headers["x-should-retry"] == "false"
                assert seen == statuses

    asyncio.run(main())


def test_summaries_are_made_outside_the_request() -> None:
    """The first cut leaves the fixed note; the next request that cuts there has the model's own summary."""

    async def main() -> None:
        settings = {"context": {"strategy": "summary"}}
        async with ScriptedLlama(stream("the answer"), stream("THE SUMMARY"), window=2048) as llama:
            async with gateway_here(llama.url, settings=settings) as gateway:
                response = await gateway.chat(messages=conversation(60))
                assert response.headers["penstock-fitted"] == "summary"
                assert NOTE in sent(llama, 0)[1]["content"]
                await until(lambda: len(llama.requests) == 2)
                asked = sent(llama, 1)
                assert asked[0]["role"] == "user"
                assert "<conversation>" in asked[0]["content"]
                await until(lambda: not gateway.runtime.in_flight)
                await gateway.chat(messages=conversation(60))
                again = next(m for m in (sent(llama, n) for n in range(2, len(llama.requests)))
                             if m[0]["role"] == "system")  # fmt: skip
                assert "THE SUMMARY" in again[1]["content"]
                assert all(m["role"] != "system" for m in again[1:])
                recent = (await gateway.http.get("/penstock/status")).json()["requests"]["recent"]
                assert "penstock" in {request["client"] for request in recent}

    asyncio.run(main())


def test_room_for_the_answer_is_reduced_when_the_prompt_fits() -> None:
    """vLLM refuses prompt and output together: the output becomes what fits, once, announced."""

    async def main() -> None:
        message = ("This model's maximum context length is 4096 tokens. However, you requested 4110 tokens "
                   "(20 in the messages, 4090 in the completion). Please reduce the length.")  # fmt: skip
        refused = reply({"object": "error", "message": message, "type": "BadRequestError", "code": 400},
                        b"400 Bad Request")  # fmt: skip
        async with (
            ScriptedLlama([refused], stream("ok")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            response = await gateway.chat(max_tokens=4090)
            assert response.status_code == 200, response.text
            assert response.headers["penstock-attempts"] == "2"
            assert "max_tokens reduced" in response.headers["penstock-changed"]
            assert json.loads(llama.requests[1].body)["max_tokens"] == 4076
        async with ScriptedLlama([refused]) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(max_tokens=4090)
            assert response.status_code == 400
            assert len(llama.requests) == 2

    asyncio.run(main())


@pytest.mark.parametrize("inline", [False, True], ids=["a field of its own", "in the text"])
def test_thinking_that_the_template_leaves_out_is_no_truncation(inline: bool) -> None:
    """Nobody is warned of a cut, and the room for the answer is what the short prompt leaves."""

    async def main() -> None:
        counted = {
            **delta("", "stop"),
            "usage": {"prompt_tokens": 2460, "completion_tokens": 1, "total_tokens": 2461},
        }
        script = [CHUNKED_HEAD, event(delta("x")), event(counted), event(b"[DONE]"), chunk(b"")]
        messages = conversation(30)
        for message in messages:
            if message["role"] == "assistant" and inline:
                message["content"] = "<think>" + "hm " * 60 + "</think>" + message["content"]
            elif message["role"] == "assistant":
                message["reasoning_content"] = "hm " * 60
        async with ScriptedLlama(script, window=8192) as llama, gateway_here(llama.url) as gateway:
            for _ in range(2):
                response = await gateway.chat(messages=messages, max_tokens=4500)
                assert (await told(gateway, response))["warnings"] == []
                assert json.loads(llama.requests[-1].body)["max_tokens"] == 4500
                await until(lambda: not any(t.get_name() == "count" for t in asyncio.all_tasks()))

    asyncio.run(main())


@pytest.mark.parametrize("away", ["refuses", "loads"])
def test_a_server_that_is_away_is_no_server_that_cannot_count(away: str) -> None:
    """Who asks while it begins again waits for it; nothing is cut that fits, then and later."""

    async def main() -> None:
        big = [{"role": "user", "content": "wordy " * 900}]
        patient = {"retry": {"local": {"attempts": 20, "first_delay_s": 0.1, "factor": 1.0}}}
        async with (
            ScriptedLlama(window=2048) as llama,
            gateway_here(llama.url, settings=patient) as gateway,
        ):
            await gateway.chat(messages=conversation(3))
            state = gateway.runtime.fleet.get("box")
            if away == "loads":
                llama.ready = llama.counts = False
            else:
                await llama.leave()
            asked = [
                asyncio.create_task(gateway.chat(messages=[*big, *conversation(n)[1:]]))
                for n in (1, 2)
            ]
            await until(lambda: state.limiter.running == 2 or any(one.done() for one in asked))
            await asyncio.sleep(0.05)
            if away == "loads":
                llama.ready = llama.counts = True
            else:
                await llama.come_back()
            for response in await asyncio.gather(*asked):
                assert response.status_code == 200, response.text
                assert "penstock-fitted" not in response.headers
            response = await gateway.chat(messages=conversation(17))
            assert "penstock-fitted" not in response.headers
            (upstream,) = (await gateway.http.get("/penstock/status")).json()["upstreams"]
            assert upstream["models"][0]["context"]["counted"] is True

    asyncio.run(main())


def test_a_server_that_comes_back_with_another_model_answers_by_its_window() -> None:
    """The request was for the only model there was; it is for the only one there is now, whatever its name."""

    async def main() -> None:
        patient = {
            "retry": {
                "local": {
                    "attempts": 20,
                    "first_delay_s": 0.5,
                    "longest_delay_s": 0.5,
                    "factor": 1.0,
                }
            }
        }
        async with (
            ScriptedLlama(window=16_384) as llama,
            gateway_here(llama.url, settings=patient) as gateway,
        ):
            assert (await gateway.chat(model="whatever")).status_code == 200
            state = gateway.runtime.fleet.get("box")
            await llama.leave()
            llama.model = "another"
            long = [
                {"role": "user", "content": "word " * 9000}
            ]  # more than is assumed of the unknown
            asking = asyncio.ensure_future(gateway.chat(model="whatever", messages=long))
            await until(lambda: state.limiter.running == 1)
            await llama.come_back()
            await gateway.runtime.keeper.look(state)
            answer = await asking
            assert (answer.status_code, answer.headers["penstock-window"]) == (200, "16384")
            assert json.loads(llama.requests[-1].body)["model"] == "another"

    asyncio.run(main())


def test_a_template_that_is_not_told_is_waited_for_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes first goes on after a moment; it is asked for again only a while after it was given up."""

    async def main() -> None:
        given_up = asyncio.Event()
        asked = 0

        async def measure(*_: object) -> bool:
            nonlocal asked
            asked += 1
            await given_up.wait()
            return False

        monkeypatch.setattr(conversation_context, "measure_model", measure)
        monkeypatch.setattr(conversation_context, "_FIRST_LOOK_S", 0.05)
        async with ScriptedLlama() as llama, gateway_here(llama.url) as gateway:
            for _ in range(2):
                async with asyncio.timeout(8):
                    assert (await gateway.chat()).status_code == 200
            state = gateway.runtime.fleet.get("box")
            context = gateway.runtime.contexts.of(state, state.profiles["m"])
            before_s = asyncio.get_running_loop().time()
            given_up.set()
            await until(lambda: context.first_look is None)
            assert context.asked_s is not None
            assert context.asked_s >= before_s
            assert (await gateway.chat()).status_code == 200
            assert asked == 1

    asyncio.run(main())


def test_each_client_is_told_of_the_overflow_itself() -> None:
    """Two agents that begin alike do not share the one error that makes them compact."""

    async def main() -> None:
        keys = {"one": "key-of-one", "two": "key-of-two"}
        async with (
            ScriptedLlama(window=2048) as llama,
            gateway_here(llama.url, keys=keys) as gateway,
        ):
            seen = []
            for key in ("key-of-one", "key-of-two", "key-of-one", "key-of-two"):
                answer = await gateway.http.post(
                    "/v1/chat/completions",
                    json={"model": "m", "messages": conversation(60)},
                    headers={"authorization": f"Bearer {key}", "penstock-strategy": "client"},
                )
                seen.append(answer.status_code)
            assert seen == [400, 400, 200, 200]

    asyncio.run(main())
