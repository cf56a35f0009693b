"""Settings of windows and output budgets."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from penstock.domain.options import Options, option
from penstock.limits.overrides import parse_tokens

Tokens = Annotated[int, BeforeValidator(parse_tokens)]
"""A count of tokens: 16384 or "16k"."""


class FallbackWindows(Options):
    """Windows assumed from a model's size when nothing else is known."""

    large: Tokens = option(
        32_768, effect="Window of models of 60 billion parameters and more.", unit="tokens"
    )
    medium: Tokens = option(
        16_384, effect="Window of models of 25 to 60 billion parameters.", unit="tokens"
    )
    small: Tokens = option(
        8_192, effect="Window of models of 10 to 25 billion parameters.", unit="tokens"
    )
    mini: Tokens = option(
        4_096, effect="Window of models of 5 to 10 billion parameters.", unit="tokens"
    )
    tiny: Tokens = option(
        2_048, effect="Window of models below 5 billion parameters.", unit="tokens"
    )
    unknown: Tokens = option(8_192, effect="Window when the name tells no size.", unit="tokens")

    def of(self, size_class: str) -> int:
        """The window of one class of `size_class`."""
        by_class = {
            "70B": self.large,
            "30B": self.medium,
            "13B": self.small,
            "7B": self.mini,
            "3B": self.tiny,
        }
        return by_class.get(size_class, self.unknown)


class LimitOptions(Options):
    """What may be asked of local models. Cloud upstreams are never touched by these."""

    window: Tokens | None = option(
        None,
        effect="Window of every local model, in place of what its server says.",
        unit="tokens",
        reason="The server knows best; set it only where it cannot be asked.",
    )
    models: dict[str, Tokens] = option(
        factory=dict,
        effect="Windows by model; a name may hold `*`. Wins over `limits.window`.",
        unit="tokens",
    )
    default_output_tokens: Tokens | None = option(
        None,
        effect="Output budget of a request that names none.",
        unit="tokens",
        reason="Left to the server, which stops at its window.",
    )
    short_memory_output_tokens: int = option(
        1024,
        effect="Output budget of a request that names none while the machine is short of memory.",
        unit="tokens",
        reason="Long answers are what grows the KV cache when there is no room for it.",
        ge=1,
        le=2048,
    )
    fallback: FallbackWindows = option(
        factory=FallbackWindows,
        effect="Windows assumed from the model's size when nothing else is known.",
    )
