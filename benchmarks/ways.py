"""
What a client can do by itself about a conversation that outgrows the window: nothing, a sliding window, or
what Ollama does. Each is as good as it can be: counts are the server's own, exact to the token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx

from long_conversations import TOOLS
from reckoning import Message, Way, Weights

ANSWER_TOKENS = 8
"""Most tokens of an answer in every measured request."""


class Counts:
    """Tokens of each message as the server renders it, asked once."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self._url, self._http = url, http
        self._known: dict[str, int] = {}
        self._alone = self._rendered([{"role": "user", "content": "x"}], tools=False)
        with_tools = self._rendered([{"role": "user", "content": "x"}], tools=True)
        self.fixed = with_tools - self._alone + self._tokens("<|im_start|>assistant\n")
        """Of the tools and of what follows the last message."""

    def of(self, message: Message) -> int:
        """Its tokens."""
        key = json.dumps(message)
        if key not in self._known:
            pair = [message, {"role": "user", "content": "x"}]  # an assistant's may not stand last
            self._known[key] = self._rendered(pair, tools=False) - self._alone
        return self._known[key]

    def _rendered(self, messages: list[Message], *, tools: bool) -> int:
        body: dict[str, object] = {"messages": messages, "add_generation_prompt": False}
        if tools:
            body["tools"] = TOOLS
        text = self._http.post(f"{self._url}/apply-template", json=body).json()["prompt"]
        return self._tokens(text)

    def _tokens(self, text: str) -> int:
        body = {"content": text, "parse_special": True}
        return len(self._http.post(f"{self._url}/tokenize", json=body).json()["tokens"])


def whole(messages: list[Message]) -> list[Message]:
    """Send everything."""
    return messages


def sliding(counts: Weights, window: int) -> Way:
    """The oldest turns go until 0.9 of the window fits, on every request; the system prompt stays."""

    def way(messages: list[Message]) -> list[Message]:
        head, turns = _turns(messages)
        sizes = [sum(map(counts.of, turn)) for turn in turns]
        tokens = counts.fixed + sum(map(counts.of, head)) + sum(sizes)
        first = 0
        while tokens > 0.9 * window and first < len(turns) - 1:
            tokens -= sizes[first]
            first += 1
        return [*head, *(message for turn in turns[first:] for message in turn)]

    return way


def as_ollama(counts: Weights, window: int) -> Way:
    """
    Single messages go from the front until the prompt fits the whole window; system messages and the last
    message stay (Ollama's `server/prompt.go`). The answer's few tokens are kept free, since llama.cpp,
    unlike Ollama, does not shift a full window.
    """

    def way(messages: list[Message]) -> list[Message]:
        head = [message for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        tokens = counts.fixed + sum(map(counts.of, messages))
        first = 0
        while tokens > window - ANSWER_TOKENS and first < len(rest) - 1:
            tokens -= counts.of(rest[first])
            first += 1
        return [*head, *rest[first:]]

    return way


def _turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    head: list[Message] = []
    turns: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user":
            turns.append([])
        (turns[-1] if turns else head).append(message)
    return head, turns
