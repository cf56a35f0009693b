"""
Gateways in front of real llama.cpp and real Ollama, with models that say a given text: the same names in front
of each, so that a scenario needs not know where it is played.

| model | says |
|---|---|
| `say` | one sentence |
| `calls` | a thought, then one tool call |
| `two` | two tool calls |
| `think` | a thought, then the sentence |
| `embed` | nothing; it embeds |
| `slow` | what comes, slowly enough to be caught in the act |
| `gone/any` | nothing: nobody listens there |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import parts
from gateways import RunningGateway, free_port
from penstock.adapters.tiny_templates import THINKING_TEMPLATE
from sdk_clients import SDKS, Sdk

KEY = "key-of-the-tests"
WINDOW = 2048
BATCH = 128
"""Tokens that the slow llama.cpp works on at a time."""
SENTENCE = "It is fine in Oslo."
THOUGHT = "Only a look helps."
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OTHER_CALL = CALL.replace("Oslo", "Bergen")
_THINKS = f"<think>\n{THOUGHT}\n</think>\n\n"
SAYS = {
    "say": SENTENCE,
    "calls": _THINKS + CALL,
    "two": f"{CALL}\n{OTHER_CALL}",
    "think": _THINKS + SENTENCE,
}
_OLLAMA_TEMPLATE = """\
{{ if .Tools }}<|im_start|>system
{{ range .Tools }}{{ . }}{{ end }}<|im_end|>
{{ end }}{{ range $place, $message := .Messages }}<|im_start|>{{ .Role }}
%s{{ .Content }}{{ if .ToolCalls }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
_OLLAMA_THOUGHT = "{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}"
"""With this in its template, Ollama says that the model thinks and takes the thought out of the text."""


@dataclass(frozen=True, slots=True)
class Front:
    """
    A gateway in front of one kind of server.

    Attributes:
        kind: `llamacpp` or `ollama`.
        gateway: reaches all models; `narrow` only `slow`, one request at a time, nobody waits, and heartbeats
            come twenty times a second.
        servers: llama.cpp by model; empty for Ollama.
        ollama: None for llama.cpp.
        clients: the SDKs as clients of the larger gateway.
        http: for questions to servers and gateways.
    """

    kind: str
    gateway: RunningGateway
    narrow: RunningGateway
    servers: dict[str, parts.LlamaCpp]
    ollama: parts.Ollama | None
    clients: dict[str, Sdk]
    http: httpx.Client

    def id_of(self, model: str) -> str:
        """As the server lists it."""
        return model if self.ollama is None else f"{model}:latest"

    def prompt_tokens(
        self, model: str, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()
    ) -> int:
        """What the server itself counts for a conversation in OpenAI's dialect, asked past the gateway."""
        body: dict[str, Any] = {"model": model, "messages": list(messages), "max_tokens": 1}
        if tools:
            body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        url = self.servers[model].url if self.ollama is None else self.ollama.url
        answer = parts.fetch(f"{url}/v1/chat/completions", body)
        return int(answer["usage"]["prompt_tokens"])

    def busy(self) -> int:
        """Requests that the slow model works on: llama.cpp by its own word, Ollama by the gateway's."""
        if self.ollama is None:
            return sum(slot["is_processing"] for slot in self._slots())
        return sum(self._in_flight(gateway) for gateway in (self.gateway, self.narrow))

    def processed(self) -> int:
        """Prompt tokens that the slow llama.cpp has computed for what it works on."""
        working = [slot for slot in self._slots() if slot["is_processing"]]
        return sum(slot.get("n_prompt_tokens_processed", 0) for slot in working)

    def decoded(self) -> int:
        """Tokens that the slow llama.cpp has generated for what it works on."""
        return sum(
            token.get("n_decoded", 0)
            for slot in self._slots()
            if slot["is_processing"]
            for token in slot.get("next_token", ())
        )

    def in_flight(self) -> int:
        """Permits that are out, in the larger gateway."""
        return self._in_flight(self.gateway)

    def _slots(self) -> list[dict[str, Any]]:
        """By a client that is kept: this is asked fifty times a second."""
        return list(self.http.get(f"{self.servers['slow'].url}/slots").json())

    def _in_flight(self, gateway: RunningGateway) -> int:
        headers = {"authorization": f"Bearer {KEY}"}
        status = self.http.get(f"{gateway.url}/penstock/status", headers=headers)
        return sum(u["concurrency"]["in_flight"] for u in status.json()["upstreams"])

    def end_slow(self) -> None:
        """The server of the slow model dies."""
        if self.ollama is None:
            self.servers["slow"].kill()
        else:
            self.ollama.end()

    def revive_slow(self) -> None:
        """It is there again."""
        if self.ollama is None:
            self.servers["slow"].restart()
        else:
            self.ollama.begin()


def _settings(upstreams: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "listen": {"client_keys": [{"name": "tests", "key": KEY}]},
        "upstreams": upstreams,
        "breaker": {"enabled": False},  # servers that are down are asked again and again here
        "retry": {"local": {"attempts": 2, "first_delay_s": 0.05}},
        **more,
    }


_NARROW = {
    "concurrency": {"max_concurrency": 1, "queue_length": 0},
    "timeouts": {"heartbeat_s": 0.05},
}


def _gone() -> dict[str, Any]:
    return {"name": "gone", "url": f"http://127.0.0.1:{free_port()}"}


def _clients(
    stack: contextlib.ExitStack, gateway: RunningGateway
) -> tuple[dict[str, Sdk], httpx.Client]:
    made: dict[str, Sdk] = {name: sdk(gateway.url, KEY) for name, sdk in SDKS.items()}
    for client in made.values():
        stack.callback(client.close)
    return made, stack.enter_context(httpx.Client(trust_env=False, timeout=30.0))


@contextlib.contextmanager
def front_of_llamacpp(folder: Path) -> Iterator[Front]:
    """Before one llama.cpp for each model."""
    one = {"ctx_size": WINDOW, "threads": 1}
    wanted: dict[str, dict[str, Any]] = {
        name: {**one, "says": says, "template": THINKING_TEMPLATE} for name, says in SAYS.items()
    }
    wanted["embed"] = {**one, "embedding": True, "pooling": "mean"}
    wanted["slow"] = {"kind": "slow", "ctx_size": 12_288, "batch_size": BATCH, "threads": 1}
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(2) as pool:
            started = {
                name: pool.submit(parts.start_llamacpp, alias=name, **options)
                for name, options in wanted.items()
            }
        servers = {name: stack.enter_context(one.result()) for name, one in started.items()}
        upstreams = [{"name": f"box-{name}", "url": s.url} for name, s in servers.items()]
        gateway, narrow = (
            stack.enter_context(RunningGateway(folder / name, settings))
            for name, settings in (
                ("gateway", _settings([*upstreams, _gone()])),
                ("narrow", _settings([upstreams[-1]], **_NARROW)),
            )
        )
        yield Front("llamacpp", gateway, narrow, servers, None, *_clients(stack, gateway))


@contextlib.contextmanager
def front_of_ollama(folder: Path) -> Iterator[Front]:
    """Before one Ollama with all models; the user has set the window, so it does not grow."""
    quick = {"num_thread": 1}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            parts.start_ollama(
                name="embed",
                num_ctx=WINDOW,
                parameters=quick,
                environment={"OLLAMA_MAX_LOADED_MODELS": "8"},
            )
        )
        for name, says in SAYS.items():
            thought = _OLLAMA_THOUGHT if says.startswith("<think>") else ""
            template = _OLLAMA_TEMPLATE % thought
            file = parts.model(says=says)
            server.create(name, file, num_ctx=WINDOW, template=template, parameters=quick)
        server.create("slow", parts.model("slow"), num_ctx=WINDOW, parameters=quick)
        box = {"name": "box", "url": server.url, "window": WINDOW}
        gateway, narrow = (
            stack.enter_context(RunningGateway(folder / name, settings))
            for name, settings in (
                ("gateway", _settings([box, _gone()])),
                ("narrow", _settings([box], **_NARROW)),
            )
        )
        yield Front("ollama", gateway, narrow, {}, server, *_clients(stack, gateway))


FRONTS = {"llamacpp": front_of_llamacpp, "ollama": front_of_ollama}
