"""Counting by the server: in few questions, bounded in time, and None whenever something is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from loops import Run, on_both_loops
from penstock.adapters import counting
from penstock.domain.upstream import ServerKind as K
from penstock.servers import spec
from penstock.servers.counting import SEPARATOR
from penstock.tokens import Overhead

URL = "http://127.0.0.1:1"
Ask = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


class Words:
    """A llama.cpp whose tokens are words, with a template of its own; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.at_once = self.most_at_once = 0
        self.refuses: set[str] = set()
        self.status = 200

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        body = json.loads(request.content)
        path = request.url.path
        self.asked.append((path, body))
        self.headers.append(request.headers)
        if path in self.refuses or self.status != 200:
            return httpx.Response(
                404 if path in self.refuses else self.status, json={"error": "no"}
            )
        if path == "/tokenize":
            tokens: list[int] = []
            for piece in (
                body["content"] if isinstance(body["content"], list) else [body["content"]]
            ):
                tokens.extend([piece] if isinstance(piece, int) else [1] * len(piece.split()))
            return httpx.Response(200, json={"tokens": tokens})
        roles = [message["role"] for message in body["messages"]]
        if roles[-2:] == ["user", "user"]:
            return httpx.Response(400, json={"error": "roles must alternate"})
        text = self.rendered(body)
        if path == "/apply-template":
            return httpx.Response(200, json={"prompt": text})
        return httpx.Response(200, json={"input_tokens": len(text.split()) + 1})

    @staticmethod
    def rendered(body: Any) -> str:
        """Two words around a user's text, three around another, one at the end; tools with a preamble."""
        tools = json.dumps(body.get("tools"), separators=(",", ":"))
        lines = [f"You may call : {tools}"] if body.get("tools") else []
        for message in body["messages"]:
            calls = [
                f"<call> {call['function']['name']} {call['function']['arguments']}"
                for call in message.get("tool_calls", ())
            ]
            start = "<|" if message["role"] == "user" else f"<| {message['role']}"
            lines.append(" ".join([start, message["content"], *calls, "|>"]))
        return " ".join([*lines, "answer:"])


def ask(run: Run, server: Any, question: Ask) -> Any:
    """The answer to a question to a server that is played."""

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
            return await question(client)

    return run(main())


def texts(*wanted: str, kind: K = K.LLAMACPP, **more: Any) -> Ask:
    return lambda client: counting.count_texts(URL, spec(kind), "m", wanted, client=client, **more)


@on_both_loops
def test_texts_are_counted_in_one_question(run: Run) -> None:
    """Several texts, each once, in one question; an empty one costs nothing."""
    server = Words()
    assert ask(run, server, texts("one", "two words", "", "one", api_key="k")) == [1, 2, 0, 1]
    assert [path for path, _ in server.asked] == ["/tokenize"]
    assert server.asked[0][1]["content"] == ["one", SEPARATOR, "two words"]
    assert server.headers[0]["authorization"] == "Bearer k"


@on_both_loops
def test_many_texts_go_in_groups_a_few_at_a_time(run: Run) -> None:
    """Neither a thousand questions, nor all at once, nor one of unbounded size."""
    server = Words()
    wanted = [f"{number} " + "x " * (number % 7) for number in range(2000)]
    counts = ask(run, server, texts(*wanted))
    assert counts == [len(text.split()) for text in wanted]
    assert len(server.asked) == 4
    large = ["y " * 150_000 + str(number) for number in range(6)]
    assert ask(run, server, texts(*large)) == [150_001] * 6
    assert len(server.asked) == 4 + 6
    assert server.most_at_once <= 4


@on_both_loops
@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_refusal_is_none(run: Run, status: int) -> None:
    """A server that refuses, at any status, has not counted."""
    server = Words()
    server.status = status
    assert ask(run, server, texts("one")) is None
    assert (
        ask(run, server, lambda c: counting.learn_overhead(URL, spec(K.LLAMACPP), "m", client=c))
        is None
    )


@on_both_loops
def test_what_cannot_count_is_not_asked(run: Run) -> None:
    """For a kind that cannot count, no request leaves."""
    server = Words()
    assert ask(run, server, texts("one", kind=K.LMSTUDIO)) is None
    assert server.asked == []


@on_both_loops
def test_time_is_bounded(run: Run) -> None:
    """A server that does not answer costs no more than was given."""

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return httpx.Response(200)

    for question in (
        texts("one", within_s=0.01),
        lambda c: counting.count_tools(
            URL, spec(K.LLAMACPP), "m", {"tools": [1]}, client=c, within_s=0.01
        ),
        lambda c: counting.learn_overhead(URL, spec(K.LLAMACPP), "m", client=c, within_s=0.01),
        lambda c: counting.count_chat(URL, spec(K.LLAMACPP), "m", {}, client=c, within_s=0.01),
        lambda c: counting.fetch_vocabulary(URL, spec(K.OLLAMA), "m", client=c, within_s=0.01),
    ):
        assert ask(run, never, question) is None


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: httpx.Response(200, content=b"<html>"), id="no JSON"),
        pytest.param(
            lambda _: httpx.Response(200, json={"tokens": [1, 2, 3]}), id="one count for two"
        ),
        pytest.param(
            lambda r: (_ for _ in ()).throw(httpx.ReadError("gone", request=r)), id="gone"
        ),
    ],
)
def test_a_bad_answer_is_none(run: Run, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """What is no count is no count."""
    assert ask(run, answer, texts("one", "two")) is None


@on_both_loops
def test_the_template_is_measured(run: Run) -> None:
    """Each role's share, calls, and the preamble of tools, though two users in a row are refused."""
    server = Words()
    found = ask(
        run, server, lambda c: counting.learn_overhead(URL, spec(K.LLAMACPP), "m", client=c)
    )
    assert isinstance(found, Overhead)
    assert found.measured
    # A pair is 2 + 3; it cannot be told apart here, so the larger half goes to the user.
    assert (found.roles["user"], found.roles["assistant"], found.roles["system"]) == (3, 2, 3)
    assert found.base == 1 + 1 + 2 - 3
    assert found.per_call == 2
    assert found.toolset == 4
    assert not found.keeps_thinking  # it renders contents only
    one = found.base + found.roles["user"] + 1
    assert one == len(server.rendered({"messages": [{"role": "user", "content": "x"}]}).split()) + 1


@on_both_loops
@pytest.mark.parametrize("older", [False, True])
def test_tools_cost_what_they_add(run: Run, older: bool) -> None:
    """Rendered with them less without; older servers render, and the text is counted."""
    server = Words()
    if older:
        server.refuses = {"/v1/chat/completions/input_tokens"}
    body = {"tools": [{"name": "a b c"}], "messages": [{"role": "user", "content": "not sent"}]}
    cost = ask(
        run, server, lambda c: counting.count_tools(URL, spec(K.LLAMACPP), "m", body, client=c)
    )
    assert cost == len(["You", "may", "call", ":", "a", "b", "c"])
    assert "not sent" not in json.dumps([body for _, body in server.asked])


@on_both_loops
def test_tools_are_counted_as_text_where_nothing_is_rendered(run: Run) -> None:
    """A server that counts texts only counts the definitions."""

    def kobold(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"value": len(json.loads(request.content)["prompt"])})

    body = {"tools": [{"name": "look"}]}
    cost = ask(
        run, kobold, lambda c: counting.count_tools(URL, spec(K.KOBOLDCPP), "m", body, client=c)
    )
    assert cost == len('[{"name":"look"}]')


@on_both_loops
def test_a_vocabulary_is_read_from_ollama(run: Run) -> None:
    """Asked for in full, and only from Ollama."""
    info = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.merges": ["l l", "h e", "he ll", "hell o"],
    }  # fmt: skip

    def show(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content) == {"model": "m", "verbose": True}
        return httpx.Response(200, json={"model_info": info})

    async def read(client: httpx.AsyncClient) -> Any:
        found = await counting.fetch_vocabulary(URL, spec(K.OLLAMA), "m", client=client)
        assert found is not None
        assert await counting.fetch_vocabulary(URL, spec(K.VLLM), "m", client=client) is None
        return await counting.count_with(found, ["hello", "hexx", ""])

    assert ask(run, show, read) == [1, 3, 0]
    assert (
        ask(
            run,
            lambda _: httpx.Response(200, json={"model_info": [1]}),
            lambda c: counting.fetch_vocabulary(URL, spec(K.OLLAMA), "m", client=c),
        )
        is None
    )


@on_both_loops
def test_a_unix_socket_has_an_address_too(run: Run) -> None:
    """The address of an upstream on a socket is `localhost` in the request."""
    server = Words()

    async def question(client: httpx.AsyncClient) -> Any:
        return await counting.count_texts(
            "unix:///run/llama.sock", spec(K.LLAMACPP), "m", ["one"], client=client
        )

    assert ask(run, server, question) == [1]
    assert server.headers[0]["host"] == "localhost"
