"""
What the requests at one server have in common, as far as admission must know: the models it holds side by side, a KV
cache that its slots share, slots that stay warm. Learned from what the server says and from one kind of refusal.
"""

from __future__ import annotations

from penstock.concurrency import ConcurrencyOptions
from penstock.domain.profile import ServerReading
from penstock.gateway.steps.limiter import Limiter
from penstock.servers.base import Behaviour


class Room:
    """
    Args:
        limiter: is told.

    Attributes:
        models_at_once: most models that were seen in its memory at a time; 0 before any was.
        shared_kv: tokens in the KV cache that all slots share, once a refusal showed that there is one.
    """

    __slots__ = ("_limiter", "_loaded", "_window", "models_at_once", "shared_kv")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._loaded: frozenset[str] = frozenset()
        self._window: int | None = None
        self.models_at_once = 0
        self.shared_kv: int | None = None

    def learn(
        self, reading: ServerReading, behaviour: Behaviour, options: ConcurrencyOptions
    ) -> None:
        """Take in what the server said."""
        models = [model for model in reading.models if not model.remote]
        self._loaded = frozenset(model.model for model in models if model.loaded)
        self.models_at_once = max(self.models_at_once, len(self._loaded))
        windows = {model.running_window for model in models}
        if self._window is not None and self._window not in windows:
            self.shared_kv = self._window = None  # another process than the one that refused
        told = max((model.kv_total for model in models if model.kv_total), default=None)
        slots = max((model.slots for model in models if model.slots), default=None)
        changes_models = behaviour.loads_on_demand and len(models) > 1
        self._limiter.group_models(max(1, self.models_at_once) if changes_models else None)
        self._limiter.share_tokens(told or self.shared_kv)
        warm = behaviour.keeps_slots_warm and len(models) == 1 and options.keep_slot_s > 0
        self._limiter.keep_slots(slots if warm else None)

    def shared_kv_was_full(self, window: int | None, tokens: int) -> None:
        """
        Requests in other slots had a part in a refusal for length: there is one KV cache, of as many tokens as
        each slot says that it has.

        Args:
            window: as the server tells it; tokens: as it is believed to be.
        """
        self._window, self.shared_kv = window, tokens
        self._limiter.share_tokens(tokens)

    def forget(self) -> None:
        """The server was away: its next process may be another."""
        self.models_at_once = 0
        self.shared_kv = self._window = None

    def runs_beside(self, model: str) -> bool:
        """Whether *model* is loaded beside another one."""
        return len(self._loaded) > 1 and model in self._loaded
