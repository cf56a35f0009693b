"""
Faults of upstreams, as a client sees them through the whole pipeline: what is more than a cell of the fault matrix
(`tests/matrix`), which holds codes, statuses and attempts.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from loops import until
from rawserver import CHUNKED_HEAD, CLOSE, GONE, RESET, Peer, chunk
from scripted import ScriptedLlama, delta, event, gateway_here, reply, stream

LOADING = reply(
    {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
    b"503 Service Unavailable",
)


def error(message: str, status: bytes = b"500 Internal Server Error", **more: Any) -> bytes:
    """An error as llama.cpp gives it."""
    return reply({"error": {"message": message, "type": "server_error", **more}}, status)


@pytest.mark.parametrize(
    "value",
    [{"choices": 5}, {"choices": [{"index": [1], "delta": {}}]}],
    ids=["choices", "an index"],
)
def test_chunks_of_another_shape_are_the_servers_error(value: Any) -> None:
    """Where they are folded into one body; a stream passes as it comes."""
    script = [CHUNKED_HEAD, event(value), event(b"[DONE]"), chunk(b"")]

    async def main() -> None:
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (502, "bad_answer")

    asyncio.run(main())


def test_loading_is_waited_for_and_counts_no_attempt() -> None:
    """503 'Loading model' means wait; one attempt stands in headers and record at the end."""

    async def main() -> None:
        async with ScriptedLlama([LOADING], [LOADING], stream("ok")) as llama:
            async with gateway_here(llama.url) as gateway:
                response = await gateway.chat()
                assert response.status_code == 200
                assert response.headers["penstock-attempts"] == "1"
                assert len(llama.requests) == 3

    asyncio.run(main())


def test_a_streaming_client_gets_heartbeats_while_the_model_loads() -> None:
    """No-op events of its dialect, which commit 200; then the answer, in one stream."""

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.05}}
        async with ScriptedLlama([LOADING], stream("ok")) as llama:
            async with gateway_here(llama.url, settings=settings) as gateway:
                await gateway.chat()
                llama.requests.clear()
                llama.ready = False
                body = {
                    "model": "m",
                    "messages": [{"role": "user", "content": "x"}],
                    "stream": True,
                }
                async with gateway.http.stream(
                    "POST", "/v1/chat/completions", json=body
                ) as response:
                    lines = response.aiter_lines()
                    first = json.loads((await anext(lines)).removeprefix("data: "))
                    assert response.status_code == 200
                    assert first["choices"][0]["delta"] == {}
                    assert "role" not in first["choices"][0]["delta"]
                    llama.ready = True
                    rest = [line async for line in lines if line]
                text = "".join(
                    json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get(
                        "content", ""
                    )
                    for line in rest
                    if line.startswith("data: {")
                )
                assert text == "ok"
                assert rest[-1] == "data: [DONE]"
                assert rest[-2].startswith(": penstock ")

    asyncio.run(main())


def test_a_stream_that_breaks_ends_with_an_error_event_and_no_done() -> None:
    """Nobody takes half an answer for a whole one."""

    async def main() -> None:
        script = [CHUNKED_HEAD, event(delta("half ")), RESET]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(stream=True)
            assert response.status_code == 200
            events = [line for line in response.text.splitlines() if line.startswith("data: ")]
            assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == "half "
            failed = json.loads(events[-1][6:])["error"]
            assert failed["code"] == "broken_stream"
            assert failed["status"] == 502
            # By these two opencode and Qwen Code know that asking again makes sense.
            assert failed["type"] == "server_error"
            assert response.headers["x-request-id"] == failed["request_id"]
            assert "[DONE]" not in response.text
            assert len(llama.requests) == 1

    asyncio.run(main())


def test_progress_restarts_the_first_token_clock_and_is_not_shown() -> None:
    """Prefill progress is a sign of life; clients that did not ask for it see none of it."""

    async def main() -> None:
        gates = [asyncio.Event() for _ in range(6)]
        steps: list[Any] = [CHUNKED_HEAD]
        for number, gate in enumerate(gates):
            value = {
                **delta(""),
                "prompt_progress": {
                    "total": 60,
                    "cache": 0,
                    "processed": number * 10,
                    "time_ms": 1,
                },
            }
            steps += [event(value), gate]
        steps += stream("done")[1:]
        settings = {"timeouts": {"first_token_s": 1.0}}
        async with (
            ScriptedLlama(steps) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
        ):
            asked = asyncio.create_task(gateway.chat(stream=True))
            for gate in gates:
                await asyncio.sleep(0.25)
                gate.set()
            response = await asked
            assert response.status_code == 200
            assert "prompt_progress" not in response.text
            assert "done" in response.text

    asyncio.run(main())


def test_retry_after_beyond_the_policy_goes_back_at_once() -> None:
    """The upstream asks for a longer pause than we would make: the client is told how long."""

    async def main() -> None:
        script = [
            error("busy, no slot available", b"503 Service Unavailable")[:0]
            + reply(
                {"error": {"message": "no slot available"}},
                b"503 Service Unavailable",
                b"Retry-After: 30",
            )
        ]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat()
            assert response.status_code == 503
            assert response.headers["retry-after"] == "30"
            assert len(llama.requests) == 1

    asyncio.run(main())


def test_a_hang_up_reaches_the_upstream_at_every_stage() -> None:
    """Queued, prefilling or streaming: the upstream connection ends, the permit comes back."""

    async def main() -> None:
        for script in ([GONE], [CHUNKED_HEAD, event(delta("a")), GONE]):
            async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
                limiter = gateway.runtime.fleet.get("box").limiter
                task = asyncio.create_task(gateway.chat())
                await until(lambda: len(llama.requests) == 1)
                queued = [asyncio.create_task(gateway.chat()) for _ in range(3)]
                await until(lambda: limiter.waiting + len(llama.requests) >= 3)  # noqa: B023
                for one in (task, *queued):
                    one.cancel()
                await asyncio.gather(task, *queued, return_exceptions=True)
                await until(lambda: limiter.running == 0 and limiter.waiting == 0)  # noqa: B023
                await until(lambda: not gateway.runtime.in_flight)
                gone = [e for e in gateway.runtime.recorder.recent() if e.client_gone]
                assert len(gone) == 4
                assert {e.outcome.value for e in gone if e.outcome} == {"ignored"}

    asyncio.run(main())


def test_a_full_queue_refuses_with_when_to_come_back() -> None:
    """429 `queue_full`, our own refusal: x-should-retry true and Retry-After."""

    async def main() -> None:
        settings = {"concurrency": {"queue_length": 1, "max_concurrency": 1}}
        async with (
            ScriptedLlama([GONE]) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
        ):
            first = asyncio.create_task(gateway.chat())
            await until(lambda: len(llama.requests) == 1)
            second = asyncio.create_task(gateway.chat())
            limiter = gateway.runtime.fleet.get("box").limiter
            await until(lambda: limiter.waiting == 1)
            refused = await gateway.chat()
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["source"] == "penstock"
            assert refused.headers["x-should-retry"] == "true"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            responses = await gateway.http.post("/v1/responses", json={"model": "m", "input": "hi"})
            assert responses.status_code == 503  # what Codex repeats; 429 it gives up on
            assert responses.json()["error"]["code"] == "queue_full"
            assert responses.headers["x-should-retry"] == "true"
            for task in (first, second):
                task.cancel()
            await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(main())


def test_waiting_too_long_behind_others() -> None:
    """503 `queue_deadline` when the wait is over; the one who runs is not touched."""

    async def main() -> None:
        settings = {"concurrency": {"max_concurrency": 1, "queue_deadline_s": 0.1}}
        async with (
            ScriptedLlama([GONE]) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
        ):
            first = asyncio.create_task(gateway.chat())
            await until(lambda: len(llama.requests) == 1)
            refused = await gateway.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_deadline")
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(b"", id="no final newline"),
        pytest.param(b"\r\n\r\n", id="CRLF"),
        pytest.param(b"\n\n", id="LF"),
    ],
)
def test_streams_as_servers_write_them(ending: bytes) -> None:
    """CRLF, comments, several data lines, a split character, no final newline: relayed verbatim."""

    async def main() -> None:
        newline = b"\r\n" if ending == b"\r\n\r\n" else b"\n"
        one = json.dumps(delta("caf\u00e9"), ensure_ascii=False).encode()
        cut = one.index("\u00e9".encode()) + 1
        pieces = [b": comment" + newline + b"data: " + one[:cut], one[cut:] + newline * 2]
        last = (
            b"data: "
            + json.dumps(delta("", "stop")).encode()
            + newline * 2
            + b"data: [DONE]"
            + ending
        )
        script = [CHUNKED_HEAD, *(chunk(piece) for piece in pieces), chunk(last), chunk(b"")]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat(stream=True)
            assert b"".join(pieces) in response.content
            assert response.content.rstrip().endswith(b"data: [DONE]")
            plain = await gateway.chat()
            assert plain.json()["choices"][0]["message"]["content"] == "caf\u00e9"

    asyncio.run(main())


def test_the_same_stream_cut_anywhere_is_relayed_the_same() -> None:
    """Wherever the network cuts, the client gets the same bytes."""

    async def main() -> None:
        whole = b"".join(
            b"data: " + (d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n\n"
            for d in (delta("a"), delta("b"), delta("", "stop"), b"[DONE]")
        )
        for size in (1, 7, 50, 333):
            cuts = [chunk(whole[i : i + size]) for i in range(0, len(whole), size)]
            async with ScriptedLlama([CHUNKED_HEAD, *cuts, chunk(b"")]) as llama:
                async with gateway_here(llama.url) as gateway:
                    response = await gateway.chat(stream=True)
                    assert response.content == whole

    asyncio.run(main())


def test_a_window_named_in_a_refusal_caps_what_is_believed() -> None:
    """Until the server runs with another one; listings and headers show it."""

    async def main() -> None:
        refusal = error(
            "request (900 tokens) exceeds the available context size (512 tokens), try increasing it",
            b"400 Bad Request",
        )
        async with ScriptedLlama([refusal]) as llama, gateway_here(llama.url) as gateway:
            response = await gateway.chat()
            assert response.json()["error"]["code"] == "context_length_exceeded"
            assert "900 tokens > 512 maximum" in response.json()["error"]["message"]
            listed = (await gateway.http.get("/v1/models")).json()["data"][0]
            assert (listed["context_window"], listed["window_source"]) == (512, "refusal")
            llama.window = 8192
            gateway.runtime.keeper.contradicted(gateway.runtime.fleet.get("box"), "test")
            profile = gateway.runtime.fleet.get("box").profile
            await until(lambda: profile("m").window.tokens == 8192)

    asyncio.run(main())


def test_a_rule_of_the_template_is_learned_and_kept_to() -> None:
    """The refusal costs one attempt, once; the client sees an answer and what was changed."""

    async def main() -> None:
        refusal = error("System message must be at the beginning.", b"400 Bad Request")
        messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "be kind"}]
        async with (
            ScriptedLlama([refusal], stream("ok")) as llama,
            gateway_here(llama.url) as gateway,
        ):
            first = await gateway.chat(messages=messages)
            assert first.status_code == 200
            assert first.headers["penstock-attempts"] == "2"
            assert "messages[1].role rewritten" in first.headers["penstock-changed"]
            second = await gateway.chat(messages=messages)
            assert second.headers["penstock-attempts"] == "1"
            roles = [m["role"] for m in json.loads(llama.requests[-1].body)["messages"]]
            assert roles == ["user", "user"]

    asyncio.run(main())


def test_a_server_that_dies_and_comes_back_has_all_its_attempts() -> None:
    """A death counts once; while the server is away each try is one, with a pause before the next."""

    async def main() -> None:
        policy = {"retry": {"local": {"first_delay_s": 0.3, "jitter": 0}}}
        died = asyncio.Event()
        gone = asyncio.Event()

        async def until_it_is_away(peer: Peer) -> None:
            died.set()
            await gone.wait()

        async with ScriptedLlama([until_it_is_away, RESET], stream("ok")) as llama:
            async with gateway_here(llama.url, settings=policy) as gateway:
                state = gateway.runtime.fleet.get("box")
                await until(lambda: state.reading is not None)
                asked = asyncio.create_task(gateway.chat())
                await died.wait()
                away = state.origin
                state.origin = replace(away, port=9)  # nobody listens there
                state.upstream = replace(state.upstream, url="http://127.0.0.1:9")
                gone.set()
                await asyncio.sleep(0.2)
                state.origin = away
                response = await asked
                assert response.status_code == 200, response.text
                assert int(response.headers["penstock-attempts"]) <= 3

    asyncio.run(main())


def test_an_error_behind_a_comment_has_its_own_status() -> None:
    """A server that says `: ping` while it prefills has not begun to answer."""

    async def main() -> None:
        said = {"error": {"message": "request (9000 tokens) exceeds the available context size "
                          "(4096 tokens)", "type": "exceed_context_size_error", "code": 400}}  # fmt: skip
        gate = asyncio.Event()
        script = [CHUNKED_HEAD, chunk(b": ping\n\n"), gate, event(said), chunk(b"")]
        async with ScriptedLlama(script) as llama, gateway_here(llama.url) as gateway:
            asked = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: len(llama.requests) == 1)
            await asyncio.sleep(0.1)
            (exchange,) = gateway.runtime.in_flight.values()
            assert exchange.first_token_s is None
            gate.set()
            assert (await asked).status_code == 400

    asyncio.run(main())


def test_an_attempt_that_broke_leaves_no_time_behind() -> None:
    """The time to the first token is that of the answer which the client got."""

    async def main() -> None:
        broken = [CHUNKED_HEAD, event(delta("a")), CLOSE]
        async with ScriptedLlama(broken, stream("ok")) as llama, gateway_here(llama.url) as gateway:
            assert (await gateway.chat()).status_code == 200
            (exchange,) = gateway.runtime.recorder.recent()
            assert len(exchange.attempts) == 2
            assert exchange.ttft_s is not None
            assert exchange.ttft_s >= 0

    asyncio.run(main())


@pytest.mark.parametrize("local", [True, False], ids=["local", "cloud"])
def test_a_client_that_stops_reading_is_let_go(local: bool, caplog: Any) -> None:
    """After the stall limit; that is a hang-up, and speaks neither against the server nor against us."""

    async def main() -> None:
        async def flood(peer: Peer) -> None:
            while True:
                await peer.send(event(delta("x" * 60_000)))

        settings = {"timeouts": {"stall_s": 0.5}, "loop_guard": {"enabled": False}}
        async with (
            ScriptedLlama([CHUNKED_HEAD, flood]) as llama,
            gateway_here(llama.url, settings=settings, local=local) as gateway,
        ):
            body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
            head = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
            writer.write(head + body)
            await until(lambda: gateway.runtime.recorder.recent())
            (exchange,) = gateway.runtime.recorder.recent()
            assert exchange.client_gone
            assert (exchange.error_code, exchange.warnings) == ("", ["the client stopped reading"])
            assert exchange.outcome is None or exchange.outcome.value == "ignored"
            await until(lambda: gateway.runtime.fleet.get("box").limiter.running == 0)
            writer.transport.abort()
        assert "Exception in ASGI" not in caplog.text

    asyncio.run(main())


def test_a_ghost_is_told_from_those_who_work() -> None:
    """A slot that a hang-up freed is given on, although another request keeps its own busy."""

    class Slots(ScriptedLlama):
        working = 2

        def _probe(self, target: str) -> bytes:
            if target == "/slots":
                return reply([{"id": n, "is_processing": n < self.working} for n in range(2)])
            return super()._probe(target)

    async def main() -> None:
        gate = asyncio.Event()
        progress = {"choices": [], "prompt_progress": {"total": 9, "cache": 0, "processed": 1}}
        works = [CHUNKED_HEAD, event(delta("a")), gate, *stream("b")[1:]]
        leaves = [CHUNKED_HEAD, event(progress), GONE]
        async with Slots(works, leaves) as llama, gateway_here(llama.url) as gateway:
            state = gateway.runtime.fleet.get("box")
            running = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: gateway.runtime.at_work(state) == 1)
            leaving = asyncio.create_task(gateway.chat(stream=True))
            await until(lambda: gateway.runtime.at_work(state) == 2)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await until(lambda: state.ghosts == 1)
            await asyncio.sleep(0.3)
            assert state.limiter.running == 2
            llama.working = 1
            await until(lambda: state.limiter.running == 1, within_s=2.0)
            gate.set()
            await running

    asyncio.run(main())


def test_ollamas_clients_get_heartbeats_without_asking_for_a_stream() -> None:
    """Its native paths stream unless told not to."""

    async def main() -> None:
        settings = {"timeouts": {"heartbeat_s": 0.1}}
        script = [asyncio.Event()]
        async with (
            ScriptedLlama(script) as llama,
            gateway_here(llama.url, settings=settings) as gateway,
            gateway.http.stream(
                "POST", "/api/generate", json={"model": "m", "prompt": "hi"}
            ) as response,
        ):
            async with asyncio.timeout(5):
                async for line in response.aiter_lines():
                    assert json.loads(line)["done"] is False
                    break

    asyncio.run(main())
