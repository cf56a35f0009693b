"""`/api/chat` and `/api/generate` as clients send them -> the neutral request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dialects.base import Asked, ClientDialect
from penstock.dialects.ollama.chat import CHAT
from penstock.dialects.ollama.generate import GENERATE, completion_body, needs_completion
from penstock.dialects.ollama.upstream import render_chat
from penstock.dialects.openai.body import render_request
from penstock.dialects.openai.request import parse_request
from penstock.domain.chat import ImagePart, ResponseFormat, TextPart, Tool
from penstock.errors import ErrorCode, RequestError

PNG = "iVBORw0KGgoAAAANSUhEUg=="
CLIENTS = Path(__file__).parents[3] / "fixtures" / "clients"


def chat(**body: Any) -> Asked:
    """A request for a chat, read."""
    return CHAT.read({"model": "m", "messages": [{"role": "user", "content": "hi"}], **body})


def sent_by(client: str, name: str) -> dict[str, Any]:
    """The body of a request that a client sends."""
    value: dict[str, Any] = json.loads((CLIENTS / client / f"{name}.json").read_text("utf-8"))
    body: dict[str, Any] = value["body"]
    return body


def test_a_plain_chat() -> None:
    """A stream unless it says otherwise; its counts are always wanted; nothing is announced."""
    asked = chat()
    assert (asked.chat.stream, asked.chat.include_usage, asked.changes, dict(asked.echo)) == (
        True,
        True,
        (),
        {},
    )
    assert asked.chat.messages[0].parts == (TextPart("hi"),)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        pytest.param({"stream": False}, "stream", False, id="plain"),
        pytest.param({"format": "json"}, "response_format", ResponseFormat("json_object"), id="any JSON"),
        pytest.param({"format": {"type": "object"}}, "response_format", ResponseFormat("json_schema", {"type": "object"}), id="JSON by a schema"),
        pytest.param({"format": ""}, "response_format", ResponseFormat(), id="an empty format is none"),
        pytest.param({"think": True}, "reasoning", True, id="thinking"),
        pytest.param({"think": False}, "reasoning", False, id="no thinking"),
        pytest.param({"think": "high"}, "reasoning", "high", id="an effort"),
        pytest.param({"think": None}, "reasoning", None, id="null is not given"),
        pytest.param({"keep_alive": "5m"}, "keep_alive", "5m", id="a time to stay"),
        pytest.param({"keep_alive": -1}, "keep_alive", -1, id="for ever"),
        pytest.param({"options": {"temperature": 0, "top_k": 20.0, "seed": 7}}, "sampling", {"temperature": 0, "top_k": 20, "seed": 7}, id="sampling, falsy values too"),
        pytest.param({"options": {"num_predict": 9}}, "max_output_tokens", 9, id="a limit"),
        pytest.param({"options": {"num_predict": -1}}, "max_output_tokens", None, id="no limit"),
        pytest.param({"options": {"num_predict": -2}}, "max_output_tokens", None, id="until the window is full"),
        pytest.param({"options": {"num_predict": 0}}, "max_output_tokens", None, id="nought is no limit"),
        pytest.param({"options": {"stop": ["a", "b"]}}, "stop", ("a", "b"), id="stops"),
        pytest.param({"options": {"stop": "a"}}, "stop", ("a",), id="one stop alone"),
        pytest.param({"options": {"num_ctx": 8192, "num_gpu": 9, "min_p": 0.1}}, "extra", {"options": {"num_ctx": 8192, "num_gpu": 9}}, id="what only Ollama has"),
        pytest.param({"options": None}, "extra", {}, id="no options"),
        pytest.param({"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]}, "tools", (Tool("f", "d", {"type": "object"}),), id="tools"),
    ],
)  # fmt: skip
def test_what_a_chat_says(body: dict[str, Any], field: str, value: Any) -> None:
    """Each of Ollama's words has its neutral one."""
    assert getattr(chat(**body).chat, field) == value
    prompt = {"model": "m", "prompt": "hi", **body}
    if field != "tools":
        assert getattr(GENERATE.read(prompt).chat, field) == value


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "x"}, "messages"), ({"messages": [1]}, "messages[0]"), ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"), ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "images": "x"}]}, "messages[0].images"), ({"messages": [{"role": "user", "images": [1]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": ["data:image/png,x"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"), ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages[0].tool_calls[0].function.name"),
        ({"tools": {}}, "tools"), ({"tools": [{}]}, "tools[0]"), ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": "f", "description": 1}}]}, "tools[0].function.description"),
        ({"stream": "yes"}, "stream"), ({"format": "xml"}, "format"), ({"format": 1}, "format"), ({"think": 1}, "think"), ({"keep_alive": True}, "keep_alive"),
        ({"keep_alive": []}, "keep_alive"), ({"options": []}, "options"), ({"options": {"temperature": "0.3"}}, "options.temperature"),
        ({"options": {"seed": True}}, "options.seed"), ({"options": {"top_p": float("inf")}}, "options.top_p"), ({"options": {"seed": 1e300}}, "options.seed"),
        ({"options": {"num_predict": "9"}}, "options.num_predict"), ({"options": {"stop": [1]}}, "options.stop"), ({"model": 1}, "model"),
        ({"logprobs": 1}, "logprobs"), ({"top_logprobs": 21}, "top_logprobs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    """A wrong field is refused by its name, as Ollama itself does."""
    with pytest.raises(RequestError) as caught:
        chat(**body)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, param)
    assert caught.value.message.startswith(f"{param}: expected ")


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def test_arguments_nested_to_any_depth_are_refused_not_fallen_over() -> None:
    """What cannot be written again is the client's mistake, not a defect."""
    call = {"function": {"name": "f", "arguments": {"a": nested(900)}}}
    with pytest.raises(RequestError, match=r"tool_calls\[0\].function.arguments"):
        chat(messages=[{"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize(
    ("image", "part"),
    [
        pytest.param(PNG, ImagePart(PNG, "image/png"), id="a PNG by its first bytes"),
        pytest.param("/9j/4AAQ", ImagePart("/9j/4AAQ", "image/jpeg"), id="a JPEG"),
        pytest.param("UklGRiQ", ImagePart("UklGRiQ", "image/webp"), id="a WebP"),
        pytest.param("data:image/gif;base64,R0lGOD", ImagePart("R0lGOD", "image/gif"), id="a data URL"),
    ],
)  # fmt: skip
def test_images(image: str, part: ImagePart) -> None:
    """Ollama names no kind of image; OpenAI's servers want one."""
    asked = chat(messages=[{"role": "user", "content": "what?", "images": [image]}])
    assert asked.chat.messages[0].parts == (TextPart("what?"), part)


def call(name: str, **more: Any) -> dict[str, Any]:
    """A call as clients send it back."""
    return {"function": {"name": name, "arguments": {"n": 1}}, **more}


@pytest.mark.parametrize(
    ("messages", "calls", "results"),
    [
        pytest.param([[call("a"), call("b")], {}, {}], ["call_0", "call_1"], ["call_0", "call_1"], id="by order"),
        pytest.param([[call("a"), call("b")], {"tool_name": "b"}, {"tool_name": "a"}], ["call_0", "call_1"], ["call_1", "call_0"], id="by name"),
        pytest.param([[call("a"), call("a")], {"tool_name": "a"}, {"tool_name": "a"}], ["call_0", "call_1"], ["call_0", "call_1"], id="two of one name"),
        pytest.param([[call("a")], {"name": "a"}, [call("a")], {"name": "a"}], ["call_0", "call_1"], ["call_0", "call_1"], id="two rounds"),
        pytest.param([[call("a", id="x"), call("b")], {"tool_call_id": "x"}, {}], ["x", "call_0"], ["x", "call_0"], id="ids that were given"),
        pytest.param([[call("a", id="call_0"), call("b")], {}, {}], ["call_0", "call_1"], ["call_0", "call_1"], id="no id twice"),
        pytest.param([[call("a")], {"tool_name": "other"}], ["call_0"], ["call_0"], id="a name that nobody has"),
        pytest.param([{}], [], ["call_0"], id="a result without a call"),
    ],
)  # fmt: skip
def test_calls_and_results_are_linked(
    messages: list[Any], calls: list[str], results: list[str]
) -> None:
    """A result belongs to the call of its name, else to the first that has none yet."""
    sent = [
        {"role": "assistant", "tool_calls": m} if isinstance(m, list)
        else {"role": "tool", "content": "r", **m} for m in messages
    ]  # fmt: skip
    read = chat(messages=sent).chat.messages
    assert [c.id for m in read for c in m.tool_calls] == calls
    assert [m.tool_call_id for m in read if m.role == "tool"] == results


def test_ids_stay_when_the_conversation_grows() -> None:
    """What was sent before renders to the same bytes: prefix caches live from that."""
    sent = [
        {"role": "assistant", "tool_calls": [call("a")]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "tool_calls": [call("b")]},
        {"role": "tool", "content": "r"},
    ]
    whole = chat(messages=sent).chat.messages
    for length in range(1, 4):
        assert chat(messages=sent[:length]).chat.messages == whole[:length]


def test_what_comes_back_of_an_answer_is_kept() -> None:
    """Thinking, and arguments as the client wrote them."""
    sent = {"role": "Assistant", "content": "", "thinking": "hm", "tool_calls": [
        {"function": {"name": "f", "arguments": '{"half": '}},
        {"function": {"name": "g", "arguments": {"b": 1, "a": [True]}}},
        {"function": {"name": "h"}},
    ]}  # fmt: skip
    message = chat(messages=[sent]).chat.messages[0]
    assert (message.role, message.parts, message.reasoning) == ("assistant", (), "hm")
    arguments = [c.arguments for c in message.tool_calls]
    assert arguments == ['{"half": ', '{"b":1,"a":[true]}', "{}"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        pytest.param({"truncate": True, "shift": False}, ["shift", "truncate"], id="the server may not cut unseen"),
        pytest.param({"tool_choice": "auto", "stop": None}, ["tool_choice"], id="another dialect's field"),
        pytest.param({"penstock": {"priority": "low"}}, [], id="wishes are read elsewhere"),
        pytest.param({"logprobs": True, "top_logprobs": 2}, ["logprobs"], id="no place in the answer"),
        pytest.param({"messages": [{"role": "user", "content": "x", "timestamp": 1, "empty": None}, {"role": "user", "content": "x", "timestamp": 2}]}, ["messages[0].timestamp"], id="a field of messages, told once"),
        pytest.param({"options": {"num_ctx": 1}}, [], id="options are announced where the server is known"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_announced(body: dict[str, Any], fields: list[str]) -> None:
    """Nothing is dropped silently."""
    changes = chat(**body).changes
    assert [change.field for change in changes] == fields
    assert all(change.action == "dropped" and change.detail for change in changes)


@pytest.mark.parametrize(
    ("keep_alive", "wanted"),
    [
        (None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), (0.0, "unload"), ("0", "unload"), ("0s", "unload"), ("0h0m0.0s", "unload"),
        ("-0m", "unload"), ("0.5s", "load"), ("1h0m", "load"), ("nonsense", "load"), ("0" * 65 + "s", "load"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("dialect", "nothing"),
    [
        pytest.param(CHAT, {"messages": []}, id="no messages"),
        pytest.param(CHAT, {}, id="messages missing"),
        pytest.param(GENERATE, {"prompt": ""}, id="an empty prompt"),
        pytest.param(GENERATE, {"raw": True, "system": "s"}, id="no prompt, whatever else"),
    ],
)
def test_nothing_to_answer_loads_or_unloads(
    dialect: ClientDialect, nothing: dict[str, Any], keep_alive: Any, wanted: str
) -> None:
    """Without a message the model is loaded, and with a keep_alive of nought it is let go."""
    asked = dialect.read({"model": "m", "keep_alive": keep_alive, **nothing})
    assert (dict(asked.echo), asked.chat.messages) == ({"load": wanted}, ())


def test_a_prompt_is_a_chat() -> None:
    """System text, prompt and images; a context is another server's state."""
    asked = GENERATE.read(
        {"model": "m", "prompt": "p", "system": "s", "images": [PNG], "context": [1, 2], "raw": False, "suffix": ""}
    )  # fmt: skip
    assert [(m.role, m.text) for m in asked.chat.messages] == [("system", "s"), ("user", "p")]
    assert asked.chat.messages[1].parts[1] == ImagePart(PNG, "image/png")
    assert [(c.field, c.action) for c in asked.changes] == [("context", "dropped")]


@pytest.mark.parametrize("field", ["suffix", "template", "raw"])
def test_what_is_no_chat_is_told(field: str) -> None:
    """A suffix, a template and a raw prompt are refused by name where only a chat can be sent."""
    body = {"model": "m", "prompt": "p", field: True if field == "raw" else "x"}
    assert needs_completion(body)
    with pytest.raises(RequestError) as caught:
        GENERATE.read(body)
    assert (caught.value.param, bool(caught.value.hint)) == (field, True)
    assert needs_completion(body) in caught.value.message
    if field != "raw":
        with pytest.raises(RequestError, match=field):
            completion_body(body)


def test_a_raw_prompt_is_a_completion() -> None:
    """Sampling by logical names, the limit, the stops; what only Ollama has is announced."""
    body = {
        "model": "m", "prompt": "<|fim_prefix|>", "raw": True, "system": "s", "format": "json",
        "options": {"temperature": 0, "num_predict": 9, "stop": ["x"], "num_ctx": 4096},
    }  # fmt: skip
    completion, changes = completion_body(body)
    assert completion == {
        "model": "m", "prompt": "<|fim_prefix|>", "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0, "max_tokens": 9, "stop": ["x"], "response_format": {"type": "json_object"},
    }  # fmt: skip
    assert [change.field for change in changes] == ["system", "options.num_ctx"]
    with pytest.raises(RequestError, match="image"):
        completion_body({**body, "images": [PNG]})


# --- What real clients send ---


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for client in ("aider", "cline", "continue", "open-webui")
        for path in (CLIENTS / client).glob("*.json")
    ),
    ids=lambda path: f"{path.parent.name} {path.stem}",
)
def test_each_client_is_understood(path: Path) -> None:
    """Every request of every client in the fixtures is read, or known to be a completion."""
    request = json.loads(path.read_text("utf-8"))
    body = request["body"]
    if request["path"] == "/api/generate" and needs_completion(body):
        assert body.get("suffix") or body.get("raw")
        return
    asked = (CHAT if request["path"] == "/api/chat" else GENERATE).read(body)
    assert asked.changes == ()
    assert asked.chat.stream is body["stream"]
    options = body.get("options", {})
    kept = asked.chat.extra.get("options", {})
    assert kept.get("num_ctx") == options.get("num_ctx")
    said = {**kept, **asked.chat.sampling}
    for name, value in options.items():
        if value is not None and name not in ("num_predict", "stop"):
            assert said[name] == value


def test_continues_results_find_their_calls() -> None:
    """Continue sends neither ids nor names of tools back."""
    messages = CHAT.read(sent_by("continue", "documented-agent-turn")).chat.messages
    assert [c.id for c in messages[2].tool_calls] == ["call_0", "call_1"]
    assert [m.tool_call_id for m in messages[3:]] == ["call_0", "call_1"]


def test_aiders_window_is_a_wish_only() -> None:
    """A new num_ctx each time changes nothing else of the request."""
    first = CHAT.read(sent_by("aider", "documented-first-turn")).chat
    second = CHAT.read(sent_by("aider", "documented-second-turn")).chat
    assert first.extra["options"]["num_ctx"] != second.extra["options"]["num_ctx"]
    assert second.messages[: len(first.messages)] == first.messages
    sent = render_chat(second, model="m", options=second.sampling, max_output_tokens=None).body
    assert "num_ctx" not in sent["options"]


# --- Laws ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
MESSAGES = st.lists(
    VALUES
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
        optional=dict.fromkeys(("content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"), VALUES),
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("model", "prompt", "system", "images", "tools", "stream", "format", "options", "think", "keep_alive", "logprobs", "top_logprobs", "raw", "suffix", "template", "context", "other"), VALUES),
        "messages": MESSAGES | VALUES,
    },
)  # fmt: skip


@given(BODIES, st.sampled_from([CHAT, GENERATE]))
def test_any_body_is_read_or_refused(body: dict[str, Any], dialect: ClientDialect) -> None:
    """Whatever a client sends, it is a request or the client's mistake."""
    refused = ""
    try:
        dialect.read(body)
    except RequestError as error:
        refused = error.param or "nothing is named"
    assert refused != "nothing is named"


TEXTS = st.text(max_size=12)
NATIVE_CALLS = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g"]), "arguments": st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9), max_size=2)})}
    ),
    min_size=1, max_size=3,
)  # fmt: skip
NATIVE_MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS, "images": st.just([PNG])}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS, "thinking": TEXTS.filter(bool)}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS, "tool_calls": NATIVE_CALLS}),
    st.fixed_dictionaries({"role": st.just("tool"), "content": TEXTS, "tool_name": st.sampled_from(["f", "g"])}),
)  # fmt: skip


@given(
    messages=st.lists(NATIVE_MESSAGES, min_size=1, max_size=6),
    options=st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 2),
            "top_k": st.integers(0, 99),
            "num_predict": st.integers(1, 99),
            "stop": st.lists(TEXTS, min_size=1, max_size=2),
            "num_thread": st.integers(1, 9),
        },
    ),
    more=st.fixed_dictionaries(
        {},
        optional={"think": st.booleans(), "format": st.just("json") | st.just({"type": "array"})},
    ),
)
def test_there_and_back_keeps_the_meaning(
    messages: list[dict[str, Any]], options: dict[str, Any], more: dict[str, Any]
) -> None:
    """Said in OpenAI's dialect and again in Ollama's, a request means what it meant; ids of calls may be added."""
    body = {"model": "m", "messages": messages, "options": options, **more}
    asked = CHAT.read(body).chat
    again = parse_request(render_request(asked))
    sent = render_chat(
        again, model="m", options=asked.sampling, max_output_tokens=again.max_output_tokens
    ).body
    for message in sent["messages"]:
        message.pop("tool_call_id", None)
    assert sent.pop("options", {}) == options
    assert sent == {"model": "m", "messages": messages, **more, "stream": True, "truncate": False}
