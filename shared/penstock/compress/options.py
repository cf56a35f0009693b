"""Settings of fitting a conversation into the window."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, model_validator

from penstock.compress.nonce import check_pattern
from penstock.domain.options import Options, option
from penstock.domain.strategy import Strategy


class Marks(Options):
    """Two watermarks, as shares of the window: above *high* it is cut, down to at most *low*."""

    high: float = option(
        effect="Share of the window above which a cut is made.", unit="share", gt=0, le=1
    )
    low: float = option(
        effect="Share of the window that a cut leaves at most.", unit="share", gt=0, lt=1
    )

    @model_validator(mode="after")
    def _ordered(self) -> Marks:
        if self.low >= self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")
        return self


class ContextOptions(Options):
    """What happens to conversations that outgrow the window of a local model."""

    strategy: Strategy = option(
        Strategy.WINDOW,
        effect="How a conversation that is too long is made to fit: `window`, `summary`, `client`, `reset`, `off`.",
        reason="The oldest turns go, many at a time, so that the server's prefix cache stays warm in between.",
    )
    models: dict[str, Strategy] = option(
        factory=dict,
        effect="Strategies by model; a name may hold `*`. Wins over `context.strategy`.",
    )
    client_user_agents: list[str] = option(
        factory=list,
        effect="User agents (patterns with `*`) that get the strategy `client` when nothing else is said.",
        reason="Agents that compact better themselves are told once that the window is full.",
    )
    calm: Marks = option(
        factory=lambda: Marks(high=0.8, low=0.35),
        effect="Marks while memory is plentiful.",
        unit="share",
    )
    pressure: Marks = option(
        factory=lambda: Marks(high=0.5, low=0.25),
        effect="Marks while memory is short.",
        unit="share",
    )
    heavy: Marks = option(
        factory=lambda: Marks(high=0.3, low=0.15),
        effect="Marks while memory is very short.",
        unit="share",
    )
    reserve_tokens: int | None = option(
        None,
        effect="Tokens that are kept free for the answer.",
        unit="tokens",
        reason="Left out, the smaller of 4,096 and an eighth of the window.",
        ge=0,
    )
    summary_folder: str | None = option(
        None,
        effect="Folder in which summaries are kept, readable by this user only.",
        reason="Left out, they are kept in memory: they tell what was said.",
    )
    shorten_last: bool = option(
        True,
        effect="Shorten the largest text in its middle when even the last round alone does not fit.",
        reason="Otherwise such a request is refused with the numbers.",
    )
    nonce_patterns: list[Annotated[str, AfterValidator(check_pattern)]] = option(
        factory=list,
        effect="Regular expressions; what they match is removed from system messages for local upstreams.",
        reason="A part that changes with every request makes the server compute the whole prompt anew.",
    )
