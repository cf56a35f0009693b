"""
What a file of `penstock.servers` declares about one kind of model server.

Everything is data or a pure function of a server's answers: which paths tell the kind, where its window
stands, how its parameters are called, what its errors look like, what it does when a client hangs up.
`penstock.adapters.probe` makes the requests; nothing here touches a socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson

from penstock.domain.profile import ServerReading
from penstock.domain.upstream import ServerKind
from penstock.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Probe:
    """
    A harmless request that tells something about a server.

    Attributes:
        path: with a leading slash, as the server expects it.
        method: GET, or POST where the server has no other way (`/api/show`).
        body: JSON value for a POST.
        key: how the answer is found again; "METHOD path" unless several bodies go to one path.
    """

    path: str
    method: str = "GET"
    body: Any = None
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", f"{self.method} {self.path}")


@dataclass(frozen=True)
class Answer:
    """
    What a server answered to a probe. A probe without an answer is absent from `Answers`.

    Attributes:
        status: HTTP status.
        headers: by lower-case name.
        body: at most a few MiB.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def json(self) -> Any:
        """The body as a JSON value, None when it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def text(self) -> str:
        """The body as text, broken UTF-8 replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def message(self) -> str:
        """What an error says, or the text of the body."""
        value = self.json.get("error") if isinstance(self.json, dict) else None
        told = value.get("message") if isinstance(value, dict) else value
        return told if isinstance(told, str) else self.text

    @property
    def ok(self) -> bool:
        """Status 200 to 299."""
        return 200 <= self.status < 300


Answers = Mapping[str, Answer]
"""Answers by `Probe.key`."""


@dataclass(frozen=True, slots=True)
class Match:
    """
    A fingerprint matched.

    Attributes:
        confidence: 0 to 1.
        because: one sentence each, for `penstock detect`.
        version: the server's version, None when it does not say.
    """

    confidence: float
    because: tuple[str, ...]
    version: str | None = None


@dataclass(frozen=True, slots=True)
class FaultRule:
    """
    One way in which this kind of server says that something is wrong. First match wins.

    Attributes:
        code: what it means.
        status: HTTP statuses it comes with; empty for any (also inside a stream or a 200).
        pattern: searched in the error message (case-insensitively); None matches any text.
            Named groups `window` and `prompt` are read as token counts.
        error_type: value of the error object's `type`, `error_type` or `code`; None for any.
        transient: for `upstream_error`: whether it may pass by itself.
        shared_kv: for a refusal for length: requests in other slots had a part in it.
        source: where it was read (the server's source file, or "recorded").
    """

    code: ErrorCode
    status: tuple[int, ...] = ()
    pattern: re.Pattern[str] | None = None
    error_type: str | None = None
    transient: bool = True
    shared_kv: bool = False
    source: str = ""


def rule(
    code: ErrorCode,
    pattern: str | None = None,
    *,
    status: tuple[int, ...] | int = (),
    error_type: str | None = None,
    transient: bool = True,
    shared_kv: bool = False,
    source: str = "",
) -> FaultRule:
    """Shorthand for `FaultRule` that compiles the pattern."""
    return FaultRule(
        code=code,
        status=(status,) if isinstance(status, int) else status,
        pattern=None if pattern is None else re.compile(pattern, re.IGNORECASE),
        error_type=error_type,
        transient=transient,
        shared_kv=shared_kv,
        source=source,
    )


@dataclass(frozen=True, slots=True)
class Behaviour:
    """
    What this kind of server does with requests, as far as the gateway must know.

    Attributes:
        chat_dialect: the dialect that the gateway speaks to it for chat: `openai`, or `ollama`
            (native `/api/chat`) where only that makes settings take effect.
        chat_path, completions_path, embeddings_path: where these go.
        plain_only_fields: fields of a chat or completion request with which a collected stream would
            differ from the server's plain answer: such a request is sent plain.
        stream_usage: how usage is asked for in a stream: `stream_options` (OpenAI), `always`, `never`.
        progress_field: request field that makes it report prefill progress, None where it has none.
        notices_hangup_decoding: a closed stream frees the slot while decoding.
        notices_hangup_prefill: with progress asked for, a closed stream frees the slot in prefill.
        plain_ignores_hangup: a plain request is computed to its end whatever the client does.
        close_cancels_load: closing the connection while it loads throws the load away.
        refused_means_loading: a refused connection may mean that it is still starting (vLLM).
        readiness: probe that answers 200 when it is ready, None where there is none.
        busy_probe: probe that tells how many slots are working (`penstock.servers.*.busy_slots`).
        applies_model_defaults: it applies what the model publishes by itself, unseen; nothing is to be
            sent in place of missing sampling parameters.
        not_found_means_model: a 404 on a generating path means that the model is missing.
        takes_slot: `id_slot` chooses the slot of a chat request.
        keeps_slots_warm: each slot keeps the prefix of what it worked on last, so that it matters which request gets
            which.
        loads_on_demand: it loads the model that a request names, perhaps in another one's place.
        own_budgets: operations that it works on in a runner of their own, so that they take no slot of the others.
        drops_images: an image to a model that cannot see is left out without a word.
        continues: fields with which an assistant's message at the end of a request is continued, besides its
            being there; None where that is not known to work. It is tried out before it is relied on.
        reasoning_field: the name by which it reads returned thinking in an assistant message.
        memory_grows: when it takes memory for its KV cache. `at_load`: all of it when it starts or loads, so
            that a request takes nothing more; `by_window`: when a request names a larger window; `by_request`:
            with each token.
    """

    chat_dialect: Literal["openai", "ollama"] = "openai"
    chat_path: str = "/v1/chat/completions"
    completions_path: str = "/v1/completions"
    embeddings_path: str = "/v1/embeddings"
    plain_only_fields: frozenset[str] = frozenset(
        {"best_of", "echo", "prompt_logprobs", "suffix", "audio", "modalities", "prediction"}
    )
    stream_usage: Literal["stream_options", "always", "never"] = "stream_options"
    progress_field: str | None = None
    notices_hangup_decoding: bool = True
    notices_hangup_prefill: bool = False
    plain_ignores_hangup: bool = True
    close_cancels_load: bool = False
    refused_means_loading: bool = False
    readiness: Probe | None = None
    busy_probe: Probe | None = None
    applies_model_defaults: bool = False
    not_found_means_model: bool = True
    reasoning_field: str = "reasoning_content"
    continues: Mapping[str, Any] | None = None
    takes_slot: bool = False
    drops_images: bool = False
    keeps_slots_warm: bool = False
    loads_on_demand: bool = False
    own_budgets: frozenset[str] = frozenset()
    memory_grows: Literal["at_load", "by_window", "by_request"] = "at_load"


@dataclass(frozen=True, slots=True)
class ChatCount:
    """
    One way to have a whole conversation counted as the server would render it.

    Attributes:
        path: where a POST goes.
        body: (model, request with `messages` and perhaps `tools`) -> JSON value.
        read: the JSON value of the answer -> tokens; or the rendered text, which is then counted as
            one; None when it says neither.
    """

    path: str
    body: Callable[[str, Mapping[str, Any]], Any]
    read: Callable[[Any], int | str | None]


@dataclass(frozen=True, slots=True)
class Counting:
    """
    How a kind of server counts tokens.

    Attributes:
        path: where a POST goes.
        body: (model, texts) -> JSON value.
        read: (JSON value of the answer, number of texts) -> tokens of each, None when it does not say.
        at_once: texts that one question may hold.
        chats: ways to have a whole conversation counted, best first.
        knowledge: see `ServerSpec`.
    """

    path: str
    body: Callable[[str, Sequence[str]], Any]
    read: Callable[[Any, int], list[int] | None]
    at_once: int = 1
    chats: tuple[ChatCount, ...] = ()
    knowledge: Literal["recorded", "documented"] = "documented"


@dataclass(frozen=True, slots=True)
class Parameters:
    """
    How sampling and other request parameters are called in the dialect that the gateway speaks to it.

    Attributes:
        names: logical name -> wire name. A logical name that is missing cannot be taken by the server
            and is dropped and announced, unless `passes_unknown`.
        passes_unknown: parameters without an entry are sent as they are (kinds known from
            documentation only never drop silently; `generic` drops nothing).
        aliases: other spellings that the server reads too: wire name -> logical name.
        bounds: logical name -> (lowest, highest, exclusive) accepted by the server, for those that
            refuse what others accept (TGI: top_p strictly below 1).
    """

    names: Mapping[str, str]
    passes_unknown: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None, bool]] = field(default_factory=dict)


def _no_busy(_: Answer) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """
    One kind of model server.

    Attributes:
        kind: its identifier.
        title: its name as people write it.
        ports: where it listens by default: a hint for discovery, never proof.
        knowledge: `recorded` when its answers under `tests/` were recorded from a real server,
            `documented` when they were written from its sources or documentation.
        homepage: where it comes from.
        probes: what to ask to recognise it, cheapest first.
        fingerprint: the answers to *all* kinds' probes -> match, or None. Impostors are told apart here.
        reading_probes: what to ask for a full reading; may depend on answers got so far, so it is
            called until it asks for nothing new (first call with the fingerprint's answers).
        read: the answers -> what the server says of itself and its models.
        behaviour, parameters, fault_rules: see their classes.
        busy_slots: answer of `behaviour.busy_probe` -> slots working now, None when it cannot be told.
        counting: how it counts tokens, None where it cannot.
        load: model -> the request that has it load this model, None where it has no such path.
        smaller_window: a request can have a model loaded again with a smaller window, by naming it.
        unload: model -> the request that has it unload this model, None where it has no such path. Its other
            answers say that this server cannot (llama.cpp can only as a router).
    """

    kind: ServerKind
    title: str
    ports: tuple[int, ...]
    knowledge: Literal["recorded", "documented"]
    homepage: str
    probes: tuple[Probe, ...]
    fingerprint: Callable[[Answers], Match | None]
    reading_probes: Callable[[Answers], tuple[Probe, ...]]
    read: Callable[[Answers], ServerReading]
    behaviour: Behaviour
    parameters: Parameters
    fault_rules: tuple[FaultRule, ...]
    busy_slots: Callable[[Answer], int | None] = _no_busy
    counting: Counting | None = None
    load: Callable[[str], Probe] | None = None
    smaller_window: bool = False
    unload: Callable[[str], Probe] | None = None
