"""What is known of one model at one upstream: its profile. Learned by probes, kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from penstock.domain.upstream import ServerKind


class WindowSource(StrEnum):
    """Where a window's number comes from, strongest first."""

    EXPLICIT = "explicit"
    ENV = "env"
    RUNNING = "running"
    LEARNED = "learned"
    REFUSAL = "refusal"
    NAME = "name"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Window:
    """
    Tokens of prompt and output that one request may occupy.

    Attributes:
        tokens: the number, per slot.
        source: where it comes from.
        detail: one sentence that names the exact origin (`/props default_generation_settings.n_ctx`).
    """

    tokens: int
    source: WindowSource
    detail: str = ""

    @property
    def is_users_word(self) -> bool:
        """Whether the user set it, rather than anybody found it out."""
        return self.source in (WindowSource.EXPLICIT, WindowSource.ENV)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the model can do there; None means not known."""

    tools: bool | None = None
    vision: bool | None = None
    thinking: bool | None = None
    embeddings: bool | None = None
    completion: bool | None = None


@dataclass(frozen=True, slots=True)
class TemplateRules:
    """
    What the model's chat template takes; None means not known.

    Attributes:
        system_role: a message of role `system` is rendered.
        developer_role: a message of role `developer` is rendered.
        late_system: system messages may stand anywhere, not only at the beginning.
        same_role_neighbours: two messages of one role may follow one another.
        tool_role: messages of role `tool` are rendered.
    """

    system_role: bool | None = None
    developer_role: bool | None = None
    late_system: bool | None = None
    same_role_neighbours: bool | None = None
    tool_role: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelReading:
    """
    What one look at a server says of one model: the output of the parsers in `penstock.servers`.

    Attributes:
        model: the id as the server lists it.
        running_window: tokens per slot that the server runs with now; None when it does not say.
        window_origin: the path and field it was read from.
        trained_window: tokens the model was trained for; never a budget.
        slots: requests that the server works on at a time; None when it does not say.
        kv_total: tokens in the KV cache shared by all slots; None where each slot has its own.
        loaded: whether the model is in memory; None when it cannot be told.
        status: the word of a server that loads and unloads models by itself: `loaded`, `loading`, `failed`,
            `unloaded`; empty where the server is the model.
        memory_bytes: of the machine's own memory that it holds, without what lies on a GPU; None when unknown.
        capabilities: what it can do.
        template: what its template takes.
        template_digest: tells its chat template from another one; empty when the server does not show it.
        published: sampling defaults that the *model* publishes (Modelfile, generation_config, GGUF),
            by logical name (`temperature`, `top_p`, `top_k`, `min_p`, `repeat_penalty`, ...).
        remote: the server only relays this model to a cloud (Ollama's `:cloud` models).
        parameter_count: billions of parameters, None when unknown.
        shape: the model's shape by the keys of its GGUF header (`llama.block_count`, ...), empty when the
            server does not tell it.
        details: anything else worth showing (quantisation, family, size_bytes, build).
    """

    model: str
    running_window: int | None = None
    window_origin: str = ""
    trained_window: int | None = None
    slots: int | None = None
    kv_total: int | None = None
    loaded: bool | None = None
    status: str = ""
    memory_bytes: int | None = None
    capabilities: Capabilities = Capabilities()
    template: TemplateRules = TemplateRules()
    template_digest: str = ""
    published: Mapping[str, float | int | str | tuple[str, ...]] = field(default_factory=dict)
    remote: bool = False
    parameter_count: float | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """
    A reading with the window decided and the time it was learned.

    Attributes:
        upstream: name of the upstream.
        kind: the server kind found there.
        reading: what the server said.
        window: the window in force, with its source.
        learned_at: monotonic seconds when the reading was made.
        is_remote: the requests for this model leave for a cloud although the server is local.
    """

    upstream: str
    kind: ServerKind
    reading: ModelReading
    window: Window
    learned_at: float = 0.0

    @property
    def model(self) -> str:
        """The id as the server lists it."""
        return self.reading.model

    @property
    def is_remote(self) -> bool:
        """Whether the server only relays this model to a cloud."""
        return self.reading.remote


@dataclass(frozen=True, slots=True)
class ServerReading:
    """
    What one look at a server says: itself and its models.

    Attributes:
        models: one reading per model it lists.
        version: the server's version or build, None when it does not say.
        ready: False while it loads.
    """

    models: tuple[ModelReading, ...] = ()
    version: str | None = None
    ready: bool = True
    notes: tuple[str, ...] = field(default=())
