"""Tool calls mended on the way: bytes in, bytes out, and what the client is told."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loops import Run, on_both_loops
from penstock.dialects.sse import parse_event, split_events
from penstock.dialects.surfaces import OPENAI
from penstock.domain.chat import Event, Finished, StreamEnd, TextDelta, ToolCallDelta
from penstock.gateway.relays.loop_watch import EventWatch, LoopWatch, ValueWatch
from penstock.gateway.relays.mending import EventMender, mend_completion
from penstock.gateway.relays.mending_relay import MendingRelay
from penstock.gateway.relays.relay import VerbatimRelay
from penstock.toolcalls.schema import ToolSet
from penstock.toolcalls.stream import Mended, Rules
from rawserver import CHUNKED_HEAD, CLOSE, GONE
from rawserver import chunk as piece
from scripted import Here, ScriptedLlama, event, gateway_here, reply

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "rec": {"type": "boolean"}},
            },
        },
    }
]
HERMES = '<tool_call>\n{"name": "look", "arguments": {"city": "O", "rec": true}}\n</tool_call>'
LOOP = "I am sorry, but I cannot do that. "


def rules(**changed: Any) -> Rules:
    """What a request with one tool is mended by."""
    tools = ToolSet.of(TOOLS)
    fields: dict[str, Any] = {"tools": lambda: tools, "repair": True, "recover": True, "earlier": tuple, "seed": "s"}  # fmt: skip
    return Rules(**{**fields, **changed})


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chat chunk with fields that nobody knows."""
    return {
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "odd": 1}],
        "created": 7, "id": "c1", "model": "m", "system_fingerprint": "b1", "object": "chat.completion.chunk",
        "strange": [1], **more,
    }  # fmt: skip


def call(arguments: str, index: int = 0, **head: Any) -> dict[str, Any]:
    """A delta with a piece of a call."""
    function: dict[str, Any] = {"arguments": arguments}
    if head:
        function = {"name": head.pop("name", "look"), "arguments": arguments}
        head["type"] = "function"
    return {"tool_calls": [{"index": index, **head, "function": function}]}


def sse(*values: Any) -> bytes:
    """Server-sent events, spelt as no other writer of ours does."""
    return b"".join(
        b"data: "
        + (v if isinstance(v, bytes) else json.dumps(v, separators=(" ,", " : ")).encode())
        + b"\n\n"
        for v in values
    )


def values_of(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    datas = [parse_event(raw).data for raw in split_events(stream)]
    return [json.loads(data) for data in datas if data and data != b"[DONE]"]


class Answer:
    """A stream put together as the official client does it."""

    def __init__(self, stream: bytes) -> None:
        self.text = ""
        self.calls: list[dict[str, str]] = []
        self.reason: str | None = None
        self.roles: list[str] = []
        for value in values_of(stream):
            for choice in value["choices"]:
                delta = choice["delta"]
                self.text += delta.get("content") or ""
                self.roles += [delta["role"]] if delta.get("role") else []
                self.reason = choice["finish_reason"] or self.reason
                for one in delta.get("tool_calls") or ():
                    if one["index"] == len(self.calls):
                        self.calls.append({"id": "", "name": "", "arguments": ""})
                    known = self.calls[one["index"]]
                    known["id"] += one.get("id") or ""
                    for name in ("name", "arguments"):
                        known[name] += one["function"].get(name) or ""


def pieces(whole: bytes, at: list[int]) -> list[bytes]:
    """*whole*, cut."""
    places = sorted({min(p, len(whole)) for p in at} | {0, len(whole)})
    return [whole[a:b] for a, b in pairwise(places)]


def relayed(
    stream: bytes, at: list[int] | None = None, **options: Any
) -> tuple[bytes, MendingRelay]:
    """What a mending relay makes of a stream."""
    relay = MendingRelay(OPENAI, options.pop("rules", rules()), **options)
    out = b"".join(relay.feed(data) for data in pieces(stream, at or []))
    return out + relay.end(), relay


ROLE = chunk({"role": "assistant", "content": None})
END = chunk({}, "tool_calls", timings={"prompt_n": 5})
USAGE = {"choices": [], "id": "c1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
GOOD = sse(
    ROLE,
    chunk({"reasoning_content": "so"}),
    chunk(call("", id="x")),
    *(chunk(call(sign)) for sign in '{"city": "Oslo", "rec": true}'),
    chunk(call('{"city"', 1, id="y")),
    chunk(call(': "B"}', 1)),
    END,
    USAGE,
    b"[DONE]",
)
BAD = sse(
    ROLE,
    chunk(call("", id="x")),
    *(chunk(call(sign)) for sign in '{"city": "Oslo", "rec": "True"}'),
    END,
    USAGE,
    b"[DONE]",
)
CUTS = st.lists(st.integers(0, len(GOOD)), max_size=10)


@given(CUTS)
def test_right_calls_pass_as_bytes(at: list[int]) -> None:
    """Cut anywhere, a stream of right calls is the server's own, byte for byte."""
    out, relay = relayed(GOOD, at)
    assert out == GOOD
    assert relay.seen.mended == []
    assert (relay.seen.prompt_tokens, relay.seen.closed) == (3, True)


@given(CUTS)
def test_a_wrong_type_is_mended(at: list[int]) -> None:
    """Cut anywhere, the arguments are right, what was right stays, and fields that nobody knows are kept."""
    out, relay = relayed(BAD, at)
    answer = Answer(out)
    assert answer.calls == [
        {"id": "x", "name": "look", "arguments": '{"city": "Oslo", "rec": true}'}
    ]
    assert answer.reason == "tool_calls"
    assert answer.roles == ["assistant"]
    assert [one.became.value for one in relay.seen.mended] == ["repaired"]
    held = sse(chunk(call('"')), chunk(call("T")))
    before = BAD.index(held)
    assert out[:before] == BAD[:before]
    for value in values_of(out)[:-1]:
        assert {k: value[k] for k in ("id", "model", "created", "system_fingerprint", "strange")} == {
            "id": "c1", "model": "m", "created": 7, "system_fingerprint": "b1", "strange": [1],
        }  # fmt: skip
        assert value["choices"][0]["odd"] == 1
    assert out.endswith(sse(END, USAGE, b"[DONE]"))


@given(st.integers(0, len(BAD)), CUTS)
def test_a_stream_cut_at_any_byte_completes_nothing(end: int, at: list[int]) -> None:
    """The arguments that the client has are a beginning of what the model wrote, or the whole, mended."""
    out, _ = relayed(BAD[:end], at)
    calls = Answer(out).calls
    if calls:
        whole = '{"city": "Oslo", "rec": "True"}'
        arguments = calls[0]["arguments"]
        assert whole.startswith(arguments) or arguments == '{"city": "Oslo", "rec": true}'
        if arguments.endswith("true}"):
            assert sse(chunk(call("}"))) in BAD[:end]
    # The last event may lack its blank line: it is whole all the same.
    assert b"[DONE]" not in out or BAD[:end].rstrip().endswith(b"[DONE]")


@pytest.mark.parametrize("step", [1, 5, 200])
def test_text_that_is_a_call_becomes_one(step: int) -> None:
    """In a stream too, with one role and the right finish reason; usage and end keep their places."""
    texts = [HERMES[i : i + step] for i in range(0, len(HERMES), step)]
    stream = sse(
        ROLE, *(chunk({"content": text}) for text in texts), chunk({}, "stop"), USAGE, b"[DONE]"
    )
    out, relay = relayed(stream)
    answer = Answer(out)
    assert answer.text == ""
    assert answer.calls == [
        {"id": "call_s_0", "name": "look", "arguments": '{"city": "O", "rec": true}'}
    ]
    assert answer.reason == "tool_calls"
    assert answer.roles == ["assistant"]
    assert out.endswith(sse(USAGE, b"[DONE]"))
    assert [one.became.value for one in relay.seen.mended] == ["recovered"]


@pytest.mark.parametrize(
    "text", ["Hello world, <tool_call>", "<tool_call> is how one calls", "```\n" + HERMES, " \n"]
)
@given(CUTS)
def test_text_that_is_none_passes_as_bytes(text: str, at: list[int]) -> None:
    """Also what was held for a while."""
    stream = sse(ROLE, *(chunk({"content": sign}) for sign in text), chunk({}, "stop"), b"[DONE]")
    assert relayed(stream, at)[0] == stream


def test_one_chunk_may_hold_everything() -> None:
    """Role, text, calls, finish reason and usage in one event: taken apart only where it has to be."""
    delta = {"role": "assistant", "content": "So: ", **call('{"rec": true}', id="x")}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    stream = sse(chunk(delta, "stop", usage=usage), b"[DONE]")
    answer = Answer(relayed(stream)[0])
    assert (answer.text, answer.reason, len(answer.calls)) == ("So: ", "tool_calls", 1)
    right = sse(chunk(delta, "tool_calls", usage=usage), b"[DONE]")
    assert relayed(right)[0] == right
    wrong = sse(chunk({**delta, **call('{"rec": "no"}', id="x")}, "stop", usage=usage), b"[DONE]")
    out, _ = relayed(wrong)
    answer = Answer(out)
    assert answer.calls[0]["arguments"] == '{"rec": false}'
    assert (answer.text, answer.reason, answer.roles) == ("So: ", "tool_calls", ["assistant"])
    assert [value.get("usage") for value in values_of(out)].count(usage) == 1


def test_two_choices_are_mended_side_by_side() -> None:
    """With `n` each choice has calls of its own, also within one event."""
    both = chunk({})
    both["choices"] = [
        {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None},
        {"index": 1, "delta": call('{"rec": "True"}', id="x"), "finish_reason": None},
    ]
    ends = chunk({})
    ends["choices"] = [{"index": n, "delta": {}, "finish_reason": "stop"} for n in (0, 1)]
    out, relay = relayed(sse(both, ends, b"[DONE]"), one_choice=False)
    reasons = {
        choice["index"]: choice["finish_reason"]
        for value in values_of(out)
        for choice in value["choices"]
        if choice["finish_reason"]
    }
    assert reasons == {0: "stop", 1: "tool_calls"}
    assert [(one.choice, one.became.value) for one in relay.seen.mended] == [(1, "repaired")]
    assert b'\\"rec\\": true' in out


def test_arguments_cut_off_say_so() -> None:
    """The finish reason becomes `length` and the arguments stay a torso."""
    stream = sse(chunk(call('{"city": "Os', id="x")), END, b"[DONE]")
    answer = Answer(relayed(stream)[0])
    assert answer.calls[0]["arguments"] == '{"city": "Os'
    assert answer.reason == "length"


def test_what_we_asked_for_is_left_out_here_too() -> None:
    """Progress and usage that the client did not ask for."""
    progress = chunk({}, prompt_progress={"total": 9, "cache": 0, "processed": 4, "time_ms": 1})
    out, relay = relayed(sse(progress) + GOOD, drop_progress=True, drop_usage=True)
    assert out == GOOD.replace(sse(USAGE), b"")
    assert relay.seen.progress is not None


def test_an_error_in_the_stream_lets_go_what_is_held() -> None:
    """Before it; the error itself is told by the pipeline."""
    stream = sse(chunk(call('{"rec": "Tr', id="x")), {"error": {"message": "boom"}})
    relay = MendingRelay(OPENAI, rules())
    assert Answer(relay.feed(stream)).calls[0]["arguments"] == '{"rec": "Tr'
    assert relay.seen.error is not None


def completion(**message: Any) -> dict[str, Any]:
    """A whole answer."""
    return {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}]}  # fmt: skip


def test_a_whole_answer_is_mended() -> None:
    """The same repairs in a plain body; unknown fields of a call are kept."""
    given_call = {"id": "x", "type": "function", "extra": 1, "function": {"name": "look", "arguments": '{"rec": "True"}'}}  # fmt: skip
    body = completion(content="So", tool_calls=[given_call])
    mended: list[Mended] = []
    assert mend_completion(body, rules(), mended)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "So"
    assert choice["message"]["tool_calls"] == [
        {**given_call, "function": {"name": "look", "arguments": '{"rec": true}'}}
    ]
    assert [one.became.value for one in mended] == ["repaired"]
    body = completion(content=HERMES)
    assert mend_completion(body, rules(), mended)
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
    body = completion(content="Hello")
    before = json.dumps(body)
    assert not mend_completion(body, rules(), mended)
    assert json.dumps(body) == before
    body = completion(
        tool_calls=[{"id": "x", "function": {"name": "look", "arguments": {"rec": 1}}}]
    )
    mend_completion(body, rules(), mended)
    assert json.loads(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


def test_neutral_events_are_mended() -> None:
    """As they come from Ollama's native answers: whole calls, or text that is one."""
    mended: list[Mended] = []
    events: list[Event] = [ToolCallDelta(0, "x", "look", '{"rec": "True"}'), Finished("stop"), StreamEnd()]  # fmt: skip
    out = EventMender(rules(), mended).mend(events)
    pieces = [event for event in out if isinstance(event, ToolCallDelta)]
    assert "".join(event.arguments for event in pieces) == '{"rec": true}'
    assert out[-2:] == [Finished("tool_calls"), StreamEnd()]
    mender = EventMender(rules(), mended)
    out = [event for sign in HERMES for event in mender.mend([TextDelta(sign)])]
    assert out == []
    out = mender.mend([Finished("stop"), StreamEnd()])
    assert isinstance(out[0], ToolCallDelta)
    assert out[1:] == [Finished("tool_calls"), StreamEnd()]
    mender = EventMender(rules(), mended)
    assert mender.mend([TextDelta("<tool")]) == []
    assert mender.broken() == [TextDelta("<tool")]


# The loop guard in relays


@given(st.lists(st.integers(0, 30_000), max_size=8))
def test_a_loop_is_ended_in_the_stream(at: list[int]) -> None:
    """By a chunk with `length`, the announcement and the end; nothing goes on after it."""
    stream = sse(ROLE, *[chunk({"content": LOOP})] * 400)
    relay = VerbatimRelay(OPENAI, watch=LoopWatch(), late=lambda: {"warnings": ["w"]})
    out = b""
    for data in pieces(stream, [*at, *range(0, len(stream), 4000)]):
        out += relay.feed(data)
        if relay.seen.ended_by_us:
            break
    assert relay.seen.ended_by_us == "loop"
    assert (relay.seen.closed, relay.seen.finish_reason) == (True, "length")
    values = values_of(out)
    assert values[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert {values[-1][name] for name in ("id", "model", "strange") if name != "strange"} == {
        "c1",
        "m",
    }
    assert out.endswith(b': penstock {"warnings":["w"]}\ndata: [DONE]\n\n')
    assert 4096 < len(Answer(out).text) < 4096 + 3000
    assert relay.end() == b""


def test_a_loop_that_ended_by_itself_is_left_alone() -> None:
    """What has its finish reason gets no second one."""
    stream = sse(
        ROLE, *[chunk({"content": LOOP})] * 119, chunk({"content": LOOP * 9}), chunk({}, "stop")
    )
    relay = VerbatimRelay(OPENAI, watch=LoopWatch())
    out = relay.feed(stream)
    assert out == stream
    assert not relay.seen.ended_by_us


def test_tool_arguments_do_not_count_as_a_loop() -> None:
    """A file of equal lines that a model writes through a tool is its own business."""
    line = "I am sorry, but I cannot do that. "
    stream = sse(ROLE, chunk(call('{"city": "', id="x")), *[chunk(call(line))] * 1000, chunk(call('"}')), END, b"[DONE]")  # fmt: skip
    out, relay = relayed(stream, watch=LoopWatch())
    assert out == stream
    assert not relay.seen.ended_by_us


def test_a_loop_in_the_reasoning_counts() -> None:
    """And what is held of a call is let go before the end."""
    stream = sse(ROLE, *[chunk({"reasoning_content": LOOP})] * 400)
    relay = VerbatimRelay(OPENAI, watch=LoopWatch())
    relay.feed(stream)
    assert relay.seen.ended_by_us
    mending = MendingRelay(OPENAI, rules(), watch=LoopWatch())
    out = mending.feed(sse(ROLE, chunk(call('{"rec": "T', id="x"))) + stream)
    assert Answer(out).calls[0]["arguments"] == '{"rec": "T'
    assert Answer(out).reason == "length"


def test_loops_in_values_and_events() -> None:
    """The guard where chunks are folded into one body, and where a dialect is translated."""
    watch = ValueWatch(chat=True)
    assert any(watch.add(chunk({"content": LOOP})) for _ in range(400))
    assert not any(ValueWatch(chat=True).add(chunk(call(LOOP))) for _ in range(400))
    watch = ValueWatch(chat=False)
    value = {"choices": [{"index": 0, "text": LOOP, "finish_reason": None}]}
    assert any(watch.add(value) for _ in range(400))
    events = EventWatch()
    out: list[Event] = []
    while not events.looped:
        out = events.cut([TextDelta(LOOP)])
    assert out == [TextDelta(LOOP), Finished("length"), StreamEnd()]


# Through a gateway


def played(*chunks: Any) -> list[Any]:
    """A script of a good stream."""
    return [CHUNKED_HEAD, *(event(value) for value in chunks), event(b"[DONE]"), piece(b"")]


async def metrics_of(here: Here) -> str:
    """The metrics as text."""
    return (await here.http.get("/metrics")).text


CALLS = [ROLE, chunk(call('{"rec": ', id="x")), chunk(call('"True"}')), chunk({}, "stop")]


@on_both_loops
def test_a_repair_is_announced(run: Run) -> None:
    """In the header of a plain answer, late in a stream, in the record and in the metrics."""

    async def main() -> None:
        async with ScriptedLlama(played(*CALLS)) as server, gateway_here(server.url) as here:
            plain = await here.chat(tools=TOOLS)
            assert plain.headers["penstock-repaired"] == "1"
            choice = plain.json()["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"rec": true}'
            record = (await here.http.get(f"/penstock/requests/{plain.headers['penstock-request-id']}")).json()  # fmt: skip
            (change,) = [c for c in record["changes"] if c["step"] == "repair"]
            assert change["field"] == "tool_calls[0].function.arguments"
            assert change["detail"] == 'arguments.rec: "True" -> true'
            streamed = await here.chat(tools=TOOLS, stream=True)
            late = next(
                line for line in streamed.text.splitlines() if line.startswith(": penstock")
            )
            assert json.loads(late.removeprefix(": penstock "))["repaired"] == 1
            assert Answer(streamed.content).calls[0]["arguments"] == '{"rec": true}'
            text = await metrics_of(here)
            assert 'penstock_toolcall_repairs_total{model="m",upstream="box",verdict="repaired"} 2.0' in text  # fmt: skip

    run(main())


@on_both_loops
def test_a_request_without_tools_gets_what_the_server_says(run: Run) -> None:
    """Nothing is held, nothing is repaired, not even a call."""

    async def main() -> None:
        async with ScriptedLlama(played(*CALLS)) as server, gateway_here(server.url) as here:
            streamed = await here.chat(stream=True)
            assert Answer(streamed.content).calls[0]["arguments"] == '{"rec": "True"}'
            assert Answer(streamed.content).reason == "stop"

    run(main())


@on_both_loops
def test_both_settings_are_obeyed(run: Run) -> None:
    """`tool_calls.repair` and `tool_calls.recover` each switch their half off."""

    async def main() -> None:
        text = [chunk({"role": "assistant", "content": HERMES}), chunk({}, "stop")]
        off = {"tool_calls": {"repair": False, "recover": False}}
        async with ScriptedLlama(played(*CALLS), played(*text)) as server:
            async with gateway_here(server.url, settings=off) as here:
                answer = Answer((await here.chat(tools=TOOLS, stream=True)).content)
                assert answer.calls[0]["arguments"] == '{"rec": "True"}'
                answer = Answer((await here.chat(tools=TOOLS, stream=True)).content)
                assert answer.text == HERMES

    run(main())


@on_both_loops
def test_cut_arguments_are_a_warning(run: Run) -> None:
    """In the header of a plain answer, late in a stream."""
    cut = [chunk(call('{"city": "Os', id="x")), chunk({}, "tool_calls")]

    async def main() -> None:
        async with ScriptedLlama(played(*cut)) as server, gateway_here(server.url) as here:
            plain = await here.chat(tools=TOOLS)
            assert "cut off" in plain.headers["penstock-warning"]
            assert "penstock-repaired" not in plain.headers
            assert plain.json()["choices"][0]["finish_reason"] == "length"
            streamed = await here.chat(tools=TOOLS, stream=True)
            assert 'penstock {"request_id"' in streamed.text
            assert "cut off" in streamed.text

    run(main())


@on_both_loops
def test_a_server_that_answers_plain_is_mended_too(run: Run) -> None:
    """Some answer in one body although a stream was asked for."""
    body = completion(tool_calls=[{"id": "x", "type": "function", "function": {"name": "look", "arguments": '{"rec": "no"}'}}])  # fmt: skip

    async def main() -> None:
        async with ScriptedLlama([reply(body)]) as server, gateway_here(server.url) as here:
            plain = await here.chat(tools=TOOLS)
            message = plain.json()["choices"][0]["message"]
            assert message["tool_calls"][0]["function"]["arguments"] == '{"rec": false}'
            assert plain.headers["penstock-repaired"] == "1"

    run(main())


@on_both_loops
@pytest.mark.parametrize("stream", [True, False])
def test_a_loop_ends_and_frees_the_slot(run: Run, stream: bool) -> None:
    """The upstream connection is closed, the answer is whole and says `length`, the request a success."""

    async def main() -> None:
        # Two servers' worth of loop, and then it would go on for ever.
        script = [CHUNKED_HEAD, *[event(chunk({"content": LOOP}))] * 300, GONE]
        async with ScriptedLlama(script, played(*CALLS)) as server, gateway_here(server.url) as here:  # fmt: skip
            answer = await here.chat(stream=stream)
            assert answer.status_code == 200
            if stream:
                assert answer.text.endswith("data: [DONE]\n\n")
                assert Answer(answer.content).reason == "length"
                late = [line for line in answer.text.splitlines() if line.startswith(": penstock")]
                assert "repeated itself" in late[-1]
            else:
                choice = answer.json()["choices"][0]
                assert choice["finish_reason"] == "length"
                assert len(choice["message"]["content"]) > 4096
                assert "repeated itself" in answer.headers["penstock-warning"]
            record = (await here.http.get(f"/penstock/requests/{answer.headers['penstock-request-id']}")).json()  # fmt: skip
            assert record["outcome"] == "success"
            assert record["loop_ended"] is True
            async with asyncio.timeout(5):
                while here.runtime.fleet.get("box").limiter.running:
                    await asyncio.sleep(0.005)
            assert 'penstock_loops_ended_total{model="m",upstream="box"} 1.0' in await metrics_of(
                here
            )

    run(main())


@on_both_loops
def test_the_loop_guard_can_be_switched_off(run: Run) -> None:
    """Then a loop goes on to its own end."""

    async def main() -> None:
        script = played(*[chunk({"content": LOOP})] * 300, chunk({}, "stop"))
        off = {"loop_guard": {"enabled": False}}
        async with ScriptedLlama(script) as server, gateway_here(server.url, settings=off) as here:
            answer = await here.chat(stream=True)
            assert Answer(answer.content).text == LOOP * 300
            assert Answer(answer.content).reason == "stop"

    run(main())


@on_both_loops
def test_a_stream_that_dies_in_a_call_completes_nothing(run: Run) -> None:
    """The client gets the torso, an error event, and no end."""

    async def main() -> None:
        script = [CHUNKED_HEAD, event(ROLE), event(chunk(call('{"city": "O', id="x"))), event(chunk(call('", "rec": "Tr'))), CLOSE]  # fmt: skip
        async with ScriptedLlama(script) as server, gateway_here(server.url) as here:
            answer = await here.chat(tools=TOOLS, stream=True)
            assert "[DONE]" not in answer.text
            assert '"code":"broken_stream"' in answer.text
            told = [value for value in values_of(answer.content) if "error" not in value]
            arguments = Answer(sse(*told)).calls[0]["arguments"]
            assert '{"city": "O", "rec": "Tr'.startswith(arguments)

    run(main())
