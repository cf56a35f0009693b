"""
Whether an answer that broke off may be continued, and the request that continues it (design 4.7).

A model server that finds an assistant's message at the end of a conversation either goes on with it or begins
another answer; which of the two depends on the server's kind, its version and the model's template, and nobody
announces it. So it is tried out, once for each of these: a short answer is cut, its beginning sent back, and what
comes is compared with the rest (`judge`). Only what was proven that way is continued.

Measured on a real llama.cpp: a stream cut between two chunks and continued gave exactly the rest (greedy
decoding, every cut); thinking has to go back under its own name, as text it continued in no case. A cut inside a
token would change the tokenisation, so what is half of an event is thrown away. vLLM continues with two
switches only (`entrypoints/openai/chat_completion/protocol.py`), without them it begins a second answer.

Where the answer is not free text, nothing is continued: a grammar begins at its root again, the text of a tool
call is not known, of several answers one may be complete, and probabilities of what was said are gone.

The relays keep what was said (`gateway.relays.tape`), `gateway.steps.resume` waits for the server and asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from penstock.domain.options import Options, option

Way = Literal["text", "thinking", "text after thinking"]
"""What an assistant's message consists of so far: each is proven by itself."""

_CONSTRAINED = frozenset({
    "grammar", "grammar_lazy", "json_schema", "format", "guided_json", "guided_regex", "guided_choice",
    "guided_grammar", "structured_outputs", "regex", "ebnf", "structural_tag", "logprobs", "top_logprobs",
    "n_probs", "return_tokens", "return_token_ids", "prompt_logprobs", "echo", "audio", "modalities",
    "prediction", "continue_final_message", "continue_",
})  # fmt: skip
_BUDGETS = ("max_tokens", "max_completion_tokens", "n_predict")
_LEAST_COMPARED = 8
_LEAST_PIECES = 4


Piece = tuple[str, str]
"""`(thinking, text)` as they came, one of them empty."""


class ResumeOptions(Options):
    """Answers of local models that broke off because their server died."""

    enabled: bool = option(
        True,
        effect="An answer that broke off is continued on the restarted server, or on another one with the same model.",
        reason="A long answer is not lost; what a server cannot continue is never tried.",
    )
    most: int = option(2, effect="How often one answer is continued.", ge=1, le=10)
    wait_s: float = option(
        30.0,
        effect="How long a broken answer waits for its server to listen again; loading has its own limit.",
        unit="seconds",
        reason="Whoever watches over servers restarts them within seconds.",
        ge=0,
    )
    probe_after_s: float = option(
        2.0,
        effect="Quiet at a server before it is tried out whether it continues answers.",
        unit="seconds",
        reason="The two short requests for it should be in nobody's way.",
        ge=0,
    )


class Said(NamedTuple):
    """
    What was said of an answer so far.

    Attributes:
        text, thinking: as the client has them.
        tokens: pieces that they came in, which is what we take for tokens.
        prompt_tokens, cached_tokens: by the server's word when it began; None where it told nothing.
        calls: a tool call has begun.
        ended: a finish reason was said.
        head: `id`, `created` and `model` of its first chunk.
    """

    text: str = ""
    thinking: str = ""
    tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    calls: bool = False
    ended: bool = False
    head: Mapping[str, Any] = {}

    @property
    def way(self) -> Way | None:
        """What it consists of; None for nothing."""
        if self.thinking:
            return "text after thinking" if self.text else "thinking"
        return "text" if self.text else None


def obstacle(body: Mapping[str, Any]) -> str:
    """
    Why answers to a request are not continued, as it was sent to the server; "" when they may be.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "it is no conversation"
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") == "assistant":
        return "the client had the server continue a message already"
    n = body.get("n")
    if n is not None and n != 1:
        return "several answers were asked for"
    for name in sorted(_CONSTRAINED & body.keys()):
        if body.get(name) not in (None, False, 0, "", [], {}):
            return f"it has {name}"
    answer_format = body.get("response_format")
    if isinstance(answer_format, dict) and answer_format.get("type") != "text":
        return "its answer has a given form"
    if body.get("tool_choice") not in (None, "auto", "none"):
        return "a tool call was demanded"
    return ""


def decide(said: Said, proven: frozenset[Way], *, resumed: int, options: ResumeOptions) -> str:
    """
    Why an answer that broke off is not continued; "" when it is.

    Args:
        said: of it.
        proven: what the server was seen to continue.
        resumed: how often it was continued before.
    """
    if said.calls:
        return "it broke off in a tool call"
    if said.ended:
        return "it had said why it ends"
    if resumed >= options.most:
        return f"it was continued {resumed} times already"
    way = said.way
    if way is not None and way not in proven:
        return f"the server was not seen to continue {way}"
    return ""


def continuation(
    body: Mapping[str, Any], said: Said, *, fields: Mapping[str, Any], thinking_field: str
) -> dict[str, Any] | None:
    """
    The request that continues an answer.

    Args:
        body: the one that was answered, as it was sent.
        fields: what has the server continue the last message, besides its being there.
        thinking_field: the name by which it takes thinking back.

    Returns:
        None when the output budget is spent: whatever came now would be too much.
    """
    made = dict(body)
    for name in _BUDGETS:
        if not _reduce(made, name, said.tokens):
            return None
    options = body.get("options")
    if isinstance(options, dict):
        made["options"] = options = dict(options)
        if not _reduce(options, "num_predict", said.tokens):
            return None
    if said.way is None:
        return made  # nothing was said yet: the same request once more
    message: dict[str, Any] = {"role": "assistant", "content": said.text}
    if said.thinking:
        message[thinking_field] = said.thinking
    made["messages"] = [*body["messages"], message]
    made.update(fields)
    return made


def _reduce(body: dict[str, Any], name: str, by: int) -> bool:
    budget = body.get(name)
    if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0:
        body[name] = budget - by
        return budget > by
    return True


class Whole(NamedTuple):
    """Token counts of a continued answer as a whole; their sum is the server's own."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None


def whole_counts(said: Said, prompt: int, completion: int, cached: int | None) -> Whole:
    """
    Counts of the answer as a whole.

    What was said before is part of the continuation's prompt: by how much that is longer than the first one was
    is how many tokens it has, by the server's own count. Where the first one's length was not told, the pieces
    that it came in stand for them.

    Args:
        said: before the continuation.
        prompt, completion, cached: as the server counted the continuation.
    """
    first = said.prompt_tokens
    if first is None or not 0 < first <= prompt:
        first = max(0, prompt - said.tokens)
    known = said.cached_tokens if said.cached_tokens is not None else cached
    return Whole(first, prompt - first + completion, None if known is None else min(known, first))


# The probe

PROBE_TOKENS = 24
_QUESTION = "Count from one to thirty in words, separated by spaces, and say nothing else."


def probe_body(model: str, *, native: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """
    A short request whose answer is then cut and continued, greedily.

    Args:
        native: in Ollama's dialect.
        options: of Ollama's, that keep the model as it is loaded.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _QUESTION}],
        "stream": True,
    }
    if native:
        body["options"] = {**options, "temperature": 0, "num_predict": PROBE_TOKENS}
    else:
        body |= {"temperature": 0, "max_tokens": PROBE_TOKENS}
    return body


def cut(pieces: Sequence[Piece], *, in_text: bool) -> tuple[Said, Said] | None:
    """
    Cut an answer in two, in the middle of its text or of its thinking.

    Returns:
        its beginning and the rest; None when there is too little of it.
    """
    first_text = next((place for place, piece in enumerate(pieces) if piece[1]), len(pieces))
    begin, end = (first_text, len(pieces)) if in_text else (0, first_text)
    if end - begin < _LEAST_PIECES:
        return None
    at = begin + (end - begin) // 2
    return joined(pieces[:at]), joined(pieces[at:])


def joined(pieces: Sequence[Piece]) -> Said:
    """What pieces say together."""
    return Said("".join(p[1] for p in pieces), "".join(p[0] for p in pieces), len(pieces))


def judge(beginning: Said, rest: Said, continued: Said) -> bool:
    """
    Whether what came in answer to *beginning* continues it.

    A server that began another answer would say the beginning again, so a rest that looks like that proves
    nothing.
    """
    want, got = rest.thinking + "\0" + rest.text, continued.thinking + "\0" + continued.text
    if not rest.text:
        want, got = rest.thinking, continued.thinking
    elif not rest.thinking:
        if continued.thinking:
            return False  # it thinks again
        want, got = rest.text, continued.text
    shorter = min(len(want), len(got))
    if shorter < _LEAST_COMPARED or want[:shorter] != got[:shorter]:
        return False
    again = beginning.text or beginning.thinking
    return not again.startswith(got[: min(len(again), _LEAST_COMPARED)])
